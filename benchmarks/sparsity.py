"""Measures how much faster skipping is, by where the mask acts (the paper's figure 5a), in one run.

    python -m benchmarks.masks --clip=clip720.mp4 --out=real.npy
    python -m benchmarks.sparsity --masks=0.277,0.396,0.448,real.npy --out=sparsity.json
    python -m benchmarks.sparsity --model=tiny --frames=5 --height=64 --width=96 --masks=0.4 \\
        --dtype=float32 --dense_every=2

Each mask is a skipped fraction, for a mask of blobs over --frames x --height x --width, or an .npy
file (t, r, q) that is True where a patch runs. Parameters are random; it runs one sampling step on
one device. A time is the median of calls that are each waited for. The rows:

  around          what the project does: skipped tokens are in no computation
  around, all     the same with everything around the transformer: predictor, its mask on the host,
                  token plan, gather and composing (skipsr_jax.inference.programs); "dense, all" is
                  its baseline, which needs no predictor
  attention       all tokens run; skipped ones are neither queries nor keys in attention
  queries         all tokens run; skipped ones are keys but not queries in attention
  dense in n      around the transformer, but each n-th layer runs on all tokens

``faster`` is the ratio to the dense call on the same grid ("all" to "all"). The predictor's mask is
computed and copied to the host, and then the mask of the row is used in its place. "dense in n"
leaves out the output projection, which is one layer.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array

from benchmarks import sparse_plans
from benchmarks.masks import blob_mask, load_mask
from benchmarks.measure import device_facts, format_table, median_seconds, run_program, write_json
from benchmarks.models import (
    TEXT_TOKENS,
    abstract_dit,
    abstract_vae,
    first_device,
    plan_for,
    random_inputs,
    random_parameters,
)
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import token_grid
from skipsr_jax.inference import masks
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.programs import Programs, velocity_step
from skipsr_jax.inference.settings import Sampler
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.predictor import PAPER, make_predictor
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.models.vae import SEEDVR
from skipsr_jax.tokens.patches import join_channels
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import DTYPES, Bool, HostArray

ONE_STEP = Sampler(steps=1, guidance=1.0, rescale=0.0, condition_noise=0.0)
HALF = 0.5
"""Patches of at least this probability run in the predictor's mask."""


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "The transformer."
    flags.DEFINE_enum("model", "seedvr2_3b", sorted(DIT_PRESETS), text, flag_values=values)
    flags.DEFINE_integer("frames", 101, "Frames of the clip of blobs.", flag_values=values)
    flags.DEFINE_integer("height", 720, "Its height in pixels.", flag_values=values)
    flags.DEFINE_integer("width", 1280, "Its width in pixels.", flag_values=values)
    text = "Skipped fractions for masks of blobs, and .npy files."
    flags.DEFINE_list("masks", ["0.277", "0.396", "0.448"], text, flag_values=values)
    text = "For each of these n: each n-th layer runs on all tokens."
    flags.DEFINE_list("dense_every", ["4"], text, flag_values=values)
    text = "Rows to measure besides the dense ones."
    kinds = ["around", "all", "attention", "queries", "interspersed"]
    flags.DEFINE_list("rows", kinds, text, flag_values=values)
    flags.DEFINE_integer("repeats", 5, "Timed calls of each.", flag_values=values)
    flags.DEFINE_enum(
        "dtype", "bfloat16", DTYPES, "Of parameters and products.", flag_values=values
    )
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def read_mask(text: str, grid: tuple[int, int, int]) -> Bool[HostArray, "t r q"]:
    """A keep mask of blobs over ``grid`` if ``text`` is a number, else the one in the .npy file.

    Raises UserError if it is neither, or keeps nothing.
    """
    if not text.endswith(".npy"):
        try:
            return blob_mask(grid, float(text))
        except ValueError as error:
            raise UserError(
                f"--masks: {text!r} is neither a fraction from 0 to 1 nor an .npy file"
            ) from error
    keep = load_mask(text)
    if not keep.any():
        raise UserError(f"--masks: {text} keeps no patch: it must be True where one runs")
    return keep


