"""Stage ``predictor``: which patches need refinement, learned from the upscaled input's latent.

Binary cross-entropy of the logits against Eq. 1 on the true clip (paper section 4.2, "Skip
Prediction Model"); the autoencoder is frozen. True means "needs refinement" throughout.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from skipsr_jax.checkpoints.dataclass_json import to_json
from skipsr_jax.models.flops import BACKWARD, traced_flops, vae_flops
from skipsr_jax.models.predictor import PAPER, TINY, MaskPredictor, PredictorConfig
from skipsr_jax.nn.params import Params, abstract, bind, to_dict
from skipsr_jax.tokens.criterion import TAU
from skipsr_jax.training.frozen import encode, latent_shape, load_vae
from skipsr_jax.training.pixels import patches_to_pixels, signed, unsigned, upscaled
from skipsr_jax.training.settings import Settings, require
from skipsr_jax.training.stage import Batch, Metrics, Preview, Stage, buffers, recipe_of
from skipsr_jax.types import Array, Bool, Float

PREDICTOR_OF_MODEL = {"tiny": TINY, "seedvr2_3b": PAPER, "seedvr_7b": PAPER}


@dataclasses.dataclass(frozen=True)
class PredictorLoss:
    """``pos_weight``: weight of patches that need refinement, against 1 for the others."""

    pos_weight: float = 1.0

    def __post_init__(self):
        require(self.pos_weight > 0, "pos_weight", self.pos_weight, "above 0")


def agreement(logits: Float[Array, "*s"], truth: Bool[Array, "*s"]) -> Metrics:
    """Precision, recall and F1 of kept patches at probability 1/2, F1 of skipped ones, average
    precision of kept patches, and both skip percentages."""
    keep = logits > 0
    both, kept, true = (jnp.sum(x * 1.0) for x in (keep & truth, keep, truth))
    neither, skipped, false = (jnp.sum(x * 1.0) for x in (~keep & ~truth, ~keep, ~truth))
    hits = truth.ravel()[jnp.argsort(-logits.ravel())] * 1.0
    precision = jnp.cumsum(hits) / (1.0 + jnp.arange(hits.size))
    return {
        "precision": both / jnp.maximum(kept, 1),
        "recall": both / jnp.maximum(true, 1),
        "f1": 2 * both / jnp.maximum(kept + true, 1),
        "f1_skipped": 2 * neither / jnp.maximum(skipped + false, 1),
        "average_precision": (precision * hits).sum() / jnp.maximum(true, 1),
        "skip_percent": 100 * skipped / truth.size,
        "skip_percent_oracle": 100 * false / truth.size,
    }


def make(settings: Settings, config: PredictorConfig | None = None) -> Stage:
    """The stage. ``config`` stands in for the model's own predictor."""
    config = config or PREDICTOR_OF_MODEL[settings.model]
    weight: PredictorLoss = settings.loss
    vae, frozen_params = load_vae(settings)
    config = dataclasses.replace(config, latent_channels=vae.config.latent_channels)
    dtype = jnp.dtype(settings.dtype)
    module = abstract(lambda: MaskPredictor(config, rngs=nnx.Rngs(0), dtype=dtype))

    def init(key: Array) -> Params:
        return {"predictor": to_dict(MaskPredictor(config, rngs=nnx.Rngs(key)))}

    def predicted(params, frozen, frames, key) -> Float[Array, "b t r q"]:
        noise = jax.random.normal(key, latent_shape(vae, frames))
        latent = encode(vae, frozen["vae"], frames, noise)
        return bind(module, params["predictor"])(latent)

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        frames = upscaled(batch["lr"], batch["hr"].shape[2:4])
        logits = predicted(params, frozen, frames, key)
        truth = batch["mask"]
        entropy = optax.sigmoid_binary_cross_entropy(logits, truth * 1.0)
        share = jnp.where(truth, weight.pos_weight, 1.0)
        return (entropy * share).sum() / share.sum(), agreement(logits, truth)

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        # Kept patches show the truth: what is lost is what skipping loses.
        frames = upscaled(batch["lr"], batch["hr"].shape[2:4])
        keep = predicted(params, frozen, frames, key) > 0
        shown = jnp.where(patches_to_pixels(keep), signed(batch["hr"]), frames)
        return Preview(unsigned(shown), keep)

    @functools.cache
    def cost(shape: tuple[int, int, int, int]) -> float:
        frames = jax.ShapeDtypeStruct((*shape, 3), jnp.float32)
        latent = jax.ShapeDtypeStruct(latent_shape(vae, frames), jnp.float32)
        own = traced_flops(lambda p, z: bind(module, p)(z), to_dict(module), latent)
        return vae_flops(vae, shape)[0] + (1 + BACKWARD) * own

    return Stage(
        init=init,
        loss=loss,
        frozen=frozen_params,
        fixed=buffers(module, "predictor"),
        recipe=recipe_of(settings, masks=True),
        config={"predictor": to_json(config), "tau": TAU},
        preview=preview,
        flops=lambda batch: cost(batch["hr"].shape[:4]),
    )
