"""The programs of infer.py and train.py with abstract arguments on a mesh, to be compiled.

Nothing here holds an array of a model's size, so that any model can be compiled for any slice on a
laptop. Each pack has one clip. Packs are sharded over the mesh as in inference; a single clip, as
in infer.py, is sharded over all devices.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from benchmarks.models import (
    TEXT_TOKENS,
    abstract_base,
    abstract_dit,
    abstract_light_coder,
    abstract_vae,
)
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.packing import Packing, bucket_of
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import PATCH_AREA, SPACE_FACTOR, TIME_FACTOR, token_grid
from skipsr_jax.inference.coder import LIGHT_SLICE_PIXELS
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.kernels.attention import Problem, choose
from skipsr_jax.kernels.quantized import UNQUANTIZED
from skipsr_jax.models import light_coder
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.flops import BACKWARD, BACKWARD_FROZEN, dit_flops, traced_flops, vae_flops
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.params import to_dict
from skipsr_jax.models.vae import SEEDVR, VAE
from skipsr_jax.models.vae.slices import decode_step, encode_step
from skipsr_jax.parallel.activations import PACKS, TOKENS, activation_sharding
from skipsr_jax.parallel.mesh import pack_sharding, pack_shards, replicated
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.parallel.sequence import check_heads
from skipsr_jax.parallel.spatial import spatial_sharding
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import TokenPlan, bucket_with_window_capacity, build_plan
from skipsr_jax.training.mesh_checks import fit_to_mesh
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stages import sr
from skipsr_jax.training.step import fresh_state, make_step


@dataclasses.dataclass(frozen=True)
class Clip:
    """A clip to upscale: its target size in pixels and the fraction of its tokens that is skipped.

    ``at_once`` is the number of such clips that run together; 0: one for each shard of the pack
    axis of the mesh.
    """

    frames: int
    height: int
    width: int
    skip: float
    at_once: int = 0

    def __post_init__(self):
        if not 0 <= self.skip < 1:
            raise UserError(f"skip is {self.skip}: it must be from 0 to below 1")
        if self.at_once < 0:
            raise UserError(
                f"clips is {self.at_once}: it must be 1 or more, or 0 for one a shard of the packs"
            )

    def number(self, mesh: Mesh) -> int:
        """The number of clips that run together on a mesh."""
        return self.at_once or pack_shards(mesh)

    def keep(self) -> np.ndarray:
        """A keep mask (t, r, q) that skips the fraction exactly, at random positions."""
        grid = token_grid(self.frames, self.height, self.width)
        tokens = int(np.prod(grid))
        keep = np.zeros(tokens, bool)
        kept = max(1, round(tokens * (1 - self.skip)))
        keep[np.random.default_rng(0).permutation(tokens)[:kept]] = True
        return keep.reshape(grid)


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and its abstract arguments.

    Attributes:
      function: the jitted function.
      arguments: shapes with shardings.
      clips: the number of clips of one run, over the whole mesh.
      flops: operations of all chips together, counted from plan and shapes, with recomputation.
      quantized_flops: those of them that are in 8-bit products.
      tokens: kept tokens of a clip; 0 in the autoencoder.
      attention: the implementation that the mesh's devices run; "" without attention.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    clips: int
    flops: float
    tokens: int = 0
    attention: str = ""
    quantized_flops: float = 0.0


def _with_shardings(tree: Any, targets: Any) -> Any:
    """The shapes of ``tree`` with shardings: one for all leaves, or a tree of them."""
    if isinstance(targets, NamedSharding):
        targets = jax.tree.map(lambda _: targets, tree)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree, targets,
    )  # fmt: skip


def _attention_of(
    mesh: Mesh, config: DiTConfig, bucket: Bucket, text: int, dtype: Any, clips: int
) -> str:
    """The implementation that ``varlen_attention`` chooses on one device of the mesh."""
    rows = bucket.tokens + bucket.windows * text
    heads = config.heads // activation_sharding(clips, mesh).shards
    with jax.set_mesh(mesh):
        problem = Problem(1, rows, heads, config.head_dim, bucket.windows, np.dtype(dtype))
        return choose(problem)[0]


def _batched(plan: TokenPlan, clips: int) -> TokenPlan:
    """The shapes of the plan of one clip, for a batch of clips."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((clips, *x.shape[1:]), x.dtype), plan)


