"""Merges the checkpoints of training stages into one model checkpoint, which infer.py reads.

    python -m skipsr_jax.checkpoints.export --vae=runs/vae --dit=runs/sr \\
        --predictor=runs/predictor --out=checkpoints/mine --dtype=bfloat16 --ema --precision=fp8
    python -m skipsr_jax.checkpoints.export --model=checkpoints/mine --light_coder=runs/coder \\
        --out=checkpoints/light --dtype=bfloat16 --ema
    python -m skipsr_jax.checkpoints.export --model=checkpoints/mine --adapter=runs/lora --ema \\
        --out=checkpoints/tuned
    python -m skipsr_jax.checkpoints.export --adapter=runs/lora --ema --out=checkpoints/lora
    python -m skipsr_jax.checkpoints.export --dit=runs/faithful --light_coder=runs/faithful \\
        --sharp=runs/sharp --out=checkpoints/two --dtype=bfloat16 --ema

Each network comes from the last step of its own run, and what has no run from --model. The text
embeddings come from the transformer's run, or from --positive / --negative. With --precision the
kernels of the transformer's blocks are quantised, which halves the checkpoint, for inference alone.
An adapter (LoRA) is merged into the transformer; without one it is written alone, in float32. The
model card README.md says what the checkpoint holds.
--sharp adds a second run's weights as changes, between which ``config.sharpness`` of inference
chooses; --sharpness makes one set of weights of both.
Invariant: the config describes exactly what is in the checkpoint, and ``exported`` says which run
and step each part comes from.
"""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from skipsr_jax.checkpoints import adapter as adapters
from skipsr_jax.checkpoints import store
from skipsr_jax.checkpoints.convert import TEXT_FILES, read_text
from skipsr_jax.checkpoints.lazy import dtype_named
from skipsr_jax.checkpoints.model_card import model_card
from skipsr_jax.commandline import parse_flags, print_result
from skipsr_jax.config import from_json
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.quantized import FORMATS
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import (
    Params,
    abstract,
    flatten,
    shape_mismatches,
    to_dict,
    unflatten,
)
from skipsr_jax.models.quantized_params import quantize_params
from skipsr_jax.models.sharpness import changes, sharpened

PARTS = ("dit", "vae", "light_coder", "predictor")
_DTYPES = ("float32", "bfloat16", "float16")

# The threshold of Eq. 1 comes from the first of these runs whose config has one.
_TAU_FROM = ("predictor", "dit")

_SHARPENED = ("dit", "light_coder", "text")
"""Parts that a second run may change."""


def _cast(params: Params, dtype: np.dtype | None) -> Params:
    def one(path: str, array: np.ndarray) -> np.ndarray:
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        floating &= array.dtype.itemsize > 1  # quantised kernels stay as they are
        keep = dtype is None or not floating or path.rsplit("/", 1)[-1] in store.NEVER_CAST
        return array if keep else array.astype(dtype)

    return unflatten({path: one(path, array) for path, array in flatten(params).items()})


def _with_precision(
    params: Params, config: dict[str, Any], precision: str | None, found: store.PathLike
) -> tuple[Params, str | None]:
    """A transformer's parameters with kernels of ``precision``, and the name of what they are."""
    stored = config.get("precision")
    if precision in (None, stored):
        return params, stored
    if stored is not None:
        raise UserError(f"{found}: its kernels are {stored} already: leave out --precision")
    format, sizes = FORMATS[precision], from_json(DiTConfig, config["dit"], str(found))
    shapes = to_dict(abstract(lambda rngs: DiT(sizes, rngs=rngs, format=format)))
    return jax.tree.map(np.asarray, quantize_params(params, shapes, format)), precision


