"""The settings of one upscaling run, as frozen dataclasses of checked numbers.

``complete`` adds the defaults of all keys to the ConfigDict of a file in configs/, and
``from_config`` turns it into ``Settings``; nothing below the programs sees a ConfigDict. The
defaults are those of SeedVR2's public weights. Invariant: a ``Settings`` that exists is in range.
"""

import dataclasses
import math

from ml_collections import ConfigDict

from skipsr_jax import config as configs
from skipsr_jax.config import require, require_between, require_one_of
from skipsr_jax.geometry import is_clip_length
from skipsr_jax.kernels.quantized import PRECISIONS, UNQUANTIZED
from skipsr_jax.media import deinterlace
from skipsr_jax.media.scan import TRUNCATED
from skipsr_jax.media.tracks import AUDIO_CHOICES
from skipsr_jax.parallel.mesh import MeshSizes
from skipsr_jax.pixels import colour_fix
from skipsr_jax.types import DTYPES

MASK_SOURCES = ("auto", "predictor", "input", "oracle", "none")
CODINGS = ("auto", "dense", "sparse")
CODERS = ("auto", "full", "light")
CODER_PRECISIONS = (UNQUANTIZED, "fp8")


@dataclasses.dataclass(frozen=True)
class Size:
    """The size of the result: ``factor`` times the input, unless height or width is set.

    One side set: the other keeps the aspect ratio. Both set: exactly these.

    Attributes:
      factor: sides of the result over those of the input, where neither height nor width is set.
      height: of the result in pixels; 0: by the factor, or by the width and the aspect ratio.
      width: of the result in pixels; 0: by the factor, or by the height and the aspect ratio.
    """

    factor: float = 4.0
    height: int = 0
    width: int = 0

    def __post_init__(self):
        require_between("factor", self.factor, 0.25, 16)
        for name in ("height", "width"):
            side = getattr(self, name)
            good = side == 0 or 16 <= side <= 16384
            require(good, name, side, "0 (by the factor) or from 16 to 16384")


