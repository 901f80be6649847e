"""Stage ``coder``: distils the light coder from the frozen full autoencoder.

  encoder:  latent |E(x) - F(x)|^2 / var F(x)   for x the true clip and the upscaled input
  decoder:  pixels to the truth, and teacher times the same to the full decoder's frames
            (``losses.decoded``), and what a patch discriminator adds

with E the light encoder and F the means of the full one. What the decoder gets to decode is in
``training.light_coder``: latents of both encoders, or what a one-step transformer makes of the
condition. That transformer is frozen (``loss.generator``), or is trained too (``loss.joint``),
which usually comes last.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.config import require, require_between, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.errors import UserError
from skipsr_jax.models.discriminator import PatchDiscriminator
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.flops import BACKWARD, BACKWARD_FROZEN, dit_flops, vae_flops
from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.presets import LIGHT_CODER_PRESETS
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.frozen_vae import load_vae, with_latents
from skipsr_jax.training.light_coder import (
    CoderNetworks,
    DecoderInputs,
    latent_error,
    with_equal_frames,
)
from skipsr_jax.training.losses.decoded import (
    patch_discriminator_loss,
    patch_generator_loss,
    pixel_loss,
)
from skipsr_jax.training.losses.gan import Pairing
from skipsr_jax.training.settings import Settings, TokenSettings
from skipsr_jax.training.stage import Metrics, Preview, Stage, Trainee, buffers, recipe_of
from skipsr_jax.training.transformer import TEXTS, abstract_dit, fresh_params, load_transformer
from skipsr_jax.types import DType, Float


@dataclasses.dataclass(frozen=True)
class CoderLoss(TokenSettings):
    """The section ``loss``: weights of its parts, and what the decoder gets.

    Where a transformer runs, it acts on the tokens that ``TokenSettings`` selects.

    Attributes:
      latent: weight of the encoder's error. With ``joint``, ``own_share`` 1 and neither this nor
        ``teacher`` the stage needs no full autoencoder and encodes the upscaled input alone.
      teacher: weight of the loss to the full decoder's frames; 0: they are not made.
      gradient: weight of the error of gradients in the losses to truth and teacher.
      frequency: weight of the error of the spectrum in the losses to truth and teacher.
      temporal: weight of the error of successive frames' differences.
      own_share: fraction of the samples whose latents that are decoded are the light encoder's.
      low_quality_share: fraction of the samples whose latents that are decoded are of the upscaled
        input; not read with a transformer.
      noise: largest standard deviation of the noise on latents that are decoded; not read with a
        transformer.
      condition_noise: level of the noise on the transformer's condition.
      generator: workdir or model checkpoint of a frozen one-step transformer, whose results are
        decoded; "" for none.
      joint: decode the results of a transformer that is trained too, and starts from init_from.
      train_text: whether joint trains the texts too.
      adversarial: weight of the discriminator's part of the decoder's loss; 0: there is none.
      pairing: how the losses compare true and decoded frames: relativistic: each with the other;
        non_saturating: each alone.
      discriminator_width: channels of the discriminator at half resolution.
      discriminator_rate: learning rate of the discriminator, as a factor on the coder's.
      penalty: weight of the penalty on the discriminator's change under noise.
      sigma: standard deviation of that noise, in pixels of [-1, 1].
    """

    latent: float = 1.0
    teacher: float = 0.5
    gradient: float = 0.5
    frequency: float = 0.05
    temporal: float = 0.5
    own_share: float = 0.5
    low_quality_share: float = 0.25
    noise: float = 0.2
    condition_noise: float = 0.0
    generator: str = ""
    joint: bool = False
    train_text: bool = True
    adversarial: float = 0.0
    pairing: Pairing = "relativistic"
    discriminator_width: int = 32
    discriminator_rate: float = 1.0
    penalty: float = 1.0
    sigma: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        for name in ("own_share", "low_quality_share", "condition_noise"):
            require_between(name, getattr(self, name), 0, 1)
        weights = ("latent", "teacher", "gradient", "frequency", "temporal", "adversarial")
        for name in (*weights, "noise", "penalty", "sigma"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        width = self.discriminator_width
        require(width >= 1, "discriminator_width", width, "at least 1")
        require_between("discriminator_rate", self.discriminator_rate, 0, 1000)
        good = not (self.joint and self.generator)
        require(
            good, "generator", self.generator, "empty with joint: init_from has its transformer"
        )

    @property
    def needs_full(self) -> bool:
        """Whether the full autoencoder takes part."""
        return not self.joint or self.latent > 0 or self.teacher > 0 or self.own_share < 1

    @property
    def inputs(self) -> DecoderInputs:
        """What the decoder gets."""
        names = [field.name for field in dataclasses.fields(DecoderInputs)]
        return DecoderInputs(**{name: getattr(self, name) for name in names})


def make(
    settings: Settings,
    config: LightCoderConfig | None = None,
    autoencoder: tuple[VAE, Params] | None = None,
    transformer: tuple[DiT, Params] | None = None,
) -> Stage:
    """Returns the stage.

    Args:
      settings: of the run; ``loss`` is a CoderLoss.
      config: replaces the light coder of ``settings.model``.
      autoencoder: module and ``{"vae": parameters}``; replaces the one that ``settings.vae`` names,
        where one is needed.
      transformer: module and ``{"dit": ..., "text": ...}``; replaces the one of ``loss.generator``,
        or with ``loss.joint`` the module of ``settings.model``.

    Raises UserError when a network is missing, or does not fit the others.
    """
    config = config or LIGHT_CODER_PRESETS[settings.model]
    loss_config: CoderLoss = settings.loss
    vae, frozen = None, {}
    if loss_config.needs_full:
        vae, frozen = autoencoder or load_vae(settings)
        _check_latents(config, vae, settings)
    dit, its_params = _transformer(settings, transformer)
    dtype = jnp.dtype(settings.dtype)
    light = abstract(lambda rngs: LightCoder(config, rngs=rngs, dtype=dtype))
    networks = CoderNetworks(loss_config.inputs, light, vae, dit)
    discriminator = abstract(lambda rngs: _discriminator(loss_config, config, rngs, dtype))

    def init(key: Array) -> Params:
        coder, patches, model = jax.random.split(key, 3)
        light_coder = _from_zero(to_dict(LightCoder(config, rngs=nnx.Rngs(coder))))
        params = {"light_coder": with_equal_frames(light_coder)}
        if loss_config.joint:
            params |= fresh_params(model, dit.config, loss_config.text_lengths)
        if loss_config.adversarial:
            own = _discriminator(loss_config, config, nnx.Rngs(patches), jnp.float32)
            params["discriminator"] = to_dict(own)
        return params

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        return networks.preview(frozen | params, batch, key)

    trained, stored = ("light_coder",), {"light_coder": to_json(config)}
    fixed: frozenset[str] = frozenset()
    if loss_config.joint:
        trained = ("light_coder", "dit", "text")
        fixed = buffers(dit, "dit") | (frozenset() if loss_config.train_text else TEXTS)
    if dit is not None:
        stored["dit" if loss_config.joint else "generator"] = to_json(dit.config)
    of_coder = _loss_of_coder(networks, discriminator, loss_config)
    adversaries = (
        Trainee(
            "discriminator", ("discriminator",),
            _loss_of_discriminator(networks, discriminator, loss_config),
            loss_config.discriminator_rate,
        ),
        Trainee("coder", trained, of_coder),
    )  # fmt: skip
    return Stage(
        init=init,
        loss=of_coder,
        frozen=frozen | its_params,
        fixed=fixed,
        recipe=recipe_of(
            settings, masks=dit is not None, packing=None if dit is None else loss_config.packing
        ),
        config=stored,
        prepare=None if vae is None else functools.partial(with_latents, vae, sample=False),
        trainees=adversaries if loss_config.adversarial else (),
        auxiliary=frozenset({"discriminator"}) if loss_config.adversarial else frozenset(),
        preview=preview,
        flops=_flops(networks, loss_config),
    )


def _check_latents(config: LightCoderConfig, vae: VAE, settings: Settings) -> None:
    for name in ("latent_channels", "scaling_factor"):
        ours, theirs = getattr(config, name), getattr(vae.config, name)
        if ours != theirs:
            raise UserError(
                f"config.vae has {name} {theirs}, the light coder of config.model="
                f"{settings.model} has {ours}: set config.model to the autoencoder's size"
            )


def _transformer(
    settings: Settings, replacement: tuple[DiT, Params] | None
) -> tuple[DiT | None, Params]:
    """The transformer whose results are decoded, None for none, and its frozen parameters."""
    loss_config, dtype = settings.loss, jnp.dtype(settings.dtype)
    if loss_config.joint:
        return replacement[0] if replacement else abstract_dit(settings.transformer, dtype), {}
    if replacement or loss_config.generator:
        return replacement or load_transformer(loss_config.generator, dtype)
    return None, {}


def _from_zero(light_coder: Params) -> Params:
    """The parameters with a last layer of the encoder that gives zeros, the mean of latents.

    A random one gives latents that are ten times too large: what the decoder gets is then useless,
    and the clipped gradient is the encoder's alone.
    """
    encoder = light_coder["encoder"]
    last = encoder["conv_out"] | {"kernel": jnp.zeros_like(encoder["conv_out"]["kernel"])}
    return light_coder | {"encoder": encoder | {"conv_out": last}}


def _discriminator(
    loss_config: CoderLoss, config: LightCoderConfig, rngs: nnx.Rngs, dtype: DType
) -> PatchDiscriminator:
    width, channels = loss_config.discriminator_width, config.latent_channels
    return PatchDiscriminator(width, channels, rngs=rngs, dtype=dtype)


def _loss_of_coder(
    networks: CoderNetworks, discriminator: PatchDiscriminator, loss_config: CoderLoss
) -> Callable[[Params, Params, Batch, Array], tuple[Float[Array, ""], Metrics]]:
    weights = [getattr(loss_config, x) for x in ("gradient", "frequency", "temporal", "teacher")]

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        everything = frozen | params
        own = networks.encoded(everything, batch)
        clips = networks.decoded(everything, batch, own, loss_config.teacher > 0, key)
        total, metrics = pixel_loss(clips, *weights)
        metrics |= networks.latent_effect(everything, clips)
        if networks.vae is not None:
            latent, parts = latent_error(own, (batch.hr_latents, batch.lr_latents))
            total, metrics = total + loss_config.latent * latent, metrics | parts
        if loss_config.adversarial:
            other = bind(discriminator, params["discriminator"])
            adversarial, parts = patch_generator_loss(other, clips, loss_config.pairing)
            total, metrics = total + loss_config.adversarial * adversarial, metrics | parts
        return total, metrics

    return loss


def _loss_of_discriminator(
    networks: CoderNetworks, discriminator: PatchDiscriminator, loss_config: CoderLoss
) -> Callable[[Params, Params, Batch, Array], tuple[Float[Array, ""], Metrics]]:
    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        inputs, noise = jax.random.split(key)
        own = networks.encoded(frozen | params, batch)
        clips = networks.decoded(frozen | params, batch, own, False, inputs)
        return patch_discriminator_loss(
            bind(discriminator, params["discriminator"]), clips, loss_config.pairing,
            loss_config.penalty, loss_config.sigma, noise,
        )  # fmt: skip

    return loss


def _flops(networks: CoderNetworks, loss_config: CoderLoss) -> Callable[[Batch], float]:
    """Counts the operations of a step, without the few of the discriminator."""
    full = networks.vae and functools.cache(functools.partial(vae_flops, networks.vae))
    light = functools.cache(functools.partial(vae_flops, networks.light))
    # The discriminator's update runs the coder forward once more.
    again = 1 if loss_config.adversarial else 0

    def flops(batch: Batch) -> float:
        total = 0.0
        for clips in batch.hr:
            if full is not None:
                encoding, decoding = full(clips.shape[:4])
                total += 2 * encoding + (decoding if loss_config.teacher else 0)
            encoding, decoding = light(clips.shape[:4])
            encoding *= 1 if full is None else 2  # the upscaled input alone, or the truth, too
            total += (1 + BACKWARD + again) * (encoding + decoding)
        if networks.transformer is not None:
            backward = BACKWARD if loss_config.joint else BACKWARD_FROZEN
            one = dit_flops(networks.transformer.config, batch.plan).total
            total += (1 + backward + again) * one
        return total

    return flops
