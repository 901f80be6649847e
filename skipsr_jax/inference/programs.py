"""The compiled programs of one model: its coder, its mask predictor and its transformer.

Each stage is one function with arrays in and arrays out, around programs that are compiled once per
shape with the parameters as arguments. The transformer's program depends on the bucket and the text
length alone: resolution, frame count and mask reach it as index arrays. Latents are scaled (times
the autoencoder's ``scaling_factor``).
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.diffusion.condition import add_condition_noise, condition
from skipsr_jax.diffusion.guidance import apply_guidance
from skipsr_jax.diffusion.sampler import euler_sample
from skipsr_jax.diffusion.timesteps import uniform_trailing
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.inference.bucket_choice import BucketChoice
from skipsr_jax.inference.coder import Coder
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.program_cache import ProgramCache
from skipsr_jax.inference.settings import Sampler
from skipsr_jax.inference.slot_choice import SlotChoice, flops_per_slot
from skipsr_jax.inference.upscaled_input import upscale_slice
from skipsr_jax.kernels.attention import Problem, choose
from skipsr_jax.kernels.quantized import Format
from skipsr_jax.kernels.target import Target, current_target
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.models.params import bind
from skipsr_jax.models.predictor import MaskPredictor, PixelMaskPredictor, cell_weights
from skipsr_jax.pixels.compose import blend, compose_latent, gather_patches
from skipsr_jax.pixels.composite import composite
from skipsr_jax.pixels.resample import to_unit_range
from skipsr_jax.pixels.yuv import rgb_codes, rgb_to_yuv
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.patches import join_channels
from skipsr_jax.tokens.plan import TokenPlan, build_plan
from skipsr_jax.types import Bool, Float, HostArray


class Noise(NamedTuple):
    """All the noise of a chunk, each array shaped as its latent."""

    posterior: Float[Array, "1 t h w c"]
    start: Float[Array, "1 t h w c"]
    condition: Float[Array, "1 t h w c"]


def velocity_step(dit: DiT) -> Callable[..., Float[Array, "b n o"]]:
    """Returns one call of the transformer (real or abstract module), compiled once per bucket.

    (parameters, noisy tokens (b, n, 64), condition tokens (b, n, 68), text (b, m, i), timestep
    0..1000 of all samples, plan) -> velocity (b, n, 64) of every stored token.
    """

    @jax.named_scope("refine")
    def velocity(params, noisy, conditions, text, timestep, plan):
        timesteps = jnp.broadcast_to(timestep, plan.text_length.shape)
        patches = join_channels(noisy, conditions)
        return bind(dit, params)(patches, text, timesteps, plan)

    return jax.jit(velocity, compiler_options=compiler_options(dit.format, current_target()))


def compiler_options(format: Format | None, target: Target) -> dict[str, bool]:
    """XLA's options for a transformer with products of ``format`` on the target.

    On GPUs quantised products are left to cuBLASLt. XLA would else also compile and time a Triton
    kernel of its own for each of many tilings of each product, and there is nothing for them to
    fuse: rows are quantised before, and scales follow in the computation that reads the product.

    On TPUs a layer's parameters are gathered while the products before it run. The compiler does so
    by itself on v5e, and on v5p and v6e with these options.
    """
    if target.platform == "tpu":
        return dict.fromkeys(_GATHER_BEHIND_PRODUCTS, True)
    if format is None or target.platform != "gpu":
        return {}
    return {"xla_gpu_enable_triton_gemm": False}


_GATHER_BEHIND_PRODUCTS = (
    "xla_enable_async_all_gather",
    "xla_tpu_enable_async_collective_fusion",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather",
    "xla_tpu_enable_async_collective_fusion_multiple_steps",
    "xla_tpu_overlap_compute_collective_tc",
)


def predictor_step(
    predictor: MaskPredictor | PixelMaskPredictor,
) -> Callable[..., Float[Array, "1 t r q"]]:
    """Returns one call of the mask predictor (real or abstract module), compiled once per shape.

    (parameters, latent) -> logits, or for a predictor in pixel space (parameters, frames (f, h, w,
    3) uint8 or uint16, ``cell_weights``) -> logits.
    """

    @jax.named_scope("mask")
    def of_latent(params, latent):
        return bind(predictor, params)(latent)

    @jax.named_scope("mask")
    def of_pixels(params, frames, weights):
        return bind(predictor, params)(to_unit_range(frames)[None], weights)

    run = of_pixels if isinstance(predictor, PixelMaskPredictor) else of_latent
    return jax.jit(run, compiler_options=convolution_options())


def draw_noise(seed: Array, chunk: Array, shape: tuple[int, ...]) -> Noise:
    """Standard normal numbers that depend on the seed, the chunk's number and the shape alone."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), 3)
    # One generator for the three keys is compiled in a third of the time of three.
    return Noise(*jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys))