def merge(
    out: str,
    runs: dict[str, str],
    *,
    model: str | None = None,
    adapter: str | None = None,
    texts: dict[str, str] | None = None,
    dtype: str | None = None,
    ema: bool = False,
    precision: str | None = None,
    sharp: str | None = None,
    sharpness: float | None = None,
) -> dict[str, Any]:
    """Writes the model checkpoint ``out`` and returns its config.

    Args:
      out: a folder that does not exist yet.
      runs: {"dit", "vae", "light_coder", "predictor": a workdir, step folder or model folder}, or
        fewer.
      model: a model folder that gives the parts without a run, with what its config says of them.
      adapter: a workdir or checkpoint of an adapter, which is merged into the transformer.
      texts: {"positive", "negative": a .pt file}; they replace the run's own.
      dtype: of floating numbers (rope_freqs aside); None keeps the stored ones.
      precision: of the transformer's kernels: fp8 or int8, which infer.py then takes as they are;
        None: as stored.
      ema: take the averaged weights of every run that has them; at least one run must.
      sharp: the workdir or model folder of a second, sharper set of weights, which is added as
        changes; None: those of ``model``, if it has any.
      sharpness: 0 to 1: write one set of weights, so far between both; None: write both.

    Raises:
      UserError: a run has no complete checkpoint or lacks the network, no run has averaged
        weights although ``ema`` asks for them, kernels are quantised in another format, the
        adapter is for another transformer or there is none, or ``out`` exists.
    """
    params: Params = {}
    config: dict[str, Any] = {"exported": {}}
    of_model = store.load_config(model) if model else {}
    runs = {part: model for part in PARTS if part in of_model} | runs
    target = None if dtype is None else dtype_named(dtype)
    taus = {}
    all_runs = runs | ({adapters.PART: adapter} if adapter else {})
    branches = {part: store.best_branch(run) if ema else "params" for part, run in all_runs.items()}
    if ema and "ema" not in branches.values():
        named = ", ".join(all_runs.values())
        raise UserError(f"none of {named} has averaged weights: leave out --ema")
    merging = None
    if adapter:
        merging = adapters.read_adapter(adapter, branches[adapters.PART])
        if "dit" not in runs:
            raise UserError(f"{adapter}: to merge it, give its transformer as --dit or --model")
    for part, run in runs.items():
        found, branch = store.step_folder(run), branches[part]
        its_config = store.load_config(found)
        if part not in its_config:
            raise UserError(f"{found}: its config has no {part!r}")
        read = store.restore_host(found, (part,), branch=branch)[part]
        if part == "dit":
            if merging is not None:
                merging.check(from_json(DiTConfig, its_config["dit"], str(found)), found)
                read = merging.merged(read)
                config["exported"][adapters.PART] = _origin(merging)
            read, name = _with_precision(read, its_config, precision, found)
            config |= {} if name is None else {"precision": name}
        params[part] = _cast(read, target)
        config[part] = its_config[part]
        origin = {"run": str(run), "step": int(found.name), "branch": branch}
        if run == model:
            origin = of_model.get("exported", {}).get(part, origin)
            if target is None and part in of_model.get("mixed_dtypes", {}):
                config.setdefault("mixed_dtypes", {})[part] = of_model["mixed_dtypes"][part]
        config["exported"][part] = origin
        if "tau" in its_config:
            taus[part] = its_config["tau"]
        if part == "dit" and "text" in store.stored_shapes(found):
            params["text"] = store.restore_host(found, ("text",))["text"]
    text = {name: read_text(path) for name, path in (texts or {}).items()}
    if text or "text" in params:
        params["text"] = _cast(params.get("text", {}) | text, target)
    moved = _changes(params, runs, model, sharp, ema)
    if moved and config.get("precision"):
        raise UserError(
            "sharper weights are changes of unquantised kernels: leave out --precision, or first "
            "write one set of weights with --sharpness"
        )
    if sharpness is not None:
        params, moved = _between(params, moved, sharpness), {}
        config["sharpness"] = sharpness
    if moved:
        params["sharp"] = moved
        config["sharp"] = sorted(moved["change"])
    known = [taus[part] for part in _TAU_FROM if part in taus]
    if known:
        config["tau"] = known[0]
    store.save_model(out, params, config, card=model_card(_name(out), params, config))
    return config


def _name(out: str) -> str:
    return store.absolute(out).name


def _origin(adapter: adapters.StoredAdapter) -> dict[str, Any]:
    return {"run": adapter.source, "step": adapter.step, "branch": adapter.branch}


def write_adapter(out: str, run: str, ema: bool = False) -> dict[str, Any]:
    """Writes the adapter of a run alone, in float32, and returns its config.

    ``ema``: take its average. Raises UserError as ``merge``.
    """
    branch = store.best_branch(run) if ema else "params"
    if ema and branch != "ema":
        raise UserError(f"{run} has no averaged weights: leave out --ema")
    found = adapters.read_adapter(run, branch)
    config = found.config | {"exported": {adapters.PART: _origin(found)}}
    params = {adapters.PART: found.params}
    store.save_model(out, params, config, card=model_card(_name(out), params, config))
    return config


