"""The screens for compiler hazards on code written by hand, and what they know of single instructions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("triton")

from zoetrope.kernels.check.operand_buffers import copied_operands, copies_reach_operands, operands_end
from zoetrope.kernels.check.sass import SassCode, SassInstruction
from zoetrope.kernels.check.screens import missing_barriers, missing_fences, overwritten_operands


def test_waits_around_a_loop_are_followed() -> None:
    """The product of one round is overwritten in the next one, before the wait at its end."""
    text = """
        .section .text.loop,"ax",@progbits
.L_x_1:
        /*0000*/                   FADD R24, R1, R2 ;
        /*0010*/                   HGMMA.64x64x16.F32.BF16 R24, R88, gdesc[UR8], R24, gsb0 ;
        /*0020*/               @P0 BRA `(.L_x_1) ;
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0040*/                   EXIT ;
"""
    assert len(overwritten_operands(SassCode.parse(text))) == 1
    assert overwritten_operands(SassCode.parse(text.replace("FADD R24", "FADD R20"))) == []
    waited = text.replace(
        "               @P0 BRA", "                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;\n/*0018*/ @P0 BRA"
    )
    assert overwritten_operands(SassCode.parse(waited)) == []


def parsed(text: str) -> SassInstruction:
    (instruction,) = SassCode.parse(f"        /*0000*/                   {text} ;").instructions
    return instruction


@pytest.mark.parametrize(
    ("text", "registers"),
    [
        ("FADD R4, R5, R6", {4}),
        ("ISETP.GE.U32.AND P0, PT, R0, R5, PT", set()),
        ("SHFL.BFLY PT, R7, R4, 0x1, 0x1f", {7}),
        ("LDS.128 R8, [R3+0x10]", {8, 9, 10, 11}),
        ("LDG.E.64 R8, desc[UR4][R2.64]", {8, 9}),
        ("IMAD.WIDE.U32 R10, R3, 0x4, R12", {10, 11}),
        ("CS2R R24, SRZ", {24, 25}),
        ("CS2R.32 R24, SR_CLOCKLO", {24}),
        ("LDSM.16.M88.4 R12, [R3]", {12, 13, 14, 15}),
        ("STS.128 [R22+UR48+0x20000], R36", set()),
        ("STG.E.128 desc[UR4][R2.64], R8", set()),
        ("R2UR UR4, R10", set()),
        ("BAR.SYNC.DEFER_BLOCKING R5, 0x80", set()),
        ("HMMA.16816.F32.BF16 R20, R4, R8, R20", {20, 21, 22, 23}),
        ("LOP3.LUT P0, RZ, R5, 0x1f, RZ, 0xc0, !PT", set()),
        ("IADD3 R2, P0, R5, R12, RZ", {2}),
        ("SHF.R.U64 R3, R4, 0x2, R5", {3}),
    ],
)
def test_registers_that_an_instruction_writes(text: str, registers: set[int]) -> None:
    assert parsed(text).written == registers


@pytest.mark.parametrize("screen", [overwritten_operands, missing_fences])
def test_code_without_products_has_no_hazards(screen: Callable[[SassCode], list[str]]) -> None:
    assert screen(SassCode.parse("/*0000*/ EXIT ;")) == []


def test_a_text_without_instructions_is_refused() -> None:
    with pytest.raises(ValueError, match="no instruction"):
        SassCode.parse("ELF format not recognised")


TTGIR = """
  %q = ttg.local_alloc %x {allocation.offset = 65536 : i32} : (tensor<128x64xbf16, #b>) -> !ttg.memdesc<128x64xbf16, #s>
  %k = ttg.local_alloc {allocation.offset = 0 : i32} : () -> !ttg.memdesc<3x64x64xbf16, #s, #smem, mutable>
  %scale = ttg.local_alloc {allocation.offset = 90000 : i32} : () -> !ttg.memdesc<3x64xf32, #s, #smem, mutable>
  %0 = ttg.memdesc_index %scale[%i] : !ttg.memdesc<3x64xf32, #s, #smem, mutable> -> !ttg.memdesc<64xf32, #s>
  %1 = ttg.async_copy_global_to_local %p, %0 : tensor<64x!tt.ptr<f32>, #b> -> <64xf32, #s, #smem, mutable>
  %2 = ttg.memdesc_index %k[%i] : !ttg.memdesc<3x64x64xbf16, #s, #smem, mutable> -> !ttg.memdesc<64x64xbf16, #s>
  %3 = ttg.memdesc_trans %2 {order = array<i32: 1, 0>} : !ttg.memdesc<64x64xbf16, #s> -> !ttg.memdesc<64x64xbf16, #t>
  %4 = ttng.warp_group_dot %q, %3, %c {a = 0 : i32} : !ttg.memdesc<128x64xbf16, #s> * !ttg.memdesc<64x64xbf16, #t> -> t
"""


def test_buffers_that_products_read_are_told_from_others() -> None:
    assert copied_operands(TTGIR) == set()  # only the scales are copied
    assert operands_end(TTGIR) == 65536 + 128 * 64 * 2
    copied = TTGIR.replace("%p, %0 :", "%p, %2 :").replace("  %1 =", "  %later =")
    lines = copied.splitlines()
    moved = "\n".join([*lines[:5], *lines[6:], lines[5]])  # a copy for the next round follows the product
    assert copied_operands(moved) == {"%k, line 3"}


def test_copies_that_cannot_reach_an_operand_are_told_from_others() -> None:
    assert not copies_reach_operands(TTGIR), "the scales lie behind the operands"
    inside = TTGIR.replace("allocation.offset = 90000", "allocation.offset = 66000")
    assert copies_reach_operands(inside), "a buffer of another lifetime has the bytes of an operand"
    assert copies_reach_operands(TTGIR.replace("%p, %0 :", "%p, %elsewhere :")), "what cannot be told is not guessed"
    text = """
        /*0000*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0010*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0020*/                   LDGSTS.E.BYPASS.128 [R107], desc[UR54][R84.64+0x200], !PT ;
        /*0030*/                   EXIT ;
"""
    code = SassCode.parse(text)
    assert len(missing_barriers(code, 256, 4096, copies_reach=True)) == 1
    assert missing_barriers(code, 256, 4096, copies_reach=False) == []
    stored = SassCode.parse(text.replace("LDGSTS.E.BYPASS.128 [R107], desc[UR54][R84.64+0x200], !PT", "STS [R107], R4"))
    assert len(missing_barriers(stored, 256, 4096, copies_reach=False)) == 1


def test_a_product_of_registers_reads_one_buffer() -> None:
    registers = TTGIR.replace(": !ttg.memdesc<128x64xbf16, #s> *", ": tensor<128x64xbf16, #ttg.dot_op<{opIdx = 0}>> *")
    assert operands_end(registers) == 3 * 64 * 64 * 2


def test_a_buffer_that_cannot_be_told_is_not_guessed() -> None:
    assert operands_end(TTGIR.replace("ttng.warp_group_dot %q", "ttng.warp_group_dot %elsewhere")) is None
    assert operands_end("") == 0


def test_the_captures_of_a_role_are_its_buffers() -> None:
    roles = TTGIR.replace(
        "  %2 =", "  ttg.warp_specialize(%i, %k) attributes {}\n  partition0(%a: i32, %b: t) num_warps(4) {\n  %2 ="
    )
    roles = roles.replace("memdesc_index %k[", "memdesc_index %b[")
    assert operands_end(roles) == operands_end(TTGIR)
