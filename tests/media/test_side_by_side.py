"""What a probe says of a source and of its result, side by side, for one file of each kind.

``pytest -s -m slow tests/media/test_side_by_side.py`` prints the tables: by FFmpeg's libraries in
PyAV, and by the program ffprobe where it is installed.
"""

import json
import math
import shutil
import subprocess
from fractions import Fraction

import av
import pytest
from av.sidedata.sidedata import Type as SideDataType
from media_clips import film, picture, write_clip
from media_results import doubled
from PIL import Image

HDR10 = {
    "codec": "libx265", "pixel_format": "yuv420p10le", "matrix": 9, "primaries": 9, "transfer": 16,
    "options": {"x265-params": "log-level=none:max-cll=1000,400:master-display="
                "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"},
}  # fmt: skip
VARYING = {"ticks": [0, 40, 90, 200, 240, 700], "frames": 6, "time_base": Fraction(1, 1000)}
CLIPS = {
    "phone.mp4": {"rotation": 90, "aspect": Fraction(4, 3), "audio": "aac"},
    "late.mp4": {"audio": "aac", "late": 0.4},
    "varying.mkv": VARYING,
    "hdr10.mp4": HDR10,
    "interlaced.mpg": {"codec": "mpeg2video", "options": {"flags": "+ildct+ilme"}},
    "camera.mov": {"audio": "pcm_s24le", "tags": {"timecode": "01:00:00:00"}},
    "stream.ts": {"audio": "aac"},
    "old.avi": {"codec": "mpeg4", "audio": "libmp3lame"},
    "windows.wmv": {"codec": "mpeg4", "audio": "wmav2"},
}
"""What `write_clip` takes for each."""
CHANGES = {
    "phone.mp4": {"size", "rotation", "aspect"},  # it is turned upright
    "late.mp4": {"size"},
    "varying.mkv": {"size"},
    "hdr10.mp4": {"size"},
    "interlaced.mpg": {"size", "interlaced"},
    "camera.mov": {"size"},
    "stream.ts": {"size"},
    "old.avi": {"size", "colour"},  # the matrix that players assume for its size is stated
    "windows.wmv": {"size", "colour"},
    "film.mkv": {"size", "colour"},
    "pause.gif": {"size", "colour"},
}
"""The facts in which a result differs from its source."""
ROUNDED = ("last frame", "end")
"""Times, which containers round."""
HDR_KINDS = (SideDataType.MASTERING_DISPLAY_METADATA, SideDataType.CONTENT_LIGHT_LEVEL)


def by_pyav(path):
    """The facts of a file, as FFmpeg's libraries read it; times count from its beginning."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        context, first, last = video.codec_context, frames[0], frames[-1]
        start, unit = Fraction(container.start_time or 0, av.time_base), Fraction(video.time_base)
        sides = [first.side_data.get(kind) for kind in HDR_KINDS]
        tracks = [
            (stream.type, stream.codec_context.codec.canonical_name if stream.codec_context else "",
             *name_of(stream.metadata), int(stream.disposition))
            for stream in container.streams if stream is not video
        ]  # fmt: skip
        chapters = [
            (round(float(each["start"] * each["time_base"]), 3), each["metadata"]["title"])
            for each in container.chapters()
        ]
        tags = video.metadata | container.metadata
        return {
            "frames": len(frames),
            "last frame": float(last.pts * unit - start),
            "end": float((last.pts + last.duration) * unit - start),
            "size": (video.width, video.height),
            "aspect": str(video.sample_aspect_ratio or 1),
            "rotation": first.rotation,
            "colour": (context.color_primaries, context.color_trc, int(first.colorspace)),
            "light": [bytes(side).hex()[-16:] for side in sides if side is not None],
            "interlaced": bool(first.interlaced_frame),
            "tracks": tracks,
            "chapters": chapters,
            "title": tags.get("title", ""),
            "timecode": tags.get("timecode", ""),
        }


def by_ffprobe(path):
    """The same facts, as the program ffprobe tells them."""
    shown = ("format", "streams", "frames", "chapters")
    command = ["ffprobe", "-v", "error", "-of", "json", *(f"-show_{each}" for each in shown)]
    done = subprocess.run([*command, str(path)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    video, *others = sorted(found["streams"], key=lambda stream: stream["codec_type"] != "video")
    frames = [each for each in found["frames"] if each.get("pict_type")]
    first, last, start = frames[0], frames[-1], float(found["format"].get("start_time", 0))
    sides = video.get("side_data_list", []) + first.get("side_data_list", [])
    length = last.get("pkt_duration_time") or last.get("duration_time")
    # The program does not tell when each frame of an MPEG program stream is shown.
    begins = float(last.get("best_effort_timestamp_time", "nan")) - start
    tags = video.get("tags", {}) | found["format"].get("tags", {})
    return {
        "frames": len(frames),
        "last frame": begins,
        "end": begins + float(length),
        "size": (video["width"], video["height"]),
        "aspect": video.get("sample_aspect_ratio", "1:1"),
        "rotation": next((each["rotation"] for each in sides if "rotation" in each), 0),
        "colour": tuple(first.get(f"color_{each}") for each in ("primaries", "transfer", "space")),
        "light": [each for each in sides if "max_content" in each or "max_luminance" in each],
        "interlaced": bool(first["interlaced_frame"]),
        "tracks": [
            (each["codec_type"], each.get("codec_name", ""), *name_of(each.get("tags", {})),
             {name for name, is_set in each["disposition"].items() if is_set})
            for each in others
        ],
        "chapters": [(each["start_time"], each["tags"]["title"]) for each in found["chapters"]],
        "title": tags.get("title", ""),
        "timecode": tags.get("timecode", ""),
    }  # fmt: skip


def name_of(tags):
    """The language and the name of a track."""
    language = tags.get("language", "und")
    return "" if language == "und" else language, tags.get("title") or tags.get("filename", "")


def make(folder, name):
    path = folder / name
    if name == "film.mkv":
        return film(path)
    if name == "pause.gif":
        first, *rest = (Image.fromarray(picture(index)) for index in range(4))
        first.save(path, save_all=True, append_images=rest, duration=[100, 100, 100, 1500])
        return path
    return write_clip(path, **{"rate": Fraction(25), **CLIPS[name]})


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_result_has_what_its_source_has(tmp_path, name):
    source = make(tmp_path, name)
    target, lines = doubled(source, tmp_path)
    print(f"\n{source.name} -> {target.name}", *lines, sep="\n  ")
    probes = [by_pyav, *([by_ffprobe] if shutil.which("ffprobe") else [])]
    for probe in probes:
        before, after = probe(source), probe(target)
        print(f" {probe.__name__}")
        for fact, value in before.items():
            print(f"  {fact:<12} {value!s:<60} {after[fact]!s}")
        for fact in ROUNDED:
            old, new = before.pop(fact), after.pop(fact)
            assert math.isnan(old) or new == pytest.approx(old, abs=0.002)
        assert {fact for fact in before if before[fact] != after[fact]} == CHANGES[name]
