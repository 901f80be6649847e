"""The sizes that frames, latents and tokens have in terms of each other. Every size is stated here.

    pixels (f, h, w)  --autoencoder: 4x in time, 8x in space-->  latent (t, h / 8, w / 8)
                      --patches of 1 x 2 x 2 latent pixels-->    token grid (t, h / 16, w / 16)

The autoencoder is causal: the first frame has a latent frame of its own, and every later latent
frame stands for 4 frames. So a clip has 4k + 1 frames and k + 1 latent frames; patch 0 in time
covers frame 0, and patch k > 0 covers frames 4k - 3 to 4k. Clips of other sizes are padded by
repeating the last frame, row and column, and the padding is cut off at the end.

Source: SeedVR's autoencoder and its patch size (1, 2, 2).
"""

import itertools
from collections.abc import Iterable

import numpy as np

from skipsr_jax.types import Float, HostArray, UInt8

TIME_FACTOR = 4
"""Temporal compression of the autoencoder: frames in a latent frame after the first."""
SPACE_FACTOR = 8
"""Spatial compression of the autoencoder: pixels along the side of a latent pixel."""
PATCH = 2
"""Latent pixels along the height and the width of a patch; along time a patch is one."""
PATCH_AREA = PATCH * PATCH
"""Latent pixels in a patch."""
PATCH_PIXELS = PATCH * SPACE_FACTOR
"""Pixels along the height and the width of a patch: 16."""
PATCH_FRAMES = TIME_FACTOR
"""Frames that a patch covers, but for the first patch in time, which covers one."""


def padded_size(height: int, width: int) -> tuple[int, int]:
    """The next multiples of a patch's 16 pixels."""
    return -(-height // PATCH_PIXELS) * PATCH_PIXELS, -(-width // PATCH_PIXELS) * PATCH_PIXELS


def padded_count(frames: int) -> int:
    """The smallest 4k + 1 that is at least ``frames`` (``frames`` >= 1)."""
    return -(-(frames - 1) // TIME_FACTOR) * TIME_FACTOR + 1


def is_clip_length(frames: int) -> bool:
    """Whether a clip of so many frames needs no padding in time: 4k + 1."""
    return frames >= 1 and (frames - 1) % TIME_FACTOR == 0


def latent_count(frames: int) -> int:
    """Latent frames of a clip of so many frames, padding included."""
    return (padded_count(frames) - 1) // TIME_FACTOR + 1


def frame_count(latents: int) -> int:
    """Frames of a clip of so many latent frames: 4k + 1."""
    return TIME_FACTOR * (latents - 1) + 1


def patch_of_frame(frame: int | np.ndarray) -> int | np.ndarray:
    """Index in time of the patches (and of the latent frame) that cover a frame."""
    return (frame + TIME_FACTOR - 1) // TIME_FACTOR


def token_grid(frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Tokens along (time, height, width) of so many frames of so many pixels, padding included."""
    height, width = padded_size(height, width)
    return latent_count(frames), height // PATCH_PIXELS, width // PATCH_PIXELS


def pad_frames(frames: HostArray) -> HostArray:
    """Frames (f, h, w, c) with the last one repeated until there are 4k + 1."""
    more = padded_count(len(frames)) - len(frames)
    return np.concatenate([frames, np.repeat(frames[-1:], more, axis=0)]) if more else frames


def pad_space(
    frames: Float[HostArray, "f h w c"], multiple: int = PATCH_PIXELS
) -> Float[HostArray, "f h2 w2 c"]:
    """Frames with the last row and column repeated until both sides divide by ``multiple``."""
    height, width = (side + -side % multiple for side in frames.shape[1:3])
    return pad_to(frames, height, width)


def pad_to(
    frames: Float[HostArray, "f h w c"] | UInt8[HostArray, "f h w c"], height: int, width: int
) -> Float[HostArray, "f h2 w2 c"] | UInt8[HostArray, "f h2 w2 c"]:
    """Frames with the last row and column repeated until they have ``height`` x ``width`` pixels.

    Raises ValueError when they have more.
    """
    down, right = height - frames.shape[1], width - frames.shape[2]
    return np.pad(frames, ((0, 0), (0, down), (0, right), (0, 0)), mode="edge")


def spans(lengths: Iterable[int]) -> list[slice]:
    """Consecutive slices of these lengths, from 0 on."""
    ends = list(itertools.accumulate(lengths))
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends])]
