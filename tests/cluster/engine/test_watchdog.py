"""How long a step may take."""

from __future__ import annotations

import pytest

from zoetrope.cluster.engine.watchdog import PATIENCE, Watchdog, forecast
from zoetrope.cluster.planning.hardware import HARDWARE, hardware_of
from zoetrope.cluster.planning.rates import roofline
from zoetrope.cluster.planning.step_time import step_seconds
from zoetrope.model.families import PRESETS

MOE = PRESETS["wan2.7-27b"].config
H100 = roofline(HARDWARE["h100"])


def watchdog(least: float = 10.0) -> Watchdog:
    """Where a thousand tokens are foretold to take a second."""
    return Watchdog(least, 300.0, lambda tokens: tokens / 1_000)


def test_the_first_step_of_a_gang_has_time_to_warm_up_beside_what_it_is_foretold_to_take() -> None:
    dog = watchdog()
    assert dog.seconds(0) == 300.0
    assert dog.seconds(100_000) == 300.0 + PATIENCE * 100
    dog.saw(1.0, 1_000)
    assert dog.seconds(1_000) == 10.0
    assert dog.seconds(100_000) == PATIENCE * 100
    dog.restart()
    assert dog.seconds(1_000) == 300.0 + PATIENCE


def test_a_first_step_that_takes_longer_than_any_setting_says_is_waited_for() -> None:
    seconds = forecast(MOE, H100, 1)
    tokens = 2 * 190_000  # 1080p, 15 s, both branches
    assert seconds(tokens) == step_seconds(MOE, [tokens], H100) > 60
    assert seconds(tokens) > step_seconds(MOE, [tokens // 2] * 2, H100), "the worst case is one long sequence"
    assert forecast(MOE, H100, 8)(tokens) < seconds(tokens) / 6
    assert Watchdog(30.0, 300.0, seconds).seconds(tokens) > 600


def test_slower_steps_than_foretold_make_it_patient() -> None:
    dog = watchdog()
    dog.saw(20.0, 1_000)
    assert dog.seconds(1_000) == 100.0
    assert dog.seconds(500) == 50.0
    assert dog.seconds(2_000) == 200.0
    dog.restart()
    assert dog.seconds(1_000) == 400.0, "the next gang runs on the same hardware"


def test_faster_steps_than_foretold_do_not_make_it_impatient() -> None:
    dog = watchdog(least=1.0)
    for _ in range(50):
        dog.saw(0.1, 1_000)
    assert dog.seconds(1_000) == PATIENCE


def test_one_slow_step_is_forgotten_slowly() -> None:
    dog = watchdog(least=1.0)
    dog.saw(20.0, 1_000)
    dog.saw(2.0, 1_000)
    assert 80 < dog.seconds(1_000) < 100
    for _ in range(60):
        dog.saw(2.0, 1_000)
    assert dog.seconds(1_000) == pytest.approx(10.0)


def test_short_steps_say_little_of_long_ones() -> None:
    dog = watchdog(least=1.0)
    dog.saw(1.0, 10)  # a hundred times what is foretold: launches, not work
    assert dog.seconds(10_000) == PATIENCE * 1_000, "there is nothing better to go by"
    for _ in range(60):
        dog.saw(20.0, 10_000)
    dog.saw(1.0, 10)
    assert dog.seconds(10_000) == pytest.approx(PATIENCE * 20)
    for _ in range(100):
        dog.saw(1.0, 10)
    assert dog.seconds(10) == pytest.approx(PATIENCE * 1.0), "until all steps are short"


def test_a_device_is_known_by_its_name_and_others_are_taken_for_slow_ones() -> None:
    assert hardware_of("NVIDIA H100 80GB HBM3") is HARDWARE["h100"]
    assert hardware_of("NVIDIA H200") is HARDWARE["h200"]
    assert hardware_of("cpu") is HARDWARE["cpu"]
    other = hardware_of("NVIDIA L4")
    assert other.name == "NVIDIA L4"
    assert other.is_gpu
    assert step_seconds(MOE, [9_000], roofline(other)) > 9 * step_seconds(MOE, [9_000], H100)
