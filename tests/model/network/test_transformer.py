"""The packed transformer is diffusers' WanTransformer3DModel, and its expert layer is what its definition says."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed

from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.network.experts import DenseFeedForward, MoEFeedForward
from zoetrope.model.network.sequences import Sequence, Stream, unpack_targets
from zoetrope.model.network.transformer import WanTransformer

TEXT_DIM = 24


def write_t2v(cross_attn_norm: bool = True, patch: tuple[int, int, int] = (1, 2, 2)) -> WanTransformer3DModel:
    torch.manual_seed(0)
    network = WanTransformer3DModel(
        patch_size=patch,
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=8,
        out_channels=8,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=96,
        num_layers=3,
        cross_attn_norm=cross_attn_norm,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    for parameter in network.parameters():  # norms start as ones and zeros, which would hide a swapped pair
        torch.nn.init.normal_(parameter, std=0.15)
    return network.eval()


def same_as(theirs: WanTransformer3DModel) -> WanTransformer:
    network = WanTransformer(TransformerConfig.model_validate(dict(theirs.config)))
    network.load_state_dict(theirs.state_dict(), strict=True)
    return network.eval()


def tiny_moe() -> WanTransformer:
    torch.manual_seed(1)
    config = TransformerConfig(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=8,
        out_channels=8,
        text_dim=TEXT_DIM,
        freq_dim=32,
        ffn_dim=64,
        num_layers=2,
        moe=MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=32, shared_dim=16),
    )
    return WanTransformer(config).eval()


def sequence(
    size: tuple[int, int, int], timestep: float | torch.Tensor, words: int = 12, sources: tuple[int, ...] = ()
) -> Sequence:
    """Random latents [8, *size] and text; ``sources`` are the ids of clean frames in front of the target."""
    levels = timestep if isinstance(timestep, torch.Tensor) else torch.full((size[0],), timestep)
    clean = [Stream(torch.randn(8, 1, 4, 4), torch.zeros(1), source_id) for source_id in sources]
    return Sequence((*clean, Stream(torch.randn(8, *size), levels)), torch.randn(words, TEXT_DIM))


@torch.no_grad()
def ours(network: WanTransformer, sequences: list[Sequence]) -> list[torch.Tensor]:
    batch = network.pack(sequences)
    return unpack_targets(network(batch), batch, network.config.patch_size)


@torch.no_grad()
def diffusers_output(network: WanTransformer3DModel, one: Sequence, timestep: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = network(one.target.latents[None], timestep, one.text[None], return_dict=False)[0][0]
    return out


@pytest.mark.parametrize("cross_attn_norm", [True, False])
@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 2, 2)])
def test_outputs_are_those_of_diffusers(cross_attn_norm: bool, patch: tuple[int, int, int]) -> None:
    theirs = write_t2v(cross_attn_norm, patch)
    one = sequence((4, 8, 6), 500.0)
    expected = diffusers_output(theirs, one, torch.tensor([500.0]))
    (result,) = ours(same_as(theirs), [one])
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(result, expected, rtol=0, atol=1e-5)


def test_sequences_of_different_sizes_and_noise_levels_share_a_batch() -> None:
    theirs = write_t2v()
    torch.manual_seed(2)
    sequences = [sequence((3, 8, 6), 900.0, 12), sequence((1, 4, 10), 37.5, 5), sequence((3, 8, 6), 37.5, 12)]
    results = ours(same_as(theirs), sequences)
    for one, result in zip(sequences, results, strict=True):
        expected = diffusers_output(theirs, one, one.target.timesteps[:1])
        assert torch.allclose(result, expected, rtol=0, atol=1e-5)


def test_a_noise_level_of_its_own_for_every_latent_frame() -> None:
    """As Wan2.2-TI2V-5B keeps its first frame clean; diffusers takes one timestep per token there."""
    theirs = write_t2v()
    torch.manual_seed(3)
    levels = torch.tensor([0.0, 700.0, 250.0])
    one = sequence((3, 4, 6), levels)
    expected = diffusers_output(theirs, one, levels.repeat_interleave(2 * 3)[None])
    (result,) = ours(same_as(theirs), [one])
    assert torch.allclose(result, expected, rtol=0, atol=1e-5)
    plain = diffusers_output(theirs, one, torch.tensor([700.0]))
    assert not torch.allclose(result, plain, rtol=0, atol=1e-3), "the levels matter"


@pytest.mark.parametrize("network", [same_as(write_t2v()), tiny_moe()], ids=["dense", "experts"])
def test_a_result_does_not_depend_on_batch_mates(network: WanTransformer) -> None:
    torch.manual_seed(4)
    one = sequence((3, 4, 6), 300.0, sources=(1, 2))
    mates = [sequence((2, 6, 4), 800.0, 3), sequence((3, 4, 6), 300.0), sequence((1, 2, 2), 5.0, 1, sources=(1,))]
    (alone,) = ours(network, [one])
    for batch in ([one, *mates], [*mates, one], [mates[0], one, mates[1]]):
        together = ours(network, batch)[[id(s) for s in batch].index(id(one))]
        assert torch.allclose(together, alone, rtol=0, atol=1e-5)


def test_a_checkpoint_may_turn_its_positions_faster() -> None:
    theirs = write_t2v()
    config = {**theirs.config, "rope_theta": 100.0}
    network = WanTransformer(TransformerConfig.model_validate(config))
    network.load_state_dict(theirs.state_dict())
    theirs.rope = WanRotaryPosEmbed(24, (1, 2, 2), 64, theta=100.0)
    one = sequence((3, 8, 6), 500.0)
    expected = diffusers_output(theirs, one, torch.tensor([500.0]))
    assert torch.allclose(ours(network, [one])[0], expected, rtol=0, atol=1e-5)
    assert not torch.allclose(ours(same_as(theirs), [one])[0], expected, rtol=0, atol=1e-3)


def test_sources_and_their_ids_reach_the_target() -> None:
    network = same_as(write_t2v())
    torch.manual_seed(5)
    one = sequence((2, 4, 4), 300.0, sources=(1,))
    source = one.streams[0]
    renamed = Sequence((Stream(source.latents, source.timesteps, 2), one.target), one.text)
    bare = Sequence((one.target,), one.text)
    with_source, with_other_id, without = ours(network, [one, renamed, bare])
    assert with_source.shape == one.target.latents.shape
    assert not torch.allclose(with_source, without, rtol=0, atol=1e-4)
    assert not torch.allclose(with_source, with_other_id, rtol=0, atol=1e-5)


def test_an_expert_layer_is_the_loop_over_its_tokens() -> None:
    torch.manual_seed(6)
    layer = MoEFeedForward(dim=20, hidden=12, num_experts=5, top_k=2, shared_hidden=8).double()
    layer.correction += torch.randn(5).double()
    x = torch.randn(33, 20).double()
    rows = []
    counts = torch.zeros(5, dtype=torch.int32)
    for token in x:
        scores = (layer.gate.weight.float() @ token.float()).sigmoid()
        chosen = (scores + layer.correction.float()).topk(2).indices
        counts[chosen] += 1
        gates = scores[chosen] / scores[chosen].sum()
        assert layer.shared is not None
        out = layer.shared(token)
        for expert, gate in zip(chosen, gates, strict=True):
            hidden = torch.nn.functional.gelu(token @ layer.w1[expert], approximate="tanh")
            out = out + gate * (hidden @ layer.w2[expert])
        rows.append(out)
    assert torch.allclose(layer(x), torch.stack(rows), rtol=0, atol=1e-5)
    assert layer.last_counts is not None
    assert torch.equal(layer.last_counts, counts)


def test_one_expert_that_takes_all_is_a_dense_layer() -> None:
    torch.manual_seed(7)
    layer = MoEFeedForward(dim=16, hidden=24, num_experts=1, top_k=1, shared_hidden=0)
    dense = DenseFeedForward(16, 24)
    dense.load_state_dict(
        {
            "net.0.proj.weight": layer.w1[0].T,
            "net.0.proj.bias": torch.zeros(24),
            "net.2.weight": layer.w2[0].T,
            "net.2.bias": torch.zeros(16),
        }
    )
    x = torch.randn(9, 16)
    assert torch.allclose(layer(x), dense(x), rtol=0, atol=1e-6)


def test_rebalancing_helps_the_experts_that_get_too_little() -> None:
    torch.manual_seed(8)
    layer = MoEFeedForward(dim=8, hidden=4, num_experts=4, top_k=1, shared_hidden=0)
    x = torch.randn(400, 8)
    layer.correction += torch.tensor([0.6, 0.0, 0.0, 0.0])

    def imbalance() -> float:
        layer(x)
        assert layer.last_counts is not None
        return float(layer.last_counts.max() / 100)

    before = imbalance()
    assert before > 3
    for _ in range(100):
        layer.rebalance(0.01)
        imbalance()
    assert imbalance() < 1.3


def test_every_parameter_learns() -> None:
    network = tiny_moe().train()
    torch.manual_seed(9)
    batch = network.pack([sequence((2, 4, 4), 300.0, sources=(1,)), sequence((3, 6, 4), 700.0)])
    network(batch).square().mean().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []
