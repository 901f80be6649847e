"""The mask predictor: which patches of a clip the transformer has to refine."""

from skipsr_jax.models.predictor.model import (
    PAPER,
    TINY,
    MaskPredictor,
    PixelMaskPredictor,
    PredictorConfig,
    make_predictor,
)
from skipsr_jax.models.predictor.pixel_energies import cell_weights

__all__ = [
    "PAPER",
    "TINY",
    "MaskPredictor",
    "PixelMaskPredictor",
    "PredictorConfig",
    "cell_weights",
    "make_predictor",
]
