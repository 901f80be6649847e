"""The model card of an exported checkpoint: its README.md, in the form that model hubs read.

It says what the checkpoint's config and arrays say: parts, sizes, dtypes, origins, how to run it.
It claims no quality, because export measures none.
"""

from typing import Any

import jax

from skipsr_jax.models.params import Params, count

_NAMES = {
    "dit": "diffusion transformer",
    "vae": "autoencoder",
    "light_coder": "light coder",
    "predictor": "mask predictor",
    "text": "text embeddings",
    "adapter": "adapter (LoRA) of a diffusion transformer",
}
_HEAD = """---
license: apache-2.0
library_name: skipsr_jax
pipeline_tag: video-to-video
tags: [video-super-resolution, jax, skipsr]
---

# {name}

{what} of skipsr_jax: video super-resolution that computes only the patches that need it, on the
networks of SeedVR and SeedVR2. This page was written by `skipsr-export`; add what the model was
trained on, what it is for, and how good it is. The weights keep the licence of the weights and the
data that they come from.

| part | parameters | stored as | from |
|---|---|---|---|
"""


def model_card(name: str, params: Params, config: dict[str, Any]) -> str:
    """The card in Markdown.

    Args:
      name: of the checkpoint.
      params: its arrays or their shapes.
      config: of the checkpoint.
    """
    alone = "adapter" in params
    lines = [_HEAD.format(name=name, what="An adapter (LoRA)" if alone else "A checkpoint")]
    for part, arrays in params.items():
        dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(arrays)})
        origin = _origin(config.get("exported", {}).get(part))
        lines.append(
            f"| {_NAMES.get(part, part)} | {count(arrays):,} | {', '.join(dtypes)} | {origin} |\n"
        )
    merged = config.get("exported", {}).get("adapter")
    if merged and not alone:
        lines.append(f"\nAn adapter is merged into the transformer: {_origin(merged)}.\n")
    if "precision" in config:
        lines.append(f"\nThe kernels of the transformer's blocks are {config['precision']}.\n")
    if "tau" in config:
        lines.append(f"\nThe mask predictor was trained for tau = {config['tau']}.\n")
    if alone:
        facts, base = config["adapter"], config["base"]
        lines.append(
            f"\nRank {facts['rank']}, alpha {facts['alpha']}, of the layers that match "
            f"{', '.join(facts['targets'])}. It was trained for a transformer of width "
            f"{base['width']} with {base['layers']} layers ({config.get('base_checkpoint')}), and "
            "others are refused.\n"
        )
    lines.append(_usage("adapter" if alone else "checkpoint", name))
    return "".join(lines)


def _origin(origin: dict[str, Any] | None) -> str:
    if origin is None:
        return "-"
    average = ", average" if origin["branch"] == "ema" else ""
    return f"step {origin['step']} of {origin['run']}{average}"


def _usage(entry: str, name: str) -> str:
    return (
        f"\n    skipsr-infer --config=CONFIG --config.{entry}={name} --input=clip.mp4\n\n"
        "```python\nfrom skipsr_jax import Upscaler\n\n"
        f'video = Upscaler(CONFIG, {entry}="{name}").upscale(frames, scale=4)\n```\n\n'
        "CONFIG is the config of inference for a transformer of this size, such as `tiny` or\n"
        "`seedvr2_3b`.\n"
    )
