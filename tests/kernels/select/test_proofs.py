"""The trust rule: a proof holds for the sources, the compiler and the kind of GPU it was made with, and no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zoetrope.kernels.gpu import tiles
from zoetrope.kernels.select import proofs
from zoetrope.kernels.select.backends import BACKENDS, PROOF_OF
from zoetrope.kernels.select.fingerprint import fingerprint
from zoetrope.kernels.select.proofs import (
    MODULES,
    PROOFS,
    Proof,
    Speed,
    load,
    record,
    record_speeds,
    standing,
    tiles_digest,
)

MADE = Proof(
    op="attention",
    backend="triton",
    dtype="bf16",
    head_dim=128,
    capability="9.0",
    device="NVIDIA H100 80GB HBM3",
    triton="3.6.0",
    torch="2.11.0",
    error=1e-3,
    limit=1e-2,
    cases=12,
    fingerprint="f" * 64,
    date="2026-01-01T00:00:00Z",
    tiles="",
)
SPEED = Speed("attention", "64k on 64k", 1.1, "sdpa", ("sdpa",), 1e-3, MADE.device, MADE.date)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(proofs, "fingerprint", lambda module: "f" * 64)
    return tmp_path / "data" / "proofs.json"


def found(path: Path, *, head_dim: int | None = 128, capability: str | tuple[int, int] = "9.0") -> Proof | None:
    return standing(
        "attention", "triton", torch.bfloat16, capability, head_dim=head_dim, path=path, triton="3.6.0"
    ).proof


def why(path: Path, triton: str = "3.6.0", **more: object) -> str:
    given = {"head_dim": 128, "path": path, "triton": triton, **more}
    return standing("attention", "triton", "bf16", "9.0", **given).why  # type: ignore[arg-type]


def test_a_proof_is_found_by_kernel_and_capability(path: Path) -> None:
    assert found(path) is None
    assert record([MADE], path=path) == [MADE]
    assert found(path) == MADE
    assert found(path, capability=(9, 0)) == MADE
    assert found(path, capability="10.0") is None
    assert found(path, head_dim=64) is None
    assert found(path, head_dim=None) is None
    for op, backend, dtype in (
        ("attention", "triton", "fp16"),
        ("attention", "gluon", "bf16"),
        ("attention", "of another house", "bf16"),
    ):
        assert standing(op, backend, dtype, "9.0", head_dim=128, path=path, triton="3.6.0").proof is None


@pytest.mark.parametrize("version, holds", [("3.6.0", True), ("3.6.1+git", True), ("3.7.0", False), ("4.6.0", False)])
def test_it_holds_for_the_same_minor_version_of_triton(path: Path, version: str, holds: bool) -> None:
    record([MADE], path=path)
    answer = standing("attention", "triton", "bf16", "9.0", head_dim=128, path=path, triton=version)
    assert (answer.proof is not None) == holds
    assert holds or answer.why == f"proved with Triton 3.6.0, this is {version}"


def test_without_triton_nothing_is_proved(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record([MADE], path=path)
    monkeypatch.setattr(proofs, "triton_version", lambda: None)
    answer = standing("attention", "triton", "bf16", "9.0", head_dim=128, path=path)
    assert answer.proof is None and answer.why == "triton is not installed"


def test_an_edited_kernel_is_no_longer_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record([MADE], path=path)
    monkeypatch.setattr(proofs, "fingerprint", lambda module: "e" * 64)
    assert found(path) is None and "its code has changed" in why(path)


def test_a_kernel_without_sources_is_not_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record([MADE], path=path)

    def missing(module: str) -> str:
        raise ValueError(f"no {module}")

    monkeypatch.setattr(proofs, "fingerprint", missing)
    assert found(path) is None and "sources are not installed" in why(path)


def tuned(folder: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, dict[str, int]]) -> None:
    """Make these the tuned tiles of the H100."""
    (folder / "tiles-h100.json").write_text(json.dumps({"tiles": values}))
    monkeypatch.setattr(tiles, "DATA", folder)
    tiles.tuned_tiles.cache_clear()


@pytest.fixture
def no_tiles() -> Iterator[None]:
    tiles.tuned_tiles.cache_clear()
    yield
    tiles.tuned_tiles.cache_clear()


@pytest.mark.usefixtures("no_tiles")
def test_a_kernel_with_other_tiles_is_no_longer_trusted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record([MADE], path=path)
    others = {"attention/gluon/bf16/d128": {"block_m": 64}, "attention/triton/bf16/d64": {"block_m": 64}}
    tuned(tmp_path, monkeypatch, others)
    assert why(path, table="h100") == "", "these are the tiles of other kernels"
    tuned(tmp_path, monkeypatch, {**others, "attention/triton/bf16/d128": {"block_m": 64}})
    assert "its tiles have changed" in why(path, table="h100")
    assert why(path, table=None) == "" == why(path, table="h200"), "a device without such a table"
    now = tiles_digest("attention", "triton", "bf16", 128, "h100")
    record([replace(MADE, tiles=now)], path=path)
    assert why(path, table="h100") == "" and "its tiles have changed" in why(path, table="h200")
    tuned(tmp_path, monkeypatch, {**others, "attention/triton/bf16/d128": {"block_m": 128}})
    assert "its tiles have changed" in why(path, table="h100")


@pytest.mark.usefixtures("no_tiles")
@pytest.mark.parametrize(
    "op, dtype, key",
    [
        ("grouped_gemm", "bf16", "grouped_gemm/bf16/n48k64/m64"),
        ("grouped_gemm_fp8", "fp8", "grouped_gemm/fp8/rows/n48k64/m64"),
        ("residual_norm", "bf16", "residual_gate/3072"),
        ("residual_norm", "bf16", "residual_norm/3072"),
        ("combine", "bf16", "combine/3072"),
    ],
)
def test_every_kernel_is_bound_to_its_own_tiles(
    op: str, dtype: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(tmp_path, monkeypatch, {key: {"num_warps": 4}})
    assert len(tiles_digest(op, "triton", dtype, None, "h100")) == 64
    assert tiles_digest("qk_norm_rope", "triton", dtype, None, "h100") == ""
    assert tiles_digest(op, "triton", dtype, None, None) == ""


def test_files_from_before_speeds_were_kept_are_understood(path: Path) -> None:
    old = {name: value for name, value in MADE.__dict__.items() if name not in ("tiles", "speeds")}
    path.parent.mkdir()
    path.write_text(json.dumps([old]))
    proof = found(path)
    assert proof is not None and proof.tiles is None and proof.speeds == ()


def test_speeds_stand_beside_the_proof_of_the_same_code(path: Path) -> None:
    record([MADE], path=path)
    faster, other = replace(SPEED, ratio=1.3), replace(SPEED, shape="64k on 1k")
    stray = ("attention", "gluon", "bf16", 128, "9.0")
    assert record_speeds({MADE.key: [other], stray: [SPEED]}, path) == [replace(MADE, speeds=(other,))]
    record_speeds({MADE.key: [SPEED]}, path)
    record_speeds({MADE.key: [faster]}, path)
    proof = found(path)
    assert proof is not None and proof.speeds == (other, faster), "by place, the newest of each"
    assert proof.speed("attention", SPEED.shape) == faster and proof.speed("linear_gelu", SPEED.shape) is None
    again = replace(MADE, date="2026-02-02T00:00:00Z", triton="3.6.1")
    assert record([again], path=path) == [replace(again, speeds=(other, faster))], "proved anew, the code is the same"
    for change in ({"fingerprint": "e" * 64}, {"tiles": "t" * 64}, {"device": "another"}, {"triton": "3.7.0"}):
        record([again], path=path)
        record_speeds({MADE.key: [SPEED]}, path)
        assert record([replace(again, **change)], path=path)[0].speeds == ()  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"error": 0.1}, {"error": float("nan")}, {"cases": 0}])
def test_a_proof_that_contradicts_itself_is_not_stored_nor_believed(path: Path, change: dict[str, float]) -> None:
    wrong = replace(MADE, **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"attention/triton/bf16/128/9\.0"):
        record([wrong], path=path)
    assert not path.exists()
    path.parent.mkdir()
    path.write_text(json.dumps([wrong.__dict__]))
    assert found(path) is None


def test_only_known_kernels_have_proofs(path: Path) -> None:
    with pytest.raises(ValueError, match="attention/other"):
        record([replace(MADE, backend="other")], path=path)


def test_recording_merges_replaces_and_withdraws(path: Path) -> None:
    small = replace(MADE, head_dim=64)
    record([small, MADE], path=path)
    newer = replace(MADE, error=2e-3, date="2026-02-02T00:00:00Z")
    assert record([newer], path=path) == [newer, small]
    assert load(path) == [newer, small]
    assert record([], failed=[small.key], path=path) == [newer]
    assert record([small], failed=[small.key], path=path) == [newer]  # right once and wrong once is wrong
    assert [entry.name for entry in path.parent.iterdir()] == ["proofs.json"]


def test_every_kernel_that_needs_a_proof_can_have_one() -> None:
    for op, backends in BACKENDS.items():
        for backend in backends:
            module = MODULES.get((PROOF_OF.get(op, op), backend.name))
            assert (module is not None) == backend.ours, (op, backend.name)
            assert module is None or len(fingerprint(module)) == 64


def test_the_committed_file_can_be_read() -> None:
    for proof in load(PROOFS):
        assert proof.holds and (proof.op, proof.backend) in MODULES and len(proof.fingerprint) == 64


def source(root: Path, name: str, text: str) -> None:
    file = root / "kernels" / f"{name}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    fingerprint.cache_clear()


KERNEL = '''
"""A kernel."""
from zoetrope.kernels.gpu.part import helper
def launch(x):
    """Documented."""
    return helper(x) + 1  # one more
def variants():
    return [1]
'''


@pytest.fixture
def house(tmp_path: Path) -> Path:
    source(tmp_path, "gpu/kernel", KERNEL)
    source(tmp_path, "gpu/part", "from zoetrope.kernels import number\ndef helper(x): return x * number.N\n")
    source(tmp_path, "gpu/launch", "def require_device(): ...\n")
    source(tmp_path, "number", "N = 2\n")
    source(tmp_path, "other", "N = 3\n")
    return tmp_path


@pytest.mark.parametrize(
    "name, text",
    [
        ("gpu/kernel", KERNEL.replace("+ 1", "+ 2")),
        ("gpu/kernel", KERNEL.replace("def launch(x)", "def launch(x, y=1)")),
        ("gpu/part", "from zoetrope.kernels import number\ndef helper(x): return x + number.N\n"),
        ("gpu/launch", "def require_device(): return 1\n"),
        ("number", "N = 2.0\n"),
    ],
)
def test_a_change_of_the_code_or_of_what_it_imports_changes_the_fingerprint(house: Path, name: str, text: str) -> None:
    before = fingerprint("zoetrope.kernels.gpu.kernel", house)
    source(house, name, text)
    assert fingerprint("zoetrope.kernels.gpu.kernel", house) != before


@pytest.mark.parametrize(
    "name, text",
    [
        ("gpu/kernel", KERNEL.replace("# one more", "# and one")),
        ("gpu/kernel", KERNEL.replace("Documented.", "Well documented.").replace("A kernel.", "The kernel.")),
        ("gpu/kernel", KERNEL.replace("[1]", "[1, 2]")),
        ("gpu/kernel", KERNEL.replace("helper(x) + 1", "(\n    helper(x)\n    + 1)")),
        ("other", "N = 4\n"),
    ],
)
def test_comments_layout_lists_and_other_modules_do_not(house: Path, name: str, text: str) -> None:
    before = fingerprint("zoetrope.kernels.gpu.kernel", house)
    source(house, name, text)
    assert fingerprint("zoetrope.kernels.gpu.kernel", house) == before


def test_an_unknown_module_is_named(house: Path) -> None:
    with pytest.raises(ValueError, match=r"kernels\.gpu\.missing"):
        fingerprint("zoetrope.kernels.gpu.missing", house)
