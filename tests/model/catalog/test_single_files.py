"""Single files: recognised by their tensors, loaded as what they hold, and refused by name if they are not served."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.original_checkpoints import original_autoencoder_name, save
from tests.fixtures.single_files import (
    PIECES,
    Files,
    autoencoder,
    original_transformer,
    text_encoder,
    text_state,
    transformer,
    write_files,
)
from zoetrope.model.catalog.checks import check_files
from zoetrope.model.catalog.presets import find_model, open_model
from zoetrope.model.catalog.profiles import find_profile
from zoetrope.model.catalog.single_files import MAX_SHARDS, read_single, side_of
from zoetrope.model.checkpoints.load import load_autoencoder, load_text_encoder, load_transformer
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.network.protocol import module_of
from zoetrope.model.request.load_options import LoadOptions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("comfy"))


def options(files: Files, **more: Any) -> LoadOptions:
    return LoadOptions(**{**files.parts, **more})


def test_three_files_are_a_model(files: Files) -> None:
    card = open_model(str(files.model), options(files))
    assert card.name == "wan2.1_t2v_1.3B_bf16"
    assert card.family == "wan2.1-t2v-1.3b"
    assert (card.tasks, card.default_flow_shift, card.latent_channels) == (("text_to_video",), 5.0, 16)
    found = module_of(load_transformer(card, CPU)).state_dict()
    for name, value in files.network.state_dict().items():
        assert torch.equal(found[name], value), name
    text = load_text_encoder(card, CPU)
    expected = text_encoder().state_dict()
    for name, value in text.encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert text.tokenizer("a red circle")["input_ids"] == [4, 5, 6, 1]
    vae: Any = load_autoencoder(card, CPU)
    for name, value in autoencoder().state_dict().items():
        assert torch.equal(vae._network.state_dict()[name], value), name


def test_the_name_of_a_distill_is_certain(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "FastWan2.1_t2v_1.3B.safetensors"
    path.symlink_to(files.model)
    assert find_model(str(path), options(files)).profile == find_profile("fastwan-3")
    assert find_model(str(path), options(files, profile="none")).profile is None
    meanflow = tmp_path / "wan2.1_t2v_1.3B_meanflow.safetensors"
    meanflow.symlink_to(files.model)
    with pytest.raises(ModelError, match=r"wan2\.1_t2v_1\.3B_meanflow: MeanFlow distills need a second time input"):
        find_model(str(meanflow), options(files))


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.", "net.", "video_model."])
def test_every_prefix_is_taken_off(files: Files, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "dit.safetensors"
    save(original_transformer(files.network, prefix), path)
    found = read_single(path, "transformer")
    assert found.prefix == prefix
    assert found.shapes == {name: tuple(value.shape) for name, value in files.network.state_dict().items()}


def test_names_of_diffusers_in_one_file(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    save(files.network.state_dict(), path)
    assert open_model(str(path), options(files)).family == "wan2.1-t2v-1.3b"


def test_a_name_beside_the_prefix_is_refused(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    save({**original_transformer(files.network, "model.diffusion_model."), "text_encoders.a": torch.ones(2)}, path)
    with pytest.raises(ModelError, match=r"holds text_encoders\.a beside a transformer under model\.diffusion_model"):
        find_model(str(path), options(files))


@pytest.mark.parametrize("original", [False, True])
def test_text_encoders_in_both_names(files: Files, tmp_path: Path, original: bool) -> None:
    from zoetrope.model.nano.prompts import save_tokenizer

    path, folder = tmp_path / "umt5.safetensors", tmp_path / "tokenizer"
    save(text_state(text_encoder(), original), path)
    with pytest.raises(ModelError, match=r"tokenizer: .*umt5\.safetensors has no tokenizer in it: give the folder"):
        open_model(str(files.model), options(files, text_encoder=str(path)))
    save_tokenizer(folder)
    card = open_model(str(files.model), options(files, text_encoder=str(path), tokenizer=str(folder)))
    found = load_text_encoder(card, CPU).encoder.state_dict()
    for name, value in text_encoder().state_dict().items():
        assert torch.equal(found[name], value), name


def test_a_text_encoder_in_gguf(files: Files, tmp_path: Path) -> None:
    """With llama.cpp's names, and the tokenizer in its fields."""
    import gguf

    from zoetrope.model.families.key_map import LLAMA_TEXT_BLOCK_STEMS, LLAMA_TEXT_STEMS

    path = tmp_path / "umt5.gguf"
    writer = gguf.GGUFWriter(path, "t5encoder")
    writer.add_tokenizer_model("t5")
    writer.add_token_list(PIECES)
    writer.add_token_scores([-float(n) if n > 3 else 0.0 for n in range(len(PIECES))])
    writer.add_unk_token_id(3)
    stems = {theirs: ours for ours, theirs in LLAMA_TEXT_BLOCK_STEMS.items()}
    outer = {theirs: ours for ours, theirs in LLAMA_TEXT_STEMS.items()}
    for name, value in text_state(text_encoder()).items():
        stem = name.removesuffix(".weight")
        if name.startswith("encoder.block."):
            _, _, number, rest = stem.split(".", 3)
            llama = f"enc.blk.{number}.{stems[rest]}.weight"
        else:
            llama = f"{outer[stem]}.weight"
        writer.add_tensor(llama, value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    card = open_model(str(files.model), options(files, text_encoder=str(path)))
    text = load_text_encoder(card, CPU)
    for name, value in text_encoder().state_dict().items():
        assert torch.equal(text.encoder.state_dict()[name], value), name
    assert text.tokenizer("a red circle")["input_ids"] == [4, 5, 6, 1]


def test_the_tokenizer_is_that_of_transformers(files: Files) -> None:
    from transformers import T5Tokenizer

    from zoetrope.model.checkpoints.tokenizer import read_tokenizer

    pieces = [(piece, -float(n) if n > 3 else 0.0) for n, piece in enumerate(PIECES)]
    theirs, ours = T5Tokenizer(vocab=pieces, extra_ids=0), read_tokenizer([files.text_encoder])
    for text in ("a red circle moving right", "redder", "a  red", ""):
        assert ours(text)["input_ids"] == theirs(text)["input_ids"], text


KINDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "1.3B": ({}, "t2v", {"in_channels": 16, "vace_layers": None}),
    "5B": ({"in_channels": 48, "out_channels": 48}, "ti2v", {"in_channels": 48, "model_type": "ti2v"}),
    "A14B i2v": ({"in_channels": 36}, "i2v", {"in_channels": 36, "image_dim": None}),
    "i2v": (
        {"in_channels": 36, "image_dim": 80, "added_kv_proj_dim": 128},
        "i2v",
        {"image_dim": 80, "added_kv_proj_dim": 128, "pos_embed_seq_len": None},
    ),
    "flf2v": (
        {"in_channels": 36, "image_dim": 80, "added_kv_proj_dim": 128, "pos_embed_seq_len": 514},
        "flf",
        {"image_dim": 80, "pos_embed_seq_len": 514},
    ),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_kinds_are_told_by_shapes(tmp_path: Path, name: str) -> None:
    more, _, expected = KINDS[name]
    save(original_transformer(transformer(**more)), tmp_path / "dit.safetensors")
    config = read_single(tmp_path / "dit.safetensors", "transformer").config
    assert {key: config.get(key) for key in expected} == expected
    assert (config["num_layers"], config["ffn_dim"], config["text_dim"], config["freq_dim"]) == (3, 256, 64, 32)


def test_a_pair_is_named_by_the_caller(files: Files, tmp_path: Path) -> None:
    high, low = (tmp_path / f"Wan2.2-T2V-A14B-{side}Noise-Q8_0.safetensors" for side in ("High", "Low"))
    for number, path in enumerate((high, low)):
        save(original_transformer(transformer(number)), path)
    card = open_model(str(high), options(files, model_low=str(low)))
    assert (card.family, card.boundary) == ("wan2.2-t2v-a14b", 0.875)
    for component, seed in (("transformer", 0), ("transformer_2", 1)):
        found = module_of(load_transformer(card, CPU, component)).state_dict()
        assert torch.equal(found["proj_out.weight"], transformer(seed).state_dict()["proj_out.weight"])
    assert find_model(str(high), options(files, model_low=str(low), quantize="fp8")).quantize == "fp8"
    with pytest.raises(ModelError, match="is the high-noise expert of two, by its name: give the other one as --model"):
        find_model(str(high), options(files))
    with pytest.raises(ModelError, match="is the low-noise expert of two, by its name: give it as --model-low"):
        find_model(str(low), options(files))
    with pytest.raises(ModelError, match="are exchanged, by their names"):
        find_model(str(low), options(files, model_low=str(high)))
    with pytest.raises(ModelError, match="is the same file as model"):
        find_model(str(high), options(files, model_low=str(high)))
    link = tmp_path / "other.safetensors"
    link.symlink_to(high)
    for spelling in (str(link), f"{tmp_path}/./{high.name}"):
        with pytest.raises(ModelError, match="is the same file as model"):
            find_model(str(high), options(files, model_low=spelling))


def test_an_expert_of_i2v_is_told_by_its_shape(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    save(original_transformer(transformer(in_channels=36)), path)
    with pytest.raises(ModelError, match=r"as each of the two noise experts of Wan2\.2 I2V-A14B"):
        find_model(str(path), options(files))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16", "high"),
        ("Wan2.2-I2V-A14B-LowNoise-Q4_K_M", "low"),
        ("Wan2_2-I2V-A14B-HIGH_fp8", "high"),
        ("wan2.1_t2v_14B_fp16", ""),
        ("highlands-lowlands", ""),
        ("wan2.1_t2v_1.3B_high_quality", ""),
        ("Wan2.1-T2V-14B-low-vram-Q4_K_M", ""),
        ("wan2.2_high_lightx2v_4step", "high"),
        ("wan22_14B_low", "low"),
    ],
)
def test_a_side_is_read_from_a_name(name: str, side: str) -> None:
    assert side_of(Path(f"{name}.safetensors")) == side


