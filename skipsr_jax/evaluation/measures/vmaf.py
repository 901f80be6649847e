"""VMAF-NEG (Netflix, model vmaf_v0.6.1neg) of a clip, through an ffmpeg that has libvmaf.

VMAF looks at luma alone. Two videos with one colour matrix and range are read by ffmpeg itself, so
that it is the luma of the files. All else goes to ffmpeg through a pipe, frame by frame, as luma of
10 bits that is made from RGB with the truth's matrix (BT.709 for pictures). The score is the mean
over frames, 0 to 100; NEG does not reward sharpening.
"""

import contextlib
import functools
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import numpy as np
from jaxtyping import UInt16

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.clips import OpenPair
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.media.yuv_format import LUMA_WEIGHTS
from skipsr_jax.types import HostArray

MODEL = "vmaf_v0.6.1neg"
SMALLEST = 17  # pixels a side: below, libvmaf's pyramid has no pixels left
_BITS = 10  # of luma in the pipe
_REPORT = "vmaf.json"
_INSTALL = "pip install 'skipsr-jax[evaluation]' (imageio-ffmpeg brings one), or name one in FFMPEG"


@functools.cache
def find_ffmpeg() -> str:
    """The path of an ffmpeg with libvmaf: FFMPEG, or else of imageio-ffmpeg, or on the path.

    Raises UserError when there is none, or when the one that FFMPEG names is none.
    """
    named = os.environ.get("FFMPEG")
    candidates = [named] if named else [_imageio_ffmpeg(), shutil.which("ffmpeg")]
    found = [candidate for candidate in candidates if candidate]
    if not found:
        raise UserError(f"needs an ffmpeg with libvmaf: {_INSTALL}")
    for path in found:
        if " libvmaf " in _output(path, "-hide_banner", "-filters"):
            return path
    raise UserError(f"needs an ffmpeg with libvmaf, which {found[0]} has not: {_INSTALL}")


def _imageio_ffmpeg() -> str | None:
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        return None
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:  # a platform for which it brings none
        return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run: {error.strerror}") from error


def luma_codes(picture: Picture, matrix: int) -> UInt16[HostArray, "h w"]:
    """Video luma of a frame: codes of 10 bits in the limited range. ``matrix`` is H.273's code."""
    red, blue = LUMA_WEIGHTS[matrix]
    luma = picture.rgb @ np.array([red, 1 - red - blue, blue])
    return np.rint((16 + 219 * luma) * 2 ** (_BITS - 8)).astype("<u2")


class VmafNeg:
    """The running VMAF-NEG of one clip: an ffmpeg process.

    Args:
      ffmpeg: its path.
      opened: the result and its truth.
    """

    def __init__(self, ffmpeg: str, opened: OpenPair):
        self._ffmpeg, self._opened = ffmpeg, opened
        tags = opened.result.colour, opened.truth.colour
        same = (tags[0].matrix, tags[0].full_range) == (tags[1].matrix, tags[1].full_range)
        self._from_files = same and opened.result.kind == opened.truth.kind == "video"
        self._process: subprocess.Popen | None = None
        self._folder: tempfile.TemporaryDirectory | None = None

    def _start(self) -> subprocess.Popen:
        """Starts ffmpeg on the files, or on frames that come through a pipe: the result's above
        the truth's."""
        height, width = self._opened.size
        if self._from_files:
            files = [
                str(media.path.resolve()) for media in (self._opened.result, self._opened.truth)
            ]
            inputs = ["-i", files[0], "-i", files[1]]
            deepest = max(self._opened.result.bit_depth, self._opened.truth.bit_depth)
            depth = next((bits for bits in (8, 10, 12) if bits >= deepest), 12)
            cut = (
                f"trim=end_frame={self._opened.num_frames},setpts=N,"
                f"format=yuv444p{'' if depth == 8 else f'{depth}le'},crop={width}:{height}:0:0"
            )
            views = f"[0:v:0]{cut}[result];[1:v:0]{cut}[truth]"
        else:
            raw = f"-f rawvideo -pix_fmt yuv444p{_BITS}le -s {width}x{2 * height} -r 25 -i -"
            inputs = raw.split()
            views = (
                f"split[a][b];[a]crop={width}:{height}:0:0[result];"
                f"[b]crop={width}:{height}:0:{height}[truth]"
            )
        graph = (
            f"{views};[result][truth]libvmaf=model=version={MODEL}:log_fmt=json:log_path={_REPORT}"
        )
        self._folder = tempfile.TemporaryDirectory(prefix="skipsr_vmaf_")
        return subprocess.Popen(
            [self._ffmpeg, "-v", "error", *inputs, "-filter_complex", graph, "-f", "null", "-"],
            cwd=self._folder.name,
            stdin=subprocess.DEVNULL if self._from_files else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def add(self, result: Picture, truth: Picture) -> None:
        """Starts ffmpeg, and hands it the frame where it reads a pipe.

        Raises UserError when it has stopped.
        """
        if min(result.size) < SMALLEST:
            raise Undefined(f"VMAF needs {SMALLEST} pixels a side")
        if self._process is None:
            self._process = self._start()
        if self._from_files:
            return
        matrix = self._opened.truth.colour.matrix
        lumas = [luma_codes(picture, matrix) for picture in (result, truth)]
        # Luma planes alone would be taken for the full range and scaled.
        neutral = np.full((2, 2, *lumas[0].shape), 2 ** (_BITS - 1), "<u2")
        try:
            for planes in (*lumas, neutral):
                self._process.stdin.write(planes.tobytes())
        except BrokenPipeError:
            raise self._failure() from None

    def _failure(self) -> UserError:
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return UserError(f"ffmpeg stopped: {said[-1] if said else 'it says no reason'}")

    def value(self) -> float:
        """Waits for ffmpeg; returns the mean over frames. Raises UserError when it failed."""
        if self._process is None:
            raise Undefined("there is no frame")
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                raise self._failure() from None
        if self._process.wait():
            raise self._failure()
        report = json.loads((pathlib.Path(self._folder.name) / _REPORT).read_text())
        return float(report["pooled_metrics"]["vmaf"]["mean"])

    def close(self) -> None:
        """Ends ffmpeg and removes its report."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stderr):
                with contextlib.suppress(BrokenPipeError):  # bytes that ffmpeg did not take
                    if pipe is not None:
                        pipe.close()
        if self._folder is not None:
            self._folder.cleanup()