class Variants:
    """The programs that are compared, with one set of random parameters."""

    def __init__(self, values: flags.FlagValues):
        self._config, self._dtype = DIT_PRESETS[values.model], jnp.dtype(values.dtype)
        self._mesh = first_device()
        self._dit = abstract_dit(self._config, self._dtype)
        self._params = random_parameters(self._dit, self._mesh)
        self._repeats = values.repeats
        predictor = abstract(
            lambda rngs: make_predictor(
                PAPER, rngs=rngs, dtype=self._dtype, param_dtype=self._dtype
            )
        )
        text = jax.random.normal(jax.random.key(2), (TEXT_TOKENS, self._config.text_width))
        vae = abstract_vae(SEEDVR, jnp.float32)
        params = {
            "coder": to_dict(vae),  # shapes: nothing is encoded or decoded
            "dit": self._params,
            "predictor": random_parameters(predictor, self._mesh),
            "text": {"positive": text.astype(self._dtype)},
        }
        self._programs = Programs(Model("random numbers", vae, self._dit, predictor, params))

    def _inputs(self, plan: TokenPlan) -> tuple[Any, ...]:
        return random_inputs(self._config, plan, self._dtype)

    def _timed(self, step: Callable[..., Array], params: Params, inputs: tuple[Any, ...]) -> float:
        on_device = jax.device_put(inputs)
        return median_seconds(lambda: step(params, *on_device), self._repeats)

    def call(self, plan: TokenPlan, attention: str | None = None) -> float:
        """Measures one call of the transformer on a plan, in seconds."""
        dit = self._dit
        if attention is not None:
            dit = abstract_dit(self._config, self._dtype, attention)
        return self._timed(velocity_step(dit), self._params, self._inputs(plan))

    def interspersed(self, keep: Bool[HostArray, "t r q"], every: int) -> float:
        """Measures one call with each ``every``-th layer on all tokens, in seconds."""
        body = abstract(
            lambda rngs: sparse_plans.Interspersed(
                self._config, every, rngs=rngs, dtype=self._dtype
            )
        )

        @jax.jit
        def step(params, noisy, conditions, text, timestep, plan):
            timesteps = jnp.broadcast_to(timestep, plan.everything.text_length.shape)
            patches = join_channels(noisy, conditions)
            return bind(body, params).hidden(patches, text, timesteps, plan)[0][-1]

        params = random_parameters(body, self._mesh)
        routed = sparse_plans.routed(keep)
        return self._timed(step, params, (*self._inputs(routed.everything)[:-1], routed))

    def whole(self, keep: Bool[HostArray, "t r q"], predict: bool) -> tuple[float, dict[str, Any]]:
        """Measures the computation from the input's latent to the composited one.

        Returns its seconds, and those of the predictor and of making the plan.
        """
        t, r, q = keep.shape
        shape = (1, t, 2 * r, 2 * q, SEEDVR.latent_channels)
        latent, noise = (jax.random.normal(jax.random.key(i), shape) for i in range(2))

        def mask() -> HostArray:
            logits = np.asarray(self._programs.latent_logits(latent), np.float32)[0]
            return masks.from_logits(logits, HALF)

        def run() -> Array:
            if predict:
                mask()
            return self._programs.refine(latent, keep, noise, ONE_STEP)[0]

        seconds = median_seconds(run, self._repeats)
        parts = {}
        if predict:
            parts["predictor_seconds"] = median_seconds(mask, self._repeats)
            began = time.perf_counter()
            plan_for(keep)
            parts["plan_seconds"] = time.perf_counter() - began
        return seconds, parts


def rows_of(
    name: str, keep: Any, dense: dict[str, float], variants: Variants, values: Any
) -> Iterator:
    """Yields the rows of one mask; ``dense``: seconds of "dense" and "dense, all" on its grid."""
    skipped = 100 * (1 - keep.mean())

    def row(variant: str, seconds: float, base: str = "dense", **more: Any) -> dict[str, Any]:
        start = {
            "mask": name,
            "skipped_percent": float(skipped),
            "variant": variant,
            "seconds": seconds,
        }
        return start | {"faster": dense[base] / seconds, **more}

    if "around" in values.rows:
        yield row("around", variants.call(plan_for(keep)))
    if "all" in values.rows:
        seconds, parts = variants.whole(keep, predict=True)
        yield row("around, all", seconds, "dense, all", **parts)
    if "attention" in values.rows:
        yield row("attention", variants.call(sparse_plans.attention_masked(keep)))
    if "queries" in values.rows:
        plan = sparse_plans.queries_masked(keep)
        yield row("queries", variants.call(plan, sparse_plans.KEPT_QUERIES))
    for every in map(int, values.dense_every) if "interspersed" in values.rows else ():
        yield row(f"dense in {every}", variants.interspersed(keep, every))


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    grid = token_grid(values.frames, values.height, values.width)
    masks_by_name = {text: read_mask(text, grid) for text in values.masks}
    sparse_plans.offer_kept_queries()
    variants, facts = Variants(values), device_facts() | {"model": values.model}
    dense: dict[tuple[int, ...], dict[str, float]] = {}
    rows: list[dict[str, Any]] = []

    def note(row: dict[str, Any]) -> None:
        rows.append(row)
        print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if values.out:
            write_json(values.out, facts | {"argv": list(argv)[1:], "rows": rows})

    for name, keep in masks_by_name.items():
        if keep.shape not in dense:
            everything = np.ones_like(keep)
            found = {"dense": variants.call(plan_for(everything))}
            if "all" in values.rows:
                found["dense, all"] = variants.whole(everything, predict=False)[0]
            dense[keep.shape] = found
            for variant, seconds in found.items():
                clip = "x".join(map(str, keep.shape))
                note({"mask": f"{clip} tokens", "skipped_percent": 0.0, "variant": variant,
                      "seconds": seconds, "faster": 1.0})  # fmt: skip
        for row in rows_of(name, keep, dense[keep.shape], variants, values):
            note(row)
    columns = ["mask", "skipped_percent", "variant", "seconds", "faster"]
    print(format_table(rows, columns))
    return 0


if __name__ == "__main__":
    run_program("sparsity", main)
