"""Networks from a checkpoint directory in either layout. Every failure names the file or key at fault."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from model.autoencoder import WEIGHTS_NAME, Autoencoder, LinearAutoencoder, WanAutoencoder
from model.card import scheduler_config, transformer_config
from model.directory import (
    RANDOM_NAME,
    Component,
    ModelError,
    read_autoencoder,
    read_text_encoder,
    read_transformers,
    tokenizer_directory,
)
from model.key_map import autoencoder_name, text_encoder_name, transformer_name
from model.original import autoencoder_config, text_encoder_config
from model.tasks import ModelCard, Role
from model.text import TextEncoder
from model.threads import compute_threads
from model.weights import (
    FLOAT32_MODULES,
    OnProgress,
    StoredTensor,
    check_all_finite,
    ignore_progress,
    load_into,
    open_weights,
    owned_experts,
)

__all__ = [
    "compute_dtype",
    "configure_torch",
    "load_autoencoder",
    "load_denoiser",
    "load_scheduler_config",
    "load_text_encoder",
    "load_transformer",
]

# diffusers and transformers take seconds to load, and no process of a service needs all of them: where one does, the
# functions here import them.
if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

    from model.denoise import Denoiser
    from model.running import Runner
    from model.transformer import WanTransformer

T = TypeVar("T")
log = logging.getLogger("zoetrope.model")
TIED_TEXT = {"encoder.embed_tokens.weight": "shared.weight", "shared.weight": "encoder.embed_tokens.weight"}


def configure_torch(card: ModelCard) -> torch.device:
    """Choose the device; on a CPU, use the same number of threads in every process that works with a model
    (`model.threads.compute_threads`), so that results do not depend on which of them computes what.

    Ray sets OMP_NUM_THREADS to 1 in its workers; sums split over another number of threads round differently.

    Raises:
        ModelError: the configuration of the transformer cannot be read.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(compute_threads(transformer_config(read_transformers(Path(card.directory))[0]).dim))
    return torch.device("cpu")


def compute_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def load_transformer(
    card: ModelCard,
    device: torch.device,
    component: str = "transformer",
    *,
    dtype: torch.dtype | None = None,
    rank: int = 0,
    ranks: int = 1,
    on_progress: OnProgress = ignore_progress,
) -> WanTransformer:
    """A transformer in evaluation mode.

    Args:
        component: ``transformer``, or ``transformer_2``, the low-noise expert of a pair.
        dtype: of the weights; what diffusers keeps in float32 stays so. None: bfloat16 on a GPU, else float32.
        rank, ranks: of several ranks each gets every weight but those of other ranks' experts.
        on_progress: called with (parameters read, parameters in total).

    Raises:
        ModelError: a file is missing or corrupt, lacks a key, holds one too many, a tensor of another shape, or NaN.
    """
    from model.transformer import WanTransformer

    parts = read_transformers(Path(card.directory))
    number = ("transformer", "transformer_2").index(component)
    if number >= len(parts):
        raise ModelError(f"{card.directory}: has only one transformer, {component} is missing")
    part = parts[number]
    config = transformer_config(part)
    with torch.device("meta"):
        network = WanTransformer(config)
    owned: Callable[[str], slice | None] = lambda name: None  # noqa: E731
    if ranks > 1 and config.moe is not None:
        try:
            owned = owned_experts(rank, ranks, config.moe.num_experts)
        except ValueError as error:
            raise ModelError(f"{part.directory / 'config.json'}: {error}") from None
    if part.random is not None:
        log.warning("%s: %s has random weights, its clips will be noise", card.name, component)
    dtype = dtype or compute_dtype(device)
    with _tensors(part, network, device, dtype) as tensors:
        load_into(
            network,
            tensors,
            part.directory,
            device,
            dtype,
            float32_modules=FLOAT32_MODULES,
            owned=owned,
            on_progress=on_progress,
        )
    return network.eval().requires_grad_(False)


def load_denoiser(
    card: ModelCard,
    device: torch.device,
    on_progress: OnProgress = ignore_progress,
    *,
    rank: int = 0,
    ranks: int = 1,
    role: Role = "both",
    runner: Runner | None = None,
) -> Denoiser:
    """The transformer, or both noise experts, or the one of ``role``, and the checkpoint's sampler.

    Raises:
        ModelError: as `load_transformer`, or a role of one noise expert of a checkpoint that has no two.
    """
    from model.denoise import Denoiser
    from model.running import run_alone

    if role != "both" and card.boundary is None:
        raise ModelError(f"{card.name}: has no two noise experts, so there is no {role}-noise one")

    def load(component: str) -> WanTransformer:
        return load_transformer(card, device, component, rank=rank, ranks=ranks, on_progress=on_progress)

    first = load("transformer_2" if role == "low" else "transformer")
    second = load("transformer_2") if card.boundary is not None and role == "both" else None
    return Denoiser(first, load_scheduler_config(card), second, card.boundary, runner or run_alone, role)


def load_text_encoder(card: ModelCard, device: torch.device) -> TextEncoder:
    """Tokenizer and UMT5 encoder. Raises ModelError as `load_transformer`."""
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    root = Path(card.directory)
    folder = tokenizer_directory(root)
    tokenizer = _guard(folder, lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True))
    part = read_text_encoder(root)
    with open_weights(part.files, text_encoder_name if part.original else str) as tensors, _quiet():
        config = text_encoder_config(tensors, part.directory) if part.original else part.config
        with torch.device("meta"):
            encoder = _guard(part.directory, lambda: UMT5EncoderModel(UMT5Config(**config)))
        load_into(encoder, tensors, part.directory, device, compute_dtype(device), tied=TIED_TEXT)
    return TextEncoder(tokenizer, encoder.eval().requires_grad_(False), card.max_text_tokens)


def load_autoencoder(card: ModelCard, device: torch.device) -> Autoencoder:
    """The autoencoder, in float32. Raises ModelError as `load_transformer`."""
    part = read_autoencoder(Path(card.directory))
    if part.class_name == LinearAutoencoder.CLASS_NAME:
        check_all_finite(part.files)
        return _guard(part.directory / WEIGHTS_NAME, lambda: LinearAutoencoder.load(part.directory))
    return WanAutoencoder(_load_wan_autoencoder(part, device))


def load_scheduler_config(card: ModelCard) -> dict[str, Any]:
    """Of the checkpoint's sampler. Raises ModelError."""
    return scheduler_config(card)


def _tensors(
    part: Component, network: WanTransformer, device: torch.device, dtype: torch.dtype
) -> AbstractContextManager[list[StoredTensor]]:
    if part.random is None:
        return open_weights(part.files, transformer_name if part.original else str)
    from model.random_weights import random_tensors

    return nullcontext(random_tensors(network, part.random, part.directory / RANDOM_NAME, device, dtype))


def _load_wan_autoencoder(part: Component, device: torch.device) -> AutoencoderKLWan:
    from diffusers import AutoencoderKLWan

    with open_weights(part.files, partial(autoencoder_name) if part.original else str) as tensors:
        config = autoencoder_config(tensors, part.directory, part.config) if part.original else part.config
        with torch.device("meta"):
            network = _guard(part.directory, lambda: AutoencoderKLWan.from_config(config))
        load_into(network, tensors, part.directory, device, torch.float32)
    return network.eval().requires_grad_(False)


def _guard(path: Path, load: Callable[[], T]) -> T:
    """Run a library's loader; whatever it raises becomes one line that names the path."""
    try:
        return load()
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: cannot be loaded: {type(error).__name__}: {reason}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's loading bars off the terminal; ours show the progress."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    yield
