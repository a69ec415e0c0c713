"""What identifies weights: everything that is in a model's files, and nothing of where they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.fixtures.adapter_styles import STYLES, block_modules, random_pairs, styled, write
from tests.fixtures.random_checkpoints import write_a14b, write_i2v, write_t2v
from tests.fixtures.single_files import write_files
from zoetrope.model.catalog.card_files import write_card_file
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.catalog.weights_identity import Hashing, hash_weights, weights_here, weights_of
from zoetrope.model.families.nano import NANO_DIRECTORY
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.hashes import KEPT_BYTES
from zoetrope.model.request.load_options import LoadOptions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("wan")
    write_t2v(made / "wan")
    return made / "wan"


def identity(folder: Path, **load: Any) -> str:
    return weights_of(find_model(str(folder), LoadOptions(**load)))


def retrain(path: Path, end: str) -> None:
    """Change one number of the first tensor whose name ends so; the file's size and header stay."""
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(end))
    tensors[name].view(-1)[0] += 1
    save_file(tensors, path, {"format": "pt"})


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a block of the transformer": lambda root: retrain(
        root / "transformer" / "diffusion_pytorch_model.safetensors", "blocks.1.attn1.to_q.weight"
    ),
    "the autoencoder": lambda root: retrain(
        root / "vae" / "diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"
    ),
    "the text encoder": lambda root: retrain(root / "text_encoder" / "model.safetensors", "shared.weight"),
    "the tokenizer": lambda root: (root / "tokenizer" / "tokenizer.json").write_text(
        (root / "tokenizer" / "tokenizer.json").read_text() + " "
    ),
    "a configuration": lambda root: edit(root / "transformer" / "config.json", eps=1e-5),
    "the latents' statistics": lambda root: edit(root / "vae" / "config.json", latents_mean=[0.5] * 16),
    "the schedule": lambda root: edit(root / "scheduler" / "scheduler_config.json", flow_shift=7.0),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_anything_is_another_model(folder: Path, tmp_path: Path, what: str) -> None:
    copy = tmp_path / "wan"
    shutil.copytree(folder, copy)
    assert identity(copy) == identity(folder), "where it is does not matter"
    shutil.copytree(folder, tmp_path / "changed" / "wan")
    CHANGES[what](tmp_path / "changed" / "wan")
    assert identity(tmp_path / "changed" / "wan") != identity(folder)


