"""The estimate of the light coder's memory against what a compiled program asks for."""

import jax
import numpy as np

from skipsr_jax.models.light_coder import SEEDVR, TINY, LightCoder
from skipsr_jax.models.light_coder.memory import param_bytes, slice_bytes
from skipsr_jax.models.params import abstract, to_dict
from skipsr_jax.models.vae.slices import decode_step


def test_the_estimate_holds_what_decoding_takes():
    """A CPU runs frame by frame and keeps less between convolutions than an accelerator does."""
    coder = abstract(lambda rngs: LightCoder(TINY, rngs=rngs))
    shapes = [
        jax.ShapeDtypeStruct(shape, np.float32)
        for shape in ((1, 1, 24, 24, 16), (1, 1, 192, 192, 3))
    ]
    step = decode_step(coder)
    _, cache = jax.eval_shape(step, to_dict(coder), shapes[0], None, shapes[1])
    frames = jax.ShapeDtypeStruct((1, 4, 192, 192, 3), np.float32)
    compiled = step.lower(to_dict(coder), shapes[0], cache, frames).compile().memory_analysis()
    taken = compiled.temp_size_in_bytes + compiled.argument_size_in_bytes
    assert 0.5 * taken < slice_bytes(coder, 192, 192, 1) < 3 * taken


def test_the_estimate_grows_with_the_slice():
    coder = abstract(lambda rngs: LightCoder(SEEDVR, rngs=rngs))
    one, five = (slice_bytes(coder, 720, 1280, latents) for latents in (1, 5))
    assert 4.5 < (five - param_bytes(coder)) / (one - param_bytes(coder)) < 5.5
