"""The mask predictor: which patches of a clip the transformer has to refine."""

from skipsr_jax.models.predictor.model import (
    LOW_RES_PATCH_PIXELS,
    PAPER,
    TINY,
    MaskPredictor,
    PixelMaskPredictor,
    PredictorConfig,
    make_predictor,
)

__all__ = [
    "LOW_RES_PATCH_PIXELS",
    "PAPER",
    "TINY",
    "MaskPredictor",
    "PixelMaskPredictor",
    "PredictorConfig",
    "make_predictor",
]
