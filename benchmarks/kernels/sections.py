"""The parts of the benchmark that are timed, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable

from zoetrope.benchmarks.kernels.section import Bench, Rows
from zoetrope.benchmarks.kernels.section_attention import attention
from zoetrope.benchmarks.kernels.section_choice import choice
from zoetrope.benchmarks.kernels.section_gemm import grouped_gemm
from zoetrope.benchmarks.kernels.section_layer import layer
from zoetrope.benchmarks.kernels.section_moe import moe
from zoetrope.benchmarks.kernels.section_passes import passes

SECTIONS: dict[str, Callable[[Bench], Rows]] = {
    "grouped_gemm": grouped_gemm,
    "moe": moe,
    "attention": attention,
    "passes": passes,
    "layer": layer,
    "choice": choice,
}
