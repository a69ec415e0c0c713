"""`zoetrope doctor`: what a service needs of this machine, and what to do if something is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from zoetrope.model.adapters.files.card import SHORT
from zoetrope.model.catalog.presets import open_model
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.cli.options import JsonOption, ListingOptions, add_commands
from zoetrope.serving.cli.settings import CheckedOptions, settings_of

if TYPE_CHECKING:
    from zoetrope.serving.config.settings import Settings

GIB = 1 << 30
MIN_PYTHON = (3, 11)
SHM = Path("/dev/shm")
SHOWN_CHARS = 40  # of a negative prompt
REPORT_WIDTH = 100  # characters of a line, at most
MIN_SHM_BYTES = GIB // 2  # for Ray's object store; ours takes 256 MiB
OPTIONAL = {"triton": "faster kernels on NVIDIA GPUs", "flash_attn": "faster attention on NVIDIA GPUs"}


class Status(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"  # the service runs, but not everything will work or work well
    FAIL = "fail"  # the service will not run


@dataclass(frozen=True)
class Check:
    """One line of the table. ``advice`` says what to do if the status is not ok."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def doctor(options: CheckedOptions, json: JsonOption = False) -> int:
    """Check what a service needs of this machine, and say what to do.

    The exit code is 1 if a service could not run.
    """
    from zoetrope.serving.cli.listing import show
    from zoetrope.serving.cli.tables import checks_listing

    checks = list(run_checks(settings_of(options)))
    show(checks_listing(checks), ListingOptions(json), width=REPORT_WIDTH)
    return int(any(check.status is Status.FAIL for check in checks))


def register(app: typer.Typer, section: str) -> None:
    add_commands(app, section, doctor)


def run_checks(settings: Settings) -> Iterator[Check]:
    """Run every check, in order; one that raises is a failed check."""
    steps: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("python", _python),
        ("variables", _variables),
        ("packages", _packages),
        ("device", _device),
        ("kernels", lambda: _kernels(settings)),
        ("memory", _memory),
        ("codecs", _codecs),
        ("media sandbox", lambda: _sandbox(settings)),
        ("model", lambda: _models(settings)),
        ("data dir", lambda: _data_dir(settings)),
        ("ports", lambda: _ports(settings)),
        ("optional", _optional),
    ]
    for name, step in steps:
        try:
            yield from step()
        except Exception as error:  # the other checks still run
            yield Check(name, Status.FAIL, f"{type(error).__name__}: {error}", "reinstall with make install")


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= MIN_PYTHON:
        yield Check("python", Status.OK, f"{version} at {sys.executable}")
    else:
        yield Check("python", Status.FAIL, version, f"install Python {'.'.join(map(str, MIN_PYTHON))} or newer")


def _variables() -> Iterator[Check]:
    """Look for misspelt settings."""
    from zoetrope.serving.config.variables import unknown_variables

    unknown = unknown_variables(os.environ)
    for line in unknown:
        yield Check("variables", Status.WARN, line, "correct its name, or unset it")
    if not unknown:
        yield Check("variables", Status.OK, "every ZOETROPE_ variable is a setting")


