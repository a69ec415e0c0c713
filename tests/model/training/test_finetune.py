"""Fine-tuning from disk to disk, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.random_checkpoints import write_a14b, write_i2v, write_t2v, write_vace
from tests.model.training.toys import upcycled_checkpoint, write_dataset
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.training.__main__ import main
from zoetrope.model.training.errors import TrainingError
from zoetrope.model.training.finetune import FineTuneConfig, build, noise_range

CPU = torch.device("cpu")


def write_run(root: Path, **fields: Any) -> Path:
    """A RUN.json over ``root / "moe"`` and ``root / "clips"``."""
    config = {
        "checkpoint": str(root / "moe"),
        "dataset": str(root / "clips"),
        "out": str(root / "out"),
        "steps": 3,
        "batch": 2,
        "lr": 1e-3,
        "warmup": 1,
        "ema": 0.5,
    }
    path = root / "run.json"
    path.write_text(json.dumps(config | fields))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_upcycled_checkpoint_becomes_a_trained_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = upcycled_checkpoint(tmp_path)
    write_dataset(tmp_path / "clips", [(1, 4, 4), (2, 4, 6), (2, 4, 4)])
    before = files(source)
    assert main([str(write_run(tmp_path, first_frame=0.5)), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 3
    assert files(source) == before

    result = tmp_path / "out" / "checkpoint"
    after = files(result)
    assert set(after) == {*before, "training.json"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed and all(n.startswith("transformer/") and n.endswith(".safetensors") for n in changed)
    card = find_model(str(result))
    check_files(card)
    old, new = (load_transformer(find_model(str(path)), CPU).state_dict() for path in (source, result))
    for name in ("blocks.1.ffn.w1", "blocks.2.ffn.gate.weight", "blocks.1.ffn.correction", "proj_out.weight"):
        assert not torch.equal(old[name], new[name]), name
        assert float((old[name] - new[name]).abs().max()) < 0.05
    stored = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    assert torch.equal(stored["ema"]["transformer.proj_out.weight"], new["proj_out.weight"])
    told = json.loads(after["training.json"])
    assert (told["step"], told["clips"], told["weights"], told["config"]["seed"]) == (3, 6, "moving average", 0)

    # The same file with more steps goes on, and the export is replaced.
    assert main([str(write_run(tmp_path, first_frame=0.5, steps=4)), "--device", "cpu"]) == 0
    assert "resumed at step 3" in capsys.readouterr().err
    again = files(result)
    assert set(again) == set(after)
    assert json.loads(again["training.json"])["step"] == 4
    assert changed == {name for name in before if again[name] != before[name]}
    # And a run of a killed export: the next one still replaces it.
    trainer = build(FineTuneConfig.read(tmp_path / "run.json"), CPU)
    assert trainer.step == 4
    (result / "transformer").rename(result / "transformer.old")
    trainer.save()
    assert files(result).keys() == again.keys()


def test_a_dense_checkpoint_trains_too_and_without_an_average(tmp_path: Path) -> None:
    write_t2v(tmp_path / "moe")
    write_dataset(tmp_path / "clips", [(2, 4, 4)] * 2, channels=16)
    trainer = build(FineTuneConfig.read(write_run(tmp_path, ema=0, optimiser="muon", muon_lr=1e-3)), CPU)
    trainer.run(save_every=2)
    assert trainer.ema is None
    new = load_transformer(find_model(str(tmp_path / "out" / "checkpoint")), CPU).state_dict()
    trained = trainer.stepper.weights()
    assert all(torch.equal(trained[f"transformer.{name}"], tensor) for name, tensor in new.items())


def test_one_of_two_noise_experts_trains_on_its_levels(tmp_path: Path) -> None:
    write_a14b(tmp_path / "moe")
    write_dataset(tmp_path / "clips", [(1, 4, 4)] * 2, channels=16)
    card = find_model(str(tmp_path / "moe"))
    with pytest.raises(TrainingError, match=r"noise_expert: .* has two noise experts"):
        build(FineTuneConfig.read(write_run(tmp_path)), CPU)
    assert noise_range(card, "high") == ("transformer", (0.875, 1.0))
    trainer = build(FineTuneConfig.read(write_run(tmp_path, noise_expert="low", steps=1)), CPU)
    sigmas = torch.cat([trainer.source.draw(step).sigmas for step in range(30)])
    assert 0 <= float(sigmas.min()) < 0.6 and 0.7 < float(sigmas.max()) <= 0.8751
    trainer.run(save_every=1)
    before, after = files(tmp_path / "moe"), files(tmp_path / "out" / "checkpoint")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"transformer_2/diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "run.json: steps: Input should be greater than or equal to 1, not 0"),
        ({"speed": 9}, "run.json: speed: Extra inputs are not permitted"),
        ({"checkpoint": "nowhere"}, "model 'nowhere' is neither a preset"),
        ({"zero_stage": 4}, "run.json: zero_stage: Input should be 0, 1, 2 or 3, not 4"),
        ({"zero_stage": 1, "optimiser": "muon"}, "optimiser: muon needs whole matrices and zero_stage 1 shards them"),
        ({"zero_stage": 3}, "ema: is 0.5, but under zero_stage 3 no rank has the whole weights"),
        ({"noise_expert": "high"}, "noise_expert: is 'high', but"),
        ({"dataset": "nowhere"}, "dataset: nowhere is not a directory"),
    ],
)
def test_a_bad_run_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], message: str
) -> None:
    write_t2v(tmp_path / "moe")
    capsys.readouterr()  # saving draws bars
    assert main([str(write_run(tmp_path, **fields)), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_8_bits_are_not_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOETROPE_QUANTIZE", "fp8")
    assert main([str(tmp_path / "run.json"), "--device", "cpu"]) == 2
    assert capsys.readouterr().err == (
        "error: ZOETROPE_QUANTIZE is 'fp8': it must be none, training needs exact weights\n"
    )


def test_a_run_cannot_write_into_its_checkpoint(tmp_path: Path) -> None:
    write_t2v(tmp_path / "moe")
    with pytest.raises(TrainingError, match=r"out: .* lies in the checkpoint"):
        build(FineTuneConfig.read(write_run(tmp_path, out=str(tmp_path / "moe" / "runs"))), CPU)


def test_a_state_of_the_other_kind_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name, stage in (("state.pt", 1), ("state.json", 0)):
        (tmp_path / "out" / name).touch()
        with pytest.raises(TrainingError, match=rf"zero_stage: is {stage}, and .*{name} was saved"):
            build(FineTuneConfig.read(write_run(tmp_path, zero_stage=stage)), CPU)
        (tmp_path / "out" / name).unlink()


def test_several_processes_need_a_stage_and_an_even_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="zero_stage: is 0, which is one process, and there are 2"):
        build(FineTuneConfig.read(write_run(tmp_path)), CPU)
    with pytest.raises(TrainingError, match="batch: 3 clips cannot be split evenly over 2 processes"):
        build(FineTuneConfig.read(write_run(tmp_path, batch=3, zero_stage=1)), CPU)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (write_vace, "vace_layers: VACE trains on hints"),
        (write_i2v, "in_channels: is 36, 20 of them beside the latents"),
    ],
)
def test_networks_that_need_more_than_latents_and_text_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "moe")
    with pytest.raises(TrainingError, match=message):
        build(FineTuneConfig.read(write_run(tmp_path)), CPU)