def test_names_and_versions_of_files_do_not_matter(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "wan"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("# Mine")
    edit(copy / "transformer" / "config.json", _diffusers_version="9.9", _name_or_path="/somewhere/else")
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.bf16.safetensors"))
    assert identity(copy) == identity(folder)


def test_a_byte_far_inside_a_large_file_counts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples would not see it; the hash of such a file is kept, and both are right after it was."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = []
    for number in range(2):
        root = tmp_path / str(number) / "wan"
        shutil.copytree(folder, root)
        tokenizer = bytearray(KEPT_BYTES)  # any file of the model; that of a tokenizer may hold anything
        tokenizer[KEPT_BYTES // 2 + 321] = number
        (root / "tokenizer" / "spiece.model").write_bytes(tokenizer)
        found.append(identity(root))
    assert found[0] != found[1]
    assert len(list((tmp_path / "cache" / "zoetrope" / "hashes").iterdir())) == 3, "two hashes and a lock"


def test_a_card_that_names_another_model_has_another_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOETROPE_MODELS_DIR", str(tmp_path))
    found = []
    for model in ("nano", "nano-4step", "nano"):
        write_card_file(tmp_path / "mine.toml", model, LoadOptions(), replace=True)
        found.append(weights_of(find_model("mine")))
    assert found[0] == found[2] != found[1]
    assert all(name.startswith("mine@") for name in found)


def test_form_profile_and_adapters_are_named(folder: Path, tmp_path: Path) -> None:
    plain = identity(folder)
    assert identity(NANO_DIRECTORY, quantize="fp8") == f"{identity(NANO_DIRECTORY)}+fp8"
    own = tmp_path / "own.toml"
    profiles = []
    for steps in ("1.0, 0.5", "1.0, 0.6", "1.0, 0.5"):
        own.write_text(f'name = "mine"\nsampler = "euler"\nsigmas = [{steps}]\n')
        profiles.append(identity(folder, profile=str(own)))
    assert profiles[0] == profiles[2] != profiles[1], "a profile is what it says, not what it is called"
    assert all(name.startswith(f"{plain}+mine:") for name in profiles)
    pairs = random_pairs(block_modules(1))
    first = write(tmp_path / "a.safetensors", styled(STYLES["PEFT"], pairs))
    same = write(tmp_path / "b.safetensors", styled(STYLES["PEFT"], pairs))
    second = write(tmp_path / "c.safetensors", styled(STYLES["PEFT"], random_pairs(block_modules(1), seed=1)))
    (adapter,) = find_model(str(folder), LoadOptions(lora=(f"{first}:0.5",))).adapters
    assert identity(folder, lora=(f"{first}:0.5",)) == f"{plain}+lora:{adapter.sha256}:0.5@any"
    assert identity(folder, lora=(str(first),)) == identity(folder, lora=(str(same),))
    others = [(), (str(first),), (f"{first}:0.5",), (str(second),), (str(first), str(second))]
    assert len({identity(folder, lora=lora) for lora in others}) == len(others)


def test_noise_experts_and_their_adapters_are_told_apart(tmp_path: Path) -> None:
    write_a14b(tmp_path / "pair")
    plain = identity(tmp_path / "pair")
    file = write(tmp_path / "a.safetensors", styled(STYLES["PEFT"], random_pairs(block_modules(1))))
    names = {identity(tmp_path / "pair", lora=(f"{file}@{side}",)) for side in ("high", "low", "both")}
    assert len(names) == 3 and all(name.startswith(f"{plain}+lora:") for name in names)
    root = tmp_path / "pair"
    high, low = (root / name for name in ("transformer", "transformer_2"))
    shutil.copytree(root, tmp_path / "exchanged" / "pair")
    for one, other in ((high, "transformer_2"), (low, "transformer")):
        target = tmp_path / "exchanged" / "pair" / other
        shutil.rmtree(target)
        shutil.copytree(one, target)
    assert identity(tmp_path / "exchanged" / "pair") != plain


IMAGES: tuple[Callable[[Path], object], ...] = (
    lambda root: retrain(root / "image_encoder" / "model.safetensors", "embeddings.patch_embedding.weight"),
    lambda root: edit(root / "image_processor" / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3]),
)


def test_the_image_encoder_and_its_processor_count(tmp_path: Path) -> None:
    write_i2v(tmp_path / "i2v", clip=True)
    found = [identity(tmp_path / "i2v")]
    for number, change in enumerate(IMAGES):
        root = tmp_path / str(number) / "i2v"
        shutil.copytree(tmp_path / "i2v", root)
        change(root)
        found.append(identity(root))
    assert len(set(found)) == 3


def test_drawn_weights_are_known_by_their_seed(folder: Path, tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        root = tmp_path / str(seed) / "wan"
        shutil.copytree(folder, root)
        (root / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
        (root / "transformer" / "random_weights.json").write_text(json.dumps({"seed": seed, "std": 0.02}))
        found.append(identity(root))
    assert found[0] != found[1]


def test_where_there_are_no_weights_there_is_no_identity(folder: Path, tmp_path: Path) -> None:
    """As for a gateway, whose folder may hold configurations alone."""
    root = tmp_path / "wan"
    shutil.copytree(folder, root)
    (root / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    card = find_model(str(root))
    assert weights_here(card) == ""
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.safetensors: the file is missing"):
        weights_of(card)


def test_what_was_loaded_stays_what_it_was(folder: Path, tmp_path: Path) -> None:
    """Files that change under a running service do not change what it computes with."""
    root = tmp_path / "wan"
    shutil.copytree(folder, root)
    card = find_model(str(root))
    before = hash_weights(card)
    retrain(root / "vae" / "diffusion_pytorch_model.safetensors", "decoder.conv_in.weight")
    assert weights_of(card) == weights_of(replace(card)) == before


def test_single_files_are_told_apart_by_their_contents(tmp_path: Path) -> None:
    files = write_files(tmp_path / "comfy")
    load: dict[str, Any] = dict(files.parts)
    plain = identity(files.model, **load)
    for option in ("model", "vae", "text_encoder"):
        part = getattr(files, option)
        copy = tmp_path / f"same {option}" / part.name
        copy.parent.mkdir()
        shutil.copy(part, copy)
        parts = load if option == "model" else {**load, option: str(copy)}
        same = identity(copy if option == "model" else files.model, **parts)
        assert same == plain, "where a file is does not matter"
        changed = tmp_path / f"changed {option}" / part.name
        changed.parent.mkdir()
        tensors = load_file(part)
        tensors[next(key for key in tensors if key.endswith("weight"))].view(-1)[0] += 1
        save_file(tensors, changed)
        parts = load if option == "model" else {**load, option: str(changed)}
        other = identity(changed if option == "model" else files.model, **parts)
        assert other != plain, option


def test_files_are_hashed_beside_what_loads_them(folder: Path) -> None:
    card = find_model(str(folder))
    assert Hashing(card).result() == weights_of(card)


def test_a_file_that_changes_while_it_is_loaded_is_refused(folder: Path, tmp_path: Path) -> None:
    """What was loaded may be neither the old weights nor the new ones."""
    shutil.copytree(folder, tmp_path / "wan")
    file = tmp_path / "wan" / "vae" / "diffusion_pytorch_model.safetensors"
    found = Hashing(find_model(str(tmp_path / "wan")))
    retrain(file, "decoder.conv_in.weight")
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.safetensors: has changed while it was"):
        found.result()


def test_what_cannot_be_hashed_is_told_to_who_waits_for_it(folder: Path, tmp_path: Path) -> None:
    """Who starts it has nobody to tell yet: a rank's process would only be gone."""
    shutil.copytree(folder, tmp_path / "wan")
    card = find_model(str(tmp_path / "wan"))
    (tmp_path / "wan" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    found = Hashing(card)
    with pytest.raises(ModelError, match=r"diffusion_pytorch_model\.safetensors"):
        found.result()
