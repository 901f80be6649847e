"""Scores results, against truths or alone: files, folders of frames and folders of clips.

    python -m skipsr_jax.evaluation.compare --result=ours=out.mp4 --truth=truth.mp4
    python -m skipsr_jax.evaluation.compare --result=ours=ours/ --result=theirs=theirs/ \\
        --truth=UDM10 --metrics=psnr,ssim,lpips,dists --weights=weights/ --out=scores.json
    python -m skipsr_jax.evaluation.compare --result=ours=ours/ --metrics=niqe,musiq,clipiqa,dover
    python -m skipsr_jax.evaluation.compare --result=ours=ours/ --truth=UDM10 --page=report.html

Clips of a folder are paired with truths by name; ``skipsr_jax.evaluation.clips`` says which layouts
there are (DOVE's GT and LQ among them). Frames of other sizes are cut to the smaller from the top
left, and longer clips to the shorter: each is said in a line, and ``--mismatch=refuse`` ends there
instead. Scores are those of frames, then means over a clip, then over clips. A metric that cannot
run ends the program before any work, with a line that says what it needs; a clip that has no value
of a metric (a picture has no flicker) has null, with a line, and is not in the mean.
``--page`` writes a page to look at the results in a browser, beside the inputs and the truths.
docs/evaluation.md lists the metrics and where their weights come from.
"""

import sys

from skipsr_jax import signals

if __name__ == "__main__":  # before the imports that take long
    signals.end_from_now_on(sys.argv[0].rpartition("/")[2])

import concurrent.futures
import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from tqdm import tqdm

from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError, plural
from skipsr_jax.evaluation.clips import (
    FOLDER_HELP,
    FOLDER_MEANINGS,
    OpenPair,
    files_of,
    find_clips,
    is_itself_a_clip,
    open_pair,
    other_name,
    pair_clips,
)
from skipsr_jax.evaluation.comparison_page import (
    check_plots,
    clips_to_show,
    input_folder,
    inputs_of_other_names,
    mask_files,
    read_masks,
    write_comparison,
)
from skipsr_jax.evaluation.measures.registry import (
    METRICS,
    WITH_TRUTH,
    WITHOUT_TRUTH,
    Maker,
    arrow,
    prepare,
)
from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.measures.weights import Weights
from skipsr_jax.evaluation.page.files import check_page
from skipsr_jax.evaluation.program import (
    check_kept,
    check_outside,
    status_of,
    warnings_of_files,
    write_json,
    writing,
)
from skipsr_jax.evaluation.score_table import Scores, mean_of, means_of_common_clips, table
from skipsr_jax.media.inputs import FolderMeaning
from skipsr_jax.media.outputs import check_writable


def score_clip(
    opened: OpenPair, makers: Mapping[str, Maker], stop: threading.Event, progress: tqdm
) -> tuple[dict[str, float | int | None], list[str]]:
    """Scores one clip in one pass over its frames.

    Args:
      opened: the result and its truth.
      makers: of `prepare`.
      stop: ends the work early when it is set.
      progress: is moved on by each frame.

    Returns:
      The value of each metric and the number of frames, and a line for each metric without a value.
    """
    count, reasons = 0, {}
    with contextlib.ExitStack() as stack:
        scores = {name: make(opened) for name, make in makers.items()}
        for score in scores.values():
            stack.callback(score.close)
        for result, truth in opened.frames():
            if stop.is_set():
                break
            frames = Picture(result), None if truth is None else Picture(truth)
            for name, score in scores.items():
                if name in reasons:
                    continue
                try:
                    score.add(*frames)
                except Undefined as reason:
                    reasons[name] = str(reason)
            count += 1
            progress.update()
        values: dict[str, float | int | None] = dict.fromkeys(scores)
        for name, score in scores.items():
            if name in reasons or stop.is_set():
                continue
            try:
                values[name] = score.value()
            except Undefined as reason:
                reasons[name] = str(reason)
    notes = [f"{opened.pair.result}: no {name}: {reason}" for name, reason in reasons.items()]
    if count != opened.num_frames and not stop.is_set():
        said = (
            f"{opened.pair.result}: {plural(count, 'frame')} compared, {opened.num_frames} expected"
        )
        notes.append(f"{said}: a file is damaged")
    return values | {"frames": count}, notes


