"""Sizes of files and sizes to denoise at."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoetrope.model.request.sizes import (
    MAX_SIDE,
    MIN_SIDE,
    RATIOS,
    SIZES,
    denoised_size,
    nearest_ratio,
    parse_size,
    size_like,
    size_of,
)

sides = st.integers(MIN_SIDE // 2, MAX_SIDE // 2).map(lambda half: 2 * half)
TRAINED = ((1280, 704), (704, 1280))


def test_named_sizes_have_the_ratio_of_their_name() -> None:
    for name, sizes in SIZES.items():
        assert tuple(sorted(sizes)) == tuple(sorted(RATIOS))
        for ratio, (width, height) in sizes.items():
            across, down = map(int, ratio.split(":"))
            assert width / height == pytest.approx(across / down, rel=0.03), (name, ratio)
            assert width % 8 == height % 8 == 0
            assert max(width, height) <= MAX_SIDE
    assert SIZES["1080p"]["9:16"] == (1080, 1920)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("big", "'big' is not one of 480p, 720p, 1080p or WIDTHxHEIGHT"),
        ("640x", "is not one of"),
        ("x480", "is not one of"),
        ("640x480x3", "is not one of"),
        ("٦٤٠x480", "is not one of"),
        ("640x1922", "'640x1922' must have sides from 24 to 1920"),
        ("22x480", "must have sides from"),
        ("999999999x480", "must have sides from"),
        ("9" * 5000 + "x480", "is not one of"),
        ("641x480", "641x480 has an odd side, sides must be even"),
    ],
)
def test_sizes_that_no_file_can_have_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        size_of(text)
    assert len(str(refused.value)) < 200


@given(sides, sides)
def test_sizes_in_pixels_are_read(width: int, height: int) -> None:
    assert size_of(f"{width}x{height}") == parse_size(f"{width}x{height}") == (width, height)


@given(sides, sides, st.sampled_from([4, 8, 16, 32]))
def test_what_is_denoised_covers_the_file(width: int, height: int, unit: int) -> None:
    made = denoised_size((width, height), unit)
    assert made[0] % unit == made[1] % unit == 0
    assert 0 <= made[0] - width < unit
    assert 0 <= made[1] - height < unit


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ((1280, 720), (1280, 704)),  # what Wan2.2-TI2V-5B was trained at
        ((720, 1280), (704, 1280)),
        ((1280, 736), (1280, 736)),
        ((1920, 1080), (1920, 1088)),
        ((854, 480), (864, 480)),
        ((624, 624), (640, 640)),
    ],
)
def test_a_unit_of_32_pixels(asked: tuple[int, int], made: tuple[int, int]) -> None:
    assert denoised_size(asked, 32, trained=TRAINED) == made


def test_sizes_of_its_own_win() -> None:
    native = ((40, 24), (24, 40), (32, 32))
    assert denoised_size((1280, 720), 4, native) == (40, 24)
    assert denoised_size((24, 40), 4, native) == (24, 40)
    assert nearest_ratio((100, 99), native) == (32, 32)


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([16, 32]), st.sampled_from(list(SIZES)))
def test_a_size_like_a_picture(width: int, height: int, unit: int, name: str) -> None:
    area = math.prod(SIZES[name]["16:9"])
    made = size_like((width, height), area, unit)
    assert made[0] % unit == made[1] % unit == 0
    assert all(MIN_SIDE <= side <= MAX_SIDE for side in made)
    assert math.prod(made) <= max(area, MAX_SIDE * unit * 2)
    if 1 / 3 <= width / height <= 3:
        assert math.prod(made) >= 0.85 * area or max(made) > MAX_SIDE - unit
        assert abs(math.log(made[0] / made[1] / (width / height))) <= 2 * unit / min(made)


@pytest.mark.parametrize(
    ("shown", "area", "unit", "made"),
    [
        ((1920, 1080), 832 * 480, 16, (832, 464)),  # Wan's own rule
        ((1500, 500), 832 * 480, 16, (1088, 352)),
        ((4032, 3024), 1280 * 704, 32, (1088, 800)),
        ((3024, 4032), 1280 * 720, 16, (816, 1104)),
        ((1920, 1080), 1920 * 1080, 8, (1920, 1080)),
        ((20_000, 10), 832 * 480, 16, (1920, 32)),
    ],
)
def test_sizes_of_pictures(shown: tuple[int, int], area: int, unit: int, made: tuple[int, int]) -> None:
    assert size_like(shown, area, unit) == made