def test_a_distill_is_told_by_the_name_of_its_file(files: Files, tmp_path: Path) -> None:
    state = original_transformer(transformer(in_channels=36, image_dim=80, added_kv_proj_dim=128))
    clip = tmp_path / "clip_vision_h.safetensors"
    save({"vision_model.embeddings.patch_embedding.weight": torch.ones(80, 3, 14, 14)}, clip)
    path = tmp_path / "wan2.1_i2v_480p_scaled_fp8_e4m3_lightx2v_4step.safetensors"
    save(state, path)
    card = find_model(str(path), options(files, image_encoder=str(clip)))
    assert card.family == "wan2.1-i2v-14b-480p"
    assert card.profile is not None and card.default_steps == 4


def test_a_part_that_is_not_there_or_not_needed_is_told(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "link.safetensors").symlink_to("gone.safetensors")
    for more, said in (
        (
            {"vae": "Wan-AI/Wan2.1-T2V-1.3B"},
            r"^vae: 'Wan-AI/.* in \S+/hub: download it .*zoetrope pull Wan-AI/Wan2\.1-T2V",
        ),
        ({"vae": "absent.safetensors"}, r"^vae: absent\.safetensors: the file is missing"),
        ({"text_encoder": str(tmp_path / "link.safetensors")}, r"^text-encoder: \S+ is a link to gone\.safetensors"),
        ({"tokenizer": "absent"}, "^tokenizer: absent: the file is missing"),
        (
            {"image_encoder": str(files.vae)},
            r"^image-encoder: \S+ is not needed, the transformer attends to no pictures",
        ),
        ({"image_encoder": "a\0b"}, r"^image-encoder: 'a\\x00b' is not needed"),
    ):
        with pytest.raises(ModelError, match=said):
            open_model(str(files.model), options(files, **more))


