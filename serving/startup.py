"""What every process of the service does before it starts: read its settings, and refuse those that cannot be."""

from __future__ import annotations

import os
import ssl
import stat

from pydantic import ValidationError

from serving.addresses import is_loopback
from serving.jobs.open import Stores
from serving.settings import Settings

PRIVATE = 0o700
OURS = {"lock", "jobs.db"}  # of every data directory that was used before


class StartError(Exception):
    """The process cannot start; one line that says why."""


def read_settings() -> Settings:
    """
    Raises:
        StartError: they are missing or wrong.
    """
    try:
        return Settings.model_validate_json(os.environ["ZOETROPE_SETTINGS"])
    except KeyError:
        raise StartError("ZOETROPE_SETTINGS is not set") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise StartError(f"ZOETROPE_SETTINGS: {wrong}") from None


def make_directory(settings: Settings) -> None:
    """Make sure that there is a data directory, and that it is closed to the other users of this machine.

    One that holds files, but none of a service, stays as it is: whatever it is, it was not made for us.

    Raises:
        StartError: it cannot be made.
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
    """
    Raises:
        StartError: the files cannot be used, or one is missing. Without this a service would start without TLS.
    """
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if (cert is None) != (key is None) or (client_ca is not None and cert is None):
        raise StartError("tls_cert, tls_key: give both, or neither; tls_client_ca needs them")
    if cert is None or key is None:
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"tls_cert, tls_key, tls_client_ca: cannot be used: {error}") from None


def check_media(settings: Settings) -> None:
    """Make sure that files from outside can be decoded in processes that are confined.

    Raises:
        StartError: files from outside could do harm on this machine, and nobody has said that they may.
    """
    from serving.media.sandbox import confinement  # decoders, which not every process needs

    try:
        confinement(unsafe=settings.unsafe_media)
    except OSError as error:
        raise StartError(
            f"media: {error.strerror or error}; `zoetrope doctor` says what this machine allows, and --unsafe-media "
            "takes the risk"
        ) from None


def check_keys(settings: Settings, stores: Stores) -> bool:
    """Whether calls need a key even while there is none.

    Raises:
        StartError: others could connect, and there is no key yet.
    """
    local = is_loopback(settings.grpc, "grpc") and is_loopback(settings.http, "http")
    if not local and settings.tls_client_ca is None and not stores.keys.any():
        raise StartError(
            "grpc, http: others can connect to an address that is not of this machine alone, and there is no API key;"
            " make one with `zoetrope keys create NAME`"
        )
    return settings.keys == "required" or not local
