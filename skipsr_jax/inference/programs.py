"""The networks' part of the way: encode, predict the mask, refine the kept patches, decode.

Each stage is one function, arrays in and arrays out, around programs that are compiled once per
shape with the parameters as arguments. The transformer's program depends on the bucket and
the text length alone: resolution, frame count and mask reach it as index arrays.
Latents here are scaled (times the autoencoder's ``scaling_factor``), as the transformer sees them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.diffusion.condition import add_condition_noise, condition
from skipsr_jax.diffusion.guidance import apply_guidance
from skipsr_jax.diffusion.sampler import euler_sample
from skipsr_jax.diffusion.timesteps import uniform_trailing
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import SPACE_FACTOR, spans
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.settings import Sampler
from skipsr_jax.kernels.attention import Problem, choose
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.params import bind
from skipsr_jax.models.predictor import PixelMaskPredictor
from skipsr_jax.models.vae.memory import estimate_memory
from skipsr_jax.models.vae.slices import (
    DecodeStep,
    EncodeStep,
    decode_clip,
    decode_step,
    encode_clip,
    encode_step,
    latent_slices,
)
from skipsr_jax.models.vae.sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.models.vae.sparse_encode import encode_sparse_clip, sparse_encode_step
from skipsr_jax.parallel.mesh import on_mesh
from skipsr_jax.parallel.spatial import spatial_sharding
from skipsr_jax.pixels.compose import gather_patches, scatter_patches
from skipsr_jax.tokens.blocks import Blocks
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.patches import join_channels
from skipsr_jax.tokens.plan import bucket_with_window_capacity, build_plan
from skipsr_jax.types import Bool, Float, HostArray


def free_bytes() -> int | None:
    """Of the first device, by its own account; None where it keeps none."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def velocity_step(dit: DiT) -> Callable[..., Float[Array, "b n o"]]:
    """One call of the transformer (real or abstract module), compiled once per bucket.

    (parameters, noisy tokens (b, n, 64), condition tokens (b, n, 68), text (b, m, j), timestep
    0..1000 of all samples, plan) -> velocity of every stored token.
    """

    def velocity(params, noisy, conditions, text, timestep, plan):
        timesteps = jnp.broadcast_to(timestep, plan.text_length.shape)
        patches = join_channels(noisy, conditions)
        return bind(dit, params)(patches, text, timesteps, plan)

    return jax.jit(velocity)


