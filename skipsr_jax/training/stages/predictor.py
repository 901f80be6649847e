"""Stage ``predictor``: trains the mask predictor on the low-quality input.

The loss is the binary cross-entropy of the logits against Eq. 1 on the true clip (paper section
4.2, "Skip Prediction Model"). True means "needs refinement" throughout. The paper's predictor takes
the latent of the upscaled input, from a frozen autoencoder; the one on pixels takes the input.

``regression`` adds a second target, which the mask does not hold: by how much a patch is above or
below tau. A logit l stands for an error of tau * exp(LOG_ERROR_OF_LOGIT * l).
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from skipsr_jax.config import require, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.metrics import mask_agreement
from skipsr_jax.models.flops import BACKWARD, traced_flops, vae_flops
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.predictor import (
    PAPER,
    TINY,
    PixelMaskPredictor,
    PredictorConfig,
    cell_weights,
    make_predictor,
)
from skipsr_jax.tokens.criterion import TAU
from skipsr_jax.training.frozen_vae import encode, latent_shape, load_vae
from skipsr_jax.training.pixels import patches_to_pixels, signed, unit, upscaled
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Preview, Stage, buffers, recipe_of
from skipsr_jax.types import Bool, Float

PREDICTOR_OF_MODEL = {"tiny": TINY, "small": TINY, "seedvr2_3b": PAPER, "seedvr_7b": PAPER}

LOG_ERROR_OF_LOGIT = 0.26
"""Change of the error's natural logarithm for one logit. The error that the input leaves open is a
factor of about exp(0.45) (measured): a normal distribution of that width is close to the logistic
one of this scale."""
LARGEST_LOG_ERROR = 4.0
"""The error's logarithm, relative to tau, is clipped to plus or minus this."""


@dataclasses.dataclass(frozen=True)
class PredictorLoss:
    """The section ``loss``.

    Attributes:
      space: what the predictor takes: the latent, as in the paper, or the input's pixels.
      pos_weight: weight of patches that need refinement, against 1 for the others.
      regression: weight of the error's logarithm as a second target; 0: the mask alone.
    """

    space: Literal["latent", "pixels"] = "latent"
    pos_weight: float = 1.0
    regression: float = 0.0

    def __post_init__(self):
        require(self.pos_weight > 0, "pos_weight", self.pos_weight, "above 0")
        require(self.regression >= 0, "regression", self.regression, "at least 0")


def agreement(logits: Float[Array, "..."], truth: Bool[Array, "..."]) -> Metrics:
    """Precision, recall and F1 of kept patches at probability 1/2, F1 of skipped ones, average
    precision of kept patches, and both skip percentages."""
    keep = logits > 0
    hits = truth.ravel()[jnp.argsort(-logits.ravel())] * 1.0
    precision = jnp.cumsum(hits) / (1.0 + jnp.arange(hits.size))
    return mask_agreement(keep, truth) | {
        "f1_skipped": mask_agreement(~keep, ~truth)["f1"],
        "average_precision": (precision * hits).sum() / jnp.maximum(hits.sum(), 1),
        "skip_percent": 100 * jnp.sum(~keep * 1.0) / truth.size,
        "skip_percent_oracle": 100 * jnp.sum(~truth * 1.0) / truth.size,
    }


def _of_pixels(
    predictor: PixelMaskPredictor, frames: Float[Array, "b f h w 3"], target: tuple[int, int]
) -> Float[Array, "b t r q"]:
    """The logits for a target of this size, from frames in [0, 1] that any factor made smaller."""
    size = frames.shape[2:4]
    exact = tuple(4 * side for side in size) == target
    return predictor(frames, None if exact else cell_weights(size, target))


