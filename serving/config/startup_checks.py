"""Checks that every process of the service makes before it starts."""

from __future__ import annotations

import os
import ssl
import stat

from pydantic import ValidationError

from zoetrope.model.request.schema_errors import describe
from zoetrope.serving.config.addresses import is_loopback
from zoetrope.serving.config.settings import Settings
from zoetrope.serving.jobs.open import Stores

PRIVATE = 0o700
OURS = {"lock", "jobs.db"}  # at least one is in every data directory that a service has used


class StartError(Exception):
    """The process cannot start; the message is one line."""


def read_settings() -> Settings:
    """Read the settings from ZOETROPE_SETTINGS (JSON).

    Raises:
        StartError: the variable is missing or invalid.
    """
    try:
        return Settings.model_validate_json(os.environ["ZOETROPE_SETTINGS"])
    except KeyError:
        raise StartError("ZOETROPE_SETTINGS is not set") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {describe(e)}" for e in error.errors(include_url=False))
        raise StartError(f"ZOETROPE_SETTINGS: {wrong}") from None


def make_directory(settings: Settings) -> None:
    """Create the data directory, closed to other users of the machine.

    The mode of an existing directory changes only if it is empty or belongs to a service.

    Raises:
        StartError: the directory cannot be created.
    """
    directory = settings.directory
    try:
        directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        held = {path.name for path in directory.iterdir()}
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & ~PRIVATE and (not held or held & OURS):
            directory.chmod(mode & PRIVATE)
    except OSError as error:
        raise StartError(f"data-dir: {directory} cannot be created: {error.strerror}") from None


def check_tls(settings: Settings) -> None:
    """Check the TLS files, so that a service never starts without the TLS it was asked for.

    Raises:
        StartError: a file is missing or cannot be used.
    """
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if (cert is None) != (key is None) or (client_ca is not None and cert is None):
        raise StartError("tls_cert and tls_key must be given together; tls_client_ca requires both")
    if cert is None or key is None:
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"tls_cert, tls_key, tls_client_ca: cannot be used: {error}") from None


def check_media(settings: Settings) -> None:
    """Check that untrusted media can be decoded in confined processes.

    Raises:
        StartError: they cannot, and ``unsafe_media`` is off.
    """
    from zoetrope.serving.media.sandbox.sandbox import confinement  # loads decoders

    try:
        confinement(unsafe=settings.unsafe_media)
    except OSError as error:
        raise StartError(
            f"media: {error.strerror or error}; run `zoetrope doctor` to see what this machine allows, or accept "
            "the risk with --unsafe-media"
        ) from None


def check_keys(settings: Settings, stores: Stores) -> bool:
    """Tell whether calls need an API key even while none exists.

    Raises:
        StartError: the service is reachable from other machines and no API key exists.
    """
    local = is_loopback(settings.grpc, "grpc") and is_loopback(settings.http, "http")
    if not local and settings.tls_client_ca is None and not stores.keys.any():
        raise StartError(
            "grpc, http: other machines can connect to these addresses, but there is no API key; create one with "
            "`zoetrope keys create NAME`"
        )
    return settings.keys == "required" or not local
