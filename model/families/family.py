"""A model family: one object with everything that differs between families. Needs no torch.

Each family has a file in `model.families`. It names what needs torch (its network, its conditioner) by an
import path, which is resolved when a model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoetrope.model.families.config import TransformerConfig
from zoetrope.model.families.index import Components, Index
from zoetrope.model.families.network_shapes import Shapes
from zoetrope.model.request.sizes import Size, denoised_size


@dataclass(frozen=True)
class AutoencoderKind:
    """An AutoencoderKLWan: latent channels, pixels per cell, frames per latent frame after the first."""

    name: str
    z_dim: int
    spatial: int
    temporal: int = 4


@dataclass(frozen=True)
class Sampling:
    """Sampling defaults of a checkpoint.

    ``boundary`` is the noise level (0..1) down to which the first of two noise experts works; ``guidance_low`` is the
    guidance scale of the other. ``size`` is a name in `model.request.sizes.SIZES`; ``trained_sizes`` (width, height)
    are training sizes that are not among those."""

    fps: int
    frames: int
    steps: int
    shift: float
    guidance: float
    guidance_low: float | None = None
    boundary: float | None = None
    size: str = "480p"
    trained_sizes: tuple[Size, ...] = ()
    negative_prompt: str = ""


@dataclass(frozen=True)
class Upcycling:
    """How a dense checkpoint becomes one with experts: every feed-forward layer except the outer ``dense_ends`` on each
    side is cut into ``slices``, each with ``replicas`` copies, one of which a token takes."""

    base: str
    slices: int
    replicas: int
    dense_ends: int


@dataclass(frozen=True)
class Preset:
    """A model of a family, known by name whether or not its weights are here.

    Attributes:
        weights: the public checkpoint, or the preset that it is derived from.
        transformers: 2 if it has two noise experts.
        native_sizes: the only sizes (width, height) it denoises at; empty: any.
        words: words in a name or README that identify it where its files do not.
        directory: its weights, if they come with the package. profile: how they sample, if they are a few-step distill.
        card: card fields of such weights that neither the family nor the files give.
    """

    name: str
    weights: str
    config: TransformerConfig
    vae: AutoencoderKind
    sampling: Sampling
    transformers: int = 1
    upcycling: Upcycling | None = None
    native_sizes: tuple[Size, ...] = ()
    words: tuple[str, ...] = ()
    directory: Path | None = None
    profile: str = ""
    card: Mapping[str, object] = field(default_factory=dict)

    def denoised_size(self, width: int, height: int) -> Size:
        """Return the size at which a clip of ``width x height`` is denoised."""
        unit = self.vae.spatial * self.config.patch_size[1]
        return denoised_size((width, height), unit, self.native_sizes, self.sampling.trained_sizes)


@dataclass(frozen=True)
class Contents:
    """What the files of a folder say, from which a family tells whether they are its own.

    Attributes:
        network: ``_class_name`` of the transformer's configuration. transformers: their number.
        expand_timesteps: each token has its own noise level (Wan2.2-TI2V-5B).
        index: None in the layout of Wan's own releases.
        shift: flow shift in the scheduler's file, if any. origin: the transformer's ``_name_or_path``.
    """

    root: Path
    network: str
    config: TransformerConfig
    transformers: int
    expand_timesteps: bool = False
    index: Index | None = None
    shift: float | None = None
    origin: str | None = None


@dataclass(frozen=True)
class OwnIndex:
    """A ``config.json`` that replaces diffusers' ``model_index.json`` and identifies the family.

    Attributes:
        model_type: its value in that file. title: the family's name in messages.
        read: reads the file; raises ModelError if it asks for something unsupported.
    """

    model_type: str
    title: str
    read: Callable[[Path], Index]


def as_found(presets: Sequence[Preset], contents: Contents) -> Sequence[Preset]:
    """Leave all presets: the rules of `model.catalog.identity` suffice."""
    return presets


@dataclass(frozen=True)
class Family:
    """Everything that differs between model families.

    Attributes:
        presets: its models, in listing order.
        matches: tells whether a folder may hold this family, by how pictures and clips enter the network.
        networks: ``_class_name`` values of the transformer's ``config.json``. config: the class that parses this file;
            it names the network's class (`TransformerConfig.network`).
        shapes: returns names and shapes of the network's tensors.
        original_name: maps a tensor's name in the makers' releases to its name in the network.
        pipelines: ``_class_name`` values of ``model_index.json``. components: what its folders hold.
        own_index: set if its folders may lack ``model_index.json``.
        conditioner: a word for how pictures and clips enter.
        load_conditioner: ``module:function`` that takes (card, autoencoder, device) and returns a
            `model.conditioning.Conditioner`.
        tasks: returns the kinds of task that a network with this configuration was trained for.
        overlap_frames: frames that a segment takes over from the one before it.
        ends_with_frame: whether a clip can end with a given frame.
        starts_with_frame: whether known first frames are clean at every step, so that training can use them.
        reference_clips: whether references may be clips as well as pictures.
        leading_frames: whether conditions may add latent frames in front of the clip.
        narrow: picks those presets that fit the contents, of presets with equal files.
    """

    name: str
    presets: tuple[Preset, ...]
    matches: Callable[[Contents], bool]
    networks: tuple[str, ...]
    config: type[TransformerConfig]
    shapes: Callable[[TransformerConfig], Shapes]
    original_name: Callable[[str], str]
    pipelines: tuple[str, ...]
    components: Components
    conditioner: str
    load_conditioner: str
    tasks: Callable[[TransformerConfig], tuple[str, ...]]
    overlap_frames: int
    own_index: OwnIndex | None = None
    ends_with_frame: bool = True
    starts_with_frame: bool = True
    reference_clips: bool = True
    leading_frames: bool = False
    narrow: Callable[[Sequence[Preset], Contents], Sequence[Preset]] = as_found
