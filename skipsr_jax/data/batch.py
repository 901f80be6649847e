"""The batch of one optimizer step, as a named tuple, and how samples are collated into it.

JAX takes named tuples as pytrees without a registration, so that data workers build batches without
importing jax, and the same type describes a batch on the host, on the devices, and as shapes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.data.oracle import oracle_mask
from skipsr_jax.data.packing import bucket_of
from skipsr_jax.data.sample import Recipe, Sample
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import TokenPlan, build_plan, stack_plans
from skipsr_jax.types import Bool, HostArray, UInt8

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


def collate(groups: Sequence[Sequence[Sample]], bucket: Bucket | None, recipe: Recipe) -> Batch:
    """Returns the batch of these samples, those of one shape in each group.

    Args:
      groups: samples of each shape, as many of each in a pack as in every other.
      bucket: of the token plans; None without packing.
      recipe: of the samples.
    """

    def stacked(name: str) -> tuple[HostArray, ...] | None:
        if getattr(groups[0][0], name) is None:
            return None
        return tuple(np.stack([getattr(sample, name) for sample in group]) for group in groups)

    batch = Batch(**{name: stacked(name) for name in ("hr", "lr", "error", "mask")})
    packing = recipe.packing
    if packing is None:
        return batch
    number = sum(len(samples) for samples in groups) // packing.samples
    packs: list[list[Sample]] = [[] for _ in range(number)]
    for samples in groups:
        for index, sample in enumerate(samples):
            packs[index * number // len(samples)].append(sample)
    slots = max(packing.text_lengths)

    def plans(negative: Bool[HostArray, "b k"]) -> TokenPlan:
        lengths = np.where(negative, packing.text_lengths[1], packing.text_lengths[0])
        return stack_plans(
            [
                build_plan([sample.keep for sample in pack], texts.tolist(), bucket, slots)
                for pack, texts in zip(packs, lengths, strict=True)
            ]
        )

    negative = np.array([[sample.negative for sample in pack] for pack in packs])
    batch = batch._replace(negative=negative, plan=plans(negative))
    return batch._replace(negative_plan=plans(np.ones_like(negative))) if packing.guided else batch


def with_masks(batch: Batch, scale: int) -> Batch:
    """Returns the batch with the oracle masks of its high-quality frames, if it has none yet."""
    if batch.mask is not None:
        return batch
    masks = tuple(np.stack([oracle_mask(clip, scale) for clip in clips]) for clips in batch.hr)
    return batch._replace(mask=masks)


def plain_batch(
    clips: Sequence[UInt8[HostArray, "f h w 3"]], recipe: Recipe, dense: bool = False
) -> Batch:
    """Returns the batch of these clips, of one shape, with nothing drawn at random: for scores.

    Area downsampling, positive texts, Eq. 1's masks on the truth; everything kept if ``dense``.
    Each clip has a sequence of its own. The bucket is the same in both cases.
    """
    samples: list[Sample] = []
    for clip in clips:
        mask = oracle_mask(clip, recipe.scale)
        mask = np.ones_like(mask) if dense else mask
        keep = mask if mask.any() else _first_only(mask)
        samples.append(Sample(clip, low_quality(clip, recipe.scale), mask=mask, keep=keep))
    bucket = None
    if recipe.packing is not None:
        alone = dataclasses.replace(recipe.packing, samples=1, kept_share=1.0)
        recipe = dataclasses.replace(recipe, packing=alone)
        bucket = bucket_of([ClipShape(1, *clips[0].shape[:3])], alone)
    return collate([samples], bucket, recipe)


def _first_only(mask: Bool[HostArray, "t r q"]) -> Bool[HostArray, "t r q"]:
    """A mask that keeps one patch, because a plan needs one."""
    only = np.zeros_like(mask)
    only.flat[0] = True
    return only
