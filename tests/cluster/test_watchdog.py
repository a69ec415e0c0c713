"""How long a step may take."""

from __future__ import annotations

from cluster.watchdog import Watchdog


def test_the_first_step_of_a_gang_has_a_limit_of_its_own() -> None:
    watchdog = Watchdog(least=10.0, first=300.0)
    assert watchdog.seconds(1_000) == 300.0
    watchdog.saw(1.0, 1_000)
    assert watchdog.seconds(1_000) == 10.0
    watchdog.restart()
    assert watchdog.seconds(1_000) == 300.0


def test_long_steps_are_waited_for() -> None:
    watchdog = Watchdog(least=10.0, first=300.0)
    watchdog.saw(20.0, 1_000)
    assert watchdog.seconds(1_000) == 100.0
    assert watchdog.seconds(500) == 50.0
    assert watchdog.seconds(2_000) == 400.0, "beyond the largest so far the pace may grow with the length"


def test_one_slow_step_is_forgotten_slowly() -> None:
    watchdog = Watchdog(least=1.0, first=300.0)
    watchdog.saw(20.0, 1_000)
    watchdog.saw(2.0, 1_000)
    assert 80 < watchdog.seconds(1_000) < 100
    for _ in range(60):
        watchdog.saw(2.0, 1_000)
    assert watchdog.seconds(1_000) == 10.0
