"""Every kernel is launched on the device of its tensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from zoetrope.kernels.gpu import launch

FOLDER = Path(launch.__file__).parent
GUARDS = {"on_device", "device_of"}  # ours, and torch's own


def kernels_of(tree: ast.Module) -> set[str]:
    """The names of functions under ``@triton.jit`` or ``@gluon.jit``, with or without arguments, here or imported."""
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("jit" in ast.unparse(d) for d in node.decorator_list):
            found.add(node.name)
    return found


def launches(node: ast.AST, kernels: set[str], guarded: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Line, kernel, and whether the launch ``kernel[grid](...)`` stands in a guard."""
    if isinstance(node, ast.With):
        for item in node.items:
            call = item.context_expr
            guarded |= isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in GUARDS
    called = node.func.value if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript) else None
    if isinstance(called, ast.Name) and called.id in kernels:
        yield called.lineno, called.id, guarded
    for child in ast.iter_child_nodes(node):
        # what a function within a guard does, it does when it is called
        yield from launches(child, kernels, guarded and not isinstance(child, ast.FunctionDef | ast.Lambda))


def of_file(path: Path) -> list[tuple[int, str, bool]]:
    tree = ast.parse(path.read_text(), str(path))
    return list(launches(tree, kernels_of(tree)))


def test_every_launch_stands_in_a_guard_of_its_device() -> None:
    found = {path.name: of_file(path) for path in FOLDER.glob("*.py")}
    without = [f"{name}:{line} {kernel}" for name, some in found.items() for line, kernel, held in some if not held]
    assert without == []
    passes = {"router_logits", "residual_norm", "qk_norm_rope", "combine", "routing", "dispatch", "quantise_qkv"}
    attention = {"attention", "attention_8bit", "attention_gluon"}
    assert {f"{name}.py" for name in passes | attention} <= {name for name, some in found.items() if some}


@pytest.mark.parametrize("name", ["combine", "routing", "attention_gluon"])
def test_a_launch_without_one_is_seen(name: str, tmp_path: Path) -> None:
    source = (FOLDER / f"{name}.py").read_text()
    guard = next(line.strip() for line in source.splitlines() if line.strip().startswith("with on_device("))
    changed = tmp_path / "changed.py"
    changed.write_text(source.replace(guard, "if True:", 1))
    assert [held for _, _, held in of_file(changed)].count(False) == 1


def test_the_guard_is_of_the_device_of_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[object] = []
    monkeypatch.setattr(torch.cuda, "device", entered.append)
    with launch.on_device(torch.device("cpu")):
        assert entered == []
    launch.on_device(torch.device("cuda", 3))
    assert entered == [torch.device("cuda", 3)]
