"""`zoetrope k8s`: manifests for Kubernetes, written from a plan and checked without a cluster."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zoetrope.serving.cli.errors import FAILURE, CliError, bad_input
from zoetrope.serving.cli.groups import Group
from zoetrope.serving.cli.options import JsonOption, option, with_options

if TYPE_CHECKING:
    from zoetrope.serving.kubernetes.knobs import Knobs
    from zoetrope.serving.kubernetes.sizing import Sizing

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Write and check manifests for Kubernetes.")


@dataclass(frozen=True)
class KnobOptions:
    """Knobs that have options."""

    model: Annotated[str | None, option("MODEL", "Preset to serve.", "nano")] = None
    gpu: Annotated[str | None, option("KIND", "Kind of GPU: h100, h200, a100, l40s; or cpu.", "h100")] = None
    gpus: Annotated[int | None, option("N", "GPUs of one engine.", "8")] = None
    nodes: Annotated[int | None, option("N", "Nodes of workers.", "1")] = None
    gpus_per_node: Annotated[int | None, option("N", "GPUs of a node.", "8")] = None
    nvlink: Annotated[int | None, option("N", "GPUs that NVLink connects.", "those of a node")] = None
    size: Annotated[str | None, option("SIZE", "Size of the clip that is planned.", "720p")] = None
    duration: Annotated[float | None, option("SECONDS", "Length of the clip that is planned.", "5")] = None
    quantize: Annotated[str | None, option("FORM", "Form of the weights: fp8 or none.", "none")] = None
    image: Annotated[str | None, option("IMAGE", "Image with its tag.", "zoetrope:0.1.0")] = None
    namespace: Annotated[str | None, option("NAME", "Namespace.", "zoetrope")] = None
    artifact_store: Annotated[
        str | None, option("URL", "Bucket for videos and uploads.", "s3://zoetrope/artifacts")
    ] = None
    snapshot_store: Annotated[
        str | None, option("URL", "Bucket for snapshots and previews.", "s3://zoetrope/snapshots")
    ] = None


@app.command()
@with_options
def render(
    options: KnobOptions,
    out: Annotated[Path, option("DIR", "Folder to write; `kubectl apply -k DIR` takes it.")],
    knobs: Annotated[
        Path | None, option("FILE", "YAML file of knobs, as `zoetrope k8s knobs` describes them.", "none")
    ] = None,
) -> None:
    """Write an overlay for a model on some nodes, as the planner shares it, and check it.

    Options win over the file of knobs. The folder has everything that it needs.
    """
    from zoetrope.serving.kubernetes.knobs import KnobError, read_knobs
    from zoetrope.serving.kubernetes.render import render as write
    from zoetrope.serving.kubernetes.render import secrets_of

    try:
        wanted = read_knobs(knobs, {name: value for name, value in vars(options).items() if value is not None})
        sizing = plan_sizing(wanted)
    except KnobError as error:
        field, _, problem = str(error).partition(": ")
        raise bad_input(field.replace("_", "-"), problem) from None
    write(wanted, sizing, out)
    count = _checked(out, False)
    of = f"{sizing.engines} engine{'s' if sizing.engines > 1 else ''} of {sizing.ranks}"
    print(f"{out}: {count} objects; {wanted.model} on {of}; jobs take up to {sizing.job_seconds} s")
    for name, keys in secrets_of(wanted).items():
        values = " ".join(f"--from-literal={key}=..." for key in keys.split())
        print(f"needs: kubectl -n {wanted.namespace} create secret generic {name} {values}")
    if not wanted.bundled and not wanted.weights_from:
        print(f"needs: {wanted.model} on the volume weights, put there by you, or weights_from in the file of knobs")


@app.command()
def check(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that kustomize builds, or of YAML files; a file.")
    ],
    json: JsonOption = False,
) -> None:
    """Check manifests as strictly as a cluster would, and further, without one.

    Schemas, references, ports, probes, pod security, Serve's configuration, disruption budgets and network policies.
    """
    count = _checked(folder, json)
    if not json:
        print(f"{folder}: {count} objects, nothing to object to")


@app.command("knobs")
def show_knobs() -> None:
    """Print the schema of the file that `render --knobs` takes, as JSON."""
    from zoetrope.serving.cli.listing import print_json
    from zoetrope.serving.kubernetes.knobs import Knobs

    print_json(Knobs.model_json_schema())


def plan_sizing(knobs: Knobs) -> Sizing:
    """Plan an engine as `zoetrope plan` does, and fill the nodes with such engines.

    Raises:
        CliError: bad input, or no plan works. KnobError: the nodes have no room, or the card is none.
    """
    from zoetrope.model.catalog.exported_cards import read_exported
    from zoetrope.model.families import PRESETS
    from zoetrope.model.inspection.files import ModelError
    from zoetrope.model.request.load_options import LoadOptions
    from zoetrope.serving.cli.plan import make_plan
    from zoetrope.serving.cli.plan_price import planned_job
    from zoetrope.serving.kubernetes.knobs import KnobError
    from zoetrope.serving.kubernetes.sizing import size_engines

    if knobs.model not in PRESETS and not knobs.bundled:
        raise bad_input("model", f"{knobs.model!r} is no preset ({', '.join((*PRESETS, 'nano'))})")
    load = LoadOptions(quantize=knobs.quantize)
    if knobs.card:
        try:
            read_exported(knobs.card, load)
        except ModelError as error:
            raise KnobError(f"card: {error}") from None
    gear = (knobs.gpus, knobs.size, knobs.ratio, knobs.duration, knobs.gpu, knobs.domain)
    plan, _, wanted = make_plan(knobs.model, *gear, load)
    job = planned_job(wanted, plan, knobs.duration, None, "exact")
    return size_engines(knobs, plan, job.gpu_seconds)


def _checked(folder: Path, json: bool) -> int:
    """Check a folder and return how many objects it has.

    Raises:
        CliError: it cannot be read, or something is wrong in it; everything that is was printed.
    """
    from zoetrope.serving.cli.listing import print_json
    from zoetrope.serving.kubernetes.check import check_folder
    from zoetrope.serving.kubernetes.objects import TreeError

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        tree, findings = check_folder(folder)
    except TreeError as error:
        raise bad_input("dir", str(error)) from None
    if json:
        print_json({"objects": len(tree.manifests), "findings": [dataclasses.asdict(each) for each in findings]})
    else:
        for finding in findings:
            print(finding)
    if findings:
        raise CliError(f"{folder}: {len(findings)} finding{'s' if len(findings) > 1 else ''}", FAILURE)
    return len(tree.manifests)
