"""Turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.tasks import InvalidRequest, Violation
from zoetrope.serving.config.addresses import AddressError

BAD_INPUT = 2
FAILURE = 1
INTERRUPTED = 130

K8S = ("celpy", "jsonschema", "kubernetes_validate", "yaml")  # what `zoetrope k8s` needs and a service does not

# google.rpc.Code names of errors that other input avoids.
INPUT_CODES = ("INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ALREADY_EXISTS", "OUT_OF_RANGE")
# Fields of the API -> the options that set them, where these have other names.
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
}
# Beginnings of a ModelError that are fields already; all others are about the model.
NAMED = (
    "family: ",
    "quantize: ",
    "lora: ",
    "vae: ",
    "text-encoder: ",
    "image-encoder: ",
    "tokenizer: ",
    "model-low: ",
    "model: ",
    "name: ",
    "profile: ",
    "data-dir: ",
)


class CliError(Exception):
    """A failure with its one-line message and exit code."""

    def __init__(self, message: str, exit_code: int = FAILURE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def bad_input(field: str, description: str) -> CliError:
    """Make the error for a bad argument or option."""
    return CliError(f"{field}: {description}", BAD_INPUT)


def explain(error: Exception) -> tuple[str, int]:
    """Return the line, without its "error: ", and the exit code for whatever a command raised."""
    if isinstance(error, CliError):
        line, code = str(error), error.exit_code
    elif isinstance(error, AddressError):
        line, code = str(error), BAD_INPUT
    elif isinstance(error, InvalidRequest):
        line, code = describe_violations(error.violations), BAD_INPUT
    elif isinstance(error, ModelError):
        text = str(error)
        line, code = (
            text if text.startswith(NAMED) else f"model: {text.removeprefix('model ')}",
            BAD_INPUT,
        )
    elif _is_client_error(error):
        line, code = _explain_client_error(error)
    elif _is_store_error(error):
        line, code = str(error), FAILURE
    elif isinstance(error, ModuleNotFoundError) and not (error.name or "zoetrope").startswith("zoetrope"):
        extras = "serve,k8s" if error.name in K8S else "serve"
        line, code = f"{error.name} is not installed; this command needs pip install '.[{extras}]'", FAILURE
    elif isinstance(error, OSError) and error.filename is not None:
        line, code = f"{error.filename}: {error.strerror}", FAILURE
    else:
        line, code = f"{type(error).__name__}: {error}", FAILURE
    return " ".join(line.split()), code


def describe_violations(violations: Iterable[Violation]) -> str:
    """Join them, each field under the name of its option."""
    return "; ".join(f"{option_name(v.field)}: {v.description}" for v in violations)


def option_name(field: str) -> str:
    """Return the option of a field: ``text_to_video.prompt`` -> ``prompt``, ``references.0`` -> ``reference 1``."""
    parts = field.split(".")
    while len(parts) > 1 and parts[0] in ("task", *TASK_KINDS):
        del parts[0]
    name = OPTIONS.get(parts[0], parts[0].replace("_", "-"))
    return f"{name} {int(parts[1]) + 1}" if len(parts) > 1 and parts[1].isdecimal() else name


def _is_client_error(error: Exception) -> bool:
    """Tell without importing grpc, which few commands need."""
    client = sys.modules.get("zoetrope.serving.client")
    return client is not None and isinstance(error, client.ClientError)


def _is_store_error(error: Exception) -> bool:
    errors = sys.modules.get("zoetrope.serving.jobs.db.errors")
    return errors is not None and isinstance(error, errors.StoreError)


def _explain_client_error(error: Exception) -> tuple[str, int]:
    from zoetrope.serving.client import ClientError

    assert isinstance(error, ClientError)
    if error.code == "UNAUTHENTICATED":
        return "api-key: is missing, unknown or revoked; give --api-key or set ZOETROPE_API_KEY", BAD_INPUT
    line = describe_violations(error.violations) if error.violations else error.message
    return line, BAD_INPUT if error.code in INPUT_CODES else FAILURE