def _changes(
    params: Params, runs: dict[str, str], model: str | None, sharp: str | None, ema: bool
) -> Params:
    """The changes from ``params`` to the weights of ``sharp``, or those of ``model``; {}: none."""
    if sharp is None:
        if model is None or "sharp" not in store.stored_shapes(model):
            return {}
        moved = store.restore_host(model, ("sharp",))["sharp"]
        replaced = [part for part in moved["change"] if runs.get(part, model) != model]
        if replaced:
            raise UserError(
                f"{model}: has sharper weights as changes of its {', '.join(replaced)}, which "
                "another run replaces: name the run that sharpens that as --sharp"
            )
        return moved
    found = store.step_folder(sharp)
    branch = store.best_branch(found) if ema else "params"
    stored = store.stored_shapes(found)
    parts = [part for part in _SHARPENED if part in params and part in stored]
    if not set(parts) - {"text"}:
        raise UserError(f"{found}: has no part of {', '.join(sorted(params))} that can be sharper")
    before, after = {}, {}
    for part in parts:
        of_text = part == "text"  # as above: the texts as they are, not their averages
        read = store.restore_host(found, (part,), branch="params" if of_text else branch)
        before[part], after[part] = params[part], read[part]
    wrong = shape_mismatches(flatten(before), flatten(after))
    if wrong:
        raise UserError(f"{found}: its weights do not fit, {len(wrong)} differ: {wrong[0]}")
    return changes(before, after)


def _between(params: Params, moved: Params, sharpness: float) -> Params:
    if not moved:
        raise UserError("--sharpness is between two sets of weights: name the sharper one: --sharp")
    if not 0 <= sharpness <= 1:
        raise UserError(f"--sharpness is {sharpness}; it must be from 0 to 1")
    parts = {part: params[part] for part in moved["change"]}
    made = sharpened(parts, moved["change"], moved["scale"], sharpness)
    return params | jax.tree.map(np.asarray, made)


def _flags() -> flags.FlagValues:
    values = flags.FlagValues()

    def define(name: str, text: str) -> None:
        flags.DEFINE_string(name, None, text, flag_values=values)

    for part in PARTS:
        define(part, f"Workdir of the run that trained the {part}.")
    define(adapters.PART, "Adapter (LoRA) to merge into the transformer, or to write alone.")
    define("model", "Model checkpoint that gives the parts without a run.")
    for name, file in TEXT_FILES.items():
        define(name, f"Embedding of the {name} text, .pt ({file}).")
    define("out", "The folder to write; must not exist.")
    define("sharp", "Workdir or model of a second, sharper set of weights, added as changes.")
    text = "0 to 1: write one set of weights, between both; default: write both."
    flags.DEFINE_float("sharpness", None, text, flag_values=values)
    flags.DEFINE_enum(
        "dtype", None, _DTYPES, "Of floating numbers; default: as stored.", flag_values=values
    )
    text = "Of the transformer's kernels: quantised for inference; default: as stored."
    flags.DEFINE_enum("precision", None, list(FORMATS), text, flag_values=values)
    flags.DEFINE_bool("ema", False, "Take the averaged weights.", flag_values=values)
    return values


def run(argv: Sequence[str]) -> str:
    """The command line; returns what to print. ``argv`` starts with the program's name."""
    values = parse_flags(argv, _flags(), __doc__, "dit")
    runs = {part: values[part].value for part in PARTS if values[part].value}
    texts = {name: values[name].value for name in TEXT_FILES if values[name].value}
    baking = values.model and values.sharpness is not None
    if not values.out or not (runs or values.adapter or baking):
        flag_names = ", ".join(f"--{part}" for part in (*PARTS, adapters.PART))
        raise UserError(f"give --out and at least one of {flag_names}")
    names = ("model", "dtype", "precision", "sharp", "sharpness")
    others = {name: values[name].value for name in names}
    if runs or texts or any(others.values()):
        config = merge(
            values.out, runs, adapter=values.adapter, texts=texts, ema=values.ema, **others
        )
    else:
        config = write_adapter(values.out, values.adapter, values.ema)
    parts = [f"{part} of step {origin.get('step')}" for part, origin in config["exported"].items()]
    parts += [f"sharper weights of {', '.join(config['sharp'])}"] if "sharp" in config else []
    return f"{values.out}: wrote {', '.join(parts)}"


def main(argv: Sequence[str]) -> int:
    """``run`` with errors as one line and exit status 1. Stays off accelerators."""
    jax.config.update("jax_platforms", "cpu")
    return print_result(run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
