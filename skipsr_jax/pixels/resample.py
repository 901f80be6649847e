"""Resizing of frames on the device: one matrix of weights for each axis."""

import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import Float, HostArray


def resample(
    frames: Float[Array, "*b h w c"],
    rows: Float[Array | HostArray, "u h"],
    columns: Float[Array | HostArray, "v w"],
) -> Float[Array, "*b u v c"]:
    """Each new row the mean of old ones with the weights of ``rows``, each new column likewise."""
    x = jnp.einsum("...hwc,vw->...hvc", frames, columns, precision="highest")
    return jnp.einsum("...hvc,uh->...uvc", x, rows, precision="highest")
