"""The flags of infer.py, and what they make of the settings and the inputs."""

import dataclasses
import pathlib

from absl import flags

from skipsr_jax.cli.batch import Failures
from skipsr_jax.config import from_config
from skipsr_jax.errors import UserError
from skipsr_jax.files import cache_folder
from skipsr_jax.inference import outputs
from skipsr_jax.inference.settings import Settings, Size
from skipsr_jax.inference.target_size import target_size
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.moments import moment_of, part_between
from skipsr_jax.media.reader import Media, open_media
from skipsr_jax.resources import sample_folder

SAMPLE = "carphone_pristine.mp4"
"""The clip of a run without --input, one of the sample clips."""


def define_flags() -> flags.FlagValues:
    """Defines the flags beside --config."""
    values = flags.FlagValues()
    text = "Video, image, folder of frames, of files or of clips. May be given several times. "
    text += "Default: a sample clip."
    flags.DEFINE_multi_string("input", None, text, short_name="i", flag_values=values)
    text = "File of the result, or folder of several. Default: outputs/<name>_x<factor>."
    flags.DEFINE_string("output", None, text, short_name="o", flag_values=values)
    text = "Sides of the result over those of the input, as config.size.factor."
    flags.DEFINE_float("scale", None, text, flag_values=values)
    text = "Begin there: seconds (90.5, 1:30.5) or frames (2700f)."
    flags.DEFINE_string("start", None, text, flag_values=values)
    text = "End before that: seconds or frames of the input."
    flags.DEFINE_string("end", None, text, flag_values=values)
    text = "Upscale at most so many frames of each input, as config.max_frames."
    flags.DEFINE_integer("max_frames", None, text, 1, flag_values=values)
    text = "Also write <output>_mask, in which skipped patches are blue."
    flags.DEFINE_bool("save_mask", False, text, flag_values=values)
    text = "Also write a page to look at the results: one *.html file, or a folder."
    flags.DEFINE_string("page", None, text, flag_values=values)
    text = "Replace results that exist."
    flags.DEFINE_bool("overwrite", False, text, flag_values=values)
    text = "Whether a folder is one clip (frames) or many inputs (files)."
    flags.DEFINE_enum("folder", "auto", ["auto", "frames", "files"], text, flag_values=values)
    text = "Keep compiled programs in this folder, so that later runs start faster; none: do not."
    default = str(cache_folder())
    flags.DEFINE_string("compile_cache_dir", default, text, flag_values=values)
    text = "Compile for inputs of these sizes, say how long it took, and stop."
    flags.DEFINE_bool("warmup", False, text, flag_values=values)
    text = "Say what each input becomes and what that takes: memory, disk and time; do nothing."
    flags.DEFINE_bool("dry_run", False, text, flag_values=values)
    text = "With --warmup: the smallest fraction of kept patches to compile for, 0 to 1."
    flags.DEFINE_float("warmup_from", 0.4, text, 0, 1, flag_values=values)
    return values


def with_flags(settings: Settings, values: flags.FlagValues) -> Settings:
    """The settings with the flags that stand for an entry of them in its place.

    Raises UserError when a flag contradicts another entry or flag, or is out of range.
    """
    if values.warmup and values.dry_run:
        raise UserError("give --warmup, which compiles, or --dry_run, which does nothing, not both")
    if values["warmup_from"].present and not values.warmup:
        raise UserError("--warmup_from does nothing without --warmup: add it, or leave both out")
    if values.scale is not None:
        if settings.size.height or settings.size.width:
            raise UserError("give --scale, or config.size.height and config.size.width, not both")
        size = from_config(Size, {"factor": values.scale}, "--scale: ")
        settings = dataclasses.replace(settings, size=size)
    if values.max_frames is not None:
        settings = dataclasses.replace(settings, max_frames=values.max_frames)
    is_sample = not (values.input or values.start or values.end or settings.max_frames)
    return (
        dataclasses.replace(settings, max_frames=settings.sample_frames) if is_sample else settings
    )


def find_inputs(
    values: flags.FlagValues, settings: Settings, failures: Failures
) -> tuple[list[Media], list[tuple[int, int]]]:
    """The inputs that can be opened, each as the part of it that is upscaled, and the (height,
    width) that each is brought to.

    ``failures`` is told how many inputs there are. A name of several for which there is nothing to
    read is one that failed.
    """
    start = None if values.start is None else moment_of(values.start, "--start")
    end = None if values.end is None else moment_of(values.end, "--end")
    named = values.input or [sample_folder() / SAMPLE]
    reading = dataclasses.asdict(settings.input)
    failures.count, paths, media, targets = len(named), [], [], []
    for name in map(pathlib.Path, named):
        with failures.of(name):
            found = list_inputs(name, folder=values.folder)
            failures.count += len(found) - 1
            paths += found
    for path in paths:
        with failures.of(path):
            found = open_media(path, **reading)
            part = part_between(found, start, end, settings.max_frames)
            targets.append(target_size(part.height, part.width, settings.size))
            media.append(part)
    return media, targets


def with_own_names(
    media: list[Media], targets: list[tuple[int, int]], size: Size, failures: Failures
) -> tuple[list[Media], list[tuple[int, int]]]:
    """The inputs, of those that ``find_inputs`` gives, whose results have names of their own."""
    kept = []
    for index, line in enumerate(outputs.clashes(media, targets, size)):
        with failures.of(media[index].path):
            if line:
                raise UserError(line)
            kept.append(index)
    return [media[index] for index in kept], [targets[index] for index in kept]
