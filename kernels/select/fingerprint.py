"""Hash the sources of a kernel, without comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]  # the folder that holds the package
PACKAGE = "zoetrope.kernels"
NOT_CODE = frozenset({"variants"})  # lists for the ahead-of-time check; no kernel is made of them
ALWAYS = ("zoetrope.kernels.gpu.launch", "zoetrope.kernels.gpu.schedule", "zoetrope.kernels.gpu.tiles")


@lru_cache
def fingerprint(module: str, root: Path = ROOT) -> str:
    """Return the SHA-256 of a module and every module of ``zoetrope.kernels`` that it imports, directly or not.

    Args:
        module: its full name, such as ``zoetrope.kernels.gpu.attention``. root: the folder that holds ``kernels``.

    Raises:
        ValueError: there is no such module.
    """
    if not _path(module, root).is_file():
        raise ValueError(f"module is {module!r}: there is no {_path(module, root)}")
    names = {module, *(name for name in ALWAYS if _path(name, root).is_file())}
    waiting = list(names)
    while waiting:
        found = _imports(_tree(_path(waiting.pop(), root)), root) - names
        names |= found
        waiting += found
    return digest((_path(name, root) for name in names), root)


def digest(paths: Iterable[Path], root: Path = ROOT) -> str:
    """Return the SHA-256 of source files, in any order."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.relative_to(root).as_posix()}\n".encode())
        for word in _words(_tree(path)):
            total.update(word.encode() + b"\0")
    return total.hexdigest()


def _path(module: str, root: Path) -> Path:
    path = root.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _imports(tree: ast.Module, root: Path) -> set[str]:
    """Return the package's modules that are imported, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if f"{name}.".startswith(f"{PACKAGE}.") and _path(name, root).is_file()}


def _words(node: object) -> Iterator[str]:
    """Yield a syntax tree as words that do not depend on Python's version; empty fields and docstrings are left out."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if value is None or value == [] or name in {"ctx", "kind", "type_comment", "type_ignores"}:
                continue
            if name == "body" and isinstance(value, list):
                value = [child for i, child in enumerate(value) if _is_code(node, i, child)]
            yield name
            yield from _words(value)
        yield ")"
    elif isinstance(node, list):
        for child in node:
            yield from _words(child)
    else:
        yield repr(node)


def _is_code(parent: ast.AST, index: int, child: ast.AST) -> bool:
    """Tell whether a node is neither a docstring nor a function that does not affect kernels."""
    if isinstance(parent, ast.Module) and isinstance(child, ast.FunctionDef) and child.name in NOT_CODE:
        return False
    documented = isinstance(parent, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
    text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str)
    return not (documented and index == 0 and text)
