"""A user's own profile is read whole, or refused by the field at fault."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from zoetrope.model.catalog.profiles import PROFILES
from zoetrope.model.request.profile import Profile, ProfileError

GOOD: dict[str, Any] = {"name": "mine", "sampler": "euler", "sigmas": [1.0, 0.9, 0.5]}
TOML = """
sampler = "renoise"
sigmas = [1, 0.756757, 0.521739]
timesteps = [1000, 757, 522]
guidance = [3.5, 1.0]
experts_at = 1
locked = ["steps", "flow_shift", "sampler", "quality"]
"""


def test_a_table_of_a_card() -> None:
    profile = Profile.from_dict(tomllib.loads(TOML), name="mine")
    assert profile.sigmas == (1.0, 0.756757, 0.521739) and profile.timesteps == (1000.0, 757.0, 522.0)
    assert (profile.name, profile.sampler, profile.guidance, profile.experts_at) == ("mine", "renoise", (3.5, 1.0), 1)
    assert "guidance" not in profile.locked
    assert Profile.from_dict({**GOOD, "guidance": 2}).guidance == (2.0,)
    assert [round(profile.timestep(step)) for step in range(3)] == [1000, 757, 522]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_a_profile_survives_the_way_through_json(profile: Profile) -> None:
    assert Profile.from_dict(json.loads(json.dumps(profile.to_dict()))) == profile


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigmas": [1.0, 0.5, 0.5]}, "sigmas has 0.5 after 0.5, noise levels must fall"),
        ({"sigmas": [0.5, 1.0]}, "sigmas has 1.0 after 0.5"),
        ({"sigmas": []}, "sigmas has 0 noise levels, 1 to 16"),
        ({"sigmas": [1 - i / 20 for i in range(17)]}, "sigmas has 17 noise levels, 1 to 16"),
        ({"sigmas": [1.1, 0.5]}, "sigmas has 1.1, must be above 0 and at most 1"),
        ({"sigmas": [1.0, 0.0]}, "sigmas has 0.0, must be above 0"),
        ({"sigmas": [0.9, 0.5]}, "sigmas begins with 0.9, must be above 0.9"),
        ({"sigmas": [1.0, float("nan")]}, "sigmas is nan, must be a number"),
        ({"sigmas": [10**400, 0.5]}, "sigmas is 1000000"),
        ({"sigmas": [1.0, True]}, "sigmas is True, must be a number"),
        ({"sigmas": "1, 0.5"}, "sigmas is '1, 0.5', must be a list of numbers"),
        ({"timesteps": [1000, 500]}, "timesteps has 2 entries, sigmas has 3"),
        ({"timesteps": [1000, 500, 500]}, "timesteps has 500.0 after 500.0, must fall"),
        ({"timesteps": [1001, 500, 400]}, "timesteps has 1001.0, must be above 0 and at most 1000"),
        ({"sampler": "unipc"}, "sampler: 'unipc' is not one of euler, renoise"),
        ({"precision": "bfloat16"}, "precision: 'bfloat16' is not one of float32, float64"),
        ({"init_scale": 0}, "init_scale is 0.0, must be above 0"),
        ({"guidance": [1, 1, 1]}, "guidance has 3 entries"),
        ({"guidance": [1.0, 3.5]}, "guidance has 3.5 after 1.0: where the first is not above 1"),
        ({"guidance": [31]}, "guidance has 31.0, must be from 0 to 30"),
        ({"experts_at": 3}, "experts_at is 3, must be from 1 to 2, for 3 steps"),
        ({"experts_at": 0}, "experts_at is 0"),
        ({"experts_at": 1.0}, "experts_at is 1.0, must be a whole number"),
        ({"locked": ["steps"]}, "locked lacks flow_shift"),
        ({"locked": ["seed"]}, "locked: 'seed' is not one of"),
        ({"shift": -1}, "shift is -1.0, must be above 0"),
        ({"steps": 3}, "profile: 'steps' is not one of"),
        ({"note": 3}, "note is 3, must be a text"),
        ({"fits": "nano"}, "fits is 'nano', must be a list of texts"),
        ({"name": ""}, "name has 0 characters"),
        ({"name": "\x1b[2J"}, "name is '\\x1b[2J', must be printable"),
        ({"note": "a\nb"}, "note is 'a\\nb', must be printable"),
    ],
)
def test_faults_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError) as refused:
        Profile.from_dict({**GOOD, **changed})
    assert message in str(refused.value)


@pytest.mark.parametrize("key", GOOD)
def test_what_every_profile_needs(key: str) -> None:
    with pytest.raises(ProfileError, match=f"{key} is missing"):
        Profile.from_dict({name: value for name, value in GOOD.items() if name != key})
