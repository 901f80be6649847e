"""Measures writing a video file from codes on the host, as infer.py does it: frames a second.

    python -m benchmarks.encoding --clip=clip720.mp4 --out=encoding.json
    python -m benchmarks.encoding --clip=clip720.mp4 --depths=10 --presets=fast,veryfast

The clip is decoded before, and repeated until there are --frames of it. The time is that of
``media.video_writer.VideoWriter.write_planes`` from the first frame to the closed file, with the
defaults of infer.py except for --codec and --presets.
"""

import pathlib
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction

from absl import flags

from benchmarks.measure import format_table, run_program, write_json
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.media.colour import from_rgb, planes_of
from skipsr_jax.media.encoding import Encoding
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.video_writer import VideoWriter
from skipsr_jax.types import HostArray


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("clip", None, "The video whose frames are written.", flag_values=values)
    flags.DEFINE_integer("frames", 301, "How many are written.", 1, flag_values=values)
    flags.DEFINE_list("depths", ["8", "10"], "Bits of the file, 8 or 10.", flag_values=values)
    flags.DEFINE_string("codec", "", "FFmpeg's name; default: by depth.", flag_values=values)
    text = "Presets of the encoder, each a row; empty: the default of infer.py."
    flags.DEFINE_list("presets", [""], text, flag_values=values)
    flags.DEFINE_integer("repeats", 1, "Runs of each row; the best counts.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def seconds_of(
    frames: list[HostArray], count: int, depth: int, encoding: Encoding, path: pathlib.Path
) -> float:
    """Seconds to write ``count`` frames, ``frames`` in turn, as a video of ``depth`` bits."""
    height, width = frames[0].shape[:2]
    writer = VideoWriter(
        path, height=height, width=width, rate=Fraction(30), bit_depth=depth, encoding=encoding,
        overwrite=True,
    )  # fmt: skip
    codes = [planes_of(from_rgb(frame, writer.colour, writer.pixel_format)) for frame in frames]
    began = time.perf_counter()
    with writer:
        for index in range(count):
            writer.write_planes(codes[index % len(codes)])
    return time.perf_counter() - began


def main(argv: Sequence[str]) -> int:
    """Prints a table of frames per second."""
    values = parse_flags(argv, define_flags(), __doc__, example="clip")
    if not values.clip:
        raise UserError("--clip is missing: name a video of the size to write")
    if not set(values.depths) <= {"8", "10"}:
        raise UserError(f"--depths={','.join(values.depths)}: choose 8, 10 or both")
    frames = [frame for frame, _ in zip(open_media(values.clip).frames(), range(48), strict=False)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "out.mp4"
        for depth in map(int, values.depths):
            for preset in values.presets:
                encoding = Encoding(codec=values.codec or None, preset=preset or None)
                seconds = min(
                    seconds_of(frames, values.frames, depth, encoding, path)
                    for _ in range(values.repeats)
                )
                rows.append(
                    {
                        "bits": depth,
                        "codec": values.codec or "default",
                        "preset": preset or "default",
                        "seconds": seconds,
                        "frames_per_second": values.frames / seconds,
                        "mbytes": path.stat().st_size / 1e6,
                    }
                )
                print(format_table(rows[-1:]), flush=True)
    print(format_table(rows))
    if values.out:
        write_json(values.out, {"clip": values.clip, "frames": values.frames, "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("encoding", main)