@dataclasses.dataclass(frozen=True)
class Mask:
    """Which patches are computed (skipsr_jax.inference.masks).

    Attributes:
      source: where the keep mask comes from. predictor: a trained network; input: the input itself,
        without training; oracle: the true video; none: every patch is computed; auto: predictor if
        there is one, else input.
      checkpoint: folder of the mask predictor; empty: the model's own, or where it has none the one
        that comes with the package. The one that is named here is used even if the model has its
        own.
      probability: of needing refinement, from which on a patch is kept with source=predictor.
      input_tau: mean squared error of the input against its own 2x reduced and enlarged copy, in
        pixels of [0, 1], above which a patch is kept with source=input.
      oracle_tau: threshold tau of the paper's Eq. 1 on the reference, with source=oracle.
      reference: path of the true high-resolution video, with source=oracle.
      dilate: patches by which kept regions grow.
    """

    source: str = "auto"
    checkpoint: str = ""
    probability: float = 0.5
    input_tau: float = 2.8e-4
    oracle_tau: float = 2e-4
    reference: str = ""
    dilate: int = 0

    def __post_init__(self):
        require_one_of("source", self.source, MASK_SOURCES)
        require_between("probability", self.probability, 0, 1)
        for name in ("input_tau", "oracle_tau"):
            tau = getattr(self, name)
            require(tau >= 0 and math.isfinite(tau), name, tau, "at least 0")
        require_between("dilate", self.dilate, 0, 64, "patches")
        rule = "the path of the high-resolution video with mask.source=oracle, and empty without"
        has_reference = bool(self.reference)
        require(has_reference == (self.source == "oracle"), "reference", self.reference, rule)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """How the noise becomes a latent.

    Attributes:
      steps: Euler steps; 1 for a one-step (distilled) model.
      guidance: classifier-free guidance scale; 1 runs the positive text only.
      rescale: how far guided results return to the spread of the positive ones; 0: not at all.
      condition_noise: level of the noise that is mixed into the condition (SeedVR: 0.1).
    """

    steps: int = 1
    guidance: float = 1.0
    rescale: float = 0.0
    condition_noise: float = 0.0

    def __post_init__(self):
        require_between("steps", self.steps, 1, 1000)
        require_between("guidance", self.guidance, 1, 50)
        require_between("rescale", self.rescale, 0, 1)
        require_between("condition_noise", self.condition_noise, 0, 1)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Long videos are upscaled in overlapping chunks.

    Attributes:
      frames: length of a chunk (the released scripts of SeedVR run 101).
      overlap: frames that neighbouring chunks share and blend linearly.
    """

    frames: int = 101
    overlap: int = 5

    def __post_init__(self):
        good = self.frames > 1 and is_clip_length(self.frames)
        require(good, "frames", self.frames, "4k + 1 with k at least 1 (5, 9, ... 101)")
        limit = self.frames // 2
        good = 0 <= self.overlap <= limit
        require(good, "overlap", self.overlap, f"from 0 to {limit}, half of chunk.frames")


@dataclasses.dataclass(frozen=True)
class Pixels:
    """What happens to decoded pixels.

    Attributes:
      colour: what of the input the decoded colours are matched to. wavelet: the low frequencies;
        adain: mean and deviation; none: nothing.
      keep_skipped: put the upscaled input itself where patches were skipped (paper section 3).
      feather: width of the ramp on each side of a seam's middle, inside kept patches.
    """

    colour: str = "wavelet"
    keep_skipped: bool = True
    feather: int = 3

    def __post_init__(self):
        require_one_of("colour", self.colour, colour_fix.METHODS)
        require_between("feather", self.feather, 0, 7, "pixels")


@dataclasses.dataclass(frozen=True)
class Input:
    """How the input is read.

    Attributes:
      deinterlace: auto: interlaced videos become one frame for each pair of fields; field: one for
        each field; off: fields are upscaled as they are coded.
      truncated: refuse: a video file that ends early ends the run before any work; keep: the frames
        that it still holds are upscaled, and a line says that it ends early.
    """

    deinterlace: str = "auto"
    truncated: str = "refuse"

    def __post_init__(self):
        require_one_of("deinterlace", self.deinterlace, deinterlace.MODES)
        require_one_of("truncated", self.truncated, TRUNCATED)


@dataclasses.dataclass(frozen=True)
class Output:
    """How the result is stored; "" or -1 lets the writer choose from the input.

    Attributes:
      codec: FFmpeg's name of the encoder, such as libx265; empty: by the file's extension.
      crf: constant rate factor: lower is better and larger; -1: the encoder's usual one.
      pixel_format: FFmpeg's name of the file's pixel format, such as yuv444p10le; empty: the
        smallest one that loses nothing.
      audio: auto: copied, or converted where the file cannot hold it; none: left out.
      segment_frames: a clip of more frames is written in segments of about so many, and a run that
        was killed goes on from the last finished one; 0: never.
    """

    codec: str = ""
    crf: int = -1
    pixel_format: str = ""
    audio: str = "auto"
    segment_frames: int = 480

    def __post_init__(self):
        require_one_of("audio", self.audio, AUDIO_CHOICES)
        good = self.segment_frames >= 0
        require(good, "segment_frames", self.segment_frames, "at least 0 (0: no segments)")
        require(-1 <= self.crf <= 63, "crf", self.crf, "from 0 to 63, or -1 for default")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One upscaling run.

    Attributes:
      checkpoint: folder or URL of the model; checkpoints/NAME is also looked for in the package.
      adapter: workdir or checkpoint of an adapter (LoRA) to merge into the transformer; "": none.
      seed: of all noise.
      dtype: type of matrix products and convolutions; auto: bfloat16 on accelerators, float32 on
        CPUs.
      precision: of the products in the transformer's blocks: bf16 (in dtype, whatever that is), fp8
        or int8; auto: fp8 or int8 where the checkpoint's kernels are, else bf16.
      coder_precision: of the full autoencoder's convolutions of 3x3x3 with multiples of 128
        channels: bf16 (in dtype, whatever that is), or fp8, for one Hopper GPU.
      sharpness: 0 to 1: from the faithful weights to the sharper ones, of a checkpoint that holds
        both.
      max_frames: stop after so many input frames; 0: never.
      sample_frames: max_frames of a run without --input, for the sample clip.
      coder: full: the autoencoder of the model; light: the small one that was distilled from it, if
        the checkpoint holds one; auto: light where there is one, else full.
      slice_latents: latent frames that the autoencoder takes at a time (4 pixel frames each); 0: 1
        of the full one, of the light one as many as make an accelerator fast.
      vae_memory_gib: device memory for the autoencoder; 0: what is free. Where the whole picture
        needs more, its two finest levels run in spatial tiles, with the same result.
      encode: how the autoencoder encodes. dense: all blocks; sparse: only the blocks of kept
        patches, one latent frame at a time, which needs a mask from pixels; auto: sparse for chunks
        of one scene with few enough blocks, where it can be done.
      decode: how the autoencoder decodes: as encode, but sparse decoding takes any mask.
      sparse_up_to: the fraction of blocks up to which auto codes a chunk sparsely. Sparse coding of
        the full autoencoder is faster even at 0.9.
      buckets: to which token counts the transformer's input is padded. auto: a larger bucket that
        is compiled already is used until its padding has cost what the smallest one would cost to
        compile; fine: always the smallest.
      mesh: devices, all of which share each clip (-1: all there are); parameters are sharded over
        its fsdp axis.
    """

    checkpoint: str = ""
    adapter: str = ""
    seed: int = 0
    dtype: str = "auto"
    precision: str = "auto"
    coder_precision: str = UNQUANTIZED
    sharpness: float = 0.0
    max_frames: int = 0
    sample_frames: int = 17
    coder: str = "auto"
    slice_latents: int = 0
    vae_memory_gib: float = 0.0
    encode: str = "auto"
    decode: str = "auto"
    sparse_up_to: float = 0.8
    buckets: str = "auto"
    size: Size = Size()
    mask: Mask = Mask()
    sampler: Sampler = Sampler()
    chunk: Chunk = Chunk()
    pixels: Pixels = Pixels()
    input: Input = Input()
    output: Output = Output()
    mesh: MeshSizes = dataclasses.field(default_factory=lambda: MeshSizes(data=1))

    def __post_init__(self):
        require(bool(self.checkpoint), "checkpoint", self.checkpoint, "the path of a model")
        require(0 <= self.seed < 2**32, "seed", self.seed, "from 0 to 2**32 - 1")
        require_one_of("dtype", self.dtype, ("auto", *DTYPES))
        require_one_of("coder", self.coder, CODERS)
        require_one_of("precision", self.precision, ("auto", *PRECISIONS))
        require_one_of("coder_precision", self.coder_precision, CODER_PRECISIONS)
        require_between("sharpness", self.sharpness, 0, 1)
        for name in ("encode", "decode"):
            require_one_of(name, getattr(self, name), CODINGS)
        require_one_of("buckets", self.buckets, ("auto", "fine"))
        good = self.decode != "sparse" or self.pixels.keep_skipped
        rule = (
            "dense or auto without pixels.keep_skipped: it shows decoded pixels of skipped patches"
        )
        require(good, "decode", self.decode, rule)
        for name in ("encode", "decode"):
            good = getattr(self, name) != "sparse" or self.mask.source != "none"
            rule = "dense or auto with mask.source=none, which keeps all blocks"
            require(good, name, getattr(self, name), rule)
        require_between("sparse_up_to", self.sparse_up_to, 0, 1)
        for name in ("max_frames", "sample_frames"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0 (0: all)")
        require_between("slice_latents", self.slice_latents, 0, 64)
        gib = self.vae_memory_gib
        require(0 <= gib < 2**20, "vae_memory_gib", gib, "GiB of device memory, or 0 for all")


def complete(config: ConfigDict) -> ConfigDict:
    """``config`` with the defaults of all keys that it leaves out."""
    return configs.complete(config, configs.defaults(Settings))


def explain(config: ConfigDict) -> dict[str, str]:
    """What each entry of a complete ``config`` means, and its values."""
    return configs.explained(Settings, config.to_dict())


def from_config(config: ConfigDict) -> Settings:
    """Settings from a file's ConfigDict. UserError names each key that is unknown or wrong."""
    return configs.from_config(Settings, config)
