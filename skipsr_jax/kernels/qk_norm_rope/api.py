"""The public function, and the choice of an implementation."""

import numpy as np
from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.qk_norm_rope import tpu, xla
from skipsr_jax.kernels.qk_norm_rope.problem import QKNormRopeProblem
from skipsr_jax.kernels.target import current_target
from skipsr_jax.types import DType, Float

# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS = {
    "pallas_tpu": Implementation(tpu.supported, tpu.qk_norm_rope),
    "xla": Implementation(everywhere, xla.qk_norm_rope),
}


def qk_norm_rope(
    projected: Float[Array, "b n i"],
    weights: Float[Array, "two p"],
    angles: Float[Array, "#b n pairs"],
    *,
    eps: float,
    dtype: DType,
    shards: int = 1,
) -> Float[Array, "shards b n i_shard"]:
    """Queries and keys normalised and rotated, and values, each shard of the heads as one array.

    Args:
      projected: queries, keys and values of a heads, i = 3 a p.
      weights: of the norms of queries and of keys, float32.
      angles: of the first pairs of neighbouring channels, float32; others are not rotated.
      eps: added to the mean square of a head's channels.
      dtype: of the result; norm and rotation are float32.
      shards: into which the heads are cut, in order; it divides a.

    Returns:
      The queries, keys and values of each shard, 3 (a / shards) p numbers a token.
    """
    head_dim = weights.shape[1]
    heads = projected.shape[2] // (3 * head_dim)
    problem = QKNormRopeProblem(heads, head_dim, shards, eps, np.dtype(dtype))
    name, refused = first_supported(IMPLEMENTATIONS, problem, current_target())
    log_choice("norm and rotation of queries and keys run on", name, refused)
    return IMPLEMENTATIONS[name].run(projected, weights, angles, problem)
