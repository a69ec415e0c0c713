"""The container that the image is tried in is confined as a pod under the restricted profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zoetrope.k8s.image import bundle
from zoetrope.k8s.image.bundle import USER, configuration, seccomp

IMAGE = {"User": f"{USER}:{USER}", "Entrypoint": ["zoetrope"], "Env": ["PATH=/opt/zoetrope/bin"], "WorkingDir": "/data"}
PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}],
        },
        {"names": ["unshare", "mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["sync_file_range2"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["ppc64le"]}},
        {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
    ],
}


def test_the_filter_is_that_of_a_container_without_capabilities() -> None:
    found = seccomp(PROFILE)
    assert (found["defaultAction"], found["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)
    names = [call["names"] for call in found["syscalls"]]
    assert names == [["read", "write"], ["clone"], ["arch_prctl"], ["bpf"]]
    assert found["syscalls"][1]["args"] == PROFILE["syscalls"][1]["args"]
    assert found["syscalls"][3] == {"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}


def test_nothing_is_left_to_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}')
    monkeypatch.setattr(bundle, "SECCOMP", profile)
    found = configuration(IMAGE, ["serve"], {"/results": tmp_path}, {"A": "b"})
    process = found["process"]
    assert process["args"] == ["zoetrope", "serve"]
    assert process["user"] == {"uid": USER, "gid": USER}
    assert process["noNewPrivileges"] and not any(process["capabilities"].values())
    assert found["root"]["readonly"]
    assert {"PATH=/opt/zoetrope/bin", "A=b"} <= set(process["env"])
    assert {"type": "network"} in found["linux"]["namespaces"]
    writable = {
        m["destination"] for m in found["mounts"] if "ro" not in m["options"] and m["type"] in ("tmpfs", "bind")
    }
    assert writable == {"/dev", "/dev/shm", "/tmp", "/data", "/results"}


def test_an_image_of_another_user_is_refused() -> None:
    with pytest.raises(ValueError, match="User is 'root' in the image: it must be 10001:10001"):
        configuration({**IMAGE, "User": "root"}, [], {}, {})
