"""The table of stages: for each name the type of its section ``loss``, and its ``make``."""

from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.stages import adversarial, coder, distill, predictor, sr, vae

STAGES = {
    "vae": (vae.VaeLoss, vae.make),
    "coder": (coder.CoderLoss, coder.make),
    "predictor": (predictor.PredictorLoss, predictor.make),
    "sr": (sr.SrLoss, sr.make),
    "distill": (distill.DistillLoss, distill.make),
    "adversarial": (adversarial.AdversarialLoss, adversarial.make),
}

LOSS_KINDS = {name: kind for name, (kind, _) in STAGES.items()}


def make(settings: Settings) -> Stage:
    """Returns the stage that ``settings.stage`` names."""
    return STAGES[settings.stage][1](settings)
