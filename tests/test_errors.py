"""Every exception of ours arrives in another process as it left this one."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pickle
import types
import typing
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from ray import cloudpickle

from zoetrope.model.request.tasks import Violation

ROOT = Path(__file__).parents[1]
FLOORS = ("kernels", "model", "cluster", "serving", "benchmarks")
EXCEPTIONS = {
    name for name, kind in vars(builtins).items() if isinstance(kind, type) and issubclass(kind, BaseException)
}
EXAMPLES: dict[type, Any] = {
    str: "what is wrong",
    int: 7,
    float: 2.5,
    bool: True,
    dict: {"limit": "3"},
    Mapping: {"limit": "3"},
    Violation: Violation("size", "is too large"),
}
# Arguments of exceptions whose `__init__` takes what the annotations do not tell.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "zoetrope.serving.media.errors.NotWritable": (Path("a.mp4"), OSError(28, "No space left on device", "a.mp4")),
}


def classes() -> Iterator[tuple[str, str, set[str]]]:
    """Module, name and the names of the bases of every class of ours."""
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            if path.name.endswith(("_pb2.py", "_pb2_grpc.py")):
                continue
            module = ".".join(("zoetrope", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    yield module, node.name, {ast.unparse(base).rpartition(".")[2] for base in node.bases}


def find_exceptions() -> list[str]:
    """By the names of bases, until no more are found: only their modules have to be imported."""
    every, known, found = list(classes()), set(EXCEPTIONS), set[str]()
    while True:
        more = {f"{module}.{name}" for module, name, bases in every if bases & known}
        if more == found:
            return sorted(found)
        found = more
        known |= {name.rpartition(".")[2] for name in more}


def example(annotation: Any) -> Any:
    """A value of a parameter's type. Raises KeyError where none is known."""
    origin = get_origin(annotation)
    if origin is Literal:
        return get_args(annotation)[0]
    if origin in (Union, types.UnionType):
        return example(next(kind for kind in get_args(annotation) if kind is not type(None)))
    if origin in (tuple, list) or (inspect.isclass(origin) and issubclass(origin, typing.Sequence)):
        kinds = [kind for kind in get_args(annotation) if kind is not Ellipsis]
        return tuple(example(kind) for kind in kinds)
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return next(iter(annotation))
    return EXAMPLES[origin or annotation]


def build(kind: type[BaseException]) -> BaseException:
    """With a value for every parameter."""
    if given := ARGUMENTS.get(f"{kind.__module__}.{kind.__qualname__}"):
        return kind(*given)
    if not inspect.isfunction(kind.__init__):  # of an exception class of Python's own
        return kind("what is wrong")
    hints = typing.get_type_hints(kind.__init__)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if parameter.kind is parameter.KEYWORD_ONLY:
            named[name] = example(hints[name])
        else:
            positional.append(example(hints[name]))
    return kind(*positional, **named)


def load(name: str) -> type[BaseException]:
    module, _, attribute = name.rpartition(".")
    kind: type[BaseException] = getattr(importlib.import_module(module), attribute)
    return kind


@pytest.mark.parametrize("name", find_exceptions())
def test_every_exception_survives_pickling(name: str) -> None:
    kind = load(name)
    assert issubclass(kind, BaseException)
    try:
        error = build(kind)
    except KeyError as unknown:
        pytest.fail(f"{name}: nothing is known to give for a parameter of type {unknown}; add it to ARGUMENTS")
    for library in (pickle, cloudpickle):
        again: BaseException = pickle.loads(library.dumps(error))
        assert type(again) is kind
        assert str(again) == str(error)
        assert again.args == error.args
        assert vars(again) == vars(error)


def test_they_are_found() -> None:
    found = find_exceptions()
    assert {
        "zoetrope.model.request.tasks.InvalidRequest",
        "zoetrope.cluster.engine.gang.GangFailed",
        "zoetrope.serving.gateway.errors.api_error.ApiError",
    } <= set(found)
    assert len(found) > 50
