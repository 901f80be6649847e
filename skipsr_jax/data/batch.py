"""The batch of one optimizer step, as a named tuple.

JAX takes named tuples as pytrees without a registration, so that data workers build batches without
importing jax, and the same type describes a batch on the host, on the devices, and as shapes.
"""

from typing import Any, NamedTuple

from skipsr_jax.tokens.plan import TokenPlan

Leaf = Any
"""An array on host or device, or whatever stands for it in a pytree (a shape, a sharding)."""


class Batch(NamedTuple):
    """Samples of one or more shapes, their masks, token plans and latents.

    A tuple of arrays has one array for each shape of the samples. The first axis of each array,
    ``samples``, holds the samples of that shape, those of a pack one after the other: of S samples
    of a shape in a batch of b packs, S / b belong to each pack, and within a pack the shapes follow
    one another. An entry that the stage does not ask for is None.

    Attributes:
      hr: the true frames, uint8 (samples, f, h, w, 3).
      lr: the low-quality frames, uint8 (samples, f, h / scale, w / scale, 3).
      error: the left side of Eq. 1 for each patch of ``hr``, float32 (samples, t, r, q).
      mask: true where ``error`` is above tau, which means that the patch needs refinement, bool
        (samples, t, r, q). The tokens that run are in ``plan``: they differ from the mask by what
        the packing keeps, drops at random, and cuts.
      plan: which tokens run, and who attends to whom (b packs of k samples).
      negative: true where the sample takes the negative text, bool (b, k).
      negative_plan: ``plan`` with the negative text in all samples, for classifier-free guidance.
      hr_latents, lr_latents: latents of ``hr`` and of the upscaled ``lr``, as the transformer takes
        them (scaled), float32 (samples, t, h / 8, w / 8, c). Workers leave them None;
        ``Stage.prepare`` computes them on the devices.
    """

    hr: tuple[Leaf, ...] = ()
    lr: tuple[Leaf, ...] = ()
    error: tuple[Leaf, ...] | None = None
    mask: tuple[Leaf, ...] | None = None
    plan: TokenPlan | None = None
    negative: Leaf = None
    negative_plan: TokenPlan | None = None
    hr_latents: tuple[Leaf, ...] | None = None
    lr_latents: tuple[Leaf, ...] | None = None

    @property
    def kind(self) -> str:
        """``image``, ``video``, or ``mixed`` where a pack holds both."""
        kinds = {"image" if clips.shape[1] == 1 else "video" for clips in self.hr}
        return kinds.pop() if len(kinds) == 1 else "mixed"
