"""Which model a folder holds: by its contents, its repository, the caller; never by what it happens to be called."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model.catalog.test_presets import ORIGINAL, SCHEDULER, SMALL, WAN21, write
from zoetrope.model.catalog.hub import hub_cache, repository_of
from zoetrope.model.catalog.identity import identify
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.families import PRESETS, family_of
from zoetrope.model.families.family import Contents
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.load_options import LoadOptions

HASH = "38ec498cb3208fb688890f8cc7e94ede2cbd7f68"
T2V, I2V = "models--Wan-AI--Wan2.2-T2V-A14B-Diffusers", "models--Wan-AI--Wan2.1-I2V-14B-480P"
RENDERER = {"model_type": "bernini_renderer", "use_src_id_rotary_emb": True, "shift": 3.0, "use_unipc": True}


def public(root: Path, name: str, shift: float = 3.0, pipeline: str = "WanPipeline") -> Path:
    """The configuration files of a public model at its full size, in diffusers' layout."""
    preset = PRESETS[name]
    names = ("transformer", "transformer_2")[: preset.transformers]
    for part in names:
        write(
            root / part / "config.json", {"_class_name": SMALL["_class_name"], **preset.config.model_dump(mode="json")}
        )
    write(root / "vae" / "config.json", WAN21)
    write(root / "text_encoder" / "config.json", {"model_type": "umt5", "d_model": 4096})
    write(root / "scheduler" / "scheduler_config.json", SCHEDULER | {"flow_shift": shift})
    (root / "tokenizer").mkdir()
    if preset.config.image_dim is not None:
        write(root / "image_encoder" / "config.json", {"model_type": "clip_vision_model", "hidden_size": 1280})
    index = {"_class_name": pipeline, "boundary_ratio": 0.875, "scheduler": ["diffusers", SCHEDULER["_class_name"]]}
    index |= {"vae": ["diffusers", "AutoencoderKLWan"], "tokenizer": ["transformers", "T5TokenizerFast"]}
    index |= {part: ["diffusers", "WanTransformer3DModel"] for part in names}
    index |= {"text_encoder": ["transformers", "UMT5EncoderModel"]}
    if preset.config.image_dim is not None:
        index["image_encoder"] = ["transformers", "CLIPVisionModel"]
    write(root / "model_index.json", index)
    return root


def bernini(root: Path, name: str = "bernini-r") -> Path:
    """As ByteDance has it: diffusers' components, and a configuration of its own in the place of an index."""
    public(root, name)
    (root / "model_index.json").unlink()
    pair = PRESETS[name].transformers == 2
    write(root / "config.json", RENDERER | {"skip_transformer_2": not pair, "switch_dit_boundary": 0.8 if pair else 0})
    return root


def original_i2v(root: Path) -> Path:
    """Wan2.1's image to video in Wan's own layout, whose 480p and 720p have one configuration."""
    write(root / "config.json", ORIGINAL | {"model_type": "i2v", "in_dim": 36})
    (root / "Wan2.1_VAE.pth").touch()
    return root


def place(cache: Path, repository: str, make: Callable[[Path], Path]) -> Path:
    """A repository in a hub's cache; the snapshot's folder."""
    folder = cache / repository
    write(folder / "refs" / "x", {})
    (folder / "refs" / "main").write_text(HASH)
    return make(folder / "snapshots" / HASH)


@pytest.mark.parametrize("folder", ["x", "my-bernini-test", "Wan2.2-T2V-A14B-Diffusers", "Bernini-R-Diffusers"])
def test_bernini_is_told_by_its_own_configuration(tmp_path: Path, folder: str) -> None:
    card = find_model(str(bernini(tmp_path / folder)))
    assert (card.family, card.conditioner, card.boundary) == ("bernini-r", "bernini", 0.8)
    assert "edit_video" in card.tasks and card.default_flow_shift == 3.0


def test_the_small_bernini_has_one_network(tmp_path: Path) -> None:
    card = find_model(str(bernini(tmp_path / "x", "bernini-r-1.3b")))
    assert (card.family, card.conditioner, card.boundary) == ("bernini-r-1.3b", "bernini", None)


def test_an_index_beside_its_configuration_changes_nothing(tmp_path: Path) -> None:
    root = public(tmp_path / "x", "bernini-r")
    write(root / "config.json", RENDERER)
    assert find_model(str(root)).family == "bernini-r"
    (root / "config.json").unlink()
    named = public(tmp_path / "y", "bernini-r", pipeline="BerniniRendererPipeline")
    assert find_model(str(named)).family == "bernini-r"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_src_id_rotary_emb": False}, r"config\.json: use_src_id_rotary_emb is False, expected True"),
        ({"skip_transformer_1": True}, "skip_transformer_1 is True, expected False"),
        ({"model_type": "bernini"}, "model_type is 'bernini', expected WanModel .* its planner is not supported"),
        ({"skip_transformer_2": True}, "transformer_2: is there, but config.json does not name it"),
    ],
)
def test_other_berninis_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    root = bernini(tmp_path / "x")
    write(root / "config.json", RENDERER | fields)
    with pytest.raises(ModelError, match=message):
        find_model(str(root))


