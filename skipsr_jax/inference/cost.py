"""What the networks computed, in floating-point operations, and what dense ones would have.

Counted as ``models.flops`` counts. A program's operations are counted from its trace, which running
it makes anyway, once per shape.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from skipsr_jax.geometry import PATCH_PIXELS, TIME_FACTOR
from skipsr_jax.inference.model import Model
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.flops import dit_flops, traced_flops, vae_flops
from skipsr_jax.tokens.plan import TokenPlan, build_plan, required_bucket

NETWORKS = ("encode", "refine", "decode")


class Counted:
    """A compiled function that adds its operations to ``counters`` under ``name`` at each call."""

    def __init__(self, name: str, program: Callable[..., Any], *counters: Counter):
        self._name, self._program, self._counters = name, program, counters
        self._flops: dict[Any, float] = {}

    def __call__(self, *arguments: Any) -> Any:
        leaves, kind = jax.tree.flatten(arguments)
        key = (kind, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self._flops:
            self._flops[key] = traced_flops(self._program, *arguments)
        for counter in self._counters:
            counter[self._name] += self._flops[key]
        return self._program(*arguments)


def refine_flops(config: DiTConfig, plans: Sequence[TokenPlan], steps: int) -> float:
    """Of ``steps`` steps of the transformer, each on all of the plans."""
    return steps * sum(dit_flops(config, plan).total for plan in plans)


def dense_flops(
    name: str, model: Model, grid: tuple[int, int, int], steps: int, texts: Sequence[int]
) -> float:
    """Of one dense network on a chunk of ``grid`` tokens (latent frames, rows, columns).

    ``texts``: the lengths of the prompts that the transformer runs with, ``steps`` times.
    """
    if name == "refine":
        keep = np.ones(grid, bool)
        plans = [build_plan([keep], [length], required_bucket([keep])) for length in texts]
        return refine_flops(model.dit.config, plans, steps)
    frames, height, width = grid[0], PATCH_PIXELS * grid[1], PATCH_PIXELS * grid[2]
    size = (1, TIME_FACTOR * (frames - 1) + 1, height, width)
    return vae_flops(model.vae, size)[0 if name == "encode" else 1]


def work_line(done: Counter, dense: Counter) -> str:
    """What ran of what dense networks would have run, in 10^12 operations, network by network."""
    parts = [
        f"{name} {done[name] / 1e12:.3g} of {dense[name] / 1e12:.3g}"
        for name in NETWORKS
        if dense[name]
    ]
    saved = 1 - sum(done.values()) / max(sum(dense.values()), 1)
    return f"{', '.join(parts)}; {100 * saved:.1f} % saved"