def description(model: Model) -> str:
    """What the programs of a model depend on besides the shapes of their arguments."""
    predictor = type(model.predictor).__name__  # its sizes show in its parameters
    dtype = str(np.dtype(model.dit.dtype))
    products = model.products, model.coder_products
    return repr((model.coder.config, model.dit.config, predictor, dtype, *products))


class Programs:
    """The compiled programs of one model. Creating it compiles nothing.

    Args:
      model: the networks and their parameters.
      cache: where compiled programs come from; None: they are kept in memory alone.

    Attributes:
      model, cache: as given.
      coder: the autoencoder, which encodes and decodes chunks.
      buckets: chooses the transformer's bucket for each chunk.
      slots: choose the autoencoder's slots for each chunk, by direction.
    """

    def __init__(self, model: Model, cache: ProgramCache | None = None):
        self.model, self.cache = model, cache or ProgramCache()
        own = functools.partial(self.cache.program, description=description(model), mesh=model.mesh)
        self.coder = Coder(model, own)
        plain = functools.partial(own, autotune=False)  # little work in each call
        self.upscale = plain("upscale", upscale_slice)
        self.composite = plain("composite", composite)
        self.blend = plain("blend", jax.jit(blend))
        self.to_yuv = plain("convert to YUV", rgb_to_yuv)
        self.to_rgb = plain("convert to RGB", rgb_codes)
        self.draw_noise = plain("noise", jax.jit(draw_noise, static_argnames="shape"))
        self._velocity = own("transformer", velocity_step(model.dit))
        self._add_condition_noise = plain(
            "condition noise", jax.jit(add_condition_noise, static_argnames="strength")
        )
        self._gather = plain("gather", jax.jit(gather_patches))
        self._gather_condition = plain(
            "gather condition",
            jax.jit(lambda latent, index: gather_patches(condition(latent), index)),
        )
        self._compose = plain("compose latent", jax.jit(compose_latent))
        self.buckets, self.slots = self._choices(ask=True)
        if model.predictor is not None:
            self._logits = plain("predictor", predictor_step(model.predictor))
            self._cell_weights = functools.cache(
                lambda *sizes: jax.device_put(cell_weights(*sizes))
            )

    def _choices(self, ask: bool) -> tuple[BucketChoice, dict[str, SlotChoice]]:
        model, kind = self.model, self.model.device.device_kind
        parameters = sum(leaf.size for leaf in jax.tree.leaves(model.params["dit"]))
        slots = {
            direction: SlotChoice(flops_per_slot(direction, model), kind, ask)
            for direction in ("encode", "decode")
        }
        return BucketChoice(parameters, model.devices, kind, ask), slots

    @contextlib.contextmanager
    def repeatable_choices(self, grids: Iterable[tuple[int, int, int]]) -> Iterator[None]:
        """Chooses buckets and slots inside as if nothing had run before and no program were kept.

        Results then are the same bit for bit whatever ran before, where the state of the choices
        is handed on. ``grids``: the token grids (t, r, q) of the clip's chunks.
        """
        before = self.buckets, self.slots
        self.buckets, self.slots = self._choices(ask=False)
        self.buckets.reserve(grids)
        try:
            yield
        finally:
            self.buckets, self.slots = before

    def choice_state(self) -> dict[str, Any]:
        """What the next choices depend on, for JSON."""
        slots = {direction: choice.state() for direction, choice in self.slots.items()}
        return {"buckets": self.buckets.state(), "slots": slots}

    def restore_choices(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``choice_state`` returned."""
        self.buckets.restore(state["buckets"])
        for direction, choice in self.slots.items():
            choice.restore(state["slots"][direction])

    @property
    def compiled_transformers(self) -> int:
        """How many programs of the transformer there are in memory."""
        return self._velocity.signatures

    @property
    def masks_from_pixels(self) -> bool:
        """Whether the mask predictor takes low-resolution frames rather than latents."""
        return isinstance(self.model.predictor, PixelMaskPredictor)

    def latent_logits(self, latent: Float[Array, "1 t h w c"]) -> Float[Array, "1 t r q"]:
        """The logit of each patch, of a predictor on latents; positive: it needs refinement."""
        return self._logits(self.model.params["predictor"], latent)

    def pixel_logits(self, frames: HostArray, target: tuple[int, int]) -> Float[Array, "1 t r q"]:
        """The same of a predictor in pixel space; its download begins at once.

        Args:
          frames: of the input, (f, h, w, 3) uint8 or uint16, with f = 4k + 1.
          target: (height, width) of the output.
        """
        weights = self._cell_weights(frames.shape[1:3], target)
        logits = self._logits(self.model.params["predictor"], frames, weights)
        logits.copy_to_host_async()
        return logits

    def refine(
        self,
        latent: Float[Array, "1 t h w c"],
        keep: Bool[HostArray, "t r q"],
        noise: Float[Array, "1 t h w c"],
        sampler: Sampler,
        condition_noise: Float[Array, "1 t h w c"] | None = None,
        fine: bool = True,
    ) -> tuple[Float[Array, "1 t h w c"], Bucket | None]:
        """The latent with its kept patches refined, and the bucket in which they ran.

        Args:
          latent: of the low-quality input; skipped patches keep it.
          keep: which patches run; where none does, the latent comes back and nothing runs.
          noise: x_T, from which sampling starts.
          sampler: steps and guidance.
          condition_noise: needed when the sampler puts noise on the condition.
          fine: whether to take the smallest bucket even where a larger one is compiled already.
        """
        if not keep.any():
            return latent, None
        conditioned = latent
        if sampler.condition_noise > 0:
            conditioned = self._add_condition_noise(
                latent, condition_noise, strength=sampler.condition_noise
            )
        texts = self._texts(sampler)
        calls = sampler.steps * len(texts)
        bucket = self.buckets.choose(keep, calls, fine, self._is_kept)
        plans = self._plans_on_devices(keep, texts, bucket)
        index = plans[0].patch_index
        conditions = self._gather_condition(conditioned, index)

        def predict(noisy: Array, timestep: Array) -> Array:
            results = [
                self._velocity(self.model.params["dit"], noisy, conditions, text, timestep, plan)
                for text, plan in zip(texts, plans, strict=True)
            ]
            if len(results) == 1:
                return results[0]
            return apply_guidance(*results, sampler.guidance, sampler.rescale)

        start = self._gather(noise, index)
        refined = euler_sample(predict, start, uniform_trailing(sampler.steps))
        return self._compose(latent, refined, index), bucket

    def attention(self, bucket: Bucket) -> tuple[str, dict[str, str]]:
        """The attention implementation that runs a bucket here, and why each faster one does not.

        The latter maps names of implementations to reasons.
        """
        config, devices = self.model.dit.config, self.model.devices
        text = self.model.params["text"]["positive"]
        rows = bucket.tokens + bucket.windows * text.shape[0]
        dtype = np.dtype(self.model.dit.dtype)
        heads = config.heads // devices
        return choose(Problem(1, rows, heads, config.head_dim, bucket.windows, dtype))

    def _is_kept(self, bucket: Bucket) -> bool:
        """Whether the transformer's program of a bucket can be loaded rather than compiled."""
        return self._velocity.is_kept(*self._velocity_shapes(bucket))

    def prepare_transformer(self) -> None:
        """Begins to compile the transformer in the buckets that were reserved."""
        if self.model.devices == 1:
            for bucket in self.buckets.ready:
                self._velocity.prepare(*self._velocity_shapes(bucket))

    def _velocity_shapes(self, bucket: Bucket) -> tuple[Any, ...]:
        """Arguments of the transformer for a bucket: shapes, where the numbers do not matter."""
        text, config = self.model.params["text"]["positive"], self.model.dit.config
        keep = np.ones((1, 1, 1), bool)
        plan = build_plan([keep], [text.shape[0]], bucket, shards=self.model.devices)
        rows, condition_channels = (1, bucket.tokens), config.in_channels - config.out_channels
        return (
            self.model.params["dit"],
            jax.ShapeDtypeStruct((*rows, PATCH_AREA * config.out_channels), jnp.float32),
            jax.ShapeDtypeStruct((*rows, PATCH_AREA * condition_channels), jnp.float32),
            jax.ShapeDtypeStruct((1, *text.shape), text.dtype),
            jax.ShapeDtypeStruct((), jnp.float32),
            plan,
        )

    def _texts(self, sampler: Sampler) -> list[Float[Array, "1 m i"]]:
        """The embeddings of the prompts that the sampler runs with: positive, maybe negative."""
        texts = self.model.params["text"]
        if sampler.guidance == 1:
            return [texts["positive"][None]]
        if "negative" not in texts:
            raise UserError(
                f"{self.model.source} has no negative text embedding: set config.sampler.guidance=1"
            )
        return [texts["positive"][None], texts["negative"][None]]

    def _plans_on_devices(
        self, keep: Bool[HostArray, "t r q"], texts: Sequence[Array], bucket: Bucket
    ) -> list[TokenPlan]:
        """The token plan of a chunk with each text, on the devices.

        Plans are committed to the devices as the parameters are. Else the first of several steps,
        whose noise is not committed, would have a program of its own.
        """
        plans = [
            build_plan([keep], [text.shape[1]], bucket, shards=self.model.devices) for text in texts
        ]
        return [
            jax.device_put(plan, text.sharding) for text, plan in zip(texts, plans, strict=True)
        ]
