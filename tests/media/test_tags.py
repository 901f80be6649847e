"""Tags in whatever encoding, and which of them a result has."""

from fractions import Fraction

import av
from media_clips import write_clip

from skipsr_jax.media.reader import open_media
from skipsr_jax.media.tags import global_tags, lost_tags, readable, track_tags
from skipsr_jax.media.video_writer import VideoWriter


def test_a_title_that_is_not_utf8_is_read_and_kept(tmp_path):
    path = write_clip(tmp_path / "in.mp4", tags={"title": "Caf? ?t?"})
    path.write_bytes(path.read_bytes().replace(b"Caf? ?t?", b"Caf\xe9 \xe9t\xe9"))
    media = open_media(path)
    for name in ("out.mp4", "out.mkv"):
        with VideoWriter(tmp_path / name, height=48, width=64, source=media) as writer:
            for frame in media.frames():
                writer.write(frame)
        with av.open(str(tmp_path / name)) as container:
            assert container.metadata["title"] == "Café été"
    assert readable("Grüße") == "Grüße"


def test_names_of_handlers_are_titles_where_somebody_chose_them():
    assert track_tags({"handler_name": "SoundHandler"}, ".mkv") == {}
    assert track_tags({"HANDLER_NAME": "VideoHandler"}, ".mkv") == {}
    assert track_tags({"handler_name": "Commentary", "language": "fra"}, ".mkv") == {
        "title": "Commentary",
        "language": "fra",
    }
    assert track_tags({"title": "Main"}, ".mp4")["handler_name"] == "Main"


def test_what_says_who_wrote_the_source_is_not_passed_on(tmp_path):
    path = write_clip(tmp_path / "a.mxf", codec="mpeg2video", rate=Fraction(25))
    with av.open(str(path)) as container:
        assert "product_name" in container.metadata and global_tags(container).keys() <= {
            "timecode", "creation_time",
        }  # fmt: skip


def test_tags_that_a_container_drops_are_found():
    tags = {"title": "T", "MOOD": "calm", "timecode": "01:00:00:00"}
    assert lost_tags(tags, "mp4") == ["MOOD"] and lost_tags(tags, "matroska") == []


def test_a_timecode_is_kept(tmp_path):
    path = write_clip(tmp_path / "in.mov", tags={"timecode": "01:02:03:04"})
    media = open_media(path)
    for name in ("out.mov", "out.mp4", "out.mkv"):
        writer = VideoWriter(tmp_path / name, height=48, width=64, source=media)
        assert writer.notes == []
        with writer:
            for frame in media.frames():
                writer.write(frame)
        with av.open(str(tmp_path / name)) as container:
            found = [container.metadata, *(stream.metadata for stream in container.streams)]
        assert "01:02:03:04" in {
            value for tags in found for key, value in tags.items() if key.lower() == "timecode"
        }
