"""The models that benchmarks run: networks as shapes, random parameters, token plans and inputs."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.inference.precision import coder_format
from skipsr_jax.kernels.quantized import FORMATS, Format
from skipsr_jax.models.adapter import Adapter, frozen_shapes, with_adapter
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.params import Params, abstract, flatten, to_dict, unflatten
from skipsr_jax.models.presets import DIT_PRESETS, LIGHT_CODER_PRESETS, VAE_PRESETS
from skipsr_jax.models.quantized_params import quantize_params, unquantized_shapes
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.resources import config_names
from skipsr_jax.tokens.plan import TokenPlan, bucket_with_window_capacity, build_plan
from skipsr_jax.types import Bool, HostArray

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

TEXT_TOKENS = 58
"""Text tokens of the published positive embedding."""

CONFIGURED = [name for name in sorted(DIT_PRESETS) if name in config_names()]
"""The models that have a config of inference of the same name."""


def first_device() -> Mesh:
    """A mesh of the first device alone."""
    return make_mesh(1, 1, 1, devices=jax.devices()[:1])


def abstract_dit(
    config: DiTConfig, dtype: Any, attention: str | None = None, precision: str = "bf16"
) -> DiT:
    """A transformer as shapes, stored and computed in ``dtype``, with products of ``precision``."""
    kinds = {"dtype": np.dtype(dtype), "param_dtype": np.dtype(dtype), "attention": attention}
    return abstract(lambda rngs: DiT(config, rngs=rngs, format=FORMATS.get(precision), **kinds))


def abstract_base(
    config: DiTConfig, adapter: Adapter, dtype: Any, text_lengths: tuple[int, int]
) -> Params:
    """The frozen transformer and texts of a training run with an adapter, as shapes."""
    module = with_adapter(abstract_dit(config, dtype), adapter)
    text = (jax.ShapeDtypeStruct((n, config.text_width), np.dtype(dtype)) for n in text_lengths)
    return {
        "dit": frozen_shapes(module),
        "text": dict(zip(("positive", "negative"), text, strict=True)),
    }


def abstract_vae(
    config: VAEConfig, dtype: Any, param_dtype: Any = None, format: Format | None = None
) -> VAE:
    """An autoencoder as shapes, computed in ``dtype`` and stored in ``param_dtype`` or the same,
    with products of its wide convolutions in ``format``."""
    kinds = {"dtype": np.dtype(dtype), "param_dtype": np.dtype(param_dtype or dtype)}
    return abstract(lambda rngs: VAE(config, rngs=rngs, format=format, **kinds))


def abstract_light_coder(config: LightCoderConfig, dtype: Any) -> LightCoder:
    """A light coder as shapes, stored and computed in ``dtype``."""
    dtype = np.dtype(dtype)
    return abstract(lambda rngs: LightCoder(config, rngs=rngs, dtype=dtype, param_dtype=dtype))


def abstract_networks(
    model: str,
    dtype: Any,
    coder: str = "full",
    precision: str = "bf16",
    coder_precision: str = "bf16",
) -> dict[str, nnx.Module]:
    """The coder ("full" or "light") and the DiT of a preset as shapes, stored and computed in
    ``dtype``, with products of ``precision`` in the DiT, as inference has them on one device.

    ``coder_precision``: of the full coder's wide convolutions. Raises UserError where it cannot
    run.
    """
    format = coder_format(coder_precision, coder, dtype)
    if coder == "light":
        module = abstract_light_coder(LIGHT_CODER_PRESETS[model], dtype)
    else:
        module = abstract_vae(VAE_PRESETS[model], dtype, format=format)
    return {
        "coder": module,
        "dit": abstract_dit(DIT_PRESETS[model], dtype, precision=precision),
    }


def random_parameters(module: nnx.Module, mesh: Mesh) -> Any:
    """Parameters drawn from normal distributions with the deviation of the fan-in.

    Each device draws its own shards; the numbers are the same on any mesh. There is a program for
    each shape, because one for all parameters takes as long to compile as there are parameters.
    """
    shapes = to_dict(module)
    plain = unquantized_shapes(shapes)
    leaves, sharded = flatten(plain), flatten(shardings(plain, mesh))
    keys = jax.random.split(jax.random.key(0), len(leaves))

    @functools.cache
    def program(shape: tuple[int, ...], dtype: Any, sharding: jax.sharding.Sharding) -> Any:
        scale = shape[-2] ** -0.5 if shape[-2:-1] else 1.0

        def draw(key: jax.Array) -> jax.Array:
            return (scale * jax.random.normal(key, shape)).astype(dtype)

        return jax.jit(draw, out_shardings=sharding)

    made = unflatten(
        {
            path: program(leaf.shape, leaf.dtype, sharded[path])(key)
            for key, (path, leaf) in zip(keys, leaves.items(), strict=True)
        }
    )
    format = getattr(module, "format", None)
    return (
        made if format is None else quantize_params(made, shapes, format, shardings(shapes, mesh))
    )


def plan_for(keep: Bool[HostArray, "t r q"], shards: int = 1) -> TokenPlan:
    """The token plan of one clip, in the bucket that inference takes for it."""
    bucket = bucket_with_window_capacity([keep], shards)
    return build_plan([keep], [TEXT_TOKENS], bucket, shards=shards)


def random_inputs(config: DiTConfig, plan: TokenPlan, dtype: Any) -> tuple[Any, ...]:
    """The arguments of ``inference.programs.velocity_step`` after the parameters, on the host."""
    rng = np.random.default_rng(1)
    sizes = (config.out_channels, config.in_channels - config.out_channels)
    rows = plan.patch_index.shape
    text = rng.standard_normal((1, TEXT_TOKENS, config.text_width), np.float32)
    tokens = [rng.standard_normal((*rows, PATCH_AREA * c), np.float32) for c in sizes]
    return *tokens, text.astype(dtype), np.float32(1000), plan
