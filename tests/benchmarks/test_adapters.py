"""What the benchmark of adapters counts is what adapters multiply."""

from __future__ import annotations

import pytest
import torch

from zoetrope.benchmarks.adapters import MIX, WORDS, measure, network_of
from zoetrope.model.adapters.registered import BLOCK, LINEARS

RANK = 16


def test_an_adapter_multiplies_its_rank_by_inputs_and_outputs() -> None:
    cpu = torch.device("cpu")
    found = measure(64, 1, RANK, 64, 1, cpu)
    expected = 0
    for name, weight in network_of(64, 1, cpu).state_dict().items():
        match = BLOCK.fullmatch(name)
        if match is not None and match[2] in LINEARS:
            of_text = match[2].startswith(("attn2.to_k", "attn2.to_v"))
            rows = len(MIX) * WORDS if of_text else found["tokens"]
            expected += 2 * RANK * rows * sum(weight.shape)
    assert found["one"]["flops"] - found["plain"]["flops"] == expected > 0
    with_adapters = sum(bool(chosen) for chosen in MIX)
    assert found["mixed"]["flops_more"] == pytest.approx(found["one"]["flops_more"] * with_adapters / len(MIX))