def test_480p_and_720p_are_told_by_the_name(files: Files, tmp_path: Path) -> None:
    state = original_transformer(transformer(in_channels=36, image_dim=80, added_kv_proj_dim=128))
    clip = tmp_path / "clip_vision_h.safetensors"
    save({"vision_model.embeddings.patch_embedding.weight": torch.ones(80, 3, 14, 14)}, clip)
    found = []
    for name in ("wan2.1_i2v_480p_14B_fp8", "wan2.1_i2v_720p_14B_fp8", "mine"):
        save(state, tmp_path / f"{name}.safetensors")
        try:
            found.append(
                find_model(str(tmp_path / f"{name}.safetensors"), options(files, image_encoder=str(clip))).family
            )
        except ModelError as error:
            assert "nothing says which: give --family" in str(error)
    assert found == ["wan2.1-i2v-14b-480p", "wan2.1-i2v-14b-720p"]


def test_a_patch_embedding_may_be_a_linear_layer(files: Files, tmp_path: Path) -> None:
    """As in TurboDiffusion's files."""
    state = original_transformer(files.network)
    state["patch_embedding.weight"] = state["patch_embedding.weight"].flatten(1)
    save(state, tmp_path / "dit.safetensors")
    card = open_model(str(tmp_path / "dit.safetensors"), options(files))
    found = module_of(load_transformer(card, CPU)).state_dict()["patch_embedding.weight"]
    assert torch.equal(found, files.network.state_dict()["patch_embedding.weight"])


