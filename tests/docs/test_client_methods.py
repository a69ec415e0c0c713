"""docs/apis/python.md lists every method of the client, with its arguments and what its docstring says."""

from __future__ import annotations

import pytest

from tests.docs.client_methods import FIELDS, fields, methods, table
from tests.docs.pages import ROOT
from zoetrope import AsyncVideoClient, VideoClient

PAGE = (ROOT / "docs" / "apis" / "python.md").read_text()


def test_the_table_is_that_of_the_code() -> None:
    assert table() in PAGE, "run python -m tests.docs.client_methods"


@pytest.mark.parametrize("name", FIELDS)
def test_the_fields_are_those_of_the_code(name: str) -> None:
    assert fields(name) in " ".join(PAGE.split()), "run python -m tests.docs.client_methods"


def test_both_clients_have_the_methods() -> None:
    names = {name for name, _ in methods()}
    for client in (VideoClient, AsyncVideoClient):
        assert {name for name in vars(client) if not name.startswith("_")} == names
