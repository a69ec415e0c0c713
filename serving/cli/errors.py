"""What a user sees of an error: one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from model.presets import ModelError
from model.tasks import TASK_KINDS, InvalidRequest, Violation
from serving.addresses import AddressError

BAD_INPUT = 2
FAILURE = 1
INTERRUPTED = 130

# google.rpc.Code names of errors that another input would have avoided.
INPUT_CODES = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS", "OUT_OF_RANGE")
# The API's names of fields -> the options that set them.
OPTIONS = {
    "duration_seconds": "duration",
    "negative_prompt": "negative",
    "container": "out",
    "format": "out",
    "first_frame": "image",
    "last_frame": "last-image",
    "panels": "panel",
    "references": "reference",
    "labels": "label",
    "guidance_low": "guidance-low",
    "flow_shift": "flow-shift",
    "keep_audio": "keep-audio",
}


class CliError(Exception):
    """A failure with its one-line message and exit code."""

    def __init__(self, message: str, exit_code: int = FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def bad_input(field: str, description: str) -> CliError:
    """An argument or option at fault."""
    return CliError(f"{field}: {description}", BAD_INPUT)


def explain(error: Exception) -> tuple[str, int]:
    """The line, without its "error: ", and the exit code for whatever a command raised."""
    if isinstance(error, CliError):
        line, code = str(error), error.exit_code
    elif isinstance(error, AddressError):
        line, code = str(error), BAD_INPUT
    elif isinstance(error, InvalidRequest):
        line, code = describe_violations(error.violations), BAD_INPUT
    elif isinstance(error, ModelError):
        text = str(error)
        line, code = text if text.startswith("family: ") else f"model: {text.removeprefix('model ')}", BAD_INPUT
    elif _is_client_error(error):
        line, code = _explain_client_error(error)
    elif _is_store_error(error):
        line, code = str(error), FAILURE
    elif isinstance(error, OSError) and error.filename is not None:
        line, code = f"{error.filename}: {error.strerror}", FAILURE
    else:
        line, code = f"{type(error).__name__}: {error}", FAILURE
    return " ".join(line.split()), code


def describe_violations(violations: Iterable[Violation]) -> str:
    """Each field by the name of its option."""
    return "; ".join(f"{option_name(v.field)}: {v.description}" for v in violations)


def option_name(field: str) -> str:
    """``text_to_video.prompt`` -> ``prompt``, ``references.0`` -> ``reference 1``."""
    parts = field.split(".")
    while len(parts) > 1 and parts[0] in ("task", *TASK_KINDS):
        del parts[0]
    name = OPTIONS.get(parts[0], parts[0])
    return f"{name} {int(parts[1]) + 1}" if len(parts) > 1 and parts[1].isdecimal() else name


def _is_client_error(error: Exception) -> bool:
    """Without importing grpc where no command has needed it."""
    client = sys.modules.get("serving.client")
    return client is not None and isinstance(error, client.ClientError)


def _is_store_error(error: Exception) -> bool:
    errors = sys.modules.get("serving.jobs.errors")
    return errors is not None and isinstance(error, errors.StoreError)


def _explain_client_error(error: Exception) -> tuple[str, int]:
    from serving.client import ClientError

    assert isinstance(error, ClientError)
    if error.code == "UNAUTHENTICATED":
        return "api-key: is missing, unknown or revoked; give --api-key or set ZOETROPE_API_KEY", BAD_INPUT
    line = describe_violations(error.violations) if error.violations else error.message
    return line, BAD_INPUT if error.code in INPUT_CODES else FAILURE
