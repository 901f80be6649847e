"""The number formats of quantised products, and the devices whose matrix units have them."""

import dataclasses

import jax.numpy as jnp

from skipsr_jax.kernels.target import Target
from skipsr_jax.types import DType


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of 8 bits.

    Attributes:
      name: of the format, as settings and checkpoints have it.
      dtype: of the stored numbers.
      largest: the magnitude to which the largest number of a row or channel is scaled.
      least_capability: compute capability from which NVIDIA GPUs multiply numbers of this format.
    """

    name: str
    dtype: DType
    largest: float
    least_capability: tuple[int, int]

    @property
    def is_integer(self) -> bool:
        """Whether numbers are rounded to integers, and products are sums of int32."""
        return jnp.issubdtype(self.dtype, jnp.integer)


FP8 = Format("fp8", jnp.float8_e4m3fn, 448.0, (8, 9))
"""e4m3: 3 bits of mantissa, so relative errors of at most 1/16 over 15 powers of two."""
INT8 = Format("int8", jnp.int8, 127.0, (8, 0))
"""Errors of at most 1/254 of a row's or a channel's largest number."""

FORMATS = {format.name: format for format in (FP8, INT8)}
UNQUANTIZED = "bf16"
"""The precision of products in the compute dtype, whatever that is."""
PRECISIONS = (UNQUANTIZED, *FORMATS)


def refusal(name: str, target: Target) -> str | None:
    """Why products of format ``name`` do not run on the target, and what does; None if they do."""
    capability, least = target.compute_capability, FORMATS[name].least_capability
    if target.platform == "tpu":
        return None if name == "int8" else "a TPU multiplies int8, not e4m3: take int8 or bf16"
    if capability is None:
        return f"a {target.platform} has no matrix unit for {name}: take bf16"
    if capability >= least:
        return None
    found, needed = (".".join(map(str, version)) for version in (capability, least))
    other = "int8 or bf16" if capability >= INT8.least_capability and name != "int8" else "bf16"
    return (
        f"{name} needs an NVIDIA GPU of compute capability {needed} or more, and this one has "
        f"{found}: take {other}"
    )