def _packages() -> Iterator[Check]:
    """Compare what is installed with what our own metadata requires."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires("zoetrope") or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Check(
            "packages", Status.WARN, "zoetrope runs from a folder, versions were not checked", "run make install"
        )
        return
    bad = []
    versions = {}
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": "serve"}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{requirement.name} is missing")
            continue
        versions[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            bad.append(f"{requirement.name} is {version}, needs {requirement.specifier}")
    if bad:
        yield Check("packages", Status.FAIL, "; ".join(bad), "run make install in the repository")
        return
    main = ", ".join(f"{name} {versions[name]}" for name in ("torch", "ray", "diffusers", "grpcio") if name in versions)
    yield Check("packages", Status.OK, f"{len(versions)} found: {main}, ...")


def _device() -> Iterator[Check]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not torch.cuda.is_available():
        built = "this PyTorch is built for CPUs" if torch.version.cuda is None else "no CUDA device is visible"
        yield Check("device", Status.OK, f"cpu, {cores} cores; {built}. Enough for nano, too slow for larger models")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        detail = f"cuda:{index} {device.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        yield Check("device", Status.OK, f"{detail}, compute {device.major}.{device.minor}, CUDA {torch.version.cuda}")


def _kernels(settings: Settings) -> Iterator[Check]:
    """Show which implementation of each operation a step runs, and which could but are not proved here."""
    import torch

    from zoetrope.kernels.select.backends import VARIABLE, parse, report, use

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        parse(settings.kernels)
        with use(settings.kernels):
            choices = report(device)
    except ValueError as error:
        yield Check("kernels", Status.FAIL, str(error), f"change {VARIABLE}")
        return
    run: dict[str, list[str]] = {}
    lacking: dict[str, list[str]] = {}
    for choice in choices:
        if choice.chosen:
            run.setdefault(choice.op, []).append(choice.backend)
        elif choice.unproved or choice.untimed:
            lacking.setdefault(choice.why, []).append(f"{choice.op}={choice.backend}")
    detail = ", ".join(f"{op}={'/'.join(names)}" for op, names in run.items())  # of several, by the shape
    if lacking:
        names = "; ".join(f"{', '.join(names)} ({why})" for why, names in lacking.items())
        command = "python -m zoetrope.benchmarks.kernels --only choice"
        advice = f"not used: {names}. Prove and time them with {command}, or select them with {VARIABLE}"
        yield Check("kernels", Status.WARN, detail, advice)
    else:
        yield Check("kernels", Status.OK, detail if device.type == "cuda" else f"{detail}; ours need a CUDA device")


def _memory() -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    detail = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available >= 3 * GIB:
        yield Check("memory", Status.OK, detail)
    else:
        yield Check("memory", Status.WARN, detail, "a service of nano needs about 3 GiB; end other programs")
    if not SHM.is_dir():
        yield Check("shared memory", Status.WARN, f"there is no {SHM}", "Ray will use files in the temporary directory")
        return
    free = shutil.disk_usage(SHM).free
    if free >= MIN_SHM_BYTES:
        yield Check("shared memory", Status.OK, f"{free / GIB:.1f} GiB free in {SHM}")
    else:
        advice = "give the container more: docker run --shm-size=2g, or an emptyDir in memory in Kubernetes"
        yield Check("shared memory", Status.WARN, f"{free / GIB:.2f} GiB free in {SHM}", advice)


def _codecs() -> Iterator[Check]:
    import av
    from av.codec import Codec

    missing = []
    for name in ("libx264", "ffv1"):
        try:
            Codec(name, "w")
        except ValueError:  # PyAV's UnknownCodecError is one
            missing.append(name)
    if missing:
        yield Check("codecs", Status.FAIL, f"no encoder {', '.join(missing)}", "pip install --force-reinstall av")
    else:
        yield Check("codecs", Status.OK, f"libx264 and ffv1 in PyAV {av.__version__}")


def _sandbox(settings: Settings) -> Iterator[Check]:
    """Start a process that decodes clients' files, and have it report what confines it, layer by layer."""
    from zoetrope.serving.media.sandbox.confine import lacking
    from zoetrope.serving.media.sandbox.sandbox import confinement

    name = "media sandbox"
    try:
        layers = confinement(unsafe=True)
    except OSError as error:
        yield Check(name, Status.FAIL, f"{error.strerror or error}", "reinstall with make install")
        return
    absent = [str(layer) for layer in layers if not layer.holds]
    detail = f"holds: {', '.join(str(layer) for layer in layers if layer.holds) or 'nothing'}"
    if absent:
        detail += f"; does not: {', '.join(absent)}"
    if not (lacks := lacking(layers)):
        yield Check(name, Status.OK, detail)
    elif settings.unsafe_media:
        advice = f"clients' files are decoded without {', '.join(lacks)}: take only those that you trust"
        yield Check(name, Status.WARN, detail, advice)
    else:
        advice = f"a service needs {', '.join(lacks)}: allow it in the container, or risk --unsafe-media"
        yield Check(name, Status.FAIL, detail, advice)


def _models(settings: Settings) -> Iterator[Check]:
    from zoetrope.serving.config.served_models import check_load  # a client by itself has no settings

    try:
        check_load(settings)
    except ModelError as error:
        yield Check("model", Status.FAIL, str(error), "leave the option out")
        return
    for name in settings.model:
        yield from _model(name, settings)


