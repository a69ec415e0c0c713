"""Networks from a checkpoint directory in diffusers' layout. Every failure names the file or key at fault."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKLWan
from diffusers.utils import logging as diffusers_logging
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from model.autoencoder import WEIGHTS_NAME, Autoencoder, LinearAutoencoder, WanAutoencoder
from model.presets import ModelError, read_json, weight_files
from model.tasks import ModelCard
from model.text import TextEncoder
from model.transformer import TransformerConfig, WanTransformer

T = TypeVar("T")


def configure_torch() -> torch.device:
    """Use all cores in every process, so that results do not depend on which process computes them.

    Ray sets OMP_NUM_THREADS to 1 in its workers; sums split over another number of threads round differently.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_transformer(card: ModelCard, device: torch.device) -> WanTransformer:
    """The transformer in evaluation mode.

    Raises:
        ModelError: a file is missing, corrupt, lacks a key or holds a tensor of another shape.
    """
    directory = Path(card.directory) / "transformer"
    raw = read_json(directory / "config.json")
    try:
        config = TransformerConfig.model_validate(raw)
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(map(str, item["loc"]))
        raise ModelError(f"{directory / 'config.json'}: {key}: {item['msg']}") from None
    with torch.device("meta"):
        network = WanTransformer(config)
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    for path, name, tensor in _tensors(directory):
        if name not in wanted:
            continue  # e.g. cached tables that some exporters write
        if tensor.shape != wanted[name]:
            raise ModelError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(wanted[name])}")
        state[name] = tensor.to(device, compute_dtype(device))
    missing = sorted(set(wanted) - set(state))
    if missing:
        raise ModelError(f"{directory}: the weights lack {missing[0]} and {len(missing) - 1} more keys")
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def load_text_encoder(card: ModelCard, device: torch.device) -> TextEncoder:
    """Tokenizer and UMT5 encoder. Raises ModelError as `load_transformer`."""
    root = Path(card.directory)
    tokenizer = _guard(root / "tokenizer", lambda: AutoTokenizer.from_pretrained(root / "tokenizer"))
    directory = root / "text_encoder"
    with _quiet():
        encoder, info = _guard(
            directory,
            lambda: UMT5EncoderModel.from_pretrained(
                directory, dtype=compute_dtype(device), output_loading_info=True, local_files_only=True
            ),
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{directory}: the weights lack {missing[0]} and {len(missing) - 1} more keys")
    return TextEncoder(tokenizer, encoder.to(device).eval().requires_grad_(False), card.max_text_tokens)


def load_autoencoder(card: ModelCard, device: torch.device) -> Autoencoder:
    """The autoencoder, in float32. Raises ModelError as `load_transformer`."""
    directory = Path(card.directory) / "vae"
    kind = read_json(directory / "config.json").get("_class_name")
    if kind == LinearAutoencoder.CLASS_NAME:
        return _guard(directory / WEIGHTS_NAME, lambda: LinearAutoencoder.load(directory))
    with _quiet():
        network = _guard(
            directory,
            lambda: AutoencoderKLWan.from_pretrained(
                directory, torch_dtype=torch.float32, low_cpu_mem_usage=False, local_files_only=True
            ),
        )
    return WanAutoencoder(network.to(device).eval().requires_grad_(False))


def load_scheduler_config(card: ModelCard) -> dict[str, Any]:
    return read_json(Path(card.directory) / "scheduler" / "scheduler_config.json")


def _tensors(directory: Path) -> Iterator[tuple[Path, str, torch.Tensor]]:
    """Every tensor of a component, one at a time, memory-mapped."""
    for path in weight_files(directory):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    yield path, key, file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot be read as safetensors: {error}") from None


def _guard(path: Path, load: Callable[[], T]) -> T:
    """Run a library's loader; whatever it raises becomes one line that names the path."""
    try:
        return load()
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: cannot be loaded: {type(error).__name__}: {reason}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' loading bars off the terminal; ours show the progress."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    yield
