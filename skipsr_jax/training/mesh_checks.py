"""Checks that a stage and its batches fit the mesh, before anything is compiled."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.packing import Packing, bucket_of
from skipsr_jax.errors import UserError
from skipsr_jax.parallel.mesh import pack_shards
from skipsr_jax.parallel.sequence import check_shards
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Stage


def fit_to_mesh(stage: Stage, settings: Settings, mesh: Mesh) -> Stage:
    """Returns the stage with a bucket of tokens that divides over the devices along ``seq``.

    Raises UserError when packs, heads or tokens do not divide over the devices.
    """
    _check_batch(stage, settings, mesh)
    shards, packing = mesh.shape["seq"], stage.recipe.packing
    if packing is None:
        return stage
    packing = dataclasses.replace(packing, shards=shards)
    recipe = dataclasses.replace(stage.recipe, packing=packing)
    for name, shapes in recipe.kinds.items():
        bucket = bucket_of(shapes, packing)
        tokens = _most_tokens(shapes, packing)
        if tokens < shards:
            raise UserError(
                f"mesh.seq is {shards}, but a sequence of data.{name} has {tokens} tokens: make "
                "mesh.seq smaller or the crop larger"
            )
        names = ("dit", "generator", "base")
        transformer = next(stage.config[name] for name in names if name in stage.config)
        check_shards(shards, transformer["heads"], bucket.tokens)
    return dataclasses.replace(stage, recipe=recipe)


def _most_tokens(shapes: Sequence[ClipShape], packing: Packing) -> int:
    """Tokens of one sequence when nothing is skipped."""
    tokens = sum(shape.batch * int(np.prod(shape.grid)) for shape in shapes)
    return tokens * packing.samples // sum(shape.batch for shape in shapes)


def _check_batch(stage: Stage, settings: Settings, mesh: Mesh) -> None:
    devices, accumulate = pack_shards(mesh), settings.optimizer.accumulate
    for name, shapes in stage.recipe.kinds.items():
        batch, samples = sum(shape.batch for shape in shapes), stage.samples_per_pack
        if stage.recipe.mixed:  # counted in sequences
            batch, samples = batch // samples, 1
        if batch % (samples * devices * accumulate):
            raise UserError(
                f"data.{name} is {batch}: it must be a multiple of {samples} samples a pack "
                f"x {devices} devices x optimizer.accumulate {accumulate}"
            )
