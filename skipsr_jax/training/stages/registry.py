"""The stages by name: the type of their ``loss`` section, and how they are made."""

from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.stages import adversarial, distill, predictor, sr, vae

STAGES = {
    "vae": (vae.VaeLoss, vae.make),
    "predictor": (predictor.PredictorLoss, predictor.make),
    "sr": (sr.SrLoss, sr.make),
    "distill": (distill.DistillLoss, distill.make),
    "adversarial": (adversarial.AdversarialLoss, adversarial.make),
}

LOSS_KINDS = {name: kind for name, (kind, _) in STAGES.items()}


def make(settings: Settings) -> Stage:
    """The stage that the settings name, ready to run."""
    return STAGES[settings.stage][1](settings)
