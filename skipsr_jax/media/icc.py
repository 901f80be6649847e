"""Colour profiles of images (ICC): what is converted to sRGB, and what is handed on.

A profile of RGB is handed on with the picture that it describes. Pictures of other colour spaces
become RGB, so their profile is applied. Invariant: a profile that is returned describes RGB.
"""

import io

import numpy as np
from PIL import Image, ImageCms

from skipsr_jax.types import HostArray

_SPACES = {"CMYK": "CMYK", "LAB": "Lab ", "L": "GRAY"}
"""The colour space of a profile that describes a mode of Pillow."""


def space_of(profile: bytes | None) -> str:
    """The colour space that a profile describes: "RGB", "GRAY", "CMYK", "Lab"; "" for none, and for
    a damaged one."""
    if not profile:
        return ""
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (OSError, ImageCms.PyCMSError):
        return ""


def rgb_profile(profile: bytes | None) -> bytes | None:
    """The profile, if it describes RGB."""
    return profile if space_of(profile) == "RGB" else None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An image of mode L, CMYK or LAB as RGB, by its profile if it has one that fits.

    The rendering intent is perceptual, as in viewers of images.
    """
    fits = space_of(profile) == _SPACES[image.mode].strip()
    if image.mode == "LAB" and not fits:
        source = ImageCms.createProfile("LAB")
    elif profile and fits:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    else:
        return image.convert("RGB")
    converted = ImageCms.profileToProfile(
        image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    if converted is None:
        raise ValueError("its colour profile cannot be applied")
    return converted


def grey_to_srgb(rgb: HostArray, profile: bytes | None) -> HostArray:
    """A picture (h, w, 3) whose channels are equal, uint16, by its profile of greys if it has one.

    The transform is known at 256 greys, and linear between.
    """
    if space_of(profile) != "GRAY":
        return rgb
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    table = np.asarray(to_srgb(ramp, profile))[0, :, 0].astype(np.float64) * 257
    grey = np.interp(rgb[..., 0], np.arange(256) * 257.0, table)
    return np.repeat(np.rint(grey).astype(np.uint16)[..., None], 3, axis=-1)
