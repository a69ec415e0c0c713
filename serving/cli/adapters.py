"""`zoetrope adapters`: adapters that requests may name, in the database and the storage of a service."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.serving.cli.console import stderr
from zoetrope.serving.cli.errors import bad_input
from zoetrope.serving.cli.groups import Group
from zoetrope.serving.cli.options import FamilyOption, ListingOptions, ModelOption, option, with_options
from zoetrope.serving.cli.settings import DatabaseOptions, DatabaseOption, DataDirOption, settings_of

if TYPE_CHECKING:
    from zoetrope.model.request.tasks import ModelCard
    from zoetrope.serving.config.settings import Settings
    from zoetrope.serving.jobs.open import Stores

MAX_NAME_CHARS = 128
app = typer.Typer(cls=Group, rich_markup_mode=None, help="Register, list and remove adapters (LoRA) for requests.")
