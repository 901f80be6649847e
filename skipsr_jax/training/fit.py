"""A stage and its batches, made to fit the mesh, before anything is compiled."""

import dataclasses

import numpy as np
from jax.sharding import Mesh

from skipsr_jax.data.dataset import Packing, Recipe, bucket_of
from skipsr_jax.errors import UserError
from skipsr_jax.parallel.mesh import pack_shards
from skipsr_jax.parallel.sequence import check_shards
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Stage


def fit_to_mesh(stage: Stage, settings: Settings, mesh: Mesh) -> Stage:
    """The stage, whose sequences have a bucket that the devices along seq share equally.

    Raises UserError when packs, heads or tokens do not divide over the devices.
    """
    _check_batch(stage, settings, mesh)
    shards, packing = mesh.shape["seq"], stage.recipe.packing
    if packing is None:
        return stage
    packing = dataclasses.replace(packing, shards=shards)
    recipe = dataclasses.replace(stage.recipe, packing=packing)
    for name, (_, tokens) in _kinds(recipe).items():
        if tokens < shards:
            raise UserError(
                f"mesh.seq is {shards}, but a sequence of data.{name} has {tokens} tokens: make "
                "mesh.seq smaller or the crop larger"
            )
    check_shards(shards, stage.config["dit"]["heads"], bucket_of(recipe.video, packing).tokens)
    return dataclasses.replace(stage, recipe=recipe)


def _kinds(recipe: Recipe) -> dict[str, tuple[int, int]]:
    """(batch, most tokens of a sequence) of each kind of batch, by the name of its setting."""
    shapes = {"batch": recipe.video}
    if recipe.image_share:
        shapes["image_batch"] = recipe.image
    packing = recipe.packing or Packing()
    return {
        name: (shape.batch, packing.samples * int(np.prod(shape.grid)))
        for name, shape in shapes.items()
    }


def _check_batch(stage: Stage, settings: Settings, mesh: Mesh) -> None:
    samples, accumulate = stage.samples_per_pack, settings.optimizer.accumulate
    for name, (batch, _) in _kinds(stage.recipe).items():
        if batch % (samples * pack_shards(mesh) * accumulate):
            raise UserError(
                f"data.{name} is {batch}: it must be a multiple of {samples} samples a pack "
                f"x {pack_shards(mesh)} devices x optimizer.accumulate {accumulate}"
            )