def compare(
    results: Mapping[str, str | os.PathLike],
    truth: str | os.PathLike | None = None,
    metrics: Sequence[str] | None = None,
    *,
    weights: str | os.PathLike | None = None,
    folder: FolderMeaning = "auto",
    refuse_mismatch: bool = False,
    jobs: int | None = None,
    show_progress: bool = False,
) -> Scores:
    """Scores results.

    Args:
      results: the path of each by its name: a file or a folder, as `find_clips` takes them.
      truth: the path of the truths; None: there are none.
      metrics: names of `METRICS`; None: those that need no files beside the package.
      weights: the folder with weights.
      folder: what a folder of media files is, as of `find_clips`.
      refuse_mismatch: whether a mismatch of size or length is an error.
      jobs: clips that are scored at a time; None: one for each processor.
      show_progress: whether to draw a progress bar on stderr where that is a terminal.

    Returns:
      The scores, ready to be written as JSON.

    Raises:
      UserError: a path has no clips, a result has no truth, a metric cannot run, a file is damaged.
    """
    if metrics is None:
        metrics = WITHOUT_TRUTH if truth is None else WITH_TRUTH
    truths = None if truth is None else find_clips(truth, truth=True, folder=folder)
    notes, opened = [], []
    for name, path in results.items():
        clips = find_clips(path, folder=folder)
        any_name = (
            bool(truths) and is_itself_a_clip(path, clips) and is_itself_a_clip(truth, truths)
        )
        pairs, missing = pair_clips(clips, truths, any_name=any_name)
        if missing:
            without = plural(len(missing), "truth")
            notes.append(f"{name} has no clip for {without}: {', '.join(missing)}")
        notes += [line for pair in pairs for line in other_name(pair.result, pair.truth)]
        opened += [(name, open_pair(pair)) for pair in pairs]
    mismatches = [note for _, pair in opened for note in pair.notes]
    if mismatches and refuse_mismatch:
        more = f"; and {len(mismatches) - 3} more" if mismatches[3:] else ""
        raise UserError("; ".join(mismatches[:3]) + more)
    read = Weights(weights)
    makers = prepare(metrics, read, truth is not None)
    found: Scores = {name: {"mean": {}, "clips": {}} for name in results}
    doubtful: dict[str, list[str]] = {}
    notes += mismatches
    notes += dict.fromkeys(remark for _, pair in opened for remark in pair.remarks)
    with warnings_of_files() as damage:
        scored = _score_all([pair for _, pair in opened], makers, jobs, show_progress)
    for (name, pair), (values, lines) in zip(opened, scored, strict=True):
        found[name]["clips"][pair.pair.name] = values
        notes += lines
        for metric in metrics:
            doubt = METRICS[metric].doubt(pair.size) if values[metric] is not None else ""
            if doubt:
                notes.append(f"{pair.pair.result}: {metric} says little: {doubt}")
                of_metric = doubtful.setdefault(metric, [])
                of_metric += [pair.pair.name] * (pair.pair.name not in of_metric)
    notes += damage
    for part in found.values():
        part["mean"] = mean_of(part["clips"], metrics)
    common, lines = means_of_common_clips(found, metrics)
    notes += lines
    about = {name: METRICS[name].about + f" ({arrow(name)})" for name in metrics}
    scores = {"results": found, "metrics": about, "weights": read.used, "notes": notes}
    scores |= {"doubtful": doubtful} if doubtful else {}
    return scores | ({"common": common} if common else {})


def _score_all(
    pairs: Sequence[OpenPair], makers: Mapping[str, Maker], jobs: int | None, show_progress: bool
) -> list[tuple[dict[str, Any], list[str]]]:
    """`score_clip` of all pairs, several at a time; after an error the others stop."""
    stop = threading.Event()
    total = sum(pair.num_frames for pair in pairs)
    threads = concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count() or 1)
    disable = None if show_progress else True  # None: where stderr is no terminal
    with threads, tqdm(total=total, unit="frame", disable=disable) as progress:
        tasks = [threads.submit(score_clip, pair, makers, stop, progress) for pair in pairs]
        try:
            concurrent.futures.wait(tasks, return_when=concurrent.futures.FIRST_EXCEPTION)
            return [task.result() for task in tasks]
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)


