"""`--lora`: what it changes, where it shows, and what is refused before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fixtures.adapter_styles import STYLES, block_modules, random_pairs, styled, write
from tests.fixtures.random_checkpoints import write_t2v
from tests.model.parity.harness import FRAMES, HEIGHT, NEGATIVE, PROMPT, SEED, STEPS, WIDTH, error, theirs
from tests.serving.gateway.harness import Service, running_service
from zoetrope.model.adapters.targets import Targets
from zoetrope.model.families.nano import NANO_CONFIG
from zoetrope.serving.cli import main

ATTENTION = tuple(f"attn{n}.to_{part}" for n in (1, 2) for part in "qkv")


@pytest.fixture(scope="module")
def nano_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the attention layers of nano."""
    pairs = random_pairs(block_modules(NANO_CONFIG.num_layers, ATTENTION), Targets(NANO_CONFIG))
    return write(tmp_path_factory.mktemp("lora") / "style: 1.safetensors", styled(STYLES["musubi-tuner"], pairs))


def generate(folder: Path, *arguments: str) -> int:
    clip = ["--size", f"{WIDTH}x{HEIGHT}", "--frames", str(FRAMES), "--steps", str(STEPS), "--seed", str(SEED)]
    words = ["generate", PROMPT, "--local", "--negative", NEGATIVE, "--guidance", "4", "--out", str(folder / "a.mkv")]
    return main([*words, *clip, *arguments])


def test_generate_gives_the_latents_of_diffusers_with_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a strength, from the option and from the environment; without, they are others."""
    pipeline = write_t2v(tmp_path / "t2v")
    file = write(tmp_path / "a.safetensors", styled(STYLES["musubi-tuner"], random_pairs(block_modules(), size=0.3)))
    latents = []
    for number, options in enumerate(([], ["--lora", f"{file}:0.8"])):
        out = tmp_path / f"{number}.safetensors"
        assert generate(tmp_path, "--model", str(tmp_path / "t2v"), "--latents-out", str(out), *options) == 0
        latents.append(load_file(out)["latents"])
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name="a")
    pipeline.set_adapters(["a"], [0.8])
    expected = theirs(pipeline)
    assert error(latents[1], expected) <= 1e-5
    assert error(latents[0], expected) > 1e-2
    monkeypatch.setenv("ZOETROPE_LORA", f"{file}:0.8")
    out = tmp_path / "2.safetensors"
    assert generate(tmp_path, "--model", str(tmp_path / "t2v"), "--latents-out", str(out)) == 0
    assert torch.equal(load_file(out)["latents"], latents[1])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    file = write(folder / "style: 1.safetensors", styled(STYLES["PEFT"], random_pairs(block_modules())))
    with running_service(folder, lora=(f"{file}:0.5",)) as service:
        yield service


def test_a_service_lists_what_is_fused(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    (model,) = service.client.models()
    (adapter,) = model.fused_adapters
    assert (adapter.name, adapter.strength, adapter.expert) == ("style: 1", 0.5, "any")
    assert len(adapter.sha256) == 12
    assert main(["models"]) == 0
    assert "style: 1 x 0.5" in " ".join(capsys.readouterr().out.split())
    assert main(["models", "--json"]) == 0
    assert str(service.settings.directory.parent) not in capsys.readouterr().out


OTHER = {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.ones(4, 5120)}
OTHER |= {"lora_unet_blocks_0_self_attn_q.lora_up.weight": torch.ones(5120, 4)}
COMMANDS = (["generate", "x", "--local"], ["serve"], ["plan"], ["gateway"])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_file_that_does_not_fit_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "other.safetensors", OTHER)
    more = ["--data-dir", str(tmp_path / "data")] if command[0] in ("serve", "gateway") else []
    assert main([*command, *more, "--lora", str(file)]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"error: lora: {file}: lora_unet_blocks_0_self_attn_q.lora_down.weight has shape [4, 5120], expected [4, 128]: "
        "the model's blocks.0.attn1.to_q.weight is [128, 128]\n"
    )
    assert main([*command, *more, "--lora", f"{file}:nan"]) == 2
    assert capsys.readouterr().err == f"error: lora: strength 'nan' of {file} must be a number from -4 to 4\n"
    assert not (tmp_path / "data").exists()


def test_plans_of_presets_check_files_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "other.safetensors", OTHER)
    plan = ["plan", "--gpus", "8", "--size", "480p"]
    assert main([*plan, "--model", "wan2.1-t2v-1.3b", "--lora", str(file)]) == 2
    assert "expected [4, 1536]" in capsys.readouterr().err
    assert main([*plan, "--model", "wan2.1-t2v-14b", "--lora", str(file)]) == 0
    assert main([*plan, "--model", "wan2.2-t2v-a14b", "--lora", str(file)]) == 2
    assert "nothing says for which noise expert it is: give other.safetensors@high" in capsys.readouterr().err
    assert main([*plan, "--model", "wan2.2-t2v-a14b", "--lora", f"{file}@low"]) == 0


def test_doctor_names_the_adapter(nano_lora: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["doctor", "--model", "nano", "--lora", f"{nano_lora}:2", "--data-dir", str(tmp_path)])
    out = " ".join(capsys.readouterr().out.split())
    assert "fits, strength 2, SHA-256 " in out
