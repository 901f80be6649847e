"""Loads the networks of a checkpoint: modules as shapes, parameters as one nested dict.

The checkpoint's config alone says what the networks are. Invariant: a ``Model`` has the networks
that the run needs, with parameters that fit them.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from skipsr_jax.checkpoints import store
from skipsr_jax.checkpoints.adapter import read_adapter
from skipsr_jax.config import from_json
from skipsr_jax.errors import UserError
from skipsr_jax.inference.precision import (
    check_wide,
    coder_format,
    precision_of_run,
    stored_precision,
    transformer,
    with_coder_format,
    with_precision,
)
from skipsr_jax.inference.settings import Mask
from skipsr_jax.inference.sharpness import check_sharpness, read_sharpened
from skipsr_jax.kernels.quantized import UNQUANTIZED
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.params import Params, abstract, nbytes, to_dict
from skipsr_jax.models.predictor import (
    MaskPredictor,
    PixelMaskPredictor,
    PredictorConfig,
    make_predictor,
)
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.parallel.mesh import replicated
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.parallel.sequence import check_heads
from skipsr_jax.resources import find_checkpoint

CoderKind = Literal["full", "light"]

_CODER_PARTS: dict[CoderKind, tuple[str, type, type]] = {
    "full": ("vae", VAEConfig, VAE),
    "light": ("light_coder", LightCoderConfig, LightCoder),
}
"""Of each coder, its name in checkpoints, its config and its network."""
_PARTS = ("vae", "light_coder", "dit", "predictor")
_HINTS = {
    "predictor": "take another checkpoint as config.mask.checkpoint",
    "light_coder": "set config.coder=full",
}
"""What to do where a checkpoint lacks a network."""
SHIPPED_PREDICTOR = "checkpoints/mask_predictor"
"""The mask predictor that comes with the package: on the input's pixels, for every model."""