def regression_loss(
    logits: Float[Array, "..."], error: Float[Array, "..."], weight: Float[Array, "..."]
) -> Float[Array, ""]:
    """Weighted mean Huber loss between the error's logarithm and the one that the logits predict.

    ``error``: the left side of Eq. 1 for each patch.
    """
    target = jnp.log(jnp.maximum(error, 1e-12) / TAU)
    target = jnp.clip(target, -LARGEST_LOG_ERROR, LARGEST_LOG_ERROR)
    predicted = jnp.clip(LOG_ERROR_OF_LOGIT * logits, -LARGEST_LOG_ERROR, LARGEST_LOG_ERROR)
    return (optax.huber_loss(predicted, target, delta=0.5) * weight).sum() / weight.sum()


def make(settings: Settings, config: PredictorConfig | None = None) -> Stage:
    """Returns the stage. ``config`` replaces the predictor of ``settings.model``.

    Raises UserError when the space needs an autoencoder and none is named, or the other way round.
    """
    loss_config: PredictorLoss = settings.loss
    config = config or PREDICTOR_OF_MODEL[settings.model]
    config = dataclasses.replace(config, space=loss_config.space)
    vae, frozen_params = None, {}
    if config.space == "latent":
        vae, frozen_params = load_vae(settings)
        config = dataclasses.replace(config, latent_channels=vae.config.latent_channels)
    elif settings.vae:
        raise UserError("loss.space is pixels, which needs no autoencoder: leave config.vae empty")
    dtype = jnp.dtype(settings.dtype)
    module = abstract(lambda rngs: make_predictor(config, rngs=rngs, dtype=dtype))

    def init(key: Array) -> Params:
        return {"predictor": to_dict(make_predictor(config, rngs=nnx.Rngs(key)))}

    def predicted(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> Float[Array, "b t r q"]:
        predictor = bind(module, params["predictor"])
        (hr,), (lr,) = batch.hr, batch.lr
        if vae is None:
            return _of_pixels(predictor, lr / 255.0, hr.shape[2:4])
        frames = upscaled(lr, hr.shape[2:4])
        noise = jax.random.normal(key, latent_shape(vae, frames))
        with jax.named_scope("encode"):
            latent = encode(vae, frozen["vae"], frames, noise)
        return predictor(latent)

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        logits = predicted(params, frozen, batch, key)
        (truth,) = batch.mask
        weight = jnp.where(truth, loss_config.pos_weight, 1.0)
        entropy = optax.sigmoid_binary_cross_entropy(logits, truth * 1.0)
        total, metrics = (entropy * weight).sum() / weight.sum(), agreement(logits, truth)
        if loss_config.regression:
            regression = regression_loss(logits, batch.error[0], weight)
            total = total + loss_config.regression * regression
            metrics["regression"] = regression
        return total, metrics

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        # Kept patches have the true pixels, so that the error is that of skipping alone.
        (hr,), (lr,) = batch.hr, batch.lr
        keep = predicted(params, frozen, batch, key) > 0
        frames = jnp.where(patches_to_pixels(keep), signed(hr), upscaled(lr, hr.shape[2:4]))
        return Preview((unit(frames),), (keep,))

    @functools.cache
    def cost(shape: tuple[int, ...], low: tuple[int, ...]) -> float:
        def own(params: Params, frames: Array) -> Array:
            if vae is None:
                return _of_pixels(bind(module, params), frames, shape[2:4])
            return bind(module, params)(jnp.zeros(latent_shape(vae, frames)))

        frames = jax.ShapeDtypeStruct(low if vae is None else shape, jnp.float32)
        learning = (1 + BACKWARD) * traced_flops(own, to_dict(module), frames)
        return learning + (0.0 if vae is None else vae_flops(vae, shape[:4])[0])

    return Stage(
        init=init,
        loss=loss,
        frozen=frozen_params,
        fixed=buffers(module, "predictor"),
        recipe=dataclasses.replace(recipe_of(settings, masks=True), one_size=vae is not None),
        config={"predictor": to_json(config), "tau": TAU},
        preview=preview,
        flops=lambda batch: cost(batch.hr[0].shape, batch.lr[0].shape),
    )
