"""The mask predictor: which patches of a clip the transformer has to refine."""

from skipsr_jax.models.predictor.model import (
    PAPER,
    PIXELS,
    TINY,
    MaskPredictor,
    PixelMaskPredictor,
    PredictorConfig,
    make_predictor,
)

__all__ = [
    "PAPER",
    "PIXELS",
    "TINY",
    "MaskPredictor",
    "PixelMaskPredictor",
    "PredictorConfig",
    "make_predictor",
]
