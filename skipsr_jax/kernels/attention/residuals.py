"""The name under which rematerialisation policies find what attention stores for its gradient."""

from jax import Array
from jax.ad_checkpoint import checkpoint_name

RESIDUALS = "attention_residuals"
"""Name of the output and of the softmax's statistics (log-sum-exp) of attention kernels."""


def named_residuals(out: Array, statistics: Array) -> tuple[Array, Array]:
    """Both arrays under ``RESIDUALS``.

    The forward rule of each kernel has to return these as its result and among its residuals. Where
    a policy stores them, the backward pass does not run the forward kernel again.
    """
    return checkpoint_name(out, RESIDUALS), checkpoint_name(statistics, RESIDUALS)