def refine(
    config: DiTConfig,
    mesh: Mesh,
    clip: Clip,
    dtype: Any = jnp.bfloat16,
    precision: str = UNQUANTIZED,
) -> Program:
    """One call of the transformer in inference, on random keep masks.

    ``precision``: of the products in its blocks.

    Raises UserError when the heads do not divide over the devices that share a clip.
    """
    clips = clip.number(mesh)
    sharding = activation_sharding(clips, mesh)
    check_heads(sharding.shards, config.heads)
    dit = abstract_dit(config, dtype, precision=precision)
    params, keep = to_dict(dit), clip.keep()
    over_packs = NamedSharding(mesh, sharding.spec(PACKS))
    bucket = bucket_with_window_capacity([keep], sharding.shards)
    plan = build_plan([keep], [TEXT_TOKENS], bucket, shards=sharding.shards)
    flops = dit_flops(config, plan)
    quantized = 0.0 if precision == UNQUANTIZED else clips * flops.blocks

    def rows(channels: int) -> jax.ShapeDtypeStruct:
        tokens = NamedSharding(mesh, sharding.spec(TOKENS))
        shape = (clips, bucket.tokens, PATCH_AREA * channels)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=tokens)

    arguments = (
        _with_shardings(params, shardings(params, mesh)),
        rows(config.out_channels),
        rows(config.in_channels - config.out_channels),
        jax.ShapeDtypeStruct((clips, TEXT_TOKENS, config.text_width), dtype, sharding=over_packs),
        jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh)),
        _with_shardings(_batched(plan, clips), over_packs),
    )
    attention = _attention_of(mesh, config, bucket, TEXT_TOKENS, dtype, clips)
    with jax.set_mesh(mesh):  # the compiler's options depend on the devices
        function = velocity_step(dit)
    return Program(
        function,
        arguments,
        clips,
        clips * flops.total,
        int(keep.sum()),
        attention,
        quantized,
    )


def _coder_on(mesh: Mesh, coder: str, dtype: Any) -> tuple[VAE | LightCoder, Any]:
    """The "full" or "light" coder as shapes, and its parameters."""
    if coder == "light":
        module = abstract_light_coder(light_coder.SEEDVR, dtype)
    else:
        module = abstract_vae(SEEDVR, dtype)
    params = to_dict(module)
    return module, _with_shardings(params, shardings(params, mesh))


