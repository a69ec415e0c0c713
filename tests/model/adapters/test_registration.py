"""What can be registered for requests: parsed once, stored in one form, and refused by name where it does not fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from tests.fixtures.adapters import changes, write_peft
from tests.fixtures.random_checkpoints import write_a14b, write_t2v
from zoetrope.model.adapters.patches import Difference, LowRank, Patch
from zoetrope.model.adapters.registered import check_registrable, prepared, read_registered, write_registered
from zoetrope.model.adapters.registration import register
from zoetrope.model.catalog.presets import find_model
from zoetrope.model.checkpoints.load import load_transformer
from zoetrope.model.families import BUNDLED
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.protocol import Network, meta_network
from zoetrope.model.request.tasks import ModelCard

TARGET = "blocks.1.attn1.to_q.weight"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    directory = tmp_path_factory.mktemp("t2v")
    write_t2v(directory)
    return find_model(str(directory))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    directory = tmp_path_factory.mktemp("a14b")
    write_a14b(directory)
    return find_model(str(directory))


@pytest.fixture(scope="module")
def network(card: ModelCard) -> Network:
    return load_transformer(card, torch.device("cpu"))


def test_the_stored_form_is_the_changes_of_the_file(card: ModelCard, network: Network, tmp_path: Path) -> None:
    given = changes(network, 1, 5)
    made = register(card, [str(write_peft(tmp_path / "ink.safetensors", given))], tmp_path)
    data = made.path.read_bytes()
    assert (made.rank, made.size_bytes) == (5, len(data))
    assert made.sha256 == hashlib.sha256(data).hexdigest()
    adapter = read_registered(data, made.sha256)
    assert adapter.rank == 5 and adapter.patches.keys() == {"any"}
    for form in (adapter, prepared(adapter, torch.float32)):
        assert form.of("low").keys() == given.keys()
        assert all(torch.allclose(form.of("any")[name].delta(), patch.delta()) for name, patch in given.items())
    write_registered(tmp_path / "again", [("any", patch) for patch in reversed(given.values())])
    assert (tmp_path / "again").read_bytes() == data, "the order of a file's tensors does not matter"


def test_files_for_two_noise_experts_say_which(pair: ModelCard, tmp_path: Path) -> None:
    network = load_transformer(pair, torch.device("cpu"))
    first, second = changes(network, 1, 4), changes(network, 2, 6)
    high, low = write_peft(tmp_path / "h.safetensors", first), write_peft(tmp_path / "l.safetensors", second)
    made = register(pair, [f"{high}@high", f"{low}@low"], tmp_path)
    adapter = read_registered(made.path.read_bytes(), made.sha256)
    assert torch.equal(adapter.of("high")[TARGET].a, first[TARGET].a)
    assert torch.equal(adapter.of("low")[TARGET].a, second[TARGET].a)
    made = register(pair, [f"{high}@both"], tmp_path)
    adapter = read_registered(made.path.read_bytes(), made.sha256)
    assert torch.equal(adapter.of("high")[TARGET].a, adapter.of("low")[TARGET].a)
    named = [
        write_peft(tmp_path / f"ink_{side}_noise.safetensors", c) for side, c in (("high", first), ("low", second))
    ]
    made = register(pair, [str(path) for path in named], tmp_path)
    assert made.sha256 == register(pair, [f"{high}@high", f"{low}@low"], tmp_path).sha256, "by their names"
    assert made.sha256 != register(pair, [f"{named[0]}@low", f"{named[1]}@high"], tmp_path).sha256, (
        "who says it decides"
    )
    with pytest.raises(ModelError, match=r"h\.safetensors: does not say for which noise expert it is; add @high"):
        register(pair, [str(high)], tmp_path)
    with pytest.raises(ModelError, match=r"blocks\.\d\.attn\d\.to_\w+\.weight is changed twice"):
        register(pair, [f"{high}@high", f"{low}@high"], tmp_path)
    shared = write_peft(tmp_path / "s.safetensors", first)
    with pytest.raises(ModelError, match=r"is changed twice"):
        register(pair, [f"{high}@both", f"{shared}@high"], tmp_path)


def test_a_scale_that_overflows_is_refused(card: ModelCard, tmp_path: Path) -> None:
    network = load_transformer(card, torch.device("cpu"))
    large = {name: replace(patch, b=patch.b * 1e30, scale=1e30) for name, patch in changes(network, 1, 4).items()}
    path = write_peft(tmp_path / "x.safetensors", large)
    with pytest.raises(ModelError, match=r"b with its scale of .* holds NaN or infinity"):
        register(card, [str(path)], tmp_path)


def edited(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, dict[str, LowRank]], Path]:
    """A file of the changes with one thing changed."""

    def write(path: Path, given: dict[str, LowRank]) -> Path:
        tensors = dict(load_file(write_peft(path, given)))
        change(tensors)
        save_file(tensors, path)
        return path

    return write


def module(name: str, rank: int, width: int, out: int) -> dict[str, torch.Tensor]:
    factors = {f"{name}.lora_A.weight": torch.ones(rank, width), f"{name}.lora_B.weight": torch.ones(out, rank)}
    return {**factors, f"{name}.alpha": torch.tensor(1.0)}


KEY = "transformer.blocks.1.attn1.to_q"
BAD: dict[str, tuple[Callable[[Path, dict[str, LowRank]], Path], str]] = {
    "of another size": (
        edited(lambda t: t.update(module(KEY, 3, 50, 48))),
        r".*blocks\.1\.attn1\.to_q\.lora_.\.weight.* has shape \[",
    ),
    "not finite": (
        edited(lambda t: t.update({f"{KEY}.lora_A.weight": t[f"{KEY}.lora_A.weight"] * torch.nan})),
        r".*blocks\.1\.attn1\.to_q\.lora_A\.weight.* holds NaN or infinity",
    ),
    "of no block": (
        edited(lambda t: t.update(module("transformer.proj_out", 2, 48, 64))),
        r"changes proj_out\.weight; requests take changes of a block's attention and feed-forward matrices only",
    ),
    "of a block that is not there": (
        edited(lambda t: t.update(module("transformer.blocks.7.attn1.to_q", 2, 48, 48))),
        r".*blocks\.7\.attn1\.to_q.* has no place in the model",
    ),
    "of too large a rank": (
        edited(lambda t: t.update(module(KEY, 129, 48, 48))),
        "its rank is 129, an adapter for requests has at most 128",
    ),
    "empty": (edited(lambda t: t.clear()), "changes nothing"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_does_not_fit_is_refused_by_name(
    case: str, card: ModelCard, network: Network, tmp_path: Path
) -> None:
    write, message = BAD[case]
    path = write(tmp_path / "bad.safetensors", changes(network, 1, 4))
    with pytest.raises(ModelError, match=rf"bad\.safetensors: {message}"):
        register(card, [str(path)], tmp_path)


def test_files_that_are_no_adapters_are_refused(card: ModelCard, network: Network, tmp_path: Path) -> None:
    good = write_peft(tmp_path / "ink.safetensors", changes(network, 1, 4))
    with pytest.raises(ModelError, match=r"ink\.safetensors@low: @low is for models with two noise experts"):
        register(card, [f"{good}@low"], tmp_path)
    with pytest.raises(ModelError, match=r"none\.safetensors: No such file or directory"):
        register(card, [str(tmp_path / "none.safetensors")], tmp_path)
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate((3 << 29) + 1)  # takes no space
    with pytest.raises(ModelError, match=r"has 1610612737 bytes, an adapter for requests at most 1610612736"):
        register(card, [str(tmp_path / "large.safetensors")], tmp_path)
    for name in ("Wan2.2-Lightning", "x_4steps", "lightx2v_cfg_step_distill", "CausVid-14B"):
        path = good.rename(tmp_path / f"{name}.safetensors")
        with pytest.raises(ModelError, match="by its name it makes a model need few steps"):
            register(card, [str(path)], tmp_path)
        good = path.rename(good)
    for name in ("style_2000_steps", "style-checkpoint-1200-steps", "epoch4_16steps"):  # of training
        path = good.rename(tmp_path / f"{name}.safetensors")
        assert register(card, [str(path)], tmp_path).rank == 4
        good = path.rename(good)
    pickle = tmp_path / "ink.pt"
    pickle.write_bytes(good.read_bytes())
    with pytest.raises(ModelError, match=r"ink\.pt: "):
        register(card, [str(pickle)], tmp_path)


@pytest.mark.parametrize("text", ["", " ", "a\nb.safetensors", "a\0b", "x" * 300, "\n@high"], ids=ascii)
def test_what_is_no_path_is_told(card: ModelCard, text: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^file: .*(is empty|control character|has 300 bytes)"):
        register(card, [text], tmp_path)


def test_what_is_not_applied_is_told(card: ModelCard, network: Network, tmp_path: Path) -> None:
    given = changes(network, 1, 4)
    tensors = load_file(write_peft(tmp_path / "ink.safetensors", given))
    image = module("transformer.blocks.0.attn2.add_k_proj", 4, 4, 4)
    save_file(tensors | image, tmp_path / "ink.safetensors")
    made = register(card, [str(tmp_path / "ink.safetensors")], tmp_path)
    (note,) = made.notes
    assert note.startswith(f"{tmp_path / 'ink.safetensors'}: 3 tensors such as transformer.blocks.0.attn2.add_k_proj")
    assert note.endswith("are ignored: the model attends to no tokens of pictures")
    plain = register(card, [str(write_peft(tmp_path / "b.safetensors", given))], tmp_path)
    assert (made.sha256, plain.notes) == (plain.sha256, ())


def test_changes_of_other_forms_and_of_experts_are_refused(network: Network) -> None:
    other: list[tuple[str, Patch]] = [("any", Difference(TARGET, torch.ones(48, 48)))]
    with pytest.raises(ModelError, match=r"is a difference change; requests take low-rank ones only: fuse the file"):
        check_registrable(other, {"any": network}, "f")
    nano = meta_network(BUNDLED["nano"].config)
    for number, message in (
        (1, "that layer has experts, which cannot be changed for single requests"),
        (9, "does not have"),
    ):
        patch = LowRank(f"blocks.{number}.ffn.net.2.weight", torch.ones(2, 384), torch.ones(128, 2))
        with pytest.raises(ModelError, match=message):
            check_registrable([("any", patch)], {"any": nano}, "f")
    dense = LowRank("blocks.0.ffn.net.2.weight", torch.ones(2, 384), torch.ones(128, 2))
    assert (
        check_registrable(
            [("any", dense), ("any", replace(dense, target="blocks.4.ffn.net.2.weight"))], {"any": nano}, "f"
        )
        == 2
    )


def test_a_damaged_stored_form_is_no_adapter() -> None:
    for data in (b"", b"x" * 64, safetensors_of({"any/x/a": torch.ones(1)}), safetensors_of({"other": torch.ones(1)})):
        with pytest.raises(ModelError, match="a stored adapter cannot be read: "):
            read_registered(data, "digest")


def safetensors_of(tensors: dict[str, torch.Tensor]) -> bytes:

    return save(tensors)
