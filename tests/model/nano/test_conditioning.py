"""What the service makes of a case's files is what the network was trained on."""

from __future__ import annotations

import random

import pytest
import torch

from tests.model.nano.conftest import CARD
from zoetrope.model.codecs.linear_autoencoder import LinearAutoencoder
from zoetrope.model.conditioning.streams import StreamsConditioner
from zoetrope.model.denoising.conditions import Conditions
from zoetrope.model.nano.batches import conditions_of
from zoetrope.model.nano.cases import GROUPS, draw_one, inputs_of, task_of
from zoetrope.model.nano.samples import TASKS, TaskKind
from zoetrope.model.request.resolve import resolve
from zoetrope.model.request.tasks import VideoRequest

TEXT = torch.zeros(1, 3, 16)


def latents(conditions: Conditions, length: int) -> list[torch.Tensor]:
    """Every stream of the sequence, in order, of a target of nothing but what is known."""
    c, h, w = CARD.latent_channels, *(side // CARD.spatial for side in (24, 40))
    sequence = conditions.sequence(torch.zeros(c, length, h, w), 500.0, TEXT[0])
    return [stream.latents for stream in sequence.streams]


@pytest.mark.parametrize(("kind", "group"), [(kind, group) for kind in TASKS for group in dict.fromkeys(GROUPS[kind])])
def test_the_service_conditions_as_the_trainer(kind: TaskKind, group: str, autoencoder: LinearAutoencoder) -> None:
    generator, rng = torch.Generator().manual_seed(1), random.Random(1)
    samples = draw_one(kind, group, 24, 40, 17, generator, rng)
    inputs = inputs_of(samples, CARD.fps, composite=group == "sheet")
    task, media = task_of(kind, samples.prompts[0], inputs)
    spec = resolve(VideoRequest(task=task, size="40x24", frames=16), CARD, random_seed=1, media=media)

    clean = autoencoder.encode_batch(samples.clips)
    (trained,) = conditions_of(samples, clean, TEXT, autoencoder.encode_batch)
    served = StreamsConditioner(autoencoder).condition(spec, inputs, TEXT[0], None)

    assert [s.source_id for s in served.sources] == [s.source_id for s in trained.sources]
    assert (served.known is None, served.ending is None) == (trained.known is None, trained.ending is None)
    if trained.known_frames is not None:
        assert served.known_frames is not None
        assert served.known_frames.tolist() == trained.known_frames.tolist()
    length = clean.shape[2]
    for ours, theirs in zip(latents(served, length), latents(trained, length), strict=True):
        assert ours.shape == theirs.shape
        error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-6))
        assert error < 0.01, f"{error:.4f}: more than the rounding of pixels to bytes"