def _slice_latents(clip: Clip, coder: str) -> int:
    """Latent frames of a slice after the first, as inference takes them."""
    if coder == "full":
        return 1
    most = LIGHT_SLICE_PIXELS // (clip.height * clip.width)
    return max(1, min(most, clip.frames // TIME_FACTOR))


def _frames_of(mesh: Mesh, clip: Clip, count: int) -> jax.ShapeDtypeStruct:
    shape = (clip.number(mesh), count, clip.height, clip.width, 3)
    sharding = spatial_sharding(mesh, shape, SPACE_FACTOR)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)


def _sharded_cache(mesh: Mesh, cache: Any, height: int) -> Any:
    """The shapes of the state between slices, sharded like the frames at each resolution."""

    def sharded(leaf: Any) -> Any:
        if not leaf.shape:  # whether the slice is a later one
            return jax.ShapeDtypeStruct((), leaf.dtype, sharding=replicated(mesh))
        factor = max(1, leaf.shape[2] * SPACE_FACTOR // height)
        sharding = spatial_sharding(mesh, leaf.shape, factor)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(sharded, cache)


def encode(mesh: Mesh, clip: Clip, coder: str = "full", dtype: Any = jnp.bfloat16) -> Program:
    """The encoder on a slice after the first: four frames to each latent frame of the slice.

    ``coder``: "full", with one latent frame, or "light".
    """
    module, params = _coder_on(mesh, coder, dtype)
    frames = _frames_of(mesh, clip, TIME_FACTOR * _slice_latents(clip, coder))
    step = encode_step(module)
    with jax.set_mesh(mesh):  # layers depend on whether devices share a frame
        _, cache = jax.eval_shape(step, params, _frames_of(mesh, clip, 1), None)
        arguments = (params, frames, _sharded_cache(mesh, cache, clip.height))
        return Program(step, arguments, clip.number(mesh), traced_flops(step, *arguments))


def decode(mesh: Mesh, clip: Clip, coder: str = "full", dtype: Any = jnp.bfloat16) -> Program:
    """The decoder on a slice after the first; as ``encode``. The light one takes the upscaled input
    too."""
    module, params = _coder_on(mesh, coder, dtype)
    pixels = (clip.height // SPACE_FACTOR, clip.width // SPACE_FACTOR)

    def latents(count: int) -> jax.ShapeDtypeStruct:
        shape = (clip.number(mesh), count, *pixels, SEEDVR.latent_channels)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=spatial_sharding(mesh, shape))

    def upscaled(count: int) -> jax.ShapeDtypeStruct | None:
        return _frames_of(mesh, clip, count) if coder == "light" else None

    count = _slice_latents(clip, coder)
    step = decode_step(module)
    with jax.set_mesh(mesh):
        _, cache = jax.eval_shape(step, params, latents(1), None, upscaled(1))
        cache = _sharded_cache(mesh, cache, clip.height)
        arguments = (params, latents(count), cache, upscaled(TIME_FACTOR * count))
        return Program(step, arguments, clip.number(mesh), traced_flops(step, *arguments))


CODER_PROGRAMS = {"encode": encode, "decode": decode}


def train(settings: Settings, config: DiTConfig, mesh: Mesh) -> Program:
    """One optimizer step of stage ``sr`` on the batch that the settings name.

    Raises UserError when the settings do not fit the mesh, as train.py does.
    """
    dtype = jnp.dtype(settings.dtype)
    vae = abstract_vae(SEEDVR, dtype, jnp.float32)
    base = None
    if settings.adapter.rank:
        base = abstract_base(config, settings.adapter, dtype, settings.loss.text_lengths)
    stage = sr.make(settings, config, (vae, {"vae": to_dict(vae)}), base)
    stage = fit_to_mesh(stage, settings, mesh)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: fresh_state(stage, settings.optimizer, key), key)
    recipe, packing = stage.recipe, stage.recipe.packing
    shapes, text = recipe.kinds["batch"], max(packing.text_lengths)
    bucket, plan = _training_plan(shapes, packing, text)
    clips = sum(shape.batch for shape in shapes)
    number = clips // packing.samples

    def pixels(scale: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        sizes = [(x.batch, x.frames, x.height // scale, x.width // scale, 3) for x in shapes]
        return tuple(jax.ShapeDtypeStruct(size, jnp.uint8) for size in sizes)

    batch = Batch(
        hr=pixels(1),
        lr=pixels(recipe.scale),
        mask=tuple(jax.ShapeDtypeStruct((x.batch, *x.grid), jnp.bool) for x in shapes),
        plan=_batched(plan, number),
        negative=jax.ShapeDtypeStruct((number, packing.samples), jnp.bool),
    )
    arguments = (
        _with_shardings(state, shardings(state, mesh)),
        _with_shardings(stage.frozen, shardings(stage.frozen, mesh)),
        _with_shardings(batch, pack_sharding(mesh)),
        jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated(mesh)),
    )
    step = jax.jit(make_step(stage, settings.optimizer, settings.seed), donate_argnums=0)
    again = config.remat == "full"  # the backward pass runs the forward pass once more
    backward = BACKWARD_FROZEN if settings.adapter.rank else BACKWARD
    flops = number * dit_flops(config, plan).total * (1 + backward + again)
    for shape in shapes:  # the true clip and the input
        encoding, _ = vae_flops(vae, (1, shape.frames, shape.height, shape.width))
        flops += 2 * shape.batch * encoding
    attention = _attention_of(mesh, config, bucket, text, dtype, number)
    tokens = int(plan.valid.sum()) // packing.samples
    return Program(step, arguments, clips, flops, tokens, attention)


def _training_plan(
    shapes: Sequence[ClipShape], packing: Packing, text: int
) -> tuple[Bucket, TokenPlan]:
    """The bucket of a training batch, and a plan that fills it (b = 1)."""
    bucket = bucket_of(shapes, packing)
    packs = sum(shape.batch for shape in shapes) // packing.samples
    keep = [np.ones(x.grid, bool) for x in shapes for _ in range(x.batch // packs)]
    largest = max(keep, key=np.size)
    largest.flat[: max(0, sum(mask.size for mask in keep) - bucket.tokens)] = False
    return bucket, build_plan(keep, [text] * packing.samples, bucket, text)