def named_paths(arguments: Sequence[str]) -> dict[str, str]:
    """``["ours=out/", "b.mp4"]`` as ``{"ours": "out/", "b": "b.mp4"}``. Raises UserError."""
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or os.sep in name:
            name, path = pathlib.PurePath(argument).stem, argument
        if not name or not path:
            raise UserError(f"--result={argument}: write a name and a path, as --result=ours=out/")
        if name in found:
            raise UserError(f"two results have the name {name}: write --result=another={path}")
        found[name] = path
    return found


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "A result as name=path, or its path alone; once for each result."
    flags.DEFINE_multi_string("result", [], text, flag_values=values)
    text = "The truths: a file, a folder, or a folder with GT/ in it."
    flags.DEFINE_multi_string("truth", [], text, flag_values=values)
    values["truth"].help = text  # without absl's advice to repeat it, which is refused
    text = f"Of {', '.join(METRICS)}; by default those that need no files beside the package."
    flags.DEFINE_list("metrics", None, text, flag_values=values)
    text = "Folder with the files of weights that some metrics need (docs/evaluation.md)."
    flags.DEFINE_string("weights", None, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    text = "Also write a page to look at the results: one *.html file, or a folder."
    flags.DEFINE_string("page", None, text, flag_values=values)
    text = "For the page: the inputs. Default: the folder LQ in --truth, if there is one."
    flags.DEFINE_string("input", None, text, flag_values=values)
    text = "For the page: an .npy with a keep mask (t, r, q), or a folder with one for each clip."
    flags.DEFINE_string("mask", None, text, flag_values=values)
    text = "For the page: plots, PNG or SVG."
    flags.DEFINE_list("plots", [], text, flag_values=values)
    text = "Replace the files of --out and --page."
    flags.DEFINE_bool("overwrite", False, text, flag_values=values)
    flags.DEFINE_enum("folder", "auto", FOLDER_MEANINGS, FOLDER_HELP, flag_values=values)
    text = "What to do where a result and its truth differ in size or length."
    flags.DEFINE_enum("mismatch", "cut", ["cut", "refuse"], text, flag_values=values)
    text = "Clips that are scored at a time; 0: one for each processor."
    flags.DEFINE_integer("jobs", 0, text, lower_bound=0, flag_values=values)
    return values


def files_read(
    values: flags.FlagValues, results: Mapping[str, str], truth: str | None
) -> Iterator[pathlib.Path]:
    """Yields the files that a comparison reads. Raises UserError as `find_clips` does."""
    for path in results.values():
        yield from files_of(find_clips(path, folder=values.folder).values())
    if truth is not None:
        yield from files_of(find_clips(truth, truth=True, folder=values.folder).values())
    inputs = input_folder(values.input, truth)
    if inputs is not None:
        yield from files_of(find_clips(inputs, folder=values.folder).values())
    yield from mask_files(values.mask) if values.mask else ()
    yield from map(pathlib.Path, values.plots)
    yield from Weights(values.weights).files()


def run(argv: Sequence[str]) -> None:
    """The command line: prints the scores, then writes. ``argv`` starts with the program's name."""
    values = parse_flags(argv, define_flags(), __doc__, "result")
    if not values.result:
        raise UserError("--result is missing: name a result, as --result=ours=out.mp4")
    if len(values.truth) > 1:
        raise UserError(f"--truth is given {len(values.truth)} times: name one file or folder")
    truth = values.truth[0] if values.truth else None
    out = pathlib.Path(values.out) if values.out else None
    if out is not None:
        check_writable(out, overwrite=values.overwrite)
        if values.page:
            check_outside("--out", out, "--page", pathlib.Path(values.page))
    results = named_paths(values.result)
    page = pathlib.Path(values.page) if values.page else None
    if page is not None:
        check_page(page, overwrite=values.overwrite)
    check_kept([path for path in (out, page) if path], files_read(values, results, truth))
    if page is not None:
        masks = {"mask": read_masks(values.mask)} if values.mask else None
        check_plots(values.plots)
        to_show = clips_to_show(
            results, truth, values.input, masks, values.folder,
            masks_by_name=bool(values.mask) and os.path.isdir(values.mask),
        )  # fmt: skip
    elif values.input or values.mask or values.plots:
        raise UserError("--input, --mask and --plots are for the page: name it with --page")
    scores = compare(
        results,
        truth,
        values.metrics,
        weights=values.weights,
        folder=values.folder,
        refuse_mismatch=values.mismatch == "refuse",
        jobs=values.jobs or None,
        show_progress=True,
    )
    if page is not None:
        scores["notes"] += inputs_of_other_names(to_show)
    used = [f"{path}: {what}" for path, what in scores["weights"].items()]
    print(table(scores), *scores["notes"], *used, sep="\n", flush=True)
    if out is not None:
        write_json(out, scores, overwrite=values.overwrite)
    if page is not None:
        with writing(page):
            write_comparison(page, to_show, scores, plots=values.plots, overwrite=values.overwrite)


def main(argv: Sequence[str]) -> int:
    """``run``, with errors and signals as lines on stderr; returns the exit status."""
    return status_of(run, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