def test_a_free_name_tells_nothing(tmp_path: Path) -> None:
    card = find_model(str(public(tmp_path / "my-bernini-test", "wan2.2-t2v-a14b")))
    assert (card.family, card.tasks, card.name) == ("wan2.2-t2v-a14b", ("text_to_video",), "my-bernini-test")
    (warning,) = card.warnings
    assert "it is called my-bernini-test, but nothing in it says that it is a Bernini-R" in warning
    said = find_model(str(tmp_path / "my-bernini-test"), LoadOptions(family="bernini-r"))
    assert (said.family, said.conditioner, said.warnings) == ("bernini-r", "bernini", ())
    assert find_model(str(public(tmp_path / "480p", "wan2.2-t2v-a14b"))).warnings == ()


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            "wan2.1-vace-14b",
            "family: wan2.1-vace-14b does not match .*: its files are those of wan2.2-t2v-a14b or",
        ),
        ("bernini-r-1.3b", "family: bernini-r-1.3b does not match"),
        ("wan3", "family: 'wan3' is not one of wan2.7-27b, "),
    ],
)
def test_the_caller_may_be_wrong(tmp_path: Path, family: str, message: str) -> None:
    root = public(tmp_path / "x", "wan2.2-t2v-a14b")
    with pytest.raises(ModelError, match=message):
        find_model(str(root), LoadOptions(family=family))


def test_a_preset_says_itself_what_it_is() -> None:
    card = find_model("nano", LoadOptions(family="bernini-r"))
    assert (card.family, card.conditioner) == ("nano", "streams")
    assert card.warnings == ("family: bernini-r is ignored: nano is a preset",)


@pytest.mark.parametrize(
    "way", ["snapshot", "repository", "link", "link to the repository", "linked cache", "two links", "relative"]
)
def test_a_cache_keeps_the_repositorys_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """480p takes shift 3, 720p 5: the two differ in nothing but their weights."""
    snapshot = place(tmp_path / "hub", I2V, original_i2v)
    link, second = tmp_path / "here", tmp_path / "Wan2.1-I2V-14B-720P"
    given = {
        "snapshot": snapshot,
        "repository": tmp_path / "hub" / I2V,
        "link": link,
        "link to the repository": link,
        "linked cache": link / I2V / "snapshots" / HASH,
        "two links": second,
        "relative": Path("hub") / I2V / "snapshots" / HASH,
    }[way]
    target = {"link to the repository": tmp_path / "hub" / I2V, "linked cache": tmp_path / "hub"}.get(way, snapshot)
    link.symlink_to(os.path.relpath(target, tmp_path))
    second.symlink_to(link)
    monkeypatch.chdir(tmp_path)
    card = find_model(str(given))
    assert (card.family, card.name) == ("wan2.1-i2v-14b-480p", "Wan2.1-I2V-14B-480P")
    assert (card.default_flow_shift, card.default_size) == (3.0, "480p")
    assert Path(card.directory).resolve() == snapshot.resolve()


def test_a_repository_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    place(tmp_path / "home" / "hub", T2V, lambda root: public(root, "wan2.2-t2v-a14b"))
    card = find_model("Wan-AI/Wan2.2-T2V-A14B-Diffusers")
    assert (card.name, card.family) == ("Wan2.2-T2V-A14B-Diffusers", "wan2.2-t2v-a14b")
    with pytest.raises(
        ModelError,
        match=r"looks like a Hugging Face repository.*home/hub: download it where .*\(zoetrope pull Wan-AI/W",
    ):
        find_model("Wan-AI/Wan2.2-TI2V-5B-Diffusers")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert hub_cache() == tmp_path / "elsewhere"
    with pytest.raises(ModelError, match="elsewhere"):
        find_model("Wan-AI/Wan2.2-T2V-A14B-Diffusers")


def test_several_snapshots_of_which_none_is_main(tmp_path: Path) -> None:
    snapshot = place(tmp_path, T2V, lambda root: public(root, "wan2.2-t2v-a14b"))
    (tmp_path / T2V / "refs" / "main").unlink()
    assert find_model(str(tmp_path / T2V)).directory == str(snapshot)
    (snapshot.parent / "another").mkdir()
    with pytest.raises(ModelError, match="snapshots: holds 2: name one of them"):
        find_model(str(tmp_path / T2V))


@pytest.mark.parametrize("named", [b"\xff\xfe", b"", b"../../..", b"a\0b", b"x" * 5_000, b"another"])
def test_a_branch_that_names_no_commit_counts_for_nothing(tmp_path: Path, named: bytes) -> None:
    snapshot = place(tmp_path, T2V, lambda root: public(root, "wan2.2-t2v-a14b"))
    (tmp_path / T2V / "refs" / "main").write_bytes(named)
    assert find_model(str(tmp_path / T2V)).directory == str(snapshot)


