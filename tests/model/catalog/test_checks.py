"""What is let pass in a folder, with a warning or without one; what is refused is in
tests/fixtures/folder_faults.py."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fixtures.folder_faults import TEXT, WEIGHTS, change, index, tensors, write_bases
from zoetrope.model.catalog.presets import find_model, open_model
from zoetrope.model.checkpoints.load import load_text_encoder, load_transformer
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.inspection.headers import read_headers

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize("name", ["t2v", "pair", "i2v", "original"])
def test_sound_folders_pass_without_a_word(bases: Path, name: str) -> None:
    card = open_model(str(bases / name))
    assert card.warnings == () and card.name == name
    assert open_model("nano").warnings == ()


@pytest.mark.parametrize("keys", [("ema_step",), ("step", "global_step"), ("logit_scale.weight",), ("_extra_state",)])
def test_keys_that_change_nothing_are_told_once_and_ignored(bases: Path, tmp_path: Path, keys: tuple[str, ...]) -> None:
    root = shutil.copytree(bases / "t2v", tmp_path / "t2v")
    tensors(WEIGHTS, lambda state: state.update({key: torch.tensor(7) for key in keys}))(root)
    card = open_model(str(root))
    named = keys[0] if len(keys) == 1 else f"{sorted(keys)[0]} and 1 more keys"
    assert card.warnings == (f"{root / 'transformer'}: the weights hold {named} that is not known and is ignored",)
    expected = load_transformer(find_model(str(bases / "t2v")), CPU).state_dict()
    for name, tensor in load_transformer(card, CPU).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_decoder_beside_the_text_encoder_is_not_used(bases: Path, tmp_path: Path) -> None:
    root = shutil.copytree(bases / "t2v", tmp_path / "t2v")
    extra = {"decoder.final_layer_norm.weight": torch.zeros(2), "lm_head.weight": torch.zeros(2, 2)}
    tensors(TEXT, lambda state: state.update(extra))(root)
    card = open_model(str(root))
    (warning,) = card.warnings
    assert warning.endswith("the weights hold decoder.final_layer_norm.weight and 1 more keys that is not used")
    assert load_text_encoder(card, CPU).encode(["a red circle"]).abs().sum() > 0


def test_configurations_may_hold_keys_that_nobody_reads(bases: Path, tmp_path: Path) -> None:
    root = shutil.copytree(bases / "t2v", tmp_path / "t2v")
    change("transformer/config.json", gradient_checkpointing=True)(root)
    change("scheduler/scheduler_config.json", sigma_jitter=0.5)(root)
    index(safety_checker=["diffusers", "Checker"])(root)
    (root / "safety_checker").mkdir()
    assert [text.partition(": ")[2] for text in open_model(str(root)).warnings] == [
        "safety_checker (Checker) is not used",
        "sigma_jitter is not known to UniPCMultistepScheduler and is ignored",
        "gradient_checkpointing is not known and is ignored",
    ]


@pytest.mark.parametrize("name", ["WanPipeline", "WanVideoToVideoPipeline", None])
def test_pipelines_that_share_their_parts(bases: Path, tmp_path: Path, name: str | None) -> None:
    root = shutil.copytree(bases / "t2v", tmp_path / "t2v")
    index(_class_name=name)(root)
    assert open_model(str(root)).tasks == ("text_to_video",)


def test_an_embedding_stored_under_its_other_name(bases: Path, tmp_path: Path) -> None:
    root = shutil.copytree(bases / "t2v", tmp_path / "t2v")
    tensors(TEXT, lambda s: s.update({"encoder.embed_tokens.weight": s.pop("shared.weight")}))(root)
    card = open_model(str(root))
    assert card.warnings == () and load_text_encoder(card, CPU).encode(["red"]).abs().sum() > 0


def test_headers_are_those_of_the_tensors(tmp_path: Path) -> None:
    state = {
        "a.weight": torch.zeros(2, 3, dtype=torch.bfloat16),
        "b": torch.zeros((), dtype=torch.int64),
        "c": torch.zeros(4, dtype=torch.float16)[::2],
        "d": torch.zeros(1, 2, dtype=torch.float8_e4m3fn),
    }
    plain = torch.nn.Linear(2, 3).state_dict()  # an OrderedDict with attributes
    torch.save(state, tmp_path / "a.pth")
    torch.save({"p": torch.nn.Parameter(torch.zeros(3)), **plain}, tmp_path / "b.bin")
    torch.save(plain, tmp_path / "c.bin")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "a.safetensors")
    expected = {"a.weight": ((2, 3), "BF16"), "b": ((), "I64"), "c": ((2,), "F16"), "d": ((1, 2), "F8_E4M3")}
    for name in ("a.pth", "a.safetensors"):
        assert {h.name: (h.shape, h.dtype.removesuffix("FN")) for h in read_headers(tmp_path / name)} == expected
    linear = {"weight": (3, 2), "bias": (3,)}
    assert {header.name: header.shape for header in read_headers(tmp_path / "b.bin")} == {"p": (3,), **linear}
    assert {header.name: header.shape for header in read_headers(tmp_path / "c.bin")} == linear
    whole = load_file(tmp_path / "a.safetensors")
    assert whole.keys() == expected.keys()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("ran",))


def test_nothing_in_a_pickle_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", pickle.dumps({"a": Evil()}))
    with pytest.raises(
        ModelError, match=r"weights\.pth: cannot be read as PyTorch weights: it holds a builtins\.print"
    ):
        read_headers(path)
    assert capsys.readouterr().out == ""


@pytest.mark.integration
def test_a_folder_is_checked_without_torch(bases: Path) -> None:
    code = (
        "import sys, time; from zoetrope.model.catalog.presets import open_model; began = time.monotonic()\n"
        f"cards = [open_model(str({str(bases)!r} + '/' + name)) for name in ('t2v', 'pair', 'i2v', 'original')]\n"
        "print(time.monotonic() - began < 1, {'torch', 'diffusers', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "True set()\n", done.stderr


def test_vace_of_two_networks_says_where_the_second_takes_over(bases: Path, tmp_path: Path) -> None:
    """There is no public default for it, and with none the second would never be used."""
    root = shutil.copytree(bases / "pair", tmp_path / "pair")
    vace = {"_class_name": "WanVACETransformer3DModel", "vace_layers": [0]}
    for part in ("transformer", "transformer_2"):
        change(f"{part}/config.json", **vace)(root)
    named = ["diffusers", "WanVACETransformer3DModel"]
    index(_class_name="WanVACEPipeline", transformer=named, transformer_2=named, boundary_ratio=None)(root)
    with pytest.raises(ModelError, match=r"model_index\.json: boundary_ratio is missing"):
        find_model(str(root))
    index(boundary_ratio=0.9)(root)
    assert find_model(str(root)).boundary == 0.9
