"""Encodes a folder of clips and captions for training (`model.training.dataset`); see `serving.cli.prepare`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from zoetrope.model.checkpoints.load import configure_torch, load_autoencoder, load_text_encoder
from zoetrope.model.codecs.autoencoder import Autoencoder
from zoetrope.model.codecs.text import TextEncoder
from zoetrope.model.conditioning.pixels import from_bytes
from zoetrope.model.media.resize import whole
from zoetrope.model.request.tasks import InvalidRequest, ModelCard, Violation
from zoetrope.model.runtime.threads import usable_cores
from zoetrope.model.training.dataset import EMPTY_PROMPT
from zoetrope.serving.media import MAX_CLIP_SECONDS, MediaError, read_clip
from zoetrope.serving.media.formats import CLIP_SUFFIXES

OnClip = Callable[[int, int], None]


@dataclass(frozen=True)
class Pair:
    """A clip and its caption."""

    clip: Path
    caption: str


def find_pairs(source: Path) -> list[Pair]:
    """Return the clips ``NAME.mp4`` (or another of CLIP_SUFFIXES) of a folder, each with its caption ``NAME.txt``.

    Raises:
        InvalidRequest: there are none, a caption is missing or empty, or two clips have the same name.
    """
    if not source.is_dir():
        raise InvalidRequest(Violation("clips", f"{source} is not a directory"))
    clips = sorted(path for path in source.iterdir() if path.suffix.lower() in CLIP_SUFFIXES)
    if not clips:
        raise InvalidRequest(Violation("clips", f"{source} has no clips: NAME{', NAME'.join(CLIP_SUFFIXES)}"))
    bad: list[Violation] = []
    pairs: dict[str, Pair] = {}
    for clip in clips:
        text = clip.with_suffix(".txt")
        caption = ""
        try:
            caption = text.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            bad.append(Violation("clips", f"{text} is missing, the caption of {clip.name}"))
        except (OSError, UnicodeDecodeError) as error:
            bad.append(Violation("clips", f"{text} cannot be read: {error}"))
        else:
            if not caption:
                bad.append(Violation("clips", f"{text} is empty, the caption of {clip.name}"))
        if clip.stem in pairs or clip.stem == EMPTY_PROMPT:
            bad.append(Violation("clips", f"{clip}: the name {clip.stem} is already taken, rename it"))
        pairs[clip.stem] = Pair(clip, caption)
    if bad:
        raise InvalidRequest(*bad)
    return list(pairs.values())


def check_shape(card: ModelCard, width: int, height: int, frames: int) -> None:
    """Check that the network can take clips of this size and length.

    Raises:
        InvalidRequest: names the field and the limit.
    """
    bad = [
        Violation("size", f"{name} {side} is not a positive multiple of {card.size_multiple}, which {card.name} needs")
        for name, side in (("width", width), ("height", height))
        if side < 1 or side % card.size_multiple
    ]
    if frames < 1 or (frames - 1) % card.temporal:
        bad.append(Violation("frames", f"{frames} is not 1 modulo {card.temporal}, which {card.name} needs"))
    if bad:
        raise InvalidRequest(*bad)


def encode_clips(
    source: Path,
    out: Path,
    card: ModelCard,
    *,
    width: int,
    height: int,
    frames: int,
    fps: float | None = None,
    on_clip: OnClip = lambda done, total: None,
) -> int:
    """Write ``out/NAME.safetensors`` for every clip, and the text of the empty prompt.

    Args:
        width, height: in pixels; clips are scaled to cover this size and cropped.
        frames: at most this many, from the start; a clip is cut to whole latent frames.
        fps: frames per second at which clips are read; None: the checkpoint's.
        on_clip: called with (clips done, clips in total).

    Returns:
        The number of clips.

    Raises:
        InvalidRequest: see `find_pairs` and `check_shape`, or a clip cannot be read; those before it are written.
        ModelError: see `model.checkpoints.load`.
    """
    check_shape(card, width, height, frames)
    pairs = find_pairs(source)
    device = configure_torch(card)
    torch.set_num_threads(usable_cores())  # nobody else is to have one
    text, autoencoder = load_text_encoder(card, device), load_autoencoder(card, device)
    out.mkdir(parents=True, exist_ok=True)
    _save({"text": _encode_text(text, "")}, out / f"{EMPTY_PROMPT}.safetensors")
    for number, pair in enumerate(pairs):
        on_clip(number, len(pairs))
        latents = _encode_clip(autoencoder, pair.clip, width, height, frames, fps or card.fps)
        _save({"latents": latents, "text": _encode_text(text, pair.caption)}, out / f"{pair.clip.stem}.safetensors")
    on_clip(len(pairs), len(pairs))
    return len(pairs)


@torch.inference_mode()
def _encode_text(encoder: TextEncoder, caption: str) -> torch.Tensor:
    return encoder.encode([caption])[0]


def _encode_clip(
    autoencoder: Autoencoder, path: Path, width: int, height: int, frames: int, fps: float
) -> torch.Tensor:
    try:
        clip = read_clip(path, fps=fps, max_seconds=MAX_CLIP_SECONDS, size=(width, height))
    except MediaError as error:
        raise InvalidRequest(Violation("clips", str(error))) from None
    count = whole(min(frames, len(clip.frames)), autoencoder.temporal)
    return autoencoder.encode(from_bytes(clip.frames[:count]))


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.replace(path)
