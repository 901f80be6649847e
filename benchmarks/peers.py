"""Compares upscalers on the same inputs: ours, interpolation, Real-ESRGAN, results made elsewhere.

    python -m benchmarks.peers --folder=../shared/data/eval --out=peers --page=peers.html
    python -m benchmarks.peers --folder=clips --degrade=real --out=peers_real --frames=5
    python -m benchmarks.peers --folder=clips --out=peers --resume --result=theirs=theirs/

Each file and each folder of frames in --folder is a true clip or picture; of a data set with GT/
that is taken. It is cropped in the middle to --size, made 4 times
smaller (--degrade: area averaging, or the real-world chain of training, at a named level or at all
of its levels) and upscaled again by each of --peers and, with skipping and without, by each of
--models. --out gets PNG frames: GT/ with the truths, LQ/ with the inputs, results/NAME/ with the
results, a folder for each clip. To add a tool that is not here, run it on LQ/ and name its folder
of results with --result; --resume then keeps what is there. scores.json holds scores, seconds and
the options.

The table has means over the clips that all results have, seconds a frame on this machine, and the
fraction of patches that the mask skips, and which autoencoder of our models ran (coder); our
seconds leave out compiling. Lines below it name the
clips that a result lacks. x4plus takes about half a minute a frame of
640x480 on two CPU cores: keep --frames and --size small.
Files with a side of less than --smallest pixels are inputs without a truth: they are left out, and
named.
"""

from skipsr_jax import signals

if __name__ == "__main__":  # before the imports that take long
    signals.end_from_now_on("peers")

import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from benchmarks.measure import clip_size, device_facts, format_table, run_program, write_json
from benchmarks.peer_models import (
    REAL_ESRGAN,
    SCALE,
    bicubic,
    check_installed,
    lanczos,
    ours,
    real_esrgan,
)
from benchmarks.peer_results import OPTIONS, Results, read_frames, write_frames
from skipsr_jax.commandline import parse_flags, read_config
from skipsr_jax.data.degradation.degrade import degraded
from skipsr_jax.data.degradation.levels import LEVELS, RealWorld
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.clips import files_of, find_clips, pair_clips
from skipsr_jax.evaluation.compare import compare, named_paths
from skipsr_jax.evaluation.comparison_page import clips_to_show, grouped, write_comparison
from skipsr_jax.evaluation.measures.registry import (
    METRICS,
    WITH_TRUTH,
    WITHOUT_TRUTH,
    arrow,
    prepare,
)
from skipsr_jax.evaluation.measures.weights import Weights
from skipsr_jax.evaluation.page.files import check_page
from skipsr_jax.evaluation.program import check_kept, check_outside, writing
from skipsr_jax.evaluation.true_clips import read_truth
from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.media.reader import open_media