@pytest.mark.parametrize("name", ["Wan2.1-I2V-14B-480P", "wan2.1-i2v-14b-480p", "Wan2___1-I2V-14B-480P-Diffusers"])
def test_the_very_name_of_a_repository_is_believed_where_files_leave_it_open(tmp_path: Path, name: str) -> None:
    assert find_model(str(original_i2v(tmp_path / name))).family == "wan2.1-i2v-14b-480p"
    elsewhere = original_i2v(tmp_path / "weights")
    link = tmp_path / "links" / name
    link.parent.mkdir()
    link.symlink_to(elsewhere)
    card = find_model(str(link))
    assert (card.family, card.name) == ("wan2.1-i2v-14b-480p", name)


@pytest.mark.parametrize("name", ["x", "i2v-480p-mine", "wan"])
def test_what_stays_open_and_matters_is_asked(tmp_path: Path, name: str) -> None:
    root = original_i2v(tmp_path / name)
    with pytest.raises(ModelError, match=r"wan2\.1-i2v-14b-480p or wan2\.1-i2v-14b-720p, .*give --family"):
        find_model(str(root))
    for family, shift in (("wan2.1-i2v-14b-480p", 3.0), ("wan2.1-i2v-14b-720p", 5.0)):
        assert find_model(str(root), LoadOptions(family=family)).default_flow_shift == shift


@pytest.mark.parametrize(
    ("readme", "family"),
    [
        ("# Wan2.1\n\nThis repository contains our I2V-14B model, capable of generating 480P videos.\n", "480p"),
        ("# Wan2.1\n\nThis repository contains our I2V-14B model, capable of 720P high-definition videos.\n", "720p"),
        ("---\nlicense: apache-2.0\nbase_model:\n- Wan-AI/Wan2.1-I2V-14B-480P\n---\n# Mine\n", "480p"),
        ("---\nbase_model: Wan-AI/Wan2.1-I2V-14B-720P-Diffusers\n---\n", "720p"),
        ("# Wan2.1-I2V-14B-720P\n\n480P and 720P are supported by the family.\n", "720p"),
    ],
)
def test_a_readme_tells(tmp_path: Path, readme: str, family: str) -> None:
    root = original_i2v(tmp_path / "x")
    (root / "README.md").write_text(readme)
    assert find_model(str(root)).family == f"wan2.1-i2v-14b-{family}"


def test_contents_win_over_names_and_say_so(tmp_path: Path) -> None:
    snapshot = place(tmp_path, "models--Wan-AI--Wan2.1-VACE-14B", lambda root: public(root, "wan2.2-t2v-a14b"))
    card = find_model(str(snapshot))
    assert card.family == "wan2.2-t2v-a14b"
    (warning,) = card.warnings
    assert "it is called Wan-AI/Wan2.1-VACE-14B, but its files are those of wan2.2-t2v-a14b" in warning


@pytest.mark.parametrize(("shift", "family"), [(3.0, "480p"), (5.0, "720p"), (8.0, "720p")])
def test_a_scheduler_tells_where_nothing_else_does(tmp_path: Path, shift: float, family: str) -> None:
    root = public(tmp_path / "x", "wan2.1-i2v-14b-480p", shift, "WanImageToVideoPipeline")
    card = find_model(str(root))
    assert (card.family, card.default_flow_shift) == (f"wan2.1-i2v-14b-{family}", shift)
    named = public(tmp_path / "Wan2.1-I2V-14B-720P-Diffusers", "wan2.1-i2v-14b-480p", 3.0, "WanImageToVideoPipeline")
    card = find_model(str(named))
    assert (card.family, card.default_size, card.default_flow_shift) == ("wan2.1-i2v-14b-720p", "720p", 3.0)
    assert card.flow_shift_note == "scheduler_config.json; Wan's own code takes 5"


@pytest.mark.parametrize("name", PRESETS)
def test_every_public_model_is_found_by_its_configuration(tmp_path: Path, name: str) -> None:
    preset, family = PRESETS[name], family_of(name)
    contents = Contents(
        tmp_path,
        family.networks[0],
        preset.config,
        preset.transformers,
        expand_timesteps=family.conditioner == "first_latent",
        shift=preset.sampling.shift,
    )
    found, warnings = identify(contents, tmp_path / "x")
    plain = {"bernini-r": "wan2.2-t2v-a14b", "bernini-r-1.3b": "wan2.1-t2v-1.3b"}
    assert (found.name, warnings) == (plain.get(name, name), [])
    assert identify(contents, tmp_path / "x", name)[0] == preset


def test_a_folder_of_no_cache_has_no_repository(tmp_path: Path) -> None:
    assert repository_of(tmp_path / "models" / "x") is None
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert repository_of(loop) is None
