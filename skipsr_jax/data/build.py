"""Folders of videos and pictures -> one ArrayRecord dataset that training reads.

    python -m skipsr_jax.data.build --source=raw --out=/data/clips

Then name it as any folder of clips: ``--config.data.root="('/data/clips',)"``. Files are stored as
they are; long videos are cut at key frames, never encoded anew; scene cuts are found and written
into the index. A file that cannot be read is named, passed over and listed at the end; --strict
ends there. Invariant: the same source gives the same bytes, and ``--out`` appears complete or not
at all.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from skipsr_jax.commandline import parse_flags, print_result
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.record_builder import SkipsrClips
from skipsr_jax.data.records import INDEX_FORMAT, INDEX_NAME, SPLIT, is_built
from skipsr_jax.disk_space import disk_errors_as_one_line, require_space
from skipsr_jax.errors import UserError, imports_of_extra, one_line
from skipsr_jax.files import commit, temporary_folder

with imports_of_extra("train"):
    import tensorflow_datasets as tfds

LONGEST = 250
"""Frames of a record, by default: all of its ten seconds are read for any interval in them."""


def _index(folder: pathlib.Path) -> dict[str, Any]:
    """What each record holds, in the order of the records, read back from the files."""
    clips = []
    for record in tfds.builder_from_directory(folder).as_data_source(SPLIT):
        clips.append(
            {name: record[name].decode() for name in ("name", "kind")}
            | {name: int(record[name]) for name in ("piece", "frames", "height", "width")}
            | {"cuts": record["cuts"].tolist()}
        )
    return {"format": INDEX_FORMAT, "clips": clips}


def _bytes_of(path: str) -> int:
    """The bytes of a file, or of all files of a folder of frames: records take about as many."""
    whole = pathlib.Path(path)
    return sum(file.stat().st_size for file in (whole.iterdir() if whole.is_dir() else (whole,)))


def build(source: str, out: str, longest: int = LONGEST, strict: bool = False) -> dict[str, Any]:
    """Writes the dataset of everything below the folder ``source``; returns its index.

    The index lists what was passed over, a line for each file, under "passed_over".

    Args:
      source: as a root of `find_sources`, but no dataset.
      out: the folder to make.
      longest: videos with more frames are cut at key frames into pieces of at least this many.
      strict: whether a file that cannot be read to its end ends the build; else it is passed over.

    Raises UserError when ``out`` exists or cannot be made, when the disk has no space for it, when
    ``longest`` is below 1, when no file of the source can be read, and with ``strict`` when one
    cannot.
    """
    target = pathlib.Path(out).absolute()
    if target.exists():
        raise UserError(f"{out} exists: choose another name or remove it")
    if longest < 1:
        raise UserError(f"--longest is {longest}: it must be at least 1 frame")
    if is_built(source):
        raise UserError(f"{source} is a built dataset already: name the folder it was made from")
    passed_over: list[str] = []
    sources = find_sources([source], strict, passed_over)
    require_space(target, sum(_bytes_of(clip.path) for clip in sources), "the dataset")
    try:
        with disk_errors_as_one_line(out), temporary_folder(target) as scratch:
            builder = SkipsrClips(sources, source, longest, str(scratch), strict)
            try:
                builder.download_and_prepare()
            finally:
                if builder.failure is not None:
                    raise builder.failure
            folder = pathlib.Path(builder.data_dir)
            index = _index(folder) | {"passed_over": passed_over + builder.passed_over}
            (folder / INDEX_NAME).write_text(json.dumps(index, indent=1))
            commit(folder, target)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from error
    return index


def run(argv: Sequence[str]) -> str:
    """The command line; returns what to print. ``argv`` starts with the program's name."""
    values = flags.FlagValues()
    text = "Folder with videos, pictures and frame folders."
    flags.DEFINE_string("source", None, text, flag_values=values)
    flags.DEFINE_string("out", None, "Folder of the dataset; must not exist.", flag_values=values)
    text = "Videos with more frames are cut at key frames into pieces of at least this many."
    flags.DEFINE_integer("longest", LONGEST, text, flag_values=values)
    text = "End at a file that cannot be read to its end, instead of passing over it."
    flags.DEFINE_bool("strict", False, text, flag_values=values)
    parse_flags(argv, values, __doc__, "source")
    if not values.source or not values.out:
        raise UserError("--source and --out are both needed: the folder to read, the one to write")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    index = build(values.source, values.out, values.longest, values.strict)
    clips, passed_over = index["clips"], index["passed_over"]
    videos = [clip for clip in clips if clip["kind"] == "video"]
    frames, cuts = (sum(clip["frames"] for clip in videos), sum(len(c["cuts"]) for c in videos))
    said = (
        f"{values.out}: wrote {len(videos)} videos of {frames} frames with {cuts} scene cuts, and "
        f"{len(clips) - len(videos)} pictures"
    )
    if passed_over:
        said += f"; passed over {len(passed_over)}:"
    return "\n".join([said, *map(one_line, passed_over)])


def main(argv: Sequence[str]) -> int:
    """``run`` with errors as one line and exit status 1."""
    return print_result(run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
