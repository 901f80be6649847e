"""From the workdirs of the stages to one model checkpoint that infer.py reads.

    python -m skipsr_jax.training.export --vae=/tmp/tiny/vae --predictor=/tmp/tiny/predictor \\
        --sr=/tmp/tiny/sr --out=checkpoints/tiny

Averaged parameters are taken where a run has them. Each part is stored in ``--dtype``; rotary
frequencies keep theirs. Invariant: a part's config travels with its parameters.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError
from skipsr_jax.nn.params import Params, count, flatten, unflatten
from skipsr_jax.tokens.criterion import TAU
from skipsr_jax.training.frozen import best_branch

PARTS = {"vae": ("vae",), "predictor": ("predictor",), "sr": ("dit", "text")}
"""What each stage's checkpoint gives to the model."""
DTYPES = ("bfloat16", "float32")


def _cast(params: Params, dtype: Any) -> Params:
    return unflatten(
        {
            path: value if path.rsplit("/", 1)[-1] in store.NEVER_CAST else value.astype(dtype)
            for path, value in flatten(params).items()
        }
    )


def export(sources: dict[str, str], out: str, dtype: str) -> int:
    """Writes the model checkpoint ``out`` and returns its number of parameters.

    ``sources``: stage -> workdir or checkpoint; stages may be left out. Raises UserError when a
    source cannot be read or ``out`` exists.
    """
    if dtype not in DTYPES:
        raise UserError(f"--dtype is {dtype!r}: it must be one of {', '.join(DTYPES)}")
    if not sources:
        raise UserError("nothing to export: name --vae, --predictor or --sr")
    params: Params = {}
    config: dict[str, Any] = {"tau": TAU, "trained": {}}
    for stage, path in sources.items():
        parts = PARTS[stage]
        params |= store.restore_host(path, only=parts, branch=best_branch(path))
        stored = store.load_config(path)
        config |= {name: stored[name] for name in parts if name in stored}
        config["trained"][stage] = {
            "step": int(store.step_folder(path).name),
            "seconds": round(stored.get("elapsed_seconds", 0.0)),
        }
    store.save_model(out, _cast(params, np.dtype(dtype)), config)
    return count(params)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 1 after one line that says what is wrong."""
    values = flags.FlagValues()
    for stage in PARTS:
        text = f"Workdir of stage {stage}."
        flags.DEFINE_string(stage, None, text, flag_values=values)
    flags.DEFINE_string("out", None, "Folder of the model checkpoint, new.", flag_values=values)
    flags.DEFINE_string("dtype", DTYPES[0], "Stored type of parameters.", flag_values=values)
    try:
        values(list(argv))
        if not values.out:
            raise UserError("--out is missing: name the folder of the model checkpoint")
        sources = {stage: values[stage].value for stage in PARTS if values[stage].value}
        total = export(sources, values.out, values.dtype)
    except (UserError, flags.Error) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    print(f"{values.out}: {total:,} parameters of {', '.join(sources)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
