"""Chooses in how many slots the autoencoder runs the blocks of a chunk, or that it runs densely.

The dense programs are compiled in any case. A sparse one is compiled or loaded when the blocks that
it would have spared add up to what it costs (``size_choice``).
"""

from collections.abc import Callable, Mapping
from typing import Any

from skipsr_jax.inference.bucket_choice import device_flops
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.size_choice import SizeChoice
from skipsr_jax.tokens.superblocks import SUPERBLOCK

COMPILE_SECONDS, LOAD_SECONDS = 20.0, 0.5
"""About what it takes to compile, and to load, the two programs of a number of slots on a GPU."""
FLOPS_PER_BLOCK = {
    "full": {"encode": 9.3e9, "decode": 19e9},
    "light": {"encode": 0.1e9, "decode": 0.18e9},
}
"""Operations for a block (4 frames of 16 x 16 pixels) of a coder with CHANNELS at the finest level.
Source: SeedVR's autoencoder at 720p takes 33.4 and 68.8 TFLOP for four frames (3600 blocks), the
light coder 0.35 and 0.66."""
CHANNELS = {"full": 128, "light": 64}


def flops_per_slot(direction: str, model: Model) -> float:
    """Operations of a model's coder for a slot, a block or a superblock ("encode", "decode")."""
    kind, config = model.coder_kind, model.coder.config
    if kind == "full":
        channels = config.block_channels[0]
    else:
        channels = {"encode": config.encoder_channels, "decode": config.decoder_channels}[
            direction
        ][0]
    blocks = SUPERBLOCK**2 if kind == "light" else 1
    return blocks * FLOPS_PER_BLOCK[kind][direction] * (channels / CHANNELS[kind]) ** 2


class SlotChoice:
    """The numbers of slots of one direction of one model.

    Args:
      flops: operations for a slot, as ``flops_per_slot`` says.
      device_kind: of the device that it runs on.
      ask: as of ``SizeChoice``.
    """

    def __init__(self, flops: float, device_kind: str, ask: bool = True):
        self._seconds_per_block = flops / device_flops(device_kind)
        self._choice = SizeChoice(COMPILE_SECONDS, LOAD_SECONDS, ask)
        self._ready: set[tuple[int, int]] = set()

    def choose(self, wanted: int, blocks: int, latents: int, is_kept: Callable[[int], bool]) -> int:
        """The slots for a chunk; ``blocks``: it runs densely.

        Args:
          wanted: the fewest slots that hold the active blocks of each latent frame.
          blocks: of a whole frame.
          latents: latent frames of the chunk.
          is_kept: whether the programs of a number of slots can be loaded.
        """
        fits = [
            slots for slots, total in sorted(self._ready) if total == blocks and slots >= wanted
        ]
        seconds = self._seconds_per_block * latents
        chosen = self._choice.choose(wanted, [*fits, blocks], lambda s: seconds * s, is_kept)
        if chosen != blocks:
            self._ready.add((chosen, blocks))
        return chosen

    def state(self) -> dict[str, Any]:
        """What the next choice depends on, for JSON."""
        return {"ready": sorted(self._ready), "wasted": self._choice.wasted_seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state`` returned."""
        self._ready = {(slots, total) for slots, total in state["ready"]}
        self._choice.wasted_seconds = state["wasted"]
