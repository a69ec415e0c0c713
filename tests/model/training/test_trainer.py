"""The general trainer: it learns, goes on after a break, balances its experts, reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.model.training.toys import CONFIG, network, write_dataset
from zoetrope.model.network.experts import MoEFeedForward
from zoetrope.model.training.balance import average, balance, twin
from zoetrope.model.training.dataset import DatasetSource, Draws, FlowBatch, LatentDataset
from zoetrope.model.training.errors import TrainingError
from zoetrope.model.training.finetune import FineTuning
from zoetrope.model.training.optimisers import Recipe, build_optimisers, split_parameters
from zoetrope.model.training.plain import PlainStepper
from zoetrope.model.training.trainer import Trainer

SHAPES = [(1, 4, 4), (2, 4, 6), (2, 4, 4), (1, 6, 4)]


def dataset(root: Path) -> LatentDataset:
    folder = root / "clips"
    if not folder.exists():
        write_dataset(folder, SHAPES, CONFIG.in_channels, CONFIG.text_dim)
    return LatentDataset(folder, CONFIG)


def trainer(root: Path, out: Path, steps: int, ema: float = 0.5, lr: float = 3e-3) -> Trainer[FlowBatch]:
    net = FineTuning(network())
    out.mkdir(exist_ok=True)
    source = DatasetSource(dataset(root), Draws(2, 5, 3.0, text_drop=0.3, first_frame=0.5))
    stepper = PlainStepper(net, build_optimisers(net, "muon", lr, lr, 0.01), clip=1.0)
    recipe = Recipe(steps, warmup=2, decay=0.5, ema=ema, balance_rate=0.01)
    return Trainer(net, source, stepper, recipe, out, lambda: None, twin(net) if ema else None)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path, tmp_path / "whole", 6)
    losses = [whole.train_step() for _ in range(6)]
    parts: list[float] = []
    for number, steps in enumerate((1, 3, 2)):
        torch.manual_seed(number)
        part = trainer(tmp_path, tmp_path / "parts", 6)
        assert part.resume() == (number > 0)
        parts += [part.train_step() for _ in range(steps)]
        part.save()
    assert losses == parts
    assert same(whole.net, part.net)
    assert whole.ema is not None and part.ema is not None
    assert same(whole.ema, part.ema) and not same(whole.ema, whole.net)
    assert (part.step, part.clips) == (6, 12)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"no state")
    with pytest.raises(TrainingError, match=r"state\.pt: this run cannot resume from it"):
        trainer(tmp_path, tmp_path, 2).resume()
    torch.save({"net": {}, "optimizers": []}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"this run cannot resume from it: .*Missing key"):
        trainer(tmp_path, tmp_path, 2).resume()


def test_the_loss_falls_and_progress_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trainer(tmp_path, tmp_path / "out", 40, ema=0.0, lr=1e-2)
    # Every step the same: what is learned is the one batch.
    run.source = Repeated(run.source.draw(0))
    first = run.train_step()
    run.run(save_every=1000)
    assert run.ema is None
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["step"] for line in lines] == [25, 40]
    assert lines[-1]["minutes_left"] == 0
    assert lines[-1]["of"] == 40
    assert run.train_step() < 0.6 * first
    assert (tmp_path / "out" / "state.pt").exists()


class Repeated:
    def __init__(self, batch: FlowBatch) -> None:
        self.batch = batch

    def draw(self, step: int) -> FlowBatch:
        return self.batch

    def state(self) -> dict[str, object]:
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Nothing to take up."""


@pytest.mark.parametrize("groups", [None, 2])
def test_the_bias_moves_the_load_towards_the_mean(groups: int | None) -> None:
    torch.manual_seed(0)
    layer = MoEFeedForward(16, 8, num_experts=8, top_k=2, shared_hidden=0, groups=groups)
    x = torch.randn(512, 16) + 1.0  # a common part makes some experts the favourites of all

    def spread() -> float:
        with torch.no_grad():
            layer(x)
        assert layer.last_counts is not None
        assert int(layer.last_counts.sum()) == 2 * len(x)
        return float(layer.last_counts.float().std())

    before = spread()
    counts = layer.last_counts
    assert counts is not None
    balance(layer, 0.02)
    assert torch.equal(layer.correction.sign(), torch.sign(counts.float().mean() - counts.float()))
    for _ in range(150):
        spread()
        balance(layer, 0.02)
    assert spread() < 0.3 * before


def test_the_average_follows_fast_at_first_and_slowly_then() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    ema = twin(net)
    torch.nn.init.ones_(net.weight)
    torch.nn.init.zeros_(ema.weight)
    average(ema, net, 0.99, 0)
    assert float(ema.weight) == pytest.approx(0.9)
    torch.nn.init.zeros_(ema.weight)
    average(ema, net, 0.99, 100_000)
    assert float(ema.weight) == pytest.approx(0.01, rel=1e-4)
    assert not ema.weight.requires_grad


def test_biases_of_experts_and_routers_are_no_matrices() -> None:
    net = FineTuning(network())
    matrices, rest = split_parameters(net)
    names = {id(p): name for name, p in net.named_parameters()}
    assert len(matrices) + len(rest) == len(names)
    assert "transformer.blocks.1.ffn.w1" in {names[id(p)] for p in matrices}
    assert {"transformer.blocks.1.ffn.gate.weight", "transformer.proj_out.weight"} <= {names[id(p)] for p in rest}


def test_any_number_of_ranks_sees_the_same_clips(tmp_path: Path) -> None:
    clips = dataset(tmp_path)
    draws = Draws(4, 5, 3.0, text_drop=0.3, first_frame=0.5)
    whole = DatasetSource(clips, draws)
    parts = [DatasetSource(clips, draws, rank, 2) for rank in range(2)]
    seen = set()
    for step in range(3):
        batch = whole.draw(step)
        halves = [part.draw(step) for part in parts]
        for i in range(4):
            half = halves[i % 2]
            assert torch.equal(batch.clean[i], half.clean[i // 2])
            assert torch.equal(batch.noise[i], half.noise[i // 2])
            assert torch.equal(batch.conditions[i].positive, half.conditions[i // 2].positive)
            assert batch.sigmas[i] == half.sigmas[i // 2]
        seen.add(tuple(tuple(x.shape) for x in batch.clean))
        assert len({tuple(x.flatten()[:3].tolist()) for x in batch.clean}) == 4, "each clip once in an epoch"
    assert len(seen) > 1, "each epoch in an order of its own"
    flags = [c.known_frames is not None for step in range(20) for c in whole.draw(step).conditions]
    assert 0.1 < sum(flags) / len(flags) < 0.4  # half of the clips with two latent frames, which are half
    assert len({float(s) for step in range(20) for s in whole.draw(step).sigmas}) == 80
