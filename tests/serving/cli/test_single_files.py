"""Single files from the command line: named one by one or by a card, they make the latents of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.original_checkpoints import original_transformer_name, save, write_rest, write_transformer
from tests.fixtures.single_files import Files, autoencoder, original_transformer, text_encoder, transformer, write_files
from tests.fixtures.weight_layouts import E4M3, scaled, write_gguf
from zoetrope.serving.cli import main

WORK = ["--size", "48x32", "--frames", "5", "--steps", "2", "--seed", "3", "-q"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("comfy"))


def options(files: Files, model: Path | None = None) -> list[str]:
    parts = [word for name, path in files.parts.items() for word in (f"--{name.replace('_', '-')}", path)]
    return ["--model", str(files.model if model is None else model), *parts]


def latents(folder: Path, model: list[str]) -> torch.Tensor:
    out = folder / "latents.safetensors"
    made = ["--out", str(folder / "o.mp4"), "--latents-out", str(out)]
    assert main(["generate", "a red circle", "--local", *model, *WORK, *made]) == 0
    (found,) = load_file(out).values()
    return found


def test_files_and_a_card_make_the_latents_of_the_folder(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.fixtures.single_files import spiece_model
    from zoetrope.model.checkpoints.tokenizer import make_tokenizer, parse_sentencepiece

    whole = tmp_path / "whole"
    write_transformer(whole, files.network, "t2v")
    write_rest(whole, autoencoder(), text_encoder())
    unigrams = parse_sentencepiece(spiece_model(), tmp_path)
    make_tokenizer(unigrams, tmp_path).save_pretrained(whole / "google" / "umt5-xxl")
    expected = latents(tmp_path, ["--model", str(whole)])
    assert torch.equal(latents(tmp_path, options(files)), expected)
    monkeypatch.setenv("ZOETROPE_MODELS_DIR", str(tmp_path / "cards"))
    assert main(["models", "add", "mine", *options(files)]) == 0
    assert torch.equal(latents(tmp_path, ["--model", "mine"]), expected)
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    assert [model["name"] for model in json.loads(capsys.readouterr().out)][-1] == "mine"
    assert main(["models", "add", "mine", *options(files)]) == 2
    assert "mine.toml exists, replace it with --force" in capsys.readouterr().err
    assert main(["models", "remove", "mine"]) == 0
    assert main(["models", "remove", "mine"]) == 2
    assert "there is no card" in capsys.readouterr().err


def test_files_in_fewer_bits_make_latents_within_their_error(files: Files, tmp_path: Path) -> None:
    state = {original_transformer_name(name): value for name, value in files.network.state_dict().items()}
    plain = latents(tmp_path, options(files))
    for kind, limit in (("BF16", 0.01), ("Q8_0", 0.02)):
        path = tmp_path / f"wan2.1-t2v-1.3b-{kind}.gguf"
        write_gguf(state, path, kind)
        found = latents(tmp_path, options(files, path))
        assert 0 < float((found - plain).norm() / plain.norm()) < limit, kind
    written = scaled(E4M3, marker=0)(state)
    written.save(tmp_path / "wan2.1_t2v_1.3B_fp8_scaled.safetensors")
    save(written.expected, tmp_path / "the-same-in-float32.safetensors")
    packed, exact = (
        latents(tmp_path, options(files, tmp_path / f"{name}.safetensors"))
        for name in ("wan2.1_t2v_1.3B_fp8_scaled", "the-same-in-float32")
    )
    assert torch.equal(packed, exact)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--vae", ""], "vae: must be given, wan2.1_t2v_1.3B_bf16.safetensors holds the transformer alone"),
        (["--vae", "absent.safetensors"], "absent.safetensors: the file is missing"),
        (["--model-low", "absent.safetensors"], "absent.safetensors: the file is missing"),
        (["--model", "absent.gguf"], "absent.gguf: the file is missing"),
        (["--model", "absent.toml"], "absent.toml: the file is missing"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "plan", "serve"])
def test_a_wrong_place_is_one_line_on_every_command(
    files: Files, command: str, more: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extra: dict[str, list[str]] = {
        "generate": ["a red circle", "--local", "--out", str(tmp_path / "o.mp4")],
        "serve": ["--data-dir", str(tmp_path / "data")],
    }
    if more[0] == "--model":  # `serve` takes several
        named = options(files, Path(more[1]))
    else:
        named = [*options(files), *more]
    words: list[Any] = [command, *extra.get(command, []), *named]
    assert main(words) != 0
    captured = capsys.readouterr()
    assert said in captured.err + captured.out
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("by", ["tensor", "rows"])
def test_bytes_that_stay_in_8_bits_are_streamed_too(files: Files, tmp_path: Path, by: str) -> None:
    path = tmp_path / "wan2.1_t2v_1.3B_fp8_scaled.safetensors"
    scaled(E4M3, by=by)(original_transformer(transformer(num_layers=4))).save(path)
    eight = [*options(files, path), "--quantize", "fp8"]
    assert torch.equal(latents(tmp_path, [*eight, "--offload", "always"]), latents(tmp_path, eight))
