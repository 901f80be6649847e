"""XLA's options for programs with convolutions, which on GPUs are slow without them.

By default XLA's GPU backend lays the operands of rank-5 convolutions out channels first, and
transposes them before and after each one. With ``NHWC`` they stay as they are written, channels
last: the autoencoder is 1.1 to 1.6 times as fast on an H200. ``FUSION`` makes bias and residual sum
part of cuDNN's kernel, and compiles in seconds where the search for kernels takes minutes without
it. Training does without: cuDNN refused the gradients of stage ``vae`` with it, and a step of stage
``coder`` took 2.6 times as long (jax 0.11.2).
"""

import os

from skipsr_jax.kernels.target import current_target

NHWC = "xla_gpu_force_conv_nhwc"
FUSION = "xla_gpu_experimental_enable_conv_fusion"


def convolution_options(fused: bool = True) -> dict[str, bool]:
    """``compiler_options`` of ``jax.jit`` for the current target; none off NVIDIA GPUs.

    ``fused``: with ``FUSION``, for programs of inference. What ``XLA_FLAGS`` says of an option
    holds.
    """
    if current_target().compute_capability is None:
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    return {name: True for name in ((NHWC, FUSION) if fused else (NHWC,)) if name not in flags}
