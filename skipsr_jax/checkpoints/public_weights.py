"""Where the public weights are, for those who name a checkpoint that has still to be converted.

docs/weights.md has the sizes and digests of the files, and the commands.
"""

import pathlib

PUBLIC_WEIGHTS = {
    "seedvr2_3b": ("ByteDance-Seed/SeedVR2-3B", "seedvr2_ema_3b.pth"),
    "seedvr2_7b": ("ByteDance-Seed/SeedVR2-7B", "seedvr2_ema_7b.pth"),
    "seedvr_3b": ("ByteDance-Seed/SeedVR-3B", "seedvr_ema_3b.pth"),
    "seedvr_7b": ("ByteDance-Seed/SeedVR-7B", "seedvr_ema_7b.pth"),
}
"""For each config of inference the repository on Hugging Face, and the transformer's file."""


def where_to_get(checkpoint: str) -> str:
    """A clause that says where the weights of a missing checkpoint are; "" for other names."""
    found = PUBLIC_WEIGHTS.get(pathlib.PurePath(checkpoint).name)
    if found is None:
        return ""
    repository, file = found
    return (
        f"; it is converted from public weights: {file} of huggingface.co/{repository}, by the "
        "commands of docs/weights.md"
    )
