"""Each peer's command says what work is to be done, in the words of that peer."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from zoetrope.benchmarks.errors import BenchmarkError
from zoetrope.benchmarks.peers.__main__ import main
from zoetrope.benchmarks.peers.peer import NotRun, PeerWork
from zoetrope.benchmarks.peers.registry import PEERS, REFERENCE
from zoetrope.benchmarks.peers.run import shift_of

WORK = PeerWork(
    model="/models/wan",
    original="/models/wan-original",
    hub_name="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    prompt="a cat",
    negative="blurry",
    width=832,
    height=480,
    frames=81,
    steps=40,
    guidance=5.0,
    shift=3.0,
    seed=7,
)
PYTHON = "/venv/bin/python"


@pytest.mark.parametrize("name", PEERS)
def test_a_command_holds_the_whole_work(name: str, tmp_path: Path) -> None:
    line = PEERS[name].command(WORK, PYTHON, tmp_path)
    assert line[0].startswith("/venv/bin/")
    text = " ".join(line) + "".join(path.read_text() for path in tmp_path.iterdir())
    for value in ("a cat", "blurry", "832", "480", "81", "40", "5.0", "7", str(tmp_path)):
        assert value in text, value
    assert any(model in text for model in (WORK.model, WORK.hub_name))
    assert "run here" in PEERS[name].source


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if "not run here" in peer.source])
def test_peers_that_choose_their_schedule_are_told(name: str, tmp_path: Path) -> None:
    line = PEERS[name].command(WORK, PYTHON, tmp_path)
    text = " ".join(line) + "".join(path.read_text() for path in tmp_path.iterdir())
    assert "shift" in text and "3.0" in text


def test_what_a_peer_cannot_do(tmp_path: Path) -> None:
    other = PeerWork(**{**WORK.to_dict(), "hub_name": "", "original": ""})
    for name, why in (("xdit", "--hub-name"), ("lightx2v", "--original")):
        with pytest.raises(NotRun, match=why):
            PEERS[name].command(other, PYTHON, tmp_path)
    assert WORK.in_steps(4).steps == 4 and WORK.steps == 40 and REFERENCE in PEERS


@pytest.mark.parametrize("name", ["diffusers", "vllm-omni"])
def test_scripts_import_nothing_of_ours(name: str, tmp_path: Path) -> None:
    script = Path(PEERS[name].command(WORK, PYTHON, tmp_path)[1])
    assert script.parent.name == "scripts", "beside no module that has the name of a package"
    tree = ast.parse(script.read_text())
    imports = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imports |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports and not any(module.startswith("zoetrope") for module in imports)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "sglang"], "--peer: 'sglang' must be NAME=PYTHON, NAME one of ours, diffusers, sglang"),
        (["--peer", "comfy=python"], "--peer: 'comfy=python' must be"),
        (["--steps", "4"], "--steps is 4, must be above 4"),
        (["--size", "wide"], "--size: 'wide' must be WIDTHxHEIGHT"),
        (["--model", "/absent"], "--model: /absent/scheduler/scheduler_config.json cannot be read"),
    ],
)
def test_what_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert said in capsys.readouterr().err


def test_the_shift_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.parent.mkdir()
    for value, shift in (({"flow_shift": 3.0}, 3.0), ({"shift": 5}, 5.0)):
        path.write_text(json.dumps(value))
        assert shift_of(tmp_path) == shift
    path.write_text("{}")
    with pytest.raises(BenchmarkError, match="has no flow_shift"):
        shift_of(tmp_path)
