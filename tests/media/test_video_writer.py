"""Writing: what goes in comes out, frame for frame; and a failure leaves nothing behind."""

import errno
import os
import pathlib
import subprocess
import sys
import textwrap
from fractions import Fraction

import av
import numpy as np
import pytest
from media_clips import NTSC_FILM, picture, write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.media.encoding import Encoding, in_pyav
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.video_writer import VideoWriter, check_video_output
from skipsr_jax.pixels.yuv import rgb_to_yuv


def upscaled(media, scale=2):
    for frame in media.frames():
        yield frame.repeat(scale, 0).repeat(scale, 1)


def rewrite(source, target, *, count=None, **options):
    """Doubles a clip; returns the description of the result."""
    media = open_media(source)
    size = {"height": 2 * media.height, "width": 2 * media.width}
    with VideoWriter(target, source=media, **size, **options) as out:
        for index, frame in enumerate(upscaled(media)):
            if index != count:
                out.write(frame)
            else:
                break
    return open_media(target)


@pytest.mark.parametrize("extension", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("bit_depth", [8, 10])
def test_every_container_and_depth(tmp_path, extension, bit_depth, capfd):
    source = write_clip(tmp_path / "in.mp4", matrix=1, primaries=1, transfer=1)
    quality = Encoding(crf=2)  # the codec's own error out of the way
    made = rewrite(source, tmp_path / f"out{extension}", bit_depth=bit_depth, encoding=quality)
    assert (made.num_frames, made.frame_rate, made.times) == (12, NTSC_FILM, None)
    assert (made.height, made.width, made.bit_depth) == (96, 128, bit_depth)
    assert made.colour == open_media(source).colour
    scale = 1 if bit_depth == 8 else 257
    for mine, original in zip(made.frames(), upscaled(open_media(source)), strict=True):
        assert abs((mine / scale).mean(axis=(0, 1)) - original.mean(axis=(0, 1))).max() < 0.7
        assert abs(mine / scale - original).mean() < 2
    assert capfd.readouterr().err == ""
    assert sorted(os.listdir(tmp_path)) == sorted(["in.mp4", f"out{extension}"])


@pytest.mark.parametrize(
    ("codec", "name"),
    [("prores_ks", "a.mov"), ("mpeg4", "a.mp4"), ("mpeg2video", "a.mkv"), ("mjpeg", "a.mov"),
     ("ffv1", "a.mkv"), ("dnxhd", "a.mov")],
)  # fmt: skip
def test_colours_are_right_in_streams_that_state_no_range_or_matrix(tmp_path, codec, name):
    source = write_clip(tmp_path / "in.mp4", height=128, width=256, frames=2, full_range=True,
                        matrix=1)  # fmt: skip
    made = rewrite(source, tmp_path / name, encoding=Encoding(codec=codec))
    for mine, original in zip(made.frames(), upscaled(open_media(source)), strict=True):
        scale = 257 if mine.dtype == np.uint16 else 1
        assert abs((mine / scale).mean(axis=(0, 1)) - original.mean(axis=(0, 1))).max() < 2.5


def test_a_codec_that_the_container_cannot_hold_is_one_line(tmp_path):
    writer = VideoWriter(tmp_path / "a.mkv", height=48, width=64, rate=Fraction(25),
                         encoding=Encoding(codec="utvideo"))  # fmt: skip
    with pytest.raises(UserError, match="mkv cannot hold utvideo: choose another"):
        writer.check()
    assert list(tmp_path.iterdir()) == []


def test_exact_duration(tmp_path):
    source = write_clip(tmp_path / "in.mp4", frames=24)
    rewrite(source, tmp_path / "out.mp4")
    for name in ("in.mp4", "out.mp4"):
        with av.open(str(tmp_path / name)) as container:
            stream = container.streams.video[0]
            assert stream.duration * stream.time_base == 24 / NTSC_FILM
            assert stream.frames == 24


@pytest.mark.parametrize(
    ("matrix", "primaries", "transfer", "full_range"),
    [(1, 1, 1, False), (6, 6, 6, False), (9, 9, 16, False), (9, 9, 18, False), (1, 1, 13, True)],
)
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_colour_tags_and_colours_survive(tmp_path, codec, matrix, primaries, transfer, full_range):
    tags = {"primaries": primaries, "transfer": transfer, "full_range": full_range}
    source = write_clip(tmp_path / "in.mp4", matrix=matrix, **tags, frames=4)
    made = rewrite(source, tmp_path / "out.mp4", encoding=Encoding(codec=codec, crf=2))
    assert made.colour == open_media(source).colour
    assert vars(made.colour) == {"matrix": matrix, **tags}
    for mine, original in zip(made.frames(), upscaled(open_media(source)), strict=True):
        assert abs(mine.mean(axis=(0, 1)) - original.mean(axis=(0, 1))).max() < 0.7


def test_10_bits_in_and_out(tmp_path):
    source = write_clip(tmp_path / "in.mkv", codec="ffv1", pixel_format="yuv444p10le", matrix=9)
    made = rewrite(source, tmp_path / "out.mp4", encoding=Encoding(crf=2))
    assert made.bit_depth == 10
    for mine, original in zip(made.frames(), upscaled(open_media(source)), strict=True):
        assert mine.dtype == np.uint16
        assert abs((mine.astype(float) - original).mean(axis=(0, 1))).max() < 0.5 * 257


def test_odd_sizes_take_full_chroma(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4", height=35, width=51, rate=Fraction(30)) as out:
        for index in range(3):
            out.write(picture(index, 35, 51))
    with av.open(str(tmp_path / "odd.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv444p"
    made = open_media(tmp_path / "odd.mp4")
    assert (made.height, made.width, made.num_frames) == (35, 51, 3)
    with pytest.raises(UserError, match="even"):
        VideoWriter(
            tmp_path / "b.mp4",
            height=35,
            width=51,
            rate=Fraction(30),
            encoding=Encoding(pixel_format="yuv420p"),
        )


def test_variable_rate_keeps_its_times(tmp_path):
    ticks = [0, 30, 63, 120, 130, 190, 300]
    source = write_clip(
        tmp_path / "in.mp4", frames=7, ticks=ticks, time_base=Fraction(1, 600), rate=Fraction(20)
    )
    for extension, tolerance in ((".mp4", 0), (".mkv", 0.001)):
        made = rewrite(source, tmp_path / f"out{extension}")
        assert made.num_frames == 7
        for mine, tick in zip(made.times, ticks, strict=True):
            assert abs(mine - Fraction(tick, 600)) <= tolerance


def test_rotation_is_applied_once(tmp_path):
    source = write_clip(tmp_path / "in.mp4", rotation=90, aspect=Fraction(4, 3))
    made = rewrite(source, tmp_path / "out.mp4")
    assert (made.height, made.width) == (128, 96)
    assert made.sample_aspect_ratio == Fraction(3, 4)
    shown = np.rot90(picture(0)).repeat(2, 0).repeat(2, 1)
    assert abs(next(made.frames()).astype(float) - shown).mean() < 3


def test_settings_reach_the_encoder(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    sizes = []
    for crf in (10, 40):
        with VideoWriter(
            tmp_path / f"{crf}.mp4",
            height=64,
            width=64,
            rate=Fraction(25),
            encoding=Encoding(codec="libx264", crf=crf, preset="ultrafast", pixel_format="yuv422p"),
        ) as out:
            for frame in noise:
                out.write(frame)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
        with av.open(str(tmp_path / f"{crf}.mp4")) as container:
            assert container.streams.video[0].pix_fmt == "yuv422p"
    assert sizes[0] > 2 * sizes[1]


def test_bad_outputs_get_one_line(tmp_path):
    size = {"height": 48, "width": 64, "rate": Fraction(24)}
    (tmp_path / "there.mp4").write_bytes(b"mine")
    for path, options, words in [
        (tmp_path / "a.xyz", {}, "must end in"),
        (tmp_path / "absent" / "a.mp4", {}, "there is no folder"),
        (tmp_path / "there.mp4", {}, "exists"),
        (pathlib.Path("/proc/a.mp4"), {}, "cannot write into"),
        (tmp_path / "a.mp4", {"encoding": Encoding(codec="nonesuch")}, "no video encoder"),
        (tmp_path / "a.mp4", {"encoding": Encoding(pixel_format="yuv420p12le")}, "choose from"),
        (tmp_path / "a.mp4", {"encoding": Encoding(preset="nonesuch")}, "cannot encode"),
        (tmp_path / "a.mp4", {"rate": None}, "frame rate is needed"),
        (tmp_path / "a.mp4", {"bit_depth": 9}, "bit_depth 9"),
    ]:
        with (
            pytest.raises(UserError, match=words) as caught,
            VideoWriter(path, **(size | options)) as out,
        ):
            out.write(picture(0))
        assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["there.mp4"]
    assert (tmp_path / "there.mp4").read_bytes() == b"mine"
    check_video_output(tmp_path / "there.mp4", overwrite=True)


def test_any_failure_leaves_nothing(tmp_path):
    size = {"height": 48, "width": 64, "rate": Fraction(24)}
    for failure in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(failure), VideoWriter(tmp_path / "a.mp4", **size) as out:
            out.write(picture(0))
            raise failure
    with pytest.raises(UserError, match="no frame"), VideoWriter(tmp_path / "a.mp4", **size):
        pass
    with (
        pytest.raises(ValueError, match="takes"),
        VideoWriter(tmp_path / "a.mp4", **size) as out,
    ):
        out.write(picture(0, 24, 24))
    assert os.listdir(tmp_path) == []


def test_overwriting_replaces_only_at_the_end(tmp_path):
    size = {"height": 48, "width": 64, "rate": Fraction(24)}
    target = tmp_path / "a.mp4"
    target.write_bytes(b"old")
    with VideoWriter(target, **size, overwrite=True) as out:
        out.write(picture(0))
        assert target.read_bytes() == b"old"
    assert open_media(target).num_frames == 1


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(self, packets):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VideoWriter, "_mux", full)
    with (
        pytest.raises(UserError, match="No space left"),
        VideoWriter(tmp_path / "a.mp4", height=48, width=64, rate=Fraction(24)) as out,
    ):
        out.write(picture(0))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_write_that_the_system_refuses_is_one_line(tmp_path):
    """A real refusal inside libav: the process may write files of 20 kB at most."""
    program = textwrap.dedent("""
        import resource, signal, sys
        from fractions import Fraction
        import numpy as np
        from skipsr_jax.media.video_writer import VideoWriter
        from skipsr_jax.errors import UserError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        rng = np.random.default_rng(0)
        try:
            with VideoWriter(sys.argv[1], height=128, width=128, rate=Fraction(24)) as out:
                for _ in range(20):
                    out.write(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
        except UserError as error:
            print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.mkv")],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert done.stderr == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("depth", "height"), [(8, 34), (8, 33), (10, 34)])
def test_planes_give_the_file_that_their_rgb_gives(tmp_path, depth, height):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, height, 46, 3), np.uint8)
    size = {"height": height, "width": 46, "rate": Fraction(24), "bit_depth": depth}
    with VideoWriter(tmp_path / "rgb.mkv", **size) as by_rgb:
        for frame in frames:
            by_rgb.write(frame)
    with VideoWriter(tmp_path / "planes.mkv", **size) as by_planes:
        codes = rgb_to_yuv(np.float32(frames / 255), by_planes.yuv_format)
        for planes in zip(*map(np.asarray, codes), strict=True):
            by_planes.write_planes(planes)
        with pytest.raises(ValueError, match="luma of shape"):
            by_planes.write_planes([plane[1:] for plane in planes])
    mine, other = (list(open_media(tmp_path / name).frames()) for name in ("rgb.mkv", "planes.mkv"))
    assert len(mine) == len(other) == 3
    error = np.subtract(mine, other, dtype=float) / np.iinfo(mine[0].dtype).max * 255
    assert abs(error).max() < 4 and abs(error).mean() < 0.05


@pytest.mark.parametrize(("height", "width"), [(34, 46), (200, 40), (34, 30)])
def test_small_frames_of_10_bits_take_another_encoder(tmp_path, height, width):
    size = {"height": height, "width": width, "rate": Fraction(24), "bit_depth": 10}
    for repeat in range(3):
        with VideoWriter(tmp_path / f"{repeat}.mp4", **size) as writer:
            for value in range(5):
                writer.write(np.full((height, width, 3), 50 * value, np.uint8))
    assert open_media(tmp_path / "2.mp4").bit_depth == 10
    with pytest.raises(UserError, match=f"cannot encode {width}x{height}: .* choose libx264"):
        VideoWriter(tmp_path / "a.mp4", **size, encoding=Encoding(codec="libx265"))


@pytest.mark.parametrize(
    ("name", "encoding", "pixel_format"),
    [
        ("a.mov", Encoding(codec="prores_ks"), "yuv422p10le"),
        ("b.mov", Encoding(codec="prores_ks", pixel_format="yuv444p10le"), "yuv444p10le"),
        ("c.mov", Encoding(codec="dnxhd"), "yuv422p"),
        ("d.mov", Encoding(codec="dnxhd", pixel_format="yuv422p10le"), "yuv422p10le"),
        ("e.mkv", Encoding(codec="ffv1"), "yuv420p"),
        ("f.mp4", Encoding(codec="libx265", pixel_format="yuv422p12le"), "yuv422p12le"),
        ("g.mov", Encoding(codec="prores"), "yuv422p10le"),
    ],
)
def test_codecs_of_the_cutting_room(tmp_path, name, encoding, pixel_format):
    source = write_clip(tmp_path / "in.mkv", frames=3, height=128, width=256, codec="ffv1")
    made = rewrite(source, tmp_path / name, encoding=encoding)
    with av.open(str(tmp_path / name)) as container:
        found = container.streams.video[0].pix_fmt
    assert found == pixel_format or "prores" in encoding.codec  # which decodes 4:4:4 to 12 bits
    assert found[:7] == pixel_format[:7]
    scale = 1 if made.bit_depth == 8 else 257
    for mine, original in zip(made.frames(), upscaled(open_media(source)), strict=True):
        assert abs(mine / scale - original).mean() < 2.5


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        (Encoding(codec="dnxhd", crf=10), "no constant rate factor"),
        (Encoding(codec="prores_ks", pixel_format="yuv420p"), "choose from yuv422p10le"),
        (Encoding(codec="gif"), "none of which is written here"),
        (Encoding(codec="dnxhd"), "at least 256x120 pixels; choose another codec"),
    ],
)
def test_a_codec_that_cannot_is_found_before_any_work(tmp_path, encoding, words):
    source = open_media(write_clip(tmp_path / "in.mkv", frames=2))
    with pytest.raises(UserError, match=words) as caught:
        VideoWriter(
            tmp_path / "a.mov", height=48, width=64, source=source, encoding=encoding
        ).check()
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["in.mkv"]


@pytest.mark.parametrize("pixel_format", ["yuv420p9le", "yuv422p12le", "gbrp10le", "gray10le"])
def test_depths_between_8_and_16_bits_are_read_and_become_10(tmp_path, pixel_format):
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(picture(index)).reformat(format=pixel_format)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    made = rewrite(path, tmp_path / "out.mp4")
    assert made.bit_depth == 10
    want = picture(1).astype(float)
    if pixel_format == "gray10le":
        want = (want @ [0.299, 0.587, 0.114])[..., None].repeat(3, -1)
    got = list(made.frames())[1][::2, ::2] / 257
    assert abs(got - want).mean() < 4


@pytest.mark.parametrize(
    ("aspect", "size", "want"),
    [
        (Fraction(64, 45), (96, 170), Fraction(1)),  # brought to square pixels by hand
        (Fraction(64, 45), (116, 144), Fraction(64, 45)),  # both sides doubled
        (Fraction(64, 45), (116, 288), Fraction(32, 45)),
        (Fraction(1), (96, 96), Fraction(1)),
    ],
)
def test_both_sides_given_keep_the_aspect_of_the_display(tmp_path, aspect, size, want):
    source = open_media(
        write_clip(tmp_path / "in.mp4", frames=2, height=58, width=72, aspect=aspect)
    )
    height, width = size
    with VideoWriter(tmp_path / "out.mp4", height=height, width=width, source=source) as writer:
        writer.write(picture(0, height, width))
    made = open_media(tmp_path / "out.mp4")
    assert made.sample_aspect_ratio == want
    if aspect != 1:
        shown = Fraction(made.width, made.height) * made.sample_aspect_ratio
        assert abs(shown / (Fraction(72, 58) * aspect) - 1) < 0.01


@pytest.mark.parametrize("extension", [".mp4", ".mkv", ".webm", ".mov"])
def test_the_last_frame_lasts_as_long_as_in_the_source(tmp_path, extension):
    pictures = [Image.fromarray(picture(index)) for index in range(4)]
    pictures[0].save(
        tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100] * 3 + [1500]
    )
    made = rewrite(tmp_path / "a.gif", tmp_path / f"out{extension}")
    assert float(made.timing.duration) == pytest.approx(1.8, abs=0.002)
    assert [float(time) for time in made.times] == pytest.approx([0, 0.1, 0.2, 0.3], abs=0.001)
    with av.open(str(tmp_path / f"out{extension}")) as container:
        assert container.duration / 1e6 == pytest.approx(1.8, abs=0.01)


def test_the_same_frames_make_the_same_file(tmp_path):
    """Each time: with AVX-512, x264's macroblock tree makes another one."""
    frames = [picture(index, 144, 176) for index in range(8)]
    made = set()
    for number in range(12):
        path = tmp_path / f"{number}.mp4"
        with VideoWriter(path, height=144, width=176, rate=Fraction(25)) as writer:
            for frame in frames:
                writer.write(frame)
        made.add(path.read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_rate_factor_beyond_what_the_encoder_has_is_refused(tmp_path, codec):
    size = {"height": 64, "width": 64, "rate": Fraction(25)}
    with pytest.raises(UserError, match=f"crf is 52: it must be from 0 to 51 for {codec}"):
        VideoWriter(tmp_path / "a.mp4", encoding=Encoding(codec, 52), **size)
    VideoWriter(tmp_path / "a.webm", encoding=Encoding("libvpx-vp9", 63), **size)


@pytest.mark.parametrize(
    ("codec", "needed"),
    [
        ("h264_nvenc", "NVIDIA"),
        ("hevc_nvenc", "NVIDIA"),
        ("h264_qsv", "Intel"),
        ("h264_amf", "AMD"),
    ],
)
def test_an_encoder_whose_hardware_is_missing_is_named(tmp_path, codec, needed):
    if not in_pyav(codec):
        pytest.skip(f"this PyAV has no {codec}")
    writer = VideoWriter(
        tmp_path / "a.mp4", height=144, width=176, rate=Fraction(25), encoding=Encoding(codec)
    )
    try:
        writer.check()
    except UserError as error:
        line = str(error)
    else:
        pytest.skip(f"this machine has the hardware of {codec}")
    assert codec in line and needed in line and "config.output.codec" in line
    assert "\n" not in line and not list(tmp_path.iterdir())
