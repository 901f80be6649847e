"""Frames go into files at once or in segments, which a later run goes on with; without a model."""

import dataclasses
import errno
import functools
import os
import pathlib

import av
import numpy as np
import pytest
from media_clips import save_frames, write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.inference import job_output
from skipsr_jax.inference.chunks import cross_fade, overlapping
from skipsr_jax.inference.done_notes import NAME, is_noted, note_done
from skipsr_jax.inference.job_output import Target, finish, output_of
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.segments import discard_segments, folders_of
from skipsr_jax.inference.settings import Chunk, Output
from skipsr_jax.media.reader import open_media

CHUNK = Chunk(frames=5, overlap=2)  # steps of 3 frames
FRAMES = 17
MADE_FROM = {"input": "a", "config": "b", "checkpoint": "c", "version": "d"}


class Choices(Programs):
    """Stands for the programs: what they choose depends on all chunks before."""

    def __init__(self):
        self.chunks = 0

    def choice_state(self):
        return {"chunks": self.chunks}

    def restore_choices(self, state):
        self.chunks = state["chunks"]


def upscale(target, stop=None):
    """Frames that depend on their chunk's number, cross-faded; returns the indices that it made."""
    made, choices = [], Choices()
    with output_of(target, CHUNK, MADE_FROM, lambda line: None) as output:
        boundaries = output.boundaries
        if boundaries is not None:
            boundaries.begin(choices, Report())

        def chunks():
            first = boundaries.first.chunks if boundaries else 0
            rest = target.media.part(output.first).frames()
            for number, (chunk, last) in enumerate(overlapping(rest, 5, 2), first):
                assert choices.chunks == number
                choices.chunks += 1
                keep = np.full((3, 4), number % 2, bool)
                yield ((np.float32(frame) / 255 + number / 50, keep) for frame in chunk), last

        after = {"tail": boundaries.first.tail, "after_chunk": boundaries.after_chunk}
        frames = cross_fade(chunks(), 2, lambda a, b, w: a + (b - a) * w, **after)
        with output:
            for index, (pixels, keep) in enumerate([] if output.is_whole else frames, output.first):
                if index == stop:
                    raise KeyboardInterrupt
                output.begin(index, lambda: None)
                codes = (255 * pixels).clip(0, 255).round().astype(np.uint8)
                output.write([codes], keep)
                if output.mask_writer:
                    output.mask_writer.write(codes // 2)
                made.append(index)
        assert len(output.keep) == FRAMES
    return made


@pytest.fixture(scope="module", params=["video", "frames"])
def source(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    clip = write_clip(folder / "clip.mp4", frames=FRAMES, audio="aac")
    if request.param == "video":
        return open_media(clip)
    return open_media(save_frames(folder / "shots", FRAMES))


def target_of(source, folder, name, segment_frames=6, mask=True):
    suffix = ".mp4" if source.kind == "video" else ""
    paths = [folder / f"{name}{suffix}", folder / f"{name}_mask{suffix}"]
    settings = Output(segment_frames=segment_frames)
    return Target(source, (48, 64), paths[0], paths[1] if mask else None, settings)


def content(target):
    found = []
    for path in target.paths:
        media = open_media(path)
        found.append((np.stack(list(media.frames())), [file.name for file in media.files]))
    if target.media.kind == "video":
        with av.open(str(target.output)) as container:
            found.append([(p.pts, bytes(p)) for p in container.demux() if p.size])
    return found


def same(one, other):
    frames = [np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(one, other, strict=True)
              if isinstance(a, tuple)]  # fmt: skip
    return len(frames) == 2 and all(frames) and one[2:] == other[2:]


def test_a_run_that_is_stopped_anywhere_comes_to_the_same_files(source, tmp_path):
    whole = target_of(source, tmp_path, "whole")
    assert upscale(whole) == list(range(FRAMES))
    target = target_of(source, tmp_path, "big")
    done = 0
    for stop in (4, 7, 13, 16):
        with pytest.raises(KeyboardInterrupt):
            upscale(target, stop)
        assert not target.output.exists()
        done = stop // 6 * 6  # the first frame of the next segment finishes one, if it came
    assert upscale(target)[0] == done
    assert same(content(target), content(whole))
    assert all(is_noted(path, MADE_FROM) for path in target.paths)
    discard_segments(target.output)
    assert folders_of(target.output) == []


def test_a_run_that_is_stopped_while_it_joins_makes_no_frame_again(source, tmp_path, monkeypatch):
    target = target_of(source, tmp_path, "big")
    rename, link = pathlib.Path.replace, os.link

    def killed(function, path, new):
        if new == target.mask:  # the result is there, its mask pictures are not
            raise KeyboardInterrupt
        return function(path, new)

    monkeypatch.setattr(pathlib.Path, "replace", lambda path, new: killed(rename, path, new))
    monkeypatch.setattr(os, "link", functools.partial(killed, link))
    with pytest.raises(KeyboardInterrupt):
        upscale(target)
    monkeypatch.undo()
    assert target.output.exists() and not target.mask.exists()
    target = dataclasses.replace(target, replaceable=frozenset([target.output]))
    before = target.output.stat()
    assert upscale(target) == [] and target.mask.exists()
    assert target.output.stat().st_ino == before.st_ino


def test_short_clips_are_written_as_a_whole(source, tmp_path):
    target = target_of(source, tmp_path, "big", segment_frames=FRAMES, mask=False)
    with output_of(target, CHUNK, MADE_FROM, print) as output:
        assert output.boundaries is None and not output.is_whole and output.first == 0
        assert list(tmp_path.iterdir()) == []


def test_a_result_that_came_meanwhile_is_not_replaced(source, tmp_path):
    target = target_of(source, tmp_path, "big", mask=False)
    with pytest.raises(KeyboardInterrupt):
        upscale(target, 13)
    if source.kind == "frames":
        target.output.mkdir()
    (target.output / "x.png" if source.kind == "frames" else target.output).touch()
    with pytest.raises(UserError, match="exists"):
        upscale(target)
    assert len(folders_of(target.output)) == 1  # nothing is lost


def test_a_note_that_a_full_disk_has_no_room_for_is_written_without_the_segments(
    source, tmp_path, monkeypatch
):
    target = target_of(source, tmp_path, "big", mask=False)
    upscale(target)
    notes = tmp_path / NAME
    notes.unlink()
    notes.symlink_to("/dev/full")
    (line,) = finish(target, MADE_FROM)
    assert str(target.output) in line and os.strerror(errno.ENOSPC) in line
    monkeypatch.setattr(job_output, "discard_segments", lambda output: notes.unlink())
    assert finish(target, MADE_FROM) == [] and is_noted(target.output, MADE_FROM)


def test_a_note_behind_one_that_was_cut_off_can_be_read(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    (tmp_path / NAME).write_text('{"name": "b.p')
    assert note_done(path, MADE_FROM) == "" and is_noted(path, MADE_FROM)
    assert (tmp_path / NAME).read_text().count("\n") == 2
