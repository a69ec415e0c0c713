"""Environment variables that look like settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from zoetrope.serving.config.settings import Settings

PREFIX = "ZOETROPE_"
CLIENT = ("SERVER", "API_KEY", "CA", "CLIENT_CERT", "CLIENT_KEY", "DEBUG")  # of the command line and the client
# That processes of a service or a benchmark get from others, or from their image or the manifests of their pods.
INTERNAL = ("SETTINGS", "MARK", "CLUSTER_LOG", "COMMIT", "METRICS_DIR", "METRICS_ADDRESS", "CARRIED_KERNELS")
# Kubernetes adds these for every service whose name begins with "zoetrope".
KUBERNETES = re.compile(r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")


def unknown_variables(names: Iterable[str]) -> list[str]:
    """Return a line for each variable of ours that nothing reads, with the known name that is nearest."""
    known = [*(name.upper() for name in Settings.model_fields), *CLIENT, *INTERNAL]
    lines = []
    for name in sorted(names):
        word = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or word in known or KUBERNETES.fullmatch(word):
            continue
        near = get_close_matches(word, known[: -len(INTERNAL)], n=1)
        lines.append(f"{name} is not a setting" + (f"; did you mean {PREFIX}{near[0]}?" if near else ""))
    return lines
