"""Load networks from a checkpoint directory in either layout. Every error names the file or key at fault."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from zoetrope.kernels.select.abilities import FP8_CAPABILITY
from zoetrope.model.catalog.checkpoint_layout import (
    RANDOM_NAME,
    Component,
    read_autoencoder,
    read_text_encoder,
    read_transformers,
    tokenizer_directory,
)
from zoetrope.model.catalog.model_card import network_config, scheduler_config, transformer_config
from zoetrope.model.catalog.parts import source_of
from zoetrope.model.checkpoints.fuse import changes_of, fused
from zoetrope.model.checkpoints.original import autoencoder_config, text_encoder_config
from zoetrope.model.checkpoints.tokenizer import read_tokenizer
from zoetrope.model.checkpoints.weights import (
    OnProgress,
    StoredTensor,
    check_all_finite,
    forms_of,
    ignore_placed,
    ignore_progress,
    load_into,
    open_weights,
    owned_experts,
)
from zoetrope.model.codecs.autoencoder import Autoencoder, WanAutoencoder
from zoetrope.model.codecs.decode_plan import Decoding
from zoetrope.model.codecs.linear_autoencoder import WEIGHTS_NAME, LinearAutoencoder
from zoetrope.model.codecs.streamed_text import StreamedTextEncoder
from zoetrope.model.codecs.text import TextEncoder
from zoetrope.model.families import family_of
from zoetrope.model.families.key_map import autoencoder_name, text_encoder_name
from zoetrope.model.inspection.files import ModelError
from zoetrope.model.request.tasks import ModelCard, Role
from zoetrope.model.runtime.freed_memory import keep_freed_memory
from zoetrope.model.runtime.threads import compute_threads

# diffusers and transformers take seconds to import and no process of a service needs all of them, so the functions
# import what they use.
if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan

    from zoetrope.model.adapters.files.grammar import Side
    from zoetrope.model.denoising.denoise import Denoiser
    from zoetrope.model.denoising.forward import Runner
    from zoetrope.model.network.protocol import Network
    from zoetrope.model.streaming.loading import StreamedLoading, WeightRoom

T = TypeVar("T")
log = logging.getLogger("zoetrope.model")
NOISE_EXPERTS: tuple[Side, Side] = ("high", "low")
TIED_TEXT = {"encoder.embed_tokens.weight": "shared.weight", "shared.weight": "encoder.embed_tokens.weight"}


def configure_torch(card: ModelCard) -> torch.device:
    """Choose the device, and check that it can compute as the card says; on a CPU, use the same number of threads in
    every process that runs the model (`model.runtime.threads.compute_threads`), so that results do not depend on which
    process computes them.

    Ray sets OMP_NUM_THREADS to 1 in its workers, and sums over another number of threads round differently.

    Raises:
        ModelError: the configuration of the transformer cannot be read, or the GPU has no products of 8-bit floats.
    """
    if torch.cuda.is_available():
        check_gpu(card)
        return torch.device("cuda")
    torch.set_num_threads(compute_threads(network_config(card).dim))
    keep_freed_memory()
    return torch.device("cpu")


def check_gpu(card: ModelCard) -> None:
    """Raise ModelError if there is a GPU, and it cannot compute with weights in the form that the card says."""
    if not torch.cuda.is_available() or card.quantize == "none":
        return
    capability = torch.cuda.get_device_capability()
    if capability < FP8_CAPABILITY:
        wanted, found = (".".join(map(str, numbers)) for numbers in (FP8_CAPABILITY, capability))
        raise ModelError(
            f"quantize: {card.quantize} needs a GPU of compute capability {wanted} or newer, "
            f"{torch.cuda.get_device_name()} has {found}"
        )


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
    streaming: StreamedLoading | None = None,
) -> Network:
    """Load a transformer in evaluation mode; as its card says, with adapters fused (`model.checkpoints.fuse`) and in 8
    bits (`model.network.quantized`).

    Args:
        component: ``transformer``, or ``transformer_2``, the low-noise expert of a pair.
        dtype: of the weights, except those that stay in float32. None: bfloat16 on a GPU, else float32.
        rank, ranks: each of several ranks gets all weights except those of other ranks' experts.
        on_progress: called with (parameters read, parameters in total).
        streaming: moves some of its layers to the host; they can be used once that has finished.

    Raises:
        ModelError: a file is missing or corrupt, lacks a key, has an unknown key, a tensor of another shape, or NaN.
    """
    from zoetrope.model.network.protocol import meta_network, module_of
    from zoetrope.model.network.quantized import quantize_network

    parts = read_transformers(source_of(card))
    number = ("transformer", "transformer_2").index(component)
    if number >= len(parts):
        raise ModelError(f"{card.directory}: has only one transformer, {component} is missing")
    part = parts[number]
    config = transformer_config(part)
    changes = changes_of(card.adapters, config, "any" if len(parts) == 1 else NOISE_EXPERTS[number])
    network = meta_network(config)
    owned: Callable[[str], slice | None] = lambda name: None  # noqa: E731
    if ranks > 1 and config.moe is not None:
        try:
            owned = owned_experts(rank, ranks, config.moe.num_experts, network.expert_stacks)
        except ValueError as error:
            raise ModelError(f"{part.config_file}: {error}") from None
    if part.random is not None:
        log.warning("%s: %s has random weights, its clips will be noise", card.name, component)
    dtype = dtype or compute_dtype(device)
    module = module_of(network)
    opened = _tensors(card, part, network, device, dtype)
    quantized = None if card.quantize == "none" else quantize_network(network, dtype)
    on_placed: Callable[[str], None] = ignore_placed
    if streaming is not None:
        on_placed = streaming.begin(network, (*module.state_dict(), *(quantized or {})), dtype, ranks)
    with opened as tensors:
        log.info("%s: %s is %s", card.name, component, forms_of(tensors))
        load_into(
            module,
            fused(tensors, changes, config, part.directory, device) if changes else tensors,
            part.directory,
            device,
            dtype,
            float32_modules=network.float32_modules,
            owned=owned,
            quantized=quantized,
            on_progress=on_progress,
            on_placed=on_placed,
        )
    module.eval().requires_grad_(False)
    return network


def load_denoiser(
    card: ModelCard,
    device: torch.device,
    on_progress: OnProgress = ignore_progress,
    *,
    rank: int = 0,
    ranks: int = 1,
    role: Role = "both",
    runner: Runner | None = None,
    room: WeightRoom | None = None,
) -> Denoiser:
    """Load the transformer, both noise experts or the one of ``role``, with the checkpoint's sampler.

    Args:
        room: for the weights on the device; layers that do not fit are streamed from the host. None: all fit.

    Raises:
        ModelError: as `load_transformer`, or ``role`` names one noise expert of a checkpoint without two, or the host
            has too little memory for streamed layers.
    """
    from zoetrope.model.denoising.denoise import Denoiser
    from zoetrope.model.denoising.forward import run_alone

    if role != "both" and card.boundary is None:
        raise ModelError(f"{card.name}: has no two noise experts, so there is no {role}-noise one")

    pair = card.boundary is not None and role == "both"
    streaming = None
    if room is not None:
        from zoetrope.model.streaming.loading import StreamedLoading

        streaming = StreamedLoading(replace(room, networks=2 if pair else 1), device)

    def load(component: str) -> Network:
        return load_transformer(
            card, device, component, rank=rank, ranks=ranks, on_progress=on_progress, streaming=streaming
        )

    first = load("transformer_2" if role == "low" else "transformer")
    second = load("transformer_2") if pair else None
    if streaming is not None and (store := streaming.finish()) is not None:
        log.info("%s: %s", card.name, store.described())
    return Denoiser(first, scheduler_config(card), second, card.boundary, runner or run_alone, role)


def load_text_encoder(card: ModelCard, device: torch.device, *, stays: bool = True) -> TextEncoder:
    """Load the tokenizer and the UMT5 encoder.

    Args:
        stays: false to keep its weights in host memory and to stream them to the device for each prompt.

    Raises:
        ModelError: as `load_transformer`.
    """
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    source = source_of(card)
    part = read_text_encoder(source)
    if (folder := tokenizer_directory(source)) is None:
        tokenizer = _guard(part.directory, lambda: read_tokenizer(part.files))
    else:
        tokenizer = _guard(folder, lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True))
    with open_weights(part.files, part.rename(text_encoder_name), part.prefix) as tensors, _quiet():
        config = text_encoder_config(tensors, part.directory) if part.original else part.config
        with torch.device("meta"):
            encoder = _guard(part.directory, lambda: UMT5EncoderModel(UMT5Config(**config)))
        held = device if stays else torch.device("cpu")
        load_into(encoder, tensors, part.directory, held, compute_dtype(device), tied=TIED_TEXT)
    encoder.eval().requires_grad_(False)
    streamed = None
    if not stays:
        streamed = StreamedTextEncoder(encoder, device)
    return TextEncoder(tokenizer, encoder, card.max_text_tokens, streamed)


def load_autoencoder(card: ModelCard, device: torch.device, *, stays: bool = True) -> Autoencoder:
    """Load the autoencoder; it decodes as the environment says (`Decoding.from_environment`).

    Args:
        stays: false to keep its weights in host memory while it is not in use.

    Raises:
        ModelError: as `load_transformer`, or fewer GPUs are visible than ZOETROPE_VAE_DEVICES asks for.
    """
    part = read_autoencoder(source_of(card))
    if part.class_name == LinearAutoencoder.CLASS_NAME:
        check_all_finite(part.files)
        return _guard(part.directory / WEIGHTS_NAME, lambda: LinearAutoencoder.load(part.directory))
    decoding = Decoding.from_environment()
    more: list[torch.device] = []
    if device.type == "cuda":
        if decoding.devices > (visible := torch.cuda.device_count()):
            raise ModelError(f"ZOETROPE_VAE_DEVICES is {decoding.devices}, but only {visible} GPUs are visible")
        more = [torch.device("cuda", number) for number in range(1, decoding.devices)]
    return WanAutoencoder(_load_wan_autoencoder(part, device), decoding, more, stays=stays)


def _tensors(
    card: ModelCard, part: Component, network: Network, device: torch.device, dtype: torch.dtype
) -> AbstractContextManager[list[StoredTensor]]:
    if part.random is None:
        return open_weights(part.files, part.rename(family_of(card.family).original_name), part.prefix)
    from zoetrope.model.checkpoints.random_weights import random_tensors

    return nullcontext(random_tensors(network, part.random, part.directory / RANDOM_NAME, device, dtype))


def _load_wan_autoencoder(part: Component, device: torch.device) -> AutoencoderKLWan:
    from diffusers import AutoencoderKLWan

    with open_weights(part.files, part.rename(autoencoder_name), part.prefix) as tensors:
        config = autoencoder_config(tensors, part.directory, part.config) if part.original else part.config
        with torch.device("meta"):
            network = _guard(part.directory, lambda: AutoencoderKLWan.from_config(config))
        load_into(network, tensors, part.directory, device, torch.float32)
    return network.eval().requires_grad_(False)


def _guard(path: Path, load: Callable[[], T]) -> T:
    """Run a library's loader; turn whatever it raises into one line that names the path."""
    try:
        return load()
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{path}: cannot be loaded: {type(error).__name__}: {reason}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars off the terminal; ours show the progress."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    yield
