"""The prediction of matrix products from machine code: what is counted, and what the model makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from zoetrope.benchmarks import gemm_prediction
from zoetrope.benchmarks.gemm_prediction import H100, PRODUCTS, TileCode, build, main, reach, split_loop
from zoetrope.benchmarks.provenance import REPOSITORY
from zoetrope.kernels.check.sass import SassCode

RESULTS = REPOSITORY / "benchmarks" / "results"
# A loop over K of four instructions in a loop over tiles that has five others, one of them special.
LISTING = """
	.section	.text.product,"ax",@progbits
.L_x_0:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   MOV R1, RZ ;
.L_x_1:
        /*0020*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0030*/                   HGMMA.64x256x16.F32.BF16 R24, gdesc[UR36], R24, gsb0 ;
        /*0040*/                   NOP ;
        /*0050*/              @!P2 BRA `(.L_x_2) ;
        /*0060*/                   BRA `(.L_x_1) ;
.L_x_2:
        /*0070*/                   MUFU.EX2 R3, R3 ;
        /*0080*/                   FMUL R3, R3, R3 ;
        /*0090*/                   STG.E.128 desc[UR4][R4.64], R8 ;
        /*00a0*/               @P0 BRA `(.L_x_0) ;
        /*00b0*/                   EXIT ;
"""
TILE = TileCode(186, 229_408, 0, 8, (128, 256, 64), True, 120, 1900, 258)


def test_loop_and_rest_are_told_apart() -> None:
    loop, rest = split_loop(SassCode.parse(LISTING))
    assert sorted(loop) == ["BRA", "BRA", "HGMMA.64x256x16.F32.BF16", "IADD3"]
    assert sorted(rest) == ["BRA", "FMUL", "MOV", "MUFU.EX2", "S2R", "STG.E.128"]


def test_code_without_a_loop_is_no_product() -> None:
    with pytest.raises(ValueError, match="in a loop"):
        split_loop(SassCode.parse("\n".join(line for line in LISTING.splitlines() if "BRA" not in line)))


def test_what_limits_a_product() -> None:
    """Numbers that a reader can follow: a tile of 128 x 256 x 3072."""
    found = reach(TILE, 3072, 2)
    assert found.tensor == pytest.approx(2 * 128 * 256 * 3072 / (798e12 / 132))
    assert found.l2 == pytest.approx((128 + 256) * 3072 * 2 / (7e12 / 132))
    assert found.issue == pytest.approx(48 * 120 * 2 / 1.7e9)
    assert found.rest == pytest.approx(258 * 2 * 8 / 1.7e9), "the special function unit, not 1,900 instructions"
    assert found.limit == "L2" and found.tflops == pytest.approx(
        201.3e6 * 132 / (found.l2 + found.rest) / 1e12, rel=1e-3
    )
    assert reach(TILE, 3072, 2, replace(H100, l2=20e12)).limit == "tensor cores"
    assert reach(replace(TILE, loop=4000), 3072, 2).limit == "issue"
    fill = reach(replace(TILE, flatten=False), 3072, 2).rest - found.rest
    assert fill == pytest.approx(1500 / 1.7e9)


def test_every_product_names_a_variant() -> None:
    from zoetrope.kernels.gpu import grouped_gemm, grouped_gemm_fp8

    names = {variant.name for module in (grouped_gemm, grouped_gemm_fp8) for variant in module.variants()}
    assert {product.now for product in PRODUCTS} <= names


def test_the_committed_table_calls_itself_a_prediction() -> None:
    page = (RESULTS / "gemm-prediction.md").read_text()
    assert page.startswith("# PREDICTION") and "Nothing here was measured on a GPU" in page
    assert all(product.name in page for product in PRODUCTS)


@pytest.mark.long  # it runs git
def test_an_unknown_commit_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--before", "no-such-commit", "--out", str(tmp_path / "x")]) == 2
    assert "--before is 'no-such-commit'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_variant_is_compiled_and_counted() -> None:
    product = PRODUCTS[1]
    found = build(REPOSITORY, [(product.module, product.now)])[product.module, product.now]
    assert found.block == (128, 256, 64) and found.spilled == 0 and found.registers <= 255
    assert 50 < found.loop < 200 < found.rest < 1000
    assert gemm_prediction.reach(found, product.k, product.size).tflops < 798
