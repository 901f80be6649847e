"""Answers are looked at in order and as many as are asked for; a bad one names the model."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.inference.finite_check import FiniteCheck, check_logits


def test_only_the_slices_that_are_needed_are_looked_at():
    check = FiniteCheck("models/m", jnp.float16)
    for finite in (True, True, False):
        check.ask(jnp.array(finite))
    assert check.asked == 3
    check.require(0)
    check.require(2)
    check.require(1)
    with pytest.raises(UserError, match=r"models/m: the frames are not finite .* float16"):
        check.require(3)


def test_logits_name_the_checkpoint_of_the_predictor():
    check_logits(np.zeros((1, 2, 3), np.float32), "models/p", jnp.float32)
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match="models/p: the logits of the mask predictor are not"):
            check_logits(np.full((1, 2, 3), value, np.float32), "models/p", jnp.float32)
