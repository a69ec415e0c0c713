"""The OCI runtime configuration of a container that is confined as a pod under the restricted profile.

Its user is nobody special, without capabilities or a way to get some; the root is read-only, and only ``/tmp``,
``/data`` and ``/dev/shm`` can be written; system calls are filtered by containers' default profile (RuntimeDefault);
its network has a loopback and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

USER = 10001  # as in the Dockerfile
SECCOMP = Path("/usr/share/containers/seccomp.json")  # of Debian's golang-github-containers-common, which buildah needs
NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
MASKED = ("/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/sched_debug", "/sys/firmware")
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
SHM_BYTES = 1 << 30
DATA_BYTES = 4 << 30
ARCHITECTURE = "SCMP_ARCH_X86_64"


def configuration(
    image: Mapping[str, Any], arguments: Sequence[str], folders: Mapping[str, Path], environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return a ``config.json`` for ``runc run``.

    Args:
        image: the ``config`` of the image: ``Env``, ``Entrypoint`` and so on.
        arguments: for the entry point.
        folders: of this machine, by where the container sees them; it can write there if the user can.
        environment: variables beside the image's.

    Raises:
        ValueError: the image does not name the user that it should.
    """
    if image.get("User") != f"{USER}:{USER}":
        raise ValueError(f"User is {image.get('User')!r} in the image: it must be {USER}:{USER}")
    none: dict[str, list[str]] = {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": USER, "gid": USER},
            "args": [*image["Entrypoint"], *arguments],
            "env": [*image["Env"], *(f"{name}={value}" for name, value in environment.items())],
            "cwd": image.get("WorkingDir") or "/",
            "capabilities": none,
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "zoetrope",
        "mounts": [
            _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={SHM_BYTES}"),
            _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/tmp", "tmpfs", "nosuid", "nodev", "mode=1777", f"size={DATA_BYTES}"),
            _mount("/data", "tmpfs", "nosuid", "nodev", "mode=700", f"uid={USER}", f"gid={USER}", f"size={DATA_BYTES}"),
            *(
                {"destination": there, "type": "bind", "source": str(here), "options": ["rbind", "nosuid", "nodev"]}
                for there, here in folders.items()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READONLY),
            "seccomp": seccomp(json.loads(SECCOMP.read_text())),
        },
    }


def seccomp(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Return the runtime's form of a containers' profile, for x86-64 and a container without capabilities."""
    calls = [call for call in profile["syscalls"] if _applies(call)]
    kept = ("names", "action", "args", "errnoRet")
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": [ARCHITECTURE],
        "syscalls": [{key: call[key] for key in kept if call.get(key)} for call in calls],
    }


def _applies(call: Mapping[str, Any]) -> bool:
    wanted, unwanted = call.get("includes") or {}, call.get("excludes") or {}
    return (
        not wanted.get("caps")
        and "amd64" in wanted.get("arches", ["amd64"])
        and "amd64" not in unwanted.get("arches", [])
    )


def _mount(there: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": there, "type": kind, "source": kind, "options": list(options)}