@dataclasses.dataclass
class Model:
    """Abstract modules and their parameters.

    Attributes:
      source: the checkpoint, for messages.
      coder: the full autoencoder or the light coder.
      dit: the transformer.
      predictor: the mask predictor, on latents or on pixels; None when there is none, or when the
        model was loaded without it.
      predictor_source: the checkpoint that the predictor comes from; empty without one.
      adapter: the adapter that is merged into the transformer, in words; empty without one.
      params: ``{"coder": ..., "dit": ..., "predictor": ..., "text": {"positive": (m, i), ...}}``,
        or their ``jax.ShapeDtypeStruct`` until the model is loaded.
      mesh: of the devices that hold the parameters and share each clip; None: the default device.
      read: reads the parameters; None where they are there.
      sharpness: of the parameters, 0 for the faithful ones.
    """

    source: str
    coder: VAE | LightCoder
    dit: DiT
    predictor: MaskPredictor | PixelMaskPredictor | None
    params: Params
    mesh: Mesh | None = None
    predictor_source: str = ""
    adapter: str = ""
    read: Callable[[], Params] | None = None
    sharpness: float = 0.0

    def load(self) -> None:
        """Reads the parameters, unless they are there. Raises UserError for damaged files."""
        if self.read is not None:
            self.params, self.read = self.read(), None

    @property
    def bytes_to_load(self) -> int:
        """Bytes of parameters that are not on the devices yet."""
        leaves = jax.tree.leaves(self.params)
        return nbytes([leaf for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)])

    @property
    def coder_kind(self) -> CoderKind:
        """Which coder it is: "full" or "light"."""
        return "light" if isinstance(self.coder, LightCoder) else "full"

    @property
    def products(self) -> str:
        """The precision of the transformer's products, or their dtype."""
        return str(np.dtype(self.dit.dtype)) if self.dit.format is None else self.dit.format.name

    @property
    def coder_products(self) -> str:
        """The precision of the autoencoder's wide convolutions, or its dtype."""
        format = None if isinstance(self.coder, LightCoder) else self.coder.format
        return str(np.dtype(self.coder.dtype)) if format is None else format.name

    @property
    def devices(self) -> int:
        """How many devices share each clip."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def device(self) -> jax.Device:
        """One of them; all are alike."""
        return jax.local_devices()[0] if self.mesh is None else self.mesh.devices.flat[0]


def compute_dtype(name: str) -> Any:
    """The dtype of a name; auto: bfloat16 on accelerators, float32 on CPU."""
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name).type


def _part(config: dict[str, Any], name: str, cls: type, source: str) -> Any:
    if name not in config:
        have = ", ".join(key for key in config if key in _PARTS) or "none"
        hint = _HINTS.get(name, "take another checkpoint as config.checkpoint")
        raise UserError(f"{source} has no {name} (of the networks it has {have}): {hint}")
    return from_json(cls, config[name], source)


def _coder_kind(asked: str, config: dict[str, Any]) -> CoderKind:
    """The coder that ``config.coder`` asks for, of a checkpoint with this config."""
    if asked == "auto":
        return "light" if _CODER_PARTS["light"][0] in config else "full"
    return asked


def open_model(
    path: str,
    dtype: str,
    mask: Mask | None = None,
    mesh: Mesh | None = None,
    coder: str = "auto",
    *,
    precision: str = "auto",
    coder_precision: str = UNQUANTIZED,
    adapter: str = "",
    sharpness: float = 0.0,
    any_device: bool = False,
) -> Model:
    """The networks that are stored at ``path``, before their parameters are read.

    Programs can be compiled from it, because they depend on shapes alone. ``Model.load`` reads the
    parameters. Arguments and errors: as of ``load_model``; damaged files show when they are read.
    """
    source = find_checkpoint(path)
    config = store.load_config(source)
    coder_kind = _coder_kind(coder, config)
    part, config_class, network = _CODER_PARTS[coder_kind]
    coder_config = _part(config, part, config_class, source)
    dit_config = _part(config, "dit", DiTConfig, source)
    channels = 2 * coder_config.latent_channels + 1
    if dit_config.in_channels != channels:
        raise UserError(
            f"{source}: the transformer takes {dit_config.in_channels} channels, but latents of "
            f"{coder_config.latent_channels} make {channels}: its parts are not of one model"
        )
    if mesh is not None:
        check_heads(mesh.size, dit_config.heads)
    kind = compute_dtype(dtype)
    stored = stored_precision(config, source)
    chosen = precision_of_run(precision, stored, source, any_device)
    dit = transformer(dit_config, chosen, kind)
    kinds = {"dtype": kind, "param_dtype": kind}
    unquantized = abstract(lambda rngs: network(coder_config, rngs=rngs, **kinds))
    devices = 1 if mesh is None else mesh.size
    format = coder_format(coder_precision, coder_kind, kind, devices, any_device)
    module = unquantized
    if format is not None:
        module = abstract(lambda rngs: VAE(coder_config, rngs=rngs, format=format, **kinds))
        check_wide(module, source)
    wanted = {part: to_dict(unquantized), "dit": to_dict(transformer(dit_config, stored, kind))}
    shapes = _open(source, wanted, kind, mesh, ("text",))
    check_sharpness(sharpness, config, source)
    _check_text(shapes["text"], dit_config, source)
    merging = None
    if adapter:
        merging = read_adapter(adapter)
        merging.check(dit_config, source)
    predictor, of_predictor = None, {}
    predictor_source = find_predictor(mask, source, config)
    if predictor_source:
        predictor, of_predictor = _open_predictor(predictor_source, kind, mesh)

    def read() -> Params:
        params = read_sharpened(source, shapes, sharpness)
        if of_predictor:
            params |= store.read_params(predictor_source, of_predictor)
        # As few roundings as can be: an adapter is merged where kernels are unquantised.
        before = stored == UNQUANTIZED or chosen == stored
        if merging is not None and before:
            params["dit"] = merging.merged(params["dit"])
        params["dit"] = with_precision(dit, params["dit"], stored, mesh)
        if merging is not None and not before:
            params["dit"] = merging.merged(params["dit"])
        params["coder"] = with_coder_format(module, params.pop(part), mesh)
        return params

    known = {
        "coder": shapes[part] if module is unquantized else to_dict(module),
        "dit": shapes["dit"] if chosen == stored else to_dict(dit),
        "text": shapes["text"],
    }
    return Model(
        source, module, dit, predictor, known | of_predictor, mesh, predictor_source,
        "" if merging is None else merging.description, read, sharpness,
    )  # fmt: skip


def load_model(
    path: str,
    dtype: str,
    mask: Mask | None = None,
    mesh: Mesh | None = None,
    coder: str = "auto",
    *,
    precision: str = "auto",
    coder_precision: str = UNQUANTIZED,
    adapter: str = "",
    sharpness: float = 0.0,
    any_device: bool = False,
) -> Model:
    """Loads the networks that are stored at ``path``.

    Args:
      path: folder or URL of the checkpoint; ``checkpoints/<name>`` also finds those of the package.
      dtype: of parameters and computation: auto, or a name that ``compute_dtype`` takes.
      mask: whose source says whether to load a mask predictor, and which; None: without one.
      mesh: each device of it reads its shard of the parameters; None: the default device.
      coder: full, light, or auto: light where the checkpoint has one. Only that one is loaded.
      precision, coder_precision: as in ``Settings``.
      adapter: workdir or checkpoint of an adapter to merge into the transformer; "": none.
      any_device: quantised products also where the device has no matrix unit for them, slowly, for
        tests.
      sharpness: as in ``Settings``.

    Raises:
      UserError: the checkpoint is missing, damaged, of another kind, or lacks a network, or its
        attention heads do not divide over the mesh; or the adapter is for another transformer; or
        ``mask`` needs a predictor and there is none; or the checkpoint or the device does not have
        the precision.
    """
    model = open_model(
        path, dtype, mask, mesh, coder,
        precision=precision, coder_precision=coder_precision, adapter=adapter,
        sharpness=sharpness, any_device=any_device,
    )  # fmt: skip
    model.load()
    return model


def load_predictor(
    path: str, dtype: Any, mesh: Mesh | None = None
) -> tuple[MaskPredictor | PixelMaskPredictor, Params]:
    """The mask predictor of a checkpoint, as shapes, and its parameters; as ``load_model``."""
    source = find_checkpoint(path)
    predictor, shapes = _open_predictor(source, dtype, mesh)
    return predictor, store.read_params(source, shapes)["predictor"]


def _open_predictor(
    source: str, dtype: Any, mesh: Mesh | None
) -> tuple[MaskPredictor | PixelMaskPredictor, Params]:
    kinds = {"dtype": dtype, "param_dtype": dtype}
    config = _part(store.load_config(source), "predictor", PredictorConfig, source)
    predictor = abstract(lambda rngs: make_predictor(config, rngs=rngs, **kinds))
    return predictor, _open(source, {"predictor": to_dict(predictor)}, dtype, mesh)


def _open(
    source: str, wanted: Params, kind: Any, mesh: Mesh | None, unchecked: tuple[str, ...] = ()
) -> Params:
    """The shapes that ``store.read_params`` takes, of ``wanted`` and of parts without shapes."""
    sharded = None
    if mesh is not None:
        sharded = shardings(wanted, mesh) | dict.fromkeys(unchecked, replicated(mesh))
    return store.open_params(source, wanted, sharded, dtype=kind, only=(*wanted, *unchecked))


def find_predictor(mask: Mask | None, source: str, config: dict[str, Any]) -> str:
    """The checkpoint that the mask predictor comes from: ``mask.checkpoint`` before the model's own
    before that of the package; "" without one.

    Args:
      mask: None: no predictor is wanted.
      source: the model's checkpoint.
      config: of that checkpoint.

    Raises:
      UserError: the source is "predictor" and there is none.
    """
    if mask is None or mask.source not in ("auto", "predictor"):
        return ""
    if mask.checkpoint:
        return find_checkpoint(mask.checkpoint)
    if "predictor" in config:
        return source
    shipped = find_checkpoint(SHIPPED_PREDICTOR)
    if os.path.exists(shipped):
        return shipped
    if mask.source == "auto":
        return ""
    raise UserError(
        f"{source} has no predictor and there is no {SHIPPED_PREDICTOR}: name one as "
        "config.mask.checkpoint, or set config.mask.source=input"
    )


def chosen_mask(mask: Mask, model: Model) -> Mask:
    """``mask`` with "auto" replaced by the source that the model makes possible."""
    if mask.source != "auto":
        return mask
    source = "input" if model.predictor is None else "predictor"
    return dataclasses.replace(mask, source=source)


def mask_origin(mask: Mask, model: Model) -> str:
    """What a summary says of where masks come from. ``mask`` is as the config has it."""
    if mask.source == "auto" and model.predictor is None:
        return "input, training-free, for there is no mask predictor"
    if model.predictor is not None and mask.source in ("auto", "predictor"):
        return f"predictor of {model.predictor_source}"
    return mask.source


def _check_text(text: Params, config: DiTConfig, source: str) -> None:
    for name, embedding in text.items():
        if embedding.ndim != 2 or embedding.shape[1] != config.text_width:
            raise UserError(
                f"{source}: the {name} text embedding has shape {tuple(embedding.shape)}, the "
                f"transformer takes (tokens, {config.text_width})"
            )
    if "positive" not in text:
        raise UserError(f"{source} has no positive text embedding")
