"""What a run of infer.py is told, as frozen dataclasses of checked numbers.

``from_config`` turns the ConfigDict of a file in configs/ into ``Settings`` once; nothing below
infer.py sees a ConfigDict. Invariant: a ``Settings`` that exists is in range.
"""

import dataclasses
import math
from typing import Any

from ml_collections import ConfigDict

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.mesh import MeshSizes

MASK_SOURCES = ("predictor", "input", "oracle", "none")
COLOUR_FIXES = ("wavelet", "adain", "none")
CODINGS = ("auto", "dense", "sparse")
DTYPES = ("auto", "float32", "bfloat16")


def _require(good: bool, name: str, value: object, rule: str) -> None:
    if not good:
        raise UserError(f"config.{name} is {value!r}: it must be {rule}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, name, value, "one of " + ", ".join(choices))


@dataclasses.dataclass(frozen=True)
class Size:
    """The size to reach: ``factor`` times the input, unless height or width (pixels) is given.

    One side given: the other keeps the aspect ratio. Both given: exactly that.
    """

    factor: float
    height: int
    width: int

    def __post_init__(self):
        _require(0.25 <= self.factor <= 16, "size.factor", self.factor, "from 0.25 to 16")
        for name in ("height", "width"):
            side = getattr(self, name)
            good = side == 0 or 16 <= side <= 16384
            _require(good, f"size.{name}", side, "0 (by the factor) or from 16 to 16384")


@dataclasses.dataclass(frozen=True)
class Mask:
    """Which patches run (skipsr_jax.inference.masks).

    Attributes:
      source: predictor, input, oracle or none.
      probability: predictor: a patch runs from this probability of needing refinement on.
      input_tau: input: a patch runs above this mean squared error of the input against its own
        2x reduced and enlarged copy (pixels in [0, 1]).
      oracle_tau: oracle: threshold of Eq. 1 on the reference.
      reference: oracle: path of the true high-resolution video.
      dilate: patches by which kept regions grow.
    """

    source: str
    probability: float
    input_tau: float
    oracle_tau: float
    reference: str
    dilate: int

    def __post_init__(self):
        _one_of("mask.source", self.source, MASK_SOURCES)
        _require(0 <= self.probability <= 1, "mask.probability", self.probability, "from 0 to 1")
        for name in ("input_tau", "oracle_tau"):
            tau = getattr(self, name)
            _require(tau >= 0 and math.isfinite(tau), f"mask.{name}", tau, "at least 0")
        _require(0 <= self.dilate <= 64, "mask.dilate", self.dilate, "from 0 to 64 patches")
        given = bool(self.reference)
        rule = "the path of the high-resolution video with mask.source=oracle, and empty without"
        _require(given == (self.source == "oracle"), "mask.reference", self.reference, rule)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How the noise becomes a latent.

    Attributes:
      steps: Euler steps; 1 for a one-step (distilled) model.
      guidance: classifier-free guidance scale; 1 runs the positive text only.
      rescale: 0 to 1, how far guided results return to the spread of the positive ones.
      condition_noise: noise level mixed into the condition, 0 to 1 (SeedVR: 0.1).
    """

    steps: int
    guidance: float
    rescale: float
    condition_noise: float

    def __post_init__(self):
        _require(1 <= self.steps <= 1000, "sampler.steps", self.steps, "from 1 to 1000")
        _require(1 <= self.guidance <= 50, "sampler.guidance", self.guidance, "from 1 to 50")
        _require(0 <= self.rescale <= 1, "sampler.rescale", self.rescale, "from 0 to 1")
        noise = self.condition_noise
        _require(0 <= noise <= 1, "sampler.condition_noise", noise, "from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Long videos run in chunks of ``frames`` (4k + 1), ``overlap`` of them blended linearly."""

    frames: int
    overlap: int

    def __post_init__(self):
        good = self.frames >= 5 and (self.frames - 1) % 4 == 0
        _require(good, "chunk.frames", self.frames, "4k + 1 with k at least 1 (5, 9, ... 101)")
        limit = self.frames // 2
        good = 0 <= self.overlap <= limit
        _require(good, "chunk.overlap", self.overlap, f"from 0 to {limit}, half of chunk.frames")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What happens to decoded pixels.

    Attributes:
      colour: wavelet, adain or none: which statistics of the input the colours are matched to.
      keep_skipped: put the upscaled input itself where patches were skipped (paper section 3).
      feather: pixels of ramp on each side of a seam's middle, inside kept patches, 0 to 7.
    """

    colour: str
    keep_skipped: bool
    feather: int

    def __post_init__(self):
        _one_of("pixels.colour", self.colour, COLOUR_FIXES)
        _require(0 <= self.feather <= 7, "pixels.feather", self.feather, "from 0 to 7 pixels")


@dataclasses.dataclass(frozen=True)
class Output:
    """How the result is stored; empty or -1 lets the writer choose from the input.

    Attributes:
      codec: ffmpeg encoder name.
      crf: constant rate factor, lower is better and larger.
    """

    codec: str
    crf: int

    def __post_init__(self):
        _require(-1 <= self.crf <= 63, "output.crf", self.crf, "from 0 to 63, or -1 for default")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run of infer.py.

    Attributes:
      checkpoint: folder of the model; relative to the repository when not found from here.
      seed: of all noise.
      dtype: of matrix products and convolutions; auto: bfloat16 on accelerators, float32 on CPU.
      max_frames: stop after so many input frames; 0: never.
      sample_frames: the same for the sample clip of a run without --input.
      slice_latents: latent frames that the autoencoder takes at a time (4 pixel frames each).
      vae_memory_gib: device memory for the autoencoder; 0: what is free. Where the whole picture
        needs more, its two finest levels run in spatial tiles, with the same result.
      encode, decode: dense; sparse: only the blocks of kept patches, one latent frame at a time
        (encoding then needs a mask from pixels); auto: sparse for chunks of one scene with few
        enough blocks, where it can be done.
      sparse_up_to: auto: the share of blocks, 0 to 1, up to which a chunk is coded sparsely.
      mesh: devices, all of which share each clip; parameters are cut over its fsdp.
    """

    checkpoint: str
    seed: int
    dtype: str
    max_frames: int
    sample_frames: int
    slice_latents: int
    vae_memory_gib: float
    encode: str
    decode: str
    sparse_up_to: float
    size: Size
    mask: Mask
    sampler: Sampler
    chunk: Chunk
    pixels: Pixels
    output: Output
    mesh: MeshSizes

    def __post_init__(self):
        _require(bool(self.checkpoint), "checkpoint", self.checkpoint, "the path of a model")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 2**32 - 1")
        _one_of("dtype", self.dtype, DTYPES)
        for name in ("encode", "decode"):
            _one_of(name, getattr(self, name), CODINGS)
        good = self.decode != "sparse" or self.pixels.keep_skipped
        rule = (
            "dense or auto without pixels.keep_skipped: it shows decoded pixels of skipped patches"
        )
        _require(good, "decode", self.decode, rule)
        share = self.sparse_up_to
        _require(0 <= share <= 1, "sparse_up_to", share, "from 0 to 1")
        for name in ("max_frames", "sample_frames"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0 (0: all)")
        good = 1 <= self.slice_latents <= 64
        _require(good, "slice_latents", self.slice_latents, "from 1 to 64")
        gib = self.vae_memory_gib
        _require(0 <= gib < 2**20, "vae_memory_gib", gib, "GiB of device memory, or 0 for all")


_PARTS = {
    "size": Size,
    "mask": Mask,
    "sampler": Sampler,
    "chunk": Chunk,
    "pixels": Pixels,
    "output": Output,
    "mesh": MeshSizes,
}


def _build(cls: type, values: dict[str, Any], prefix: str) -> Any:
    """A dataclass from a mapping with exactly its fields."""
    want = {field.name for field in dataclasses.fields(cls)}
    missing, extra = sorted(want - set(values)), sorted(set(values) - want)
    if missing or extra:
        parts = [f"lacks {prefix}{key}" for key in missing]
        parts += [f"has unknown {prefix}{key}" for key in extra]
        raise UserError(f"the config {', '.join(parts)}")
    return cls(**values)


def from_config(config: ConfigDict) -> Settings:
    """Settings from a file's ConfigDict. UserError names what is missing or off."""
    values = dict(config.items())
    for name, cls in _PARTS.items():
        if name in values:
            values[name] = _build(cls, dict(values[name].items()), f"{name}.")
    return _build(Settings, values, "")
