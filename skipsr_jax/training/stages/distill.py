"""Stage ``distill``: progressive distillation to one step (Salimans & Ho 2022; paper section 4.2).

A run has phases. In a phase with n student steps the student, at a random one of them, learns to do
in one Euler step what the teacher does in two of half its length, on the kept tokens alone. At the
end of a phase the student's moving average becomes the next teacher, and student, average and
optimizer start anew from it. The first teacher may have classifier-free guidance (Ho & Salimans
2022); the student takes the positive text only.

The teacher and the number of the phase are among the parameters, so a checkpoint has them, and one
compiled step serves all phases.
"""

import dataclasses
import functools
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.config import require, require_between, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.packing import Packing
from skipsr_jax.diffusion.distillation import student_timesteps, two_step_velocity
from skipsr_jax.diffusion.guidance import apply_guidance
from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.errors import UserError
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.flops import BACKWARD, dit_flops
from skipsr_jax.models.params import Params, bind, flatten, unflatten
from skipsr_jax.models.vae import VAE
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.training.frozen_vae import coding_flops, load_vae, with_latents
from skipsr_jax.training.losses.flow import (
    condition_tokens,
    noise_like,
    noised_condition,
    noisy_latents,
    predict_tokens,
    text_tokens,
)
from skipsr_jax.training.packed import kept_tokens, mean_over_kept, of_tokens, skip_percent
from skipsr_jax.training.previews import one_step_preview
from skipsr_jax.training.settings import Settings, TokenSettings
from skipsr_jax.training.stage import Metrics, Stage, Trainee, buffers, recipe_of
from skipsr_jax.training.transformer import TEXTS, abstract_dit, bind_trained, fresh_params
from skipsr_jax.types import Bool, DType, Float


@dataclasses.dataclass(frozen=True)
class DistillLoss(TokenSettings):
    """The section ``loss``: the phases, and what is matched in them.

    It acts on the tokens that ``TokenSettings`` selects.

    Attributes:
      schedule: (steps of the student, optimizer steps) of each phase; a student has half the steps
        of the one before. The first teacher has twice the steps of the first student.
      matching: v: velocities are compared; x0: the clean latents that they point to, which is the
        same error with weight (timestep / 1000)^2.
      guidance: classifier-free guidance of the first teacher, with the two texts; 1: none.
      rescale: how far the first teacher's guided results return to the spread of the positive ones.
      condition_noise: level of the noise on the condition, 0 to 1.
    """

    schedule: tuple[tuple[int, int], ...] = ((2, 500), (1, 1000))
    matching: Literal["v", "x0"] = "v"
    guidance: float = 1.0
    rescale: float = 0.0
    condition_noise: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        students = [student for student, _ in self.schedule]
        good = students and all(a == 2 * b for a, b in itertools.pairwise(students))
        good = good and students[-1] >= 1 and all(steps >= 1 for _, steps in self.schedule)
        rule = "phases (student steps, optimizer steps >= 1), each student with half the steps of"
        require(bool(good), "schedule", self.schedule, f"{rule} the one before: ((2, 500), (1, 9))")
        require_between("guidance", self.guidance, 1, 50)
        for name in ("rescale", "condition_noise"):
            require_between(name, getattr(self, name), 0, 1)

    @property
    def packing(self) -> Packing:
        """How data workers make token plans."""
        return dataclasses.replace(super().packing, guided=self.guidance != 1)


def _teacher_of(student: Params, dtype: DType, fixed: frozenset[str]) -> Params:
    """The student's parameters in ``dtype``, the dtype of products; buffers as they are."""
    return unflatten(
        {
            path: x if f"dit/{path}" in fixed else x.astype(dtype)
            for path, x in flatten(student).items()
        }
    )


def _check_steps(settings: Settings) -> None:
    asked = sum(steps for _, steps in settings.loss.schedule)
    if settings.loop.steps != asked:
        raise UserError(
            f"loss.schedule has {asked} optimizer steps in all, but loop.steps is "
            f"{settings.loop.steps}: make them equal"
        )


