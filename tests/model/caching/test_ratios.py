"""Lists of ratios: those published for Wan, and those measured on a model, which belong to its weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.random_checkpoints import write_t2v
from zoetrope.model.caching.ratios import (
    RATIOS_FILE,
    RatioList,
    best_list,
    check_digest,
    lists_of,
    published_lists,
    weights_digest,
    write_lists,
)
from zoetrope.model.catalog.checks import transformer_files
from zoetrope.model.catalog.presets import find_model, open_model
from zoetrope.model.families import all_presets, family_of
from zoetrope.model.families.nano import NANO_DIRECTORY
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.hashes import KEPT_BYTES

MEASURED = RatioList("text_to_video", ((1.0, 0.9, 1.1),), 30, "UniPCMultistepScheduler", 3.0, 5.0, 4)


def test_published_lists_are_of_presets_and_of_tasks_they_serve() -> None:
    found = {name: published_lists(name) for name in all_presets()}
    assert {name for name, lists in found.items() if lists} == {
        *("wan2.1-t2v-14b", "wan2.1-t2v-1.3b", "wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p", "wan2.1-vace-1.3b"),
        *("wan2.2-t2v-a14b", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"),
    }
    for name, lists in found.items():
        served = family_of(name).tasks(all_presets()[name].config)
        assert {one.kind for one in lists} <= set(served)
        assert all(one.steps == len(values) for one in lists for values in one.values)
    text, image = published_lists("wan2.2-ti2v-5b")
    assert (text.kind, text.values[0][1], image.kind, image.values[0][1]) == (
        *("text_to_video", 0.99505),
        *("image_to_video", 0.99512),
    )


def test_the_list_of_the_nearest_schedule_is_taken() -> None:
    lists = (MEASURED, replace(MEASURED, steps=50), replace(MEASURED, kind="edit_video", steps=40))
    assert best_list(lists, "text_to_video", 45) == lists[1]
    assert best_list(lists, "text_to_video", 20) == MEASURED
    assert best_list(lists, "image_to_video", 30) is None


def test_measured_lists_are_kept_beside_the_model(tmp_path: Path) -> None:
    write_t2v(tmp_path)
    assert open_model(str(tmp_path)).step_ratios == published_lists(find_model(str(tmp_path)).family)
    files = transformer_files(find_model(str(tmp_path)))
    write_lists(tmp_path, [MEASURED], files, "zoetrope calibrate")
    assert open_model(str(tmp_path)).step_ratios == (MEASURED,)
    again = replace(MEASURED, values=((1.0, 0.5),), clips=9)
    write_lists(tmp_path, [again, replace(MEASURED, steps=50)], files, "zoetrope calibrate")
    assert lists_of(tmp_path, "") == (again, replace(MEASURED, steps=50)), "others are kept, the same is replaced"


def test_lists_of_other_weights_are_refused(tmp_path: Path) -> None:
    write_t2v(tmp_path / "one", seed=1)
    write_t2v(tmp_path / "two", seed=2)
    write_lists(tmp_path / "one", [MEASURED], transformer_files(find_model(str(tmp_path / "one"))), "")
    shutil.copy(tmp_path / "one" / RATIOS_FILE, tmp_path / "two")
    with pytest.raises(ModelError, match=r"two/step_ratios.json: weights is .*run zoetrope calibrate .*two again, or"):
        open_model(str(tmp_path / "two"))
    write_lists(
        tmp_path / "two", [replace(MEASURED, steps=9)], transformer_files(find_model(str(tmp_path / "two"))), ""
    )
    assert [one.steps for one in open_model(str(tmp_path / "two")).step_ratios] == [9], "the others' are not kept"


def test_nanos_own_lists_belong_to_its_weights() -> None:
    card = find_model("nano")
    assert {one.kind for one in card.step_ratios} == set(card.tasks)
    check_digest(NANO_DIRECTORY, transformer_files(card))


def test_a_large_file_is_told_from_another_by_any_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, value in (("a", 0), ("b", 0), ("c", 1)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(KEPT_BYTES)
            file.seek(KEPT_BYTES // 3)
            file.write(bytes([value]))
    same, equal, other = (weights_digest([tmp_path / name]) for name in "abc")
    assert same == equal != other
    with pytest.raises(ModelError, match="gone: cannot be read"):
        weights_digest([tmp_path / "gone"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format is 2, expected 1"),
        ({"weights": 5}, "must hold weights"),
        ({"lists": {}}, "must hold weights"),
        ({"lists": [{}]}, r"lists\[0\]: must have the keys kind, values"),
        ({"values": []}, r"lists\[0\].values: must be lists of 2 to 1000 numbers above 0"),
        ({"values": [[1.0, -1.0]]}, "numbers above 0"),
        ({"values": [[1.0, True]]}, "numbers above 0"),
        ({"steps": "many"}, r"lists\[0\].steps: is 'many', expected a whole number"),
        ({"flow_shift": "3"}, r"flow_shift: is '3', expected a number or null"),
    ],
)
def test_a_malformed_file_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = write_lists(tmp_path, [MEASURED], [], "")
    value = json.loads(path.read_text())
    inside = value["lists"][0] if change.keys() & value["lists"][0].keys() else value
    path.write_text(json.dumps(value | change if inside is value else {**value, "lists": [inside | change]}))
    with pytest.raises(ModelError, match=said):
        lists_of(tmp_path, "")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone/step_ratios.json: cannot be written: No such file"):
        write_lists(tmp_path / "gone", [MEASURED], [], "")


def test_lists_of_a_single_file_lie_beside_it(tmp_path: Path) -> None:
    for name in ("wan-dit.safetensors", "other.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    one, other = tmp_path / "wan-dit.safetensors", tmp_path / "other.safetensors"
    assert write_lists(one, [MEASURED], [one], "") == tmp_path / "wan-dit.step_ratios.json"
    assert lists_of(one, "") == (MEASURED,) and lists_of(other, "") == ()
    check_digest(one, [one])
    with pytest.raises(ModelError, match="was measured on others"):
        check_digest(one, [other])