def _model(name: str, settings: Settings) -> Iterator[Check]:
    try:
        card = open_model(name, settings.load)
    except ModelError as error:
        yield Check("model", Status.FAIL, str(error), "restore the file, or name another model with --model")
        return
    yield Check("model", Status.OK, f"{card.name} at {card.directory}, all files are readable")
    for warning in card.warnings:
        yield Check("model", Status.WARN, warning, "check whether this is intended; the model runs without it")
    yield Check("model card", Status.OK, _described(card))
    for adapter in card.adapters:
        where = "" if adapter.expert == "any" else f", on {adapter.expert}"
        detail = f"{adapter.path} fits, strength {adapter.strength:g}{where}, SHA-256 {adapter.sha256[:SHORT]}"
        yield Check("lora", Status.OK, detail)
    yield from _quantize(card)
    yield from _fit(card, settings)


def _quantize(card: ModelCard) -> Iterator[Check]:
    """Show what --quantize makes of the model, and whether the GPU can compute with it."""
    if card.quantize == "none":
        return
    from zoetrope.model.catalog.model_card import network_config
    from zoetrope.model.checkpoints.load import check_gpu
    from zoetrope.model.families.quantization import described
    from zoetrope.model.network.costs import rank_memory

    config = network_config(card)
    size, exact = (rank_memory(config, 1, 1, quantize=form).weights for form in (card.quantize, "none"))
    share = f"in bfloat16 its weights would take {exact / GIB:.3g} GiB, so they take {size / GIB:.3g}"
    try:
        check_gpu(card)
    except ModelError as error:
        yield Check("quantize", Status.FAIL, str(error), "leave --quantize (ZOETROPE_QUANTIZE) away")
        return
    yield Check("quantize", Status.OK, f"{described(config, card.quantize)}; {share}")


def _fit(card: ModelCard, settings: Settings) -> Iterator[Check]:
    """Show what of the model stays on the GPU, and which options would keep more there."""
    from zoetrope.serving.cli.doctor_memory import memory_advice
    from zoetrope.serving.config.engine_groups import engine_groups

    groups = settings.cfg_groups
    ranks = min(group.ranks for group in engine_groups(settings))
    for fits, detail, advice in memory_advice(card, ranks // groups, groups):
        status = Status.FAIL if not fits else Status.WARN if advice else Status.OK
        yield Check("gpu memory", status, detail, advice or ("" if fits else "take a smaller model, or more GPUs"))


def _described(card: ModelCard) -> str:
    """Describe the model's defaults."""
    shift = "none" if card.default_flow_shift is None else f"{card.default_flow_shift:g}"
    note = f" ({card.flow_shift_note})" if card.flow_shift_note else ""
    negative = card.default_negative_prompt
    negative = negative if len(negative) <= SHOWN_CHARS else negative[: SHOWN_CHARS - 3] + "..."
    size = card.default_size if not card.native_sizes else "x".join(map(str, card.native_sizes[0]))
    profile = "" if card.profile is None else f", profile {card.profile.name} of {card.profile.steps} steps"
    return (
        f"family {card.family}; {', '.join(card.tasks)}; size {size}, flow shift {shift}{note}, "
        f"negative prompt {negative or 'none'}{profile}"
    )


def _data_dir(settings: Settings) -> Iterator[Check]:
    directory = settings.directory
    # A check creates nothing: if the folder does not exist yet, its nearest parent must be writable.
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        yield Check("data dir", Status.FAIL, f"{directory}: {error.strerror}", "name another one with --data-dir")
        return
    detail = f"{directory}, {free / GIB:.1f} GiB free"
    if free >= GIB:
        yield Check("data dir", Status.OK, detail)
    else:
        yield Check("data dir", Status.WARN, detail, "free some space, or name another one with --data-dir")


def _ports(settings: Settings) -> Iterator[Check]:
    from zoetrope.serving.config.addresses import bind_problem

    for field, address in (("grpc", settings.grpc), ("http", settings.http)):
        problem = bind_problem(address, field)
        if problem is None:
            yield Check(f"{field} port", Status.OK, f"{address} is free")
        else:
            advice = f"a service may be running already; else name another address with --{field}"
            yield Check(f"{field} port", Status.WARN, problem, advice)


def _optional() -> Iterator[Check]:
    for name, use in OPTIONAL.items():
        state = "present" if importlib.util.find_spec(name) else "absent, not needed"
        yield Check(name, Status.OK, f"{state} ({use})")
