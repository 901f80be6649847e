"""The runs of ``benchmarks.attention``: our implementations and torch's varlen attention."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.kernels.attention import varlen_attention


def differentiated(run: Callable) -> Callable:
    """A jitted (q, k, v, gradient of the output, cu_seqlens) -> output and gradients of q, k, v."""

    @jax.jit
    def both(q: Array, k: Array, v: Array, d_out: Array, cu: Array) -> tuple[Array, ...]:
        scale = q.shape[-1] ** -0.5
        out, pull = jax.vjp(lambda *x: run(*x, cu, scale=scale), q, k, v)
        return out, *pull(d_out)

    return both


def outer_heads(x: Any) -> Any:
    """The first and the last head of (b, s, a, p)."""
    return x[:, :, :: max(1, x.shape[2] - 1)]


@dataclasses.dataclass(frozen=True)
class Runs:
    """The programs of one implementation, with their inputs bound.

    Attributes:
      forward: starts a forward pass and returns its result, which may not be ready.
      both: the same for forward with backward.
      wait: waits for a result of these.
      results: the outer heads of output and gradients, as numpy arrays.
    """

    forward: Callable[[], Any]
    both: Callable[[], Any]
    wait: Callable[[Any], Any]
    results: Callable[[], list[np.ndarray]]

    def queued(self, run: Callable[[], Any], calls: int) -> None:
        """Calls ``run`` ``calls`` times and waits for the last result; drops the others."""
        for _ in range(calls):
            result = run()
        self.wait(result)


def jax_programs(name: str, inputs: tuple[Array, ...]) -> tuple[jax.stages.Lowered, ...]:
    """Lowers the forward pass, and forward with backward, of an implementation."""
    q, k, v, _, cu = inputs
    run = functools.partial(varlen_attention, implementation=name)
    forward = jax.jit(functools.partial(run, scale=q.shape[-1] ** -0.5))
    return forward.lower(q, k, v, cu), differentiated(run).lower(*inputs)


def jax_runs(programs: Sequence[jax.stages.Compiled], inputs: tuple[Array, ...]) -> Runs:
    """The runs of the two programs of `jax_programs`, compiled."""
    q, k, v, _, cu = inputs
    forward, both = programs

    def results() -> list[np.ndarray]:
        return [np.asarray(outer_heads(x)[0]) for x in both(*inputs)]

    wait = jax.block_until_ready
    return Runs(lambda: forward(q, k, v, cu), lambda: both(*inputs), wait, results)


def torch_runs(inputs: tuple[Array, ...], longest: int) -> Runs | None:
    """The runs of torch's varlen attention; None without torch or CUDA, or if not in bfloat16."""
    try:
        import torch
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if not torch.cuda.is_available() or inputs[0].dtype != jnp.bfloat16:
        return None

    def move(x: Array) -> Any:
        return torch.from_numpy(np.asarray(x[0], np.float32)).to("cuda", torch.bfloat16)

    q, k, v = (move(x).requires_grad_() for x in inputs[:3])
    d_out = move(inputs[3])
    cu = torch.from_numpy(np.array(inputs[4][0])).to("cuda")

    def forward() -> Any:
        with torch.no_grad():
            return varlen_attn(q, k, v, cu, cu, longest, longest)

    def both() -> Any:
        q.grad = k.grad = v.grad = None
        out = varlen_attn(q, k, v, cu, cu, longest, longest)
        out.backward(d_out)
        return out

    def wait(result: Any) -> None:
        del result
        torch.cuda.synchronize()

    def results() -> list[np.ndarray]:
        found = (both().detach(), q.grad, k.grad, v.grad)
        return [outer_heads(x[None])[0].float().cpu().numpy() for x in found]

    return Runs(forward, both, wait, results)
