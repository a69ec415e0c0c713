"""Keep pages of other sites from using a service that asks for no keys."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from zoetrope.serving.gateway.errors.api_error import ApiError


def check_browser(headers: Headers, public_url: str, allow_origins: Sequence[str] = ()) -> None:
    """Refuse a page of another site in the user's browser: neither may it send forms across sites, nor give its own
    name this service's address (DNS rebinding). For callers without a key.

    Args:
        allow_origins: of pages that may call all the same; "*": of all.

    Raises:
        ApiError: PERMISSION_DENIED.
    """
    public = urlsplit(public_url)
    elsewhere = headers.get("sec-fetch-site") == "cross-site"
    if (origin := headers.get("origin")) is not None:  # the browser says whose page it is
        elsewhere |= not _is_served(origin, headers.get("host", ""), public.netloc)
    if elsewhere and not {"*", origin} & set(allow_origins):
        raise ApiError("PERMISSION_DENIED", "CROSS_SITE", "pages of other sites need a key to call this service")
    try:
        host = (urlsplit("//" + headers.get("host", "")).hostname or "").rstrip(".")
        if host in ("", "localhost") or host.endswith(".localhost") or host == public.hostname:
            return
        # 0.0.0.0 and :: are addresses of no machine, but browsers and systems take them for this one.
        known = not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        known = False
    if not known:
        raise ApiError(
            "PERMISSION_DENIED",
            "UNKNOWN_HOST",
            "without a key this service answers by its address, as localhost, or by the name of its public URL",
        )


def _is_served(origin: str, *names: str) -> bool:
    """Tell whether a page's origin is one of these hosts. One without a host, such as file://, is nobody's."""
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        return False
    return host != "" and host in names
