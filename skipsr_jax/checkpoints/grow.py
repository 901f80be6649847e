"""Writes a larger model that computes what a smaller one does, for its training to begin from.

    python -m skipsr_jax.checkpoints.grow --model=checkpoints/tiny --to=small --out=runs/start
    python train.py --config=small_sr --workdir=runs/sr --config.init_from=runs/start

The light coder gets more channels and blocks, the transformer more blocks (``models.growth``), as
the named size has them; the text embeddings stay. Stages ``sr``, ``coder`` and those after them
take the result as ``init_from``, and infer.py as ``config.checkpoint``. The autoencoder and the
mask predictor are not part of it.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from flax import nnx

from skipsr_jax.checkpoints import store
from skipsr_jax.checkpoints.model_card import model_card
from skipsr_jax.commandline import parse_flags, print_result
from skipsr_jax.config import to_json
from skipsr_jax.errors import UserError
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.growth import deeper, larger_light_coder
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.params import Params, to_dict
from skipsr_jax.models.presets import DIT_PRESETS, LIGHT_CODER_PRESETS

_GROWN: dict[str, tuple[dict[str, Any], Callable[..., nnx.Module], Callable[..., Params]]] = {
    "dit": (DIT_PRESETS, DiT, deeper),
    "light_coder": (LIGHT_CODER_PRESETS, LightCoder, larger_light_coder),
}


def grow(model: str, size: str, out: str, seed: int = 0) -> dict[str, Any]:
    """Writes the checkpoint ``out`` and returns its config.

    Args:
      model: a model checkpoint.
      size: the size to grow to, a name of ``models.presets``.
      out: a folder that does not exist yet.
      seed: of what is new.

    Raises UserError when the model has neither part, when one does not fit into the size, and when
    ``out`` exists.
    """
    of_model, params = store.load_config(model), {}
    config: dict[str, Any] = {"exported": {}}
    for part, (presets, network, larger) in _GROWN.items():
        if part not in of_model:
            continue
        kept = store.restore_host(model, (part,))[part]
        fresh = to_dict(network(presets[size], rngs=nnx.Rngs(seed)))
        try:
            params[part] = larger(kept, fresh)
        except ValueError as error:
            raise UserError(f"{model}: its {part} does not grow to {size}: {error}") from error
        config[part] = to_json(presets[size])
        origin = {"run": str(model), "step": 0, "branch": "params"}
        config["exported"][part] = of_model.get("exported", {}).get(part, origin)
    if not params:
        raise UserError(f"{model}: holds neither a transformer nor a light coder")
    if "text" in store.stored_shapes(store.step_folder(model)):
        params["text"] = store.restore_host(model, ("text",))["text"]
    card = model_card(store.absolute(out).name, params, config)
    store.save_model(out, params, config, card=card)
    return config


def run(argv: Sequence[str]) -> str:
    """The command line; returns what to print. ``argv`` starts with the program's name."""
    values = flags.FlagValues()
    flags.DEFINE_string("model", None, "The model checkpoint to grow.", flag_values=values)
    text = "The size to grow to."
    flags.DEFINE_enum("to", "small", sorted(DIT_PRESETS), text, flag_values=values)
    flags.DEFINE_string("out", None, "The folder to write; must not exist.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of what is new.", 0, flag_values=values)
    parse_flags(argv, values, __doc__, "model")
    if not values.model or not values.out:
        raise UserError("--model and --out are both needed: what to grow, and the folder to write")
    config = grow(values.model, values.to, values.out, values.seed)
    return f"{values.out}: wrote {', '.join(part for part in _GROWN if part in config)}"


def main(argv: Sequence[str]) -> int:
    """``run`` with errors as one line and exit status 1. Stays off accelerators."""
    jax.config.update("jax_platforms", "cpu")
    return print_result(run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