def test_a_name_may_say_that_a_file_is_one_of_several(files: Files, tmp_path: Path) -> None:
    state = original_transformer(files.network)
    for number in (1, 2):
        part = {name: value for name, value in state.items() if name.startswith("blocks.") == (number == 1)}
        save(part, tmp_path / f"wan-0000{number}-of-00002.safetensors")
    found = read_single(tmp_path / "wan-00002-of-00002.safetensors", "transformer")
    assert [path.name[4:9] for path in found.files] == ["00001", "00002"]
    (tmp_path / "wan-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"wan-00001-of-00002\.safetensors: the file is missing"):
        read_single(tmp_path / "wan-00002-of-00002.safetensors", "transformer")
    many = tmp_path / f"wan-1-of-{MAX_SHARDS + 1}.safetensors"
    save(state, many)
    with pytest.raises(ModelError, match="is one of 1001 files by its name, a model has at most 1000"):
        read_single(many, "transformer")


def test_a_split_folder_is_one_model(files: Files, tmp_path: Path) -> None:
    state = original_transformer(files.network)
    split = tmp_path / "split"
    for number in range(3):
        start = f"blocks.{number}."
        save({k: v for k, v in state.items() if k.startswith(start)}, split / f"block_{number}.safetensors")
    save({k: v for k, v in state.items() if not k.startswith("blocks.")}, split / "non_block.safetensors")
    card = open_model(str(split), options(files))
    found = module_of(load_transformer(card, CPU)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in files.network.state_dict().items())


def test_components_of_a_folder_may_be_replaced(files: Files, tmp_path: Path) -> None:
    from tests.fixtures.random_checkpoints import write_t2v

    write_t2v(tmp_path / "whole")
    card = open_model(str(tmp_path / "whole"), LoadOptions(vae=str(files.vae)))
    vae: Any = load_autoencoder(card, CPU)
    assert torch.equal(vae._network.state_dict()["quant_conv.weight"], autoencoder().state_dict()["quant_conv.weight"])
    with pytest.raises(ModelError, match=r"model-low: .*whole is a folder, which names both experts itself"):
        find_model(str(tmp_path / "whole"), LoadOptions(model_low=str(files.model)))


def test_a_folder_gives_what_a_file_lacks(files: Files, tmp_path: Path) -> None:
    from tests.fixtures.random_checkpoints import write_t2v

    write_t2v(tmp_path / "whole")
    network = transformer(text_dim=32)
    save(original_transformer(network), tmp_path / "dit.safetensors")
    whole = str(tmp_path / "whole")
    card = open_model(str(tmp_path / "dit.safetensors"), LoadOptions(vae=whole, text_encoder=whole))
    assert load_text_encoder(card, CPU).tokenizer("a red circle")["input_ids"]


REFUSED: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "lora": (
        {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(4, 8)},
        r"is a LoRA, not a model: .* with --lora",
    ),
    "kohya": (
        {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.ones(4, 8)},
        "is a LoRA, not a model",
    ),
    "distill lora": (
        {"blocks.0.self_attn.q.diff_b": torch.ones(4), "blocks.0.self_attn.q.alpha": torch.ones(())},
        "is a LoRA, not a model",
    ),
    "vace": ({"vace_blocks.0.self_attn.q.weight": torch.ones(4, 4)}, "holds the blocks of VACE alone"),
    "vae": ({"decoder.conv1.weight": torch.ones(4)}, "is an autoencoder, not a transformer: give it with --vae"),
    "other": ({"some.other": torch.ones(4)}, r"holds no transformer of a known kind, but some\.other"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_other_files_are_refused_with_what_to_do(files: Files, tmp_path: Path, name: str) -> None:
    tensors, said = REFUSED[name]
    path = tmp_path / "file.safetensors"
    save(tensors, path)
    with pytest.raises(ModelError, match=said):
        find_model(str(path), options(files))


@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.ckpt", "diffusion_pytorch_model.bin"])
def test_pickles_are_refused(files: Files, tmp_path: Path, name: str) -> None:
    torch.save(original_transformer(files.network), tmp_path / name)
    with pytest.raises(ModelError, match="is a pickle, which is not loaded: use the safetensors or GGUF file"):
        find_model(str(tmp_path / name), options(files))


def test_official_pickles_of_components_are_read(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "Wan2.1_VAE.pth"
    save({original_autoencoder_name(name): value for name, value in autoencoder().state_dict().items()}, path)
    card = open_model(str(files.model), options(files, vae=str(path)))
    vae: Any = load_autoencoder(card, CPU)
    assert torch.equal(vae._network.state_dict()["quant_conv.weight"], autoencoder().state_dict()["quant_conv.weight"])


def test_sparse_linear_attention_and_causal_models_are_refused(files: Files, tmp_path: Path) -> None:
    state = original_transformer(files.network)
    path = tmp_path / "turbo.safetensors"
    save({**state, "blocks.0.self_attn.attn_op.local_attn.proj_l.weight": torch.ones(4, 4)}, path)
    with pytest.raises(ModelError, match=r"proj_l\.weight is of sparse-linear attention"):
        find_model(str(path), options(files))
    for name in ("Wan2.1-T2V-1.3B-Self-Forcing", "wan_causal_ode"):
        path = tmp_path / f"{name}.safetensors"
        save(state, path)
        with pytest.raises(ModelError, match="causal distills attend to a cache of earlier frames"):
            find_model(str(path), options(files))


@pytest.mark.parametrize("option", ["vae", "text_encoder"])
def test_a_missing_component_is_asked_for(files: Files, option: str) -> None:
    missing: dict[str, Any] = {option: ""}
    load = replace(options(files), **missing)
    name = option.replace("_", "-")
    with pytest.raises(ModelError, match=rf"{name}: must be given, wan2\.1_t2v_1\.3B_bf16\.safetensors holds the tran"):
        find_model(str(files.model), load)


def test_a_component_of_another_kind_is_named(files: Files) -> None:
    with pytest.raises(ModelError, match="is a text encoder, not an autoencoder: give it with --text-encoder"):
        find_model(str(files.model), options(files, vae=str(files.text_encoder)))
    with pytest.raises(ModelError, match=r"nowhere\.safetensors: the file is missing"):
        find_model(str(files.model), options(files, vae="nowhere.safetensors"))


@pytest.mark.integration
def test_files_are_checked_without_torch(files: Files) -> None:
    """As a gateway does, which has none."""
    code = (
        "import sys; from zoetrope.model.catalog.presets import open_model; "
        "from zoetrope.model.request.load_options import LoadOptions; "
        f"print(open_model({str(files.model)!r}, LoadOptions(**{files.parts!r})).family, "
        "[name for name in ('torch', 'gguf', 'safetensors', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "wan2.1-t2v-1.3b []"


def test_a_lacking_tensor_is_named(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "dit.safetensors"
    state = original_transformer(files.network)
    del state["blocks.1.ffn.2.bias"]
    save(state, path)
    with pytest.raises(ModelError, match=r"the weights lack blocks\.1\.ffn\.net\.2\.bias"):
        check_files(find_model(str(path), options(files)))
