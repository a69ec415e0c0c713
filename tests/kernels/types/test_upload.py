"""Tables from the host are sent once, without making the host wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zoetrope.kernels.types.upload import keep_tables, upload_numbers
from zoetrope.kernels.types.varlen import CuSeqlens

CPU = torch.device("cpu")


def test_the_numbers_arrive() -> None:
    table = upload_numbers([(1, 2), (3, 4)], CPU)
    assert table.dtype == torch.int32 and table.tolist() == [[1, 2], [3, 4]]
    assert upload_numbers([], CPU).shape == (0,)


def test_a_gpu_gets_them_from_pinned_memory_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    def pin_memory(table: torch.Tensor) -> torch.Tensor:
        done.append("pinned")
        return table

    def to(table: torch.Tensor, *place: Any, **how: Any) -> torch.Tensor:
        done.append((place, how))
        return table

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    monkeypatch.setattr(torch.Tensor, "to", to)
    cuda = torch.device("cuda", 1)
    assert upload_numbers([5], cuda).tolist() == [5]
    assert done == ["pinned", ((cuda,), {"non_blocking": True})]


def test_the_offsets_of_a_batch_are_sent_once() -> None:
    first, again = CuSeqlens.of([3, 0, 4]).tensor(CPU), CuSeqlens.of([3, 0, 4]).tensor(CPU)
    assert first is again and first.tolist() == [0, 3, 3, 7] and first.dtype == torch.int32
    assert CuSeqlens.of([3, 4]).tensor(CPU).tolist() == [0, 3, 7]


def test_the_tables_of_attention_are_made_once() -> None:
    pytest.importorskip("triton")
    from zoetrope.kernels.gpu import attention_8bit, attention_gluon, quantise_qkv, schedule

    cu, device = CuSeqlens.of([70, 5]), CPU
    for made, arguments in (
        (schedule.query_tiles, (cu, cu, 64, device)),
        (quantise_qkv.key_tables, (cu, 64, 1024, device)),
        (attention_8bit._first_tiles, ((0, 2), device)),
        (attention_gluon._layout, (torch.bfloat16, 64, 128)),
    ):
        function: Any = made
        assert function(*arguments) is function(*arguments)


def test_the_latest_64_tables_are_kept() -> None:
    made: list[int] = []

    @keep_tables
    def table(number: int) -> list[int]:
        made.append(number)
        return [number]

    for number in range(65):
        assert table(number) is table(number)
    assert made == list(range(65))
    assert table(1) == [1] and table(0) == [0] and made[65:] == [0]
