"""Times of operations are found in a trace, with scope and pass."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.kernel_times import AGAIN, BACKWARD, FORWARD, _scope_and_pass, kernel_rows


def test_a_program_s_time_is_divided_among_its_scopes():
    def loss(w, x):
        with jax.named_scope("big"):
            y = jnp.tanh(x @ w)
        with jax.named_scope("small"):
            return jnp.sum(y[:8] @ w)

    w = jnp.ones((384, 384))
    compiled = jax.jit(jax.grad(loss)).lower(w, w).compile()
    rows = {
        row["scope"]: row
        for row in kernel_rows(compiled, lambda: compiled(w, w), 3, ("big", "small"))
    }
    assert rows["big"][FORWARD] > 0 and rows["big"][BACKWARD] > 0
    assert rows["big"]["total"] > rows["small"]["total"] > 0
    for row in rows.values():
        assert row["total"] == pytest.approx(row[FORWARD] + row[AGAIN] + row[BACKWARD])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("jit(step)/loss_all/jvp(mm_blocks)/while/body/checkpoint/mlp/dot_general",
         ("mlp", FORWARD)),
        ("jit(step)/transpose(jvp(loss_all))/while/body/checkpoint/rematted_computation/mlp/mul",
         ("mlp", AGAIN)),
        ("jit(step)/transpose(jvp(loss_all))/while/body/checkpoint/mlp/dot_general",
         ("mlp", BACKWARD)),
        ("jit(step)/loss_all/jvp(pixels)/add", ("loss_all", FORWARD)),
        ("jit(step)/add", ("unnamed", FORWARD)),
        ("", ("unnamed", FORWARD)),
    ],
)  # fmt: skip
def test_scope_and_pass_of_an_operation(name, expected):
    assert _scope_and_pass(name, ("mlp", "qkv")) == expected
