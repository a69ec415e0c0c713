"""Every option changes what it says, on nano itself, and only that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from zoetrope.benchmarks.quality.engine import ClipPair, Clips, add_batch
from zoetrope.benchmarks.quality.options import (
    DISTILL,
    FLOOR,
    SPEED,
    QualityOptions,
    attention_bytes,
    check_name,
    title_of,
)
from zoetrope.benchmarks.quality.sampling import forwards_of
from zoetrope.benchmarks.quality.tiles import TILING, decode_tiled
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.codecs.tiling import Tiling
from zoetrope.model.nano.cases import NanoCase

SEED = 11


@pytest.fixture(scope="module")
def options() -> QualityOptions:
    return QualityOptions(find_model("nano"))


@pytest.mark.parametrize("name", ["bf16", "fp8", "attention-8bit"])
def test_less_exact_numbers_come_near(options: QualityOptions, name: str) -> None:
    cases = options.exact.cases("text_to_video", 1, SEED, 2)
    exact = options.exact.make(cases)
    other = options.way(name).make(cases, exact)
    error = float((other.latents[0] - exact.latents[0]).norm() / exact.latents[0].norm())
    assert 1e-5 < error < 0.2


def test_sizes(options: QualityOptions) -> None:
    found = {name: size for name in SPEED if (size := options.size(name)) is not None}
    assert {name: size.kind for name, size in found.items()} == {
        "bf16": "bytes of weights",
        "fp8": "bytes of weights",
        "attention-8bit": "bytes of queries, keys and values",
        "tiles": "bytes of decoding",
    }
    exact = sum(x.nbytes for x in options.pipeline.denoiser.transformer.state_dict().values())
    assert found["bf16"].exact == found["fp8"].exact == exact
    assert found["fp8"].other < found["bf16"].other < 0.6 * exact
    assert found["tiles"].exact == 4 * found["tiles"].other, "240 cells against 16 cells and their neighbours"


def test_bytes_of_attention() -> None:
    kept, made = attention_bytes(tokens=128, heads=2, dim=64)
    assert kept == 3 * 128 * 2 * 64 * 2
    rows, tiles = 128 * 2, 2 * 2
    assert made == 2 * (128 * 2 * 64) + 128 * 2 * 64 * 2 + 4 * rows + 4 * tiles


def test_fewer_forwards(options: QualityOptions) -> None:
    counts: dict[str, list[int]] = {}

    def figures(name: str, pair: ClipPair) -> dict[str, object]:
        counts[name] = forwards_of(name, pair)["forwards"]
        return {}

    ways = [options.way(name) for name in ("balanced", "guidance-0-0.5")]
    clips: Clips = {}
    assert add_batch(options.exact, ways, clips, "text_to_video", 1, SEED, 10, figures)
    assert counts["guidance-0-0.5"] == [20, 15]
    assert counts["balanced"][0] == 20 and counts["balanced"][1] < 20
    assert not add_batch(options.exact, ways, clips, "text_to_video", 1, SEED, 10, figures), "nothing is missing"


def test_the_distill_makes_the_same_cases(options: QualityOptions) -> None:
    ours, theirs = (
        options.exact.cases("edit_video", 2, SEED, None),
        options.way(DISTILL).cases("edit_video", 2, SEED, None),
    )
    for one, other in zip(ours, theirs, strict=True):
        assert (one.spec.seed, one.spec.prompt) == (other.spec.seed, other.spec.prompt)
        assert (one.spec.steps, other.spec.steps) == (30, 4)
        assert np.array_equal(one.ideal, other.ideal)


def test_what_changes_nothing(options: QualityOptions) -> None:
    cases = options.exact.cases("text_to_video", 3, SEED, 2)
    exact = options.exact.make(cases)
    again, beside = (options.way(name).make(cases, exact) for name in ("again", "neighbours"))
    for ours, same, other in zip(exact.latents, again.latents, beside.latents, strict=True):
        torch.testing.assert_close(same, ours, rtol=0, atol=0)
        torch.testing.assert_close(other, ours, rtol=1e-4, atol=1e-4)


def test_few_cases_of_a_batch_are_compared_with_a_batch_of_their_own(options: QualityOptions) -> None:
    """In another batch sums have another order, which is not what `again` measures."""
    made: list[list[int]] = []

    def latents(cases: list[NanoCase]) -> list[torch.Tensor]:
        made.append([case.spec.seed for case in cases])
        return [torch.full(case.spec.latent_shape, float(len(cases))) for case in cases]

    exact = replace(options.exact, latents=latents)
    ways = [replace(exact, name="more"), replace(exact, name="again", most=1, same_batch=True)]
    clips: Clips = {}
    assert add_batch(exact, ways, clips, "text_to_video", 3, SEED, 1)
    assert [len(seeds) for seeds in made] == [3, 3, 1, 1] and made[2] == made[3] == made[0][:1]
    assert [clip["latents_error"] for clip in clips["again"]["text_to_video"]] == [0]


def test_tiles_blend_and_cost_seams(options: QualityOptions) -> None:
    (latents,) = options.exact.make(options.exact.cases("text_to_video", 1, SEED, 1)).latents
    whole = options.exact.decode(latents)
    autoencoder, spatial = options.pipeline.autoencoder, options.card.spatial
    one = decode_tiled(autoencoder, spatial, latents, Tiling(64, 64, 8))
    assert np.array_equal(one, whole), "a tile that holds all"
    seams = np.abs(decode_tiled(autoencoder, spatial, latents).astype(int) - whole)
    assert 0 < seams.mean() < 8
    inner = seams[:, :, : TILING.tile_width - TILING.overlap - spatial]
    assert seams.max() > inner.max() or seams.max() == inner.max() > 0


def test_only_decoding_needs_exact_clips(options: QualityOptions) -> None:
    way = options.way("tiles")
    with pytest.raises(ValueError, match="tiles only decodes"):
        way.make(way.cases("text_to_video", 1, SEED, 1))


def test_names() -> None:
    for name in (*SPEED, *FLOOR, "guidance-0.1-0.9"):
        check_name(name)
        assert title_of(name)
    assert title_of("guidance-0-0.5") == "guidance in the steps from 0% to 50% alone"
    for bad in ("exact", "", "guidance-x-1"):
        with pytest.raises(ValueError, match="is not one of bf16, fp8"):
            check_name(bad)
