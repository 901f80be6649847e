"""Makes the records of a training dataset: the tensorflow-datasets builder, and what it stores.

A record is one encoded file: a picture or a short video as it is, a piece of a long video cut at
key frames without encoding it anew, or a folder of frames as lossless H.264. A long video that
cannot be cut so stays whole. Invariant: the frames of a record are, bit for bit, frames of the
source, in order.

A piece of a long video begins at a key frame. Frames shown before that key frame but stored after
it (open groups of pictures) need the piece before and are left out: a few frames at each seam.
"""

import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from etils import epath

from skipsr_jax.data.discovery import passing_over, probe
from skipsr_jax.data.reading import iter_frames
from skipsr_jax.data.records import SPLIT
from skipsr_jax.data.source import Source
from skipsr_jax.errors import UserError, imports_of_extra
from skipsr_jax.media.scan import open_container, video_stream_index
from skipsr_jax.media.scene_cuts import find_cuts
from skipsr_jax.media.video import open_video

with imports_of_extra("train"):
    import tensorflow_datasets as tfds

_BITEXACT = {"fflags": "bitexact"}  # Matroska otherwise draws a random number for each file
_LOSSLESS = {"qp": "0", "g": "12", "preset": "medium"}


def _remuxed(packets: Sequence[av.Packet], template: av.VideoStream) -> bytes:
    """Packets as a Matroska file in memory."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska", options=_BITEXACT) as container:
        stream = container.add_stream_from_template(template)
        for packet in packets:
            packet.stream = stream
            container.mux(packet)
    return file.getvalue()


def _is_cut_well(path: str) -> bool:
    """Whether pieces of a video hold its frames.

    Not where an edit list hides some of them, the first packet is no key frame, time stamps are
    absent (fields of one picture), repeat or jump, or Matroska does not take the codec.
    """
    scan = open_video(pathlib.Path(path)).scan
    if scan.is_bridged or scan.is_counted or scan.timing.repaired:
        return False
    with open_container(pathlib.Path(path)) as container:
        stream = container.streams.video[video_stream_index(container, pathlib.Path(path))]
        try:
            with av.open(io.BytesIO(), "w", format="matroska") as trial:
                trial.add_stream_from_template(stream)
        except ValueError:
            return False
        packets = (packet for packet in container.demux(stream) if packet.size)
        first = next(packets, None)
        if first is None or not first.is_keyframe or first.is_discard:
            return False  # what is shown before the first key frame cannot be decoded
        return not any(packet.is_discard or packet.pts is None for packet in packets)


def _pieces(path: str, longest: int) -> Iterator[bytes]:
    """The video in files of at least ``longest`` frames, each from a key frame on."""
    with open_container(pathlib.Path(path)) as container:
        stream = container.streams.video[video_stream_index(container, pathlib.Path(path))]
        packets: list[av.Packet] = []
        for packet in container.demux(stream):
            if packet.pts is None or packet.size == 0:
                continue
            if packet.is_keyframe and len(packets) >= longest:
                yield _remuxed(packets, stream)
                packets = []
            if packets and packet.pts < packets[0].pts:
                continue  # shown before the key frame: it needs the piece before
            packets.append(packet)
        if packets:
            yield _remuxed(packets, stream)


def _encoded(source: Source) -> bytes:
    """A folder of frames as one lossless video."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska", options=_BITEXACT) as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(25), options=_LOSSLESS)
        stream.height, stream.width, stream.pix_fmt = source.height, source.width, "rgb24"
        stream.codec_context.thread_count = 1
        for frame in iter_frames(source, 0, source.frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _files(source: Source, longest: int) -> Iterator[bytes]:
    if source.kind == "frames":
        yield _encoded(source)
    elif source.frames > longest and _is_cut_well(source.path):
        yield from _pieces(source.path, longest)
    else:
        yield pathlib.Path(source.path).read_bytes()


def examples(source: Source, root: str, longest: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, record) of one clip; every frame is decoded once, to find the cuts.

    Raises UserError when a file cannot be decoded to its end.
    """
    name = os.path.relpath(source.path, root)
    for piece, data in enumerate(_files(source, longest)):
        kind = "image" if source.kind == "image" else "video"
        try:
            found = probe(pathlib.Path(source.path), kind, data)
            cuts = find_cuts(iter_frames(found, 0, found.frames, data=data))
        except UserError as error:
            raise UserError(f"{error}: repair or remove the file") from error
        yield (
            f"{name}#{piece:06}",
            {
                "data": data,
                "name": name,
                "piece": piece,
                "kind": kind,
                "frames": found.frames,
                "height": found.height,
                "width": found.width,
                "cuts": np.array(cuts, np.int64),
            },
        )


class SkipsrClips(tfds.core.GeneratorBasedBuilder):
    """Videos and pictures for training, as encoded bytes.

    Attributes:
      passed_over: a line for each clip that could not be decoded to its end.
      failure: the UserError that ended the build, which tensorflow-datasets would reword.
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(
        self, sources: Sequence[Source], root: str, longest: int, data_dir: str, strict: bool
    ):
        """Args:
        sources: the clips, in the order of the records.
        root: the folder that names of clips are relative to.
        longest: frames of a record; pieces of longer videos have this many or a few more.
        data_dir: the folder to write into.
        strict: whether a clip that cannot be decoded to its end ends the build; else its pieces up
          to there are taken.
        """
        self._sources, self._root, self._longest = sources, root, longest
        self._strict = strict
        self.passed_over: list[str] = []
        self.failure: UserError | None = None
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "data": tfds.features.Tensor(shape=(), dtype=np.object_),
            "name": tfds.features.Text(),
            "piece": np.int64,
            "kind": tfds.features.Text(),
            "frames": np.int64,
            "height": np.int64,
            "width": np.int64,
            "cuts": tfds.features.Tensor(shape=(None,), dtype=np.int64),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        written = 0
        try:
            for source in self._sources:
                with passing_over(source.path, self._strict, self.passed_over):
                    for example in examples(source, self._root, self._longest):
                        yield example
                        written += 1
            if not written:
                raise UserError(f"no clip can be decoded: {'; '.join(self.passed_over)}")
        except UserError as error:
            self.failure = error
            raise