class Programs:
    """The compiled programs of one model. Making it compiles nothing."""

    def __init__(self, model: Model):
        vae, dit, predictor, mesh = model.vae, model.dit, model.predictor, model.mesh
        self.model = model
        scale = vae.config.scaling_factor

        def sample(posteriors, noise):
            joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *posteriors)
            return joined.sample(noise) * scale

        self._tiles: dict[tuple, int] = {}
        self._vae_steps: dict[int, tuple[Callable, Callable]] = {}
        self._sparse_encode_step = on_mesh(mesh, sparse_encode_step(vae))
        self._sparse_decode_step = on_mesh(mesh, sparse_decode_step(vae))
        self._sample = jax.jit(sample)
        self._unscale = jax.jit(lambda latent: latent / scale)
        self._velocity_step = velocity_step(dit)
        self._velocity = on_mesh(mesh, self._velocity_step)
        self._condition_noise = jax.jit(add_condition_noise, static_argnames="strength")
        self._gather = jax.jit(gather_patches)
        self._gather_condition = jax.jit(
            lambda latent, index: gather_patches(condition(latent), index)
        )
        self._scatter = jax.jit(scatter_patches)
        if predictor is not None:
            logits = jax.jit(lambda params, given: bind(predictor, params)(given))
            self._logits = on_mesh(mesh, logits)

    @property
    def compiled_transformers(self) -> int:
        """How many programs of the transformer have been compiled so far."""
        return self._velocity_step._cache_size()

    @property
    def devices(self) -> int:
        """How many share a clip."""
        return 1 if self.model.mesh is None else self.model.mesh.size

    def _on_devices(self, frames: Array | HostArray) -> Array:
        """Frames from the host, each device's shard straight to it."""
        mesh = self.model.mesh
        place = None if mesh is None else spatial_sharding(mesh, frames.shape, SPACE_FACTOR)
        return jax.device_put(frames, place)

    def tiles(self, size: tuple[int, int], slice_latents: int, memory_gib: float) -> int:
        """The number of spatial tiles for frames of ``size`` (height, width), padding included.

        ``memory_gib``: what it may take; 0: what the device has left, where it says. Raises
        UserError when a given amount is too little.
        """
        asked = (size, slice_latents, memory_gib)
        if asked not in self._tiles:
            self._tiles[asked] = self._tiles_of(*asked)
        return self._tiles[asked]

    def _tiles_of(self, size: tuple[int, int], slice_latents: int, memory_gib: float) -> int:
        free = free_bytes()
        if self.devices > 1 or not (memory_gib or free):
            return 1  # devices that share a clip have a part of the picture each
        estimate = estimate_memory(self.model.vae, *size, slice_latents)
        if not memory_gib:  # the parameters are there already
            return estimate.tiles_within(max(free + estimate.params, estimate.smallest))
        try:
            return estimate.tiles_within(int(memory_gib * 2**30))
        except ValueError as error:
            raise UserError(f"config.vae_memory_gib={memory_gib:g}: {error}") from error

    def _steps(self, tiles: int) -> tuple[EncodeStep, DecodeStep]:
        if tiles not in self._vae_steps:
            vae, mesh = self.model.vae, self.model.mesh
            self._vae_steps[tiles] = (
                on_mesh(mesh, encode_step(vae, tiles)),
                on_mesh(mesh, decode_step(vae, tiles)),
            )
        return self._vae_steps[tiles]

    def encode(
        self,
        slices: Iterable[Array | HostArray],
        noise: Float[Array, "b t v u c"],
        tiles: int = 1,
        plan: Sequence[Blocks] | None = None,
    ) -> Float[Array, "b t v u c"]:
        """A sample of the posterior of frames in [-1, 1], scaled.

        ``slices``: consecutive frames (b, s, h, w, 3), as many as ``frame_slices`` says; how many
        at a time changes memory and not the result. ``noise`` is standard normal, for all of them;
        zeros give the mean. Slices from the host are uploaded while the ones before are computed.
        ``plan``: the blocks to encode, then with one latent frame a slice; None: all, densely.
        """
        parts, params = map(self._on_devices, slices), self.model.params["vae"]
        if plan is None:
            posteriors = encode_clip(self._steps(tiles)[0], params, parts)
        else:
            posteriors = encode_sparse_clip(self._sparse_encode_step, params, parts, plan)
        return self._sample(list(posteriors), noise)

    @property
    def masks_from_pixels(self) -> bool:
        """Whether the predictor sees low-resolution frames rather than latents."""
        return isinstance(self.model.predictor, PixelMaskPredictor)

    def mask_logits(self, given: Float[Array | HostArray, "b i j k l"]) -> Float[Array, "b t r q"]:
        """The predictor's logit of each patch; positive: it needs refinement.

        ``given``: the latent, (b, t, h / 8, w / 8, c), or for a predictor in pixel space frames in
        [0, 1], (b, f, h / 4, w / 4, 3), as ``masks.predictor_frames`` makes them.
        """
        return self._logits(self.model.params["predictor"], given)

    def refine(
        self,
        latent: Float[Array, "1 t v u c"],
        keep: Bool[HostArray, "t r q"],
        noise: Float[Array, "1 t v u c"],
        sampler: Sampler,
        condition_noise: Float[Array, "1 t v u c"] | None = None,
    ) -> tuple[Float[Array, "1 t v u c"], Bucket | None]:
        """The latent with its kept patches refined, and the bucket in which they ran.

        Args:
          latent: of the low-quality input; skipped patches keep it.
          keep: which patches run; none: the latent comes back and nothing runs.
          noise: x_T.
          sampler: steps and guidance.
          condition_noise: needed when the sampler puts noise on the condition.
        """
        if not keep.any():
            return latent, None
        given = latent
        if sampler.condition_noise > 0:
            given = self._condition_noise(latent, condition_noise, sampler.condition_noise)
        bucket = bucket_with_window_capacity([keep], self.devices)
        texts = [self.model.params["text"][name][None] for name in self._prompts_of(sampler)]
        plans = [build_plan([keep], [text.shape[1]], bucket, shards=self.devices) for text in texts]
        # Committed to a device as the parameters are: else the first of several steps, whose noise
        # is not, would have a program of its own.
        placed = [
            jax.device_put(plan, text.sharding) for text, plan in zip(texts, plans, strict=True)
        ]
        index = placed[0].patch_index
        conditions = self._gather_condition(given, index)

        def predict(noisy: Array, timestep: Array) -> Array:
            results = [
                self._velocity(self.model.params["dit"], noisy, conditions, text, timestep, plan)
                for text, plan in zip(texts, placed, strict=True)
            ]
            if len(results) == 1:
                return results[0]
            return apply_guidance(*results, sampler.guidance, sampler.rescale)

        start = self._gather(noise, index)
        refined = euler_sample(predict, start, uniform_trailing(sampler.steps))
        return self._scatter(latent, refined, index), bucket

    def decode(
        self,
        latent: Float[Array, "b t v u c"],
        upscaled: Iterable[Array | HostArray],
        slice_latents: int = 1,
        tiles: int = 1,
        plan: Sequence[Blocks] | None = None,
    ) -> Iterator[Float[Array, "b s h w 3"]]:
        """Frames in about [-1, 1], slice by slice, ``slice_latents`` latent frames at a time.

        ``upscaled``: the input in [-1, 1], in slices as from ``frame_slices``, is what a residual
        decoder adds to; others do not look at it. ``plan``: the blocks to decode, with one latent
        frame a slice; the others hold ``upscaled``. None: all, densely.
        """
        latents, params = latent.shape[1], self.model.params["vae"]
        unscaled = self._unscale(latent)
        parts = (unscaled[:, part] for part in spans(latent_slices(latents, slice_latents)))
        base = map(self._on_devices, upscaled)
        if plan is not None:
            return decode_sparse_clip(self._sparse_decode_step, params, parts, base, plan)
        if not self.model.vae.config.residual_decoder:
            base = None
        return decode_clip(self._steps(tiles)[1], params, parts, base)

    def attention(self, bucket: Bucket) -> str:
        """Name of the attention kernel that runs a bucket here."""
        config = self.model.dit.config
        text = self.model.params["text"]["positive"]
        rows = bucket.tokens + bucket.windows * text.shape[0]
        dtype = np.dtype(self.model.dit.dtype)
        heads = config.heads // self.devices
        problem = Problem(1, rows, heads, config.head_dim, bucket.windows, dtype)
        return choose(problem)[0]

    def _prompts_of(self, sampler: Sampler) -> tuple[str, ...]:
        if sampler.guidance == 1:
            return ("positive",)
        if "negative" not in self.model.params["text"]:
            raise UserError(
                f"{self.model.source} has no negative text embedding: set config.sampler.guidance=1"
            )
        return ("positive", "negative")