PEERS = ("bicubic", "lanczos", *REAL_ESRGAN)
DEGRADATIONS = {"area": "area", "real": RealWorld()} | LEVELS


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("folder", None, "Folder of true clips and pictures.", flag_values=values)
    flags.DEFINE_string("out", "peers", "Folder to write.", flag_values=values)
    text = "How inputs are made: area averaging, or blur, noise and compression too."
    flags.DEFINE_enum("degrade", "area", list(DEGRADATIONS), text, flag_values=values)
    text = "The most frames of each clip (4k + 1)."
    flags.DEFINE_integer("frames", 5, text, 1, flag_values=values)
    text = "The most pixels of a true frame, height x width; the middle is taken."
    flags.DEFINE_string("size", "384x512", text, flag_values=values)
    flags.DEFINE_integer("smallest", 400, "Least pixels on a side.", 0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the real-world degradation.", 0, flag_values=values)
    flags.DEFINE_list("peers", list(PEERS), f"Of {', '.join(PEERS)}.", flag_values=values)
    flags.DEFINE_list("models", ["tiny"], "Configs of our models.", flag_values=values)
    text = "Results made elsewhere of LQ/, as name=folder; once for each."
    flags.DEFINE_multi_string("result", [], text, flag_values=values)
    default = [*WITH_TRUTH, *WITHOUT_TRUTH]
    flags.DEFINE_list("metrics", default, f"Of {', '.join(METRICS)}.", flag_values=values)
    flags.DEFINE_string("weights", None, "Folder of metrics' weights.", flag_values=values)
    text = "Also write a page to look at the results: one *.html file, or a folder."
    flags.DEFINE_string("page", None, text, flag_values=values)
    flags.DEFINE_bool("resume", False, "Keep results that --out has.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace the page.", flag_values=values)
    return values


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of ``384x512``, cut to whole patches. Raises UserError."""
    try:
        _, height, width = clip_size(f"1x{text}")
    except UserError as error:
        raise UserError(f"--size={text} is not height x width, such as 384x512") from error
    if min(height, width) < PATCH_PIXELS:
        raise UserError(f"--size={text} is smaller than a patch of {PATCH_PIXELS} pixels a side")
    return height - height % PATCH_PIXELS, width - width % PATCH_PIXELS


def middle(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of frames (f, h, w, 3), at most of ``size`` = (height, width)."""
    height, width = (min(a, b) for a, b in zip(frames.shape[1:3], size, strict=True))
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return frames[:, top : top + height, left : left + width]


def find_truths(folder: str, smallest: int) -> tuple[dict[str, pathlib.Path], list[str]]:
    """The true clips by name, and a line for those that are too small. Raises UserError."""
    clips, small = {}, []
    for name, path in find_clips(folder, truth=True, folder="files").items():
        media = open_media(path)
        if min(media.height, media.width) < smallest:
            small.append(name)
        else:
            clips[name] = path
    if not clips:
        raise UserError(f"{folder} holds no file with sides of {smallest} pixels")
    return clips, [f"left out by --smallest={smallest}: {', '.join(small)}"] if small else []


def make_inputs(values: flags.FlagValues, clips: Mapping[str, pathlib.Path]) -> None:
    """Writes GT/ and LQ/ of those clips that --out lacks. Raises UserError."""
    out, size = pathlib.Path(values.out), size_of(values.size)
    for name, path in clips.items():
        truth, low = out / "GT" / name, out / "LQ" / name
        if not truth.is_dir():
            write_frames(truth, middle(read_truth(path, values.frames), size))
        if not low.is_dir():
            kind = (LEVELS | {"real": RealWorld()}).get(values.degrade, "area")
            rng = np.random.default_rng([values.seed, zlib.crc32(name.encode())])
            write_frames(low, degraded(read_frames(truth), SCALE, kind, rng))


def loaders(values: flags.FlagValues) -> dict[str, Any]:
    """What loads each upscaler, by the name of its results. Raises UserError."""
    simple = {"bicubic": lambda: bicubic, "lanczos": lambda: lanczos}
    found: dict[str, Any] = {}
    for name in values.peers:
        if name not in PEERS:
            raise UserError(f"--peers: there is no {name}; choose from {', '.join(PEERS)}")
        if name in REAL_ESRGAN:
            check_installed(name)
        found[name] = simple.get(name) or (lambda name=name: real_esrgan(name))
    for config in values.models:
        read_config(config)
        name = pathlib.PurePath(config).stem
        if name in found:
            raise UserError(f"--models: two results would have the name {name}: rename {config}")
        found[name] = lambda config=config: ours(config, dense=False)
        found[f"{name}-dense"] = lambda config=config: ours(config, dense=True)
    return found


def table(scores: Mapping[str, Any], results: Results, metrics: Sequence[str]) -> str:
    """The means over the clips that all results have, as text: a line for each result."""
    common = set.intersection(*(set(part["clips"]) for part in scores["results"].values()))
    rows = []
    for name, part in scores["results"].items():
        means = scores.get("common", {}).get(name, part["mean"])
        elapsed, masks = results.elapsed.get(name, {}), results.keep.get(name, {})
        timed = [clip for clip in elapsed if clip in common]
        spent = sum(elapsed[clip] for clip in timed)
        frames = sum(part["clips"][clip]["frames"] for clip in timed)
        skipped = [100 * (1 - keep.mean()) for clip, keep in masks.items() if clip in common]
        rows.append(
            {"result": name}
            | {metric + arrow(metric): means[metric] for metric in metrics}
            | {"s/frame": spent / frames if frames else None}
            | {"skipped %": float(np.mean(skipped)) if skipped else None}
            | {"coder": results.coders.get(name)}
        )
    return format_table(rows)


def check(
    values: flags.FlagValues, load: Mapping[str, Any], clips: Mapping[str, pathlib.Path]
) -> dict[str, str]:
    """Returns the results made elsewhere by name. Raises UserError for what would fail later."""
    out, elsewhere = pathlib.Path(values.out), named_paths(values.result)
    if values.page:
        check_page(pathlib.Path(values.page), overwrite=values.overwrite)
        check_outside("--out", out, "--page", pathlib.Path(values.page))
    read = list(clips.values())
    if not load and not elsewhere:
        raise UserError("nothing is compared: name some --peers, --models or a --result")
    for name, path in elsewhere.items():
        if name in load:
            raise UserError(f"--result={name}={path}: another result has this name")
        pairs, _ = pair_clips(find_clips(path), clips)
        read += [pair.result for pair in pairs]
    if values.page:
        check_kept([pathlib.Path(values.page)], files_of(read))
    made = (folder.name for folder in (out / "GT").glob("*"))
    if gone := [name for name in made if name not in clips]:
        raise UserError(f"{out} has {gone[0]}, which {values.folder} lacks: name another --out")
    prepare(values.metrics, Weights(values.weights), has_truth=True)
    return elsewhere


def main(argv: Sequence[str]) -> int:
    """Makes inputs and results, scores them, and prints the table of the means."""
    values = parse_flags(argv, define_flags(), __doc__, "folder")
    if not values.folder:
        raise UserError("--folder is missing: name a folder of true clips and pictures")
    size_of(values.size)
    out, load = pathlib.Path(values.out), loaders(values)
    results = Results(out, {name: getattr(values, name) for name in OPTIONS}, values.resume)
    clips, left_out = find_truths(values.folder, values.smallest)
    elsewhere = check(values, load, clips)
    with writing(out):
        results.save()
        make_inputs(values, clips)
        for name, of in load.items():
            results.make(name, of, list(clips))
    paths = {name: str(results.folder(name)) for name in load} | elsewhere
    scores = compare(paths, out, values.metrics, weights=values.weights, show_progress=True)
    times = {"seconds": results.seconds, "elapsed": results.elapsed, "coders": results.coders}
    facts = {"argv": list(argv), **device_facts(), **times, **scores}
    print(table(scores, results, values.metrics), *left_out, *grouped(scores["notes"]), sep="\n")
    with writing(out):
        write_json(str(out / "scores.json"), facts)
    if values.page:
        to_show = clips_to_show(paths, out, masks=results.keep, seconds=results.seconds)
        page = pathlib.Path(values.page)
        with writing(page):
            write_comparison(page, to_show, scores, overwrite=values.overwrite)
        print(f"page {page}")
    return 0


if __name__ == "__main__":
    run_program("peers", main)