def make(
    settings: Settings,
    config: DiTConfig | None = None,
    autoencoder: tuple[VAE, Params] | None = None,
) -> Stage:
    """Returns the stage; ``config`` and ``autoencoder`` are as in stage ``sr``.

    Raises UserError when ``loop.steps`` is not the sum of the phases' optimizer steps.
    """
    _check_steps(settings)
    config = config or settings.transformer
    loss_config: DistillLoss = settings.loss
    vae, frozen_params = autoencoder or load_vae(settings)
    dtype = jnp.dtype(settings.dtype)
    module = abstract_dit(config, dtype)
    fixed = buffers(module, "dit")

    def init(key: Array) -> Params:
        params = fresh_params(key, config, loss_config.text_lengths)
        return params | {
            "teacher": _teacher_of(params["dit"], dtype, fixed),
            "phase": jnp.int32(-1),
        }

    def begin(params: Params) -> Params:
        teacher = _teacher_of(params["dit"], dtype, fixed)
        return params | {"teacher": teacher, "phase": params["phase"] + 1}

    def teacher_velocity(params: Params, batch: Batch, conditions: Float[Array, "b n condition_i"]):
        """(noisy tokens, timestep of each sample) -> velocity, guided in the first phase."""
        teacher = bind(module, params["teacher"])
        all_negative = jnp.ones_like(batch.negative)

        def velocity(
            noisy: Float[Array, "b n noisy_i"],
            timestep: Float[Array, "b k"],
            is_negative: Bool[Array, "b k"],
            plan: TokenPlan,
        ) -> Float[Array, "b n o"]:
            text = text_tokens(params["text"], is_negative)
            predicted = predict_tokens(teacher, text, noisy, conditions, timestep, plan)
            return predicted.astype(jnp.float32)

        def guided(noisy: Float[Array, "b n noisy_i"], timestep: Float[Array, "b k"]):
            positive = velocity(noisy, timestep, ~all_negative, batch.plan)
            if loss_config.guidance == 1:
                return positive
            negative = jax.lax.cond(
                params["phase"] == 0,
                lambda: velocity(noisy, timestep, all_negative, batch.negative_plan),
                lambda: positive,  # guidance between two equal velocities changes nothing
            )
            return apply_guidance(positive, negative, loss_config.guidance, loss_config.rescale)

        return guided

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        plan = batch.plan
        times, noise, level = jax.random.split(key, 3)
        clean, samples = batch.hr_latents, plan.text_length.shape
        steps = jnp.asarray([student for student, _ in loss_config.schedule])[params["phase"]]
        timestep = student_timesteps(times, plan.text_length.size, steps).reshape(samples)
        noisy = kept_tokens(noisy_latents(clean, noise_like(clean, noise), timestep), plan)
        noised = noised_condition(batch.lr_latents, loss_config.condition_noise, level)
        conditions = condition_tokens(noised, plan)

        with jax.named_scope("teacher"):
            teacher = teacher_velocity(params, batch, conditions)
            target = two_step_velocity(teacher, noisy, timestep, TERMINAL / steps)
        target = jax.lax.stop_gradient(target)
        text = text_tokens(params["text"], batch.negative)
        student = bind_trained(module, params["dit"])
        error = predict_tokens(student, text, noisy, conditions, timestep, plan) - target
        velocity = mean_over_kept(jnp.square(error), plan)
        u = of_tokens(timestep, plan)[..., None] / TERMINAL
        clean_error = mean_over_kept(jnp.square(u * error), plan)
        metrics = {
            "phase": params["phase"] + 1.0,
            "student_steps": steps * 1.0,
            "teacher_steps": 2.0 * steps,
            "velocity": velocity,
            "x0": clean_error,
            "skip_percent": skip_percent(plan, clean),
        }
        return (velocity if loss_config.matching == "v" else clean_error), metrics

    coding = coding_flops(vae)

    def flops(batch: Batch) -> float:
        # The student, and two steps of the teacher. Guidance in the first phase is not counted.
        return (1 + BACKWARD + 2) * dit_flops(config, batch.plan).total + coding(batch)

    return Stage(
        init=init,
        loss=loss,
        frozen=frozen_params,
        fixed=fixed | TEXTS,
        recipe=recipe_of(settings, masks=True, packing=loss_config.packing),
        config={"dit": to_json(config)},
        prepare=functools.partial(with_latents, vae),
        trainees=(Trainee("student", ("dit", "text"), loss),),
        auxiliary=frozenset({"teacher", "phase"}),
        begin=begin,
        preview=one_step_preview(module, vae, loss_config.condition_noise),
        flops=flops,
        phases=tuple(steps for _, steps in loss_config.schedule),
    )
