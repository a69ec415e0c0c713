"""What a field of a configuration file must be, and what is said when it is not."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from zoetrope.model.families.config import MoEConfig, TransformerConfig
from zoetrope.model.families.nano import NANO_CONFIG
from zoetrope.model.inspection.fields import ConfigFieldError

WHOLE: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 8,
    "ffn_dim": 16,
    "num_layers": 2,
}
MOE: dict[str, Any] = {"layers": [1], "num_experts": 4, "top_k": 2, "expert_dim": 8}


def test_lists_become_tuples_and_whole_numbers_integers() -> None:
    config = TransformerConfig.model_validate(
        {**WHOLE, "patch_size": [1, 2, 2], "ffn_dim": 16.0, "eps": 1e-5, "rope_theta": 5_000, "_class_name": "any"}
    )
    assert config.patch_size == (1, 2, 2) and type(config.ffn_dim) is int
    assert type(config.rope_theta) is float and config.moe is None
    assert hash(config) == hash(TransformerConfig(**WHOLE, eps=1e-5, rope_theta=5_000.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_layers": 0}, "num_layers: must be at least 1, is 0"),
        ({"num_layers": 1001}, "num_layers: must be at most 1000, is 1001"),
        ({"num_layers": "2"}, "num_layers: must be an integer, is '2'"),
        ({"num_layers": True}, "num_layers: must be an integer, is True"),
        ({"num_layers": 2.5}, "num_layers: must be an integer, is 2.5"),
        ({"num_layers": None}, "num_layers: must be an integer, is None"),
        ({"eps": 0}, "eps: must be above 0, is 0.0"),
        ({"eps": 1.0}, "eps: must be below 1, is 1.0"),
        ({"eps": float("nan")}, "eps: must be a finite number, is nan"),
        ({"rope_theta": float("inf")}, "rope_theta: must be a finite number, is inf"),
        ({"eps": 10**400}, f"eps: must be a finite number, is {10**400}"),
        ({"cross_attn_norm": 1}, "cross_attn_norm: must be true or false, is 1"),
        ({"qk_norm": "none"}, "qk_norm: must be 'rms_norm_across_heads', is 'none'"),
        ({"patch_size": [2, 2]}, "patch_size: must have 3 items, has 2"),
        ({"patch_size": 2}, "patch_size: must be a list, is 2"),
        ({"patch_size": [1, 2, "2"]}, "patch_size.2: must be an integer, is '2'"),
        ({"image_dim": 0}, "image_dim: must be at least 1, is 0"),
        ({"image_dim": 8}, "image_dim is 8 and added_kv_proj_dim is None, give both or neither"),
        ({"moe": 3}, "moe: must be an object, is 3"),
        ({"moe": {**MOE, "top_k": 0}}, "moe.top_k: must be at least 1, is 0"),
        ({"moe": {**MOE, "top_k": 9}}, "moe: top_k is 9, there are only 4 experts"),
        ({"moe": {**MOE, "router": "best"}}, "moe.router: must be 'sigmoid' or 'grouped_top1', is 'best'"),
        ({"moe": {**MOE, "topk": 2}}, "moe.topk: is not a known field"),
        ({"moe": {"layers": [1]}}, "moe.num_experts: must be set"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigFieldError) as refused:
        TransformerConfig.model_validate({**WHOLE, **change})
    assert str(refused.value) == said


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigFieldError, match=r"^ffn_dim: must be set$"):
        TransformerConfig.model_validate({name: value for name, value in WHOLE.items() if name != "ffn_dim"})


def test_a_configuration_survives_a_file_a_copy_and_another_process() -> None:
    dumped = NANO_CONFIG.model_dump(mode="json")
    assert dumped["patch_size"] == [1, 1, 1] and dumped["moe"]["layers"] == [1, 2, 3]
    assert NANO_CONFIG.model_dump()["moe"]["layers"] == (1, 2, 3)
    assert TransformerConfig.model_validate(dumped) == NANO_CONFIG
    assert pickle.loads(pickle.dumps(NANO_CONFIG)) == NANO_CONFIG
    dense = NANO_CONFIG.model_copy(update={"moe": None})
    assert dense.moe is None and dense.model_copy(update={"moe": NANO_CONFIG.moe}) == NANO_CONFIG
    with pytest.raises(ConfigFieldError, match="num_layers"):
        NANO_CONFIG.model_copy(update={"num_layers": 0})
    with pytest.raises(FrozenInstanceError):
        NANO_CONFIG.num_layers = 1  # type: ignore[misc]


def test_another_network_adds_fields_and_keeps_the_rules() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Wider(TransformerConfig):
        sinks: int = 0

    assert Wider.model_validate({**WHOLE, "sinks": 3}).sinks == 3
    assert "sinks" in Wider.file_keys() and "rope_max_seq_len" in Wider.file_keys()
    with pytest.raises(ConfigFieldError, match="num_layers: must be at least 1"):
        Wider(**{**WHOLE, "num_layers": 0})
    assert MoEConfig(layers=(1,), num_experts=4, top_k=2, expert_dim=8).shared_dim == 0
