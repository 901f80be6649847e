"""A blind study of two results with viewers, and its score: good, same, bad.

    python -m skipsr_jax.evaluation.study --a=ours=ours/ --b=theirs=theirs/ --out=study/
    python -m skipsr_jax.evaluation.study --a=ours=ours/ --b=theirs=theirs/ --input=LQ/ --out=study/
    python -m skipsr_jax.evaluation.study --score='answers/*.json'

The first command writes a page to open from disk or to put on any web server. It shows the clips
that both results have, pair by pair, without saying which is which and in another order for each
viewer, asks which one is better, and saves the answers as a file. --samples draws some clips.
The last command reads such files of all viewers and prints the preference of a over b,
(G - B) / (G + S + B), with a 95 % interval (bootstrap of viewers and clips), for each viewer too.
"""

import sys

from skipsr_jax import signals

if __name__ == "__main__":  # before the imports that take long
    signals.end_from_now_on(sys.argv[0].rpartition("/")[2])

import glob
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError, plural
from skipsr_jax.evaluation.clips import (
    FOLDER_HELP,
    FOLDER_MEANINGS,
    files_of,
    find_clips,
    is_itself_a_clip,
    missing_frames,
    other_name,
)
from skipsr_jax.evaluation.gsb import CONFIDENCE, Answer, Preference, preference
from skipsr_jax.evaluation.page.files import check_page
from skipsr_jax.evaluation.program import (
    check_kept,
    status_of,
    warnings_of_files,
    write_json,
    writing,
)
from skipsr_jax.evaluation.study_page import Key, Trial, cut_clips, read_answers, write_study
from skipsr_jax.media.inputs import FolderMeaning
from skipsr_jax.media.outputs import check_writable
from skipsr_jax.media.reader import open_media

QUESTION = "Which one has the better quality?"


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "One result, as name=path or path: a file or a folder of clips. Viewers see no name."
    flags.DEFINE_string("a", None, text, flag_values=values)
    flags.DEFINE_string("b", None, "The other result.", flag_values=values)
    text = "The inputs, which viewers may look at; by default they are not shown."
    flags.DEFINE_string("input", None, text, flag_values=values)
    flags.DEFINE_enum("folder", "auto", FOLDER_MEANINGS, FOLDER_HELP, flag_values=values)
    text = "The page to write, a folder or *.html; with --score a JSON file of the scores."
    flags.DEFINE_string("out", None, text, flag_values=values)
    text = (
        "Files of answers to score: paths, patterns such as 'answers/*.json', or folders of them."
    )
    flags.DEFINE_list("score", [], text, flag_values=values)
    text = "How many clips are drawn; 0: all."
    flags.DEFINE_integer("samples", 0, text, lower_bound=0, flag_values=values)
    text = "The most frames of each clip; 0: all."
    flags.DEFINE_integer("frames", 0, text, lower_bound=0, flag_values=values)
    flags.DEFINE_string("title", "Video quality study", "Of the page.", flag_values=values)
    flags.DEFINE_string("question", QUESTION, "What viewers are asked.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of drawing clips and files.", flag_values=values)
    flags.DEFINE_bool("overwrite", False, "Replace what --out names.", flag_values=values)
    return values


def named(flag: str, text: str | None) -> tuple[str, str]:
    """(name, path) of ``ours=path`` or ``path``. Raises UserError where it is missing."""
    if not text:
        raise UserError(f"--{flag} is missing: name a result, as --{flag}=ours=ours/")
    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        name, path = pathlib.PurePath(text).stem, text
    if not name or not path:
        raise UserError(f"--{flag}={text}: write a name and a path, as --{flag}=ours=ours/")
    return name, path


def find_trials(
    a: str, b: str, inputs: str | None, samples: int, seed: int, folder: FolderMeaning = "auto"
) -> tuple[list[Trial], list[str]]:
    """The pairs, and the names of clips that one result lacks.

    Raises UserError when there are fewer pairs than ``samples``, or an input is missing.
    """
    of_a, of_b = find_clips(a, folder=folder), find_clips(b, folder=folder)
    low = find_clips(inputs, folder=folder) if inputs else {}
    if is_itself_a_clip(a, of_a) and is_itself_a_clip(b, of_b):  # which need no common name
        (name,), (other,) = of_a, of_b.values()
        of_b = {name: other}
        if inputs and is_itself_a_clip(inputs, low):
            low = {name: next(iter(low.values()))}
    both = [name for name in of_a if name in of_b]
    alone = sorted(set(of_a) ^ set(of_b))
    if samples > len(both):
        raise UserError(
            f"--samples={samples}: --a and --b have {plural(len(both), 'clip')} in common"
        )
    if samples:
        drawn = np.random.default_rng(seed).choice(len(both), samples, replace=False)
        both = [both[i] for i in sorted(drawn)]
    missing = [name for name in both if inputs and name not in low]
    if missing:
        raise UserError(f"{inputs} has no input of {missing[0]}")
    return [Trial(name, of_a[name], of_b[name], low.get(name)) for name in both], alone


def faults_of(trials: Sequence[Trial]) -> list[str]:
    """A line for each file with damaged frames, and for each folder whose numbers leave some out.

    Every file is decoded: the page may hold a damaged one byte for byte.
    """
    paths = [path for trial in trials for path in (trial.a, trial.b, trial.low) if path is not None]
    with warnings_of_files() as found:
        media = [open_media(path) for path in dict.fromkeys(paths)]
        for one in media:
            for _ in one.frames():
                pass
    return [*found, *filter(None, map(missing_frames, media))]


def build(values: flags.FlagValues) -> list[str]:
    """Writes the page; returns what to print."""
    (name_a, a), (name_b, b) = named("a", values.a), named("b", values.b)
    if pathlib.Path(a).resolve() == pathlib.Path(b).resolve():
        raise UserError(f"--a and --b are both {a}: name two results")
    if name_a == name_b:
        raise UserError(f"--a and --b have the name {name_a}: write --b=another={b}")
    if not values.out:
        raise UserError("--out is missing: name a folder or a file *.html for the page")
    path = pathlib.Path(values.out)
    check_page(path, overwrite=values.overwrite)
    trials, alone = find_trials(a, b, values.input, values.samples, values.seed, values.folder)
    files = [one for trial in trials for one in (trial.a, trial.b, trial.low) if one is not None]
    check_kept([path], files_of(files))
    with writing(path):
        write_study(
            path, trials, (name_a, name_b), title=values.title, question=values.question,
            seed=values.seed, frames=values.frames or None, overwrite=values.overwrite,
        )  # fmt: skip
    lines = [f"{path}: {plural(len(trials), 'pair')} of {name_a} and {name_b}"]
    for trial in trials:
        lines += [*other_name(trial.a, trial.b), *other_name(trial.a, trial.low)]
    lines += faults_of(trials)
    cut = cut_clips(trials, values.frames or None)
    if cut:
        lines.append(f"cut to the shortest of a, b and the input: {', '.join(cut)}")
    if alone:
        lines.append(f"left out, for one result lacks them: {', '.join(alone)}")
    return lines


def answer_files(patterns: Sequence[str]) -> list[pathlib.Path]:
    """The files that paths and patterns name; of a folder its *.json. Raises UserError for none."""
    names = [f"{glob.escape(p)}/*.json" if pathlib.Path(p).is_dir() else p for p in patterns]
    paths = [pathlib.Path(path) for name in names for path in sorted(glob.glob(name))]
    if not paths:
        raise UserError(f"--score: no file has the name {', '.join(names)}")
    return list(dict.fromkeys(paths))


def read_all(paths: Sequence[pathlib.Path]) -> tuple[Key, list[Answer]]:
    """The answers in all files. Raises UserError where they are of two studies or of one viewer."""
    found: dict[str, pathlib.Path] = {}
    answers: list[Answer] = []
    first: Key | None = None
    for path in paths:
        key, of_file = read_answers(path)
        first = first or key
        if key != first:
            raise UserError(f"{paths[0]} and {path} are of different studies")
        for viewer in {answer.viewer for answer in of_file}:
            if viewer in found:
                raise UserError(f"{found[viewer]} and {path} are both of the viewer {viewer!r}")
            found[viewer] = path
        answers += of_file
    if not answers or first is None:
        raise UserError(f"--score: there is no answer in {paths[0]}")
    return first, answers


def line_of(name: str, found: Preference, pairs: int) -> str:
    """A preference as text. ``pairs``: how many there were to answer."""
    interval = "no interval"  # of a single answer
    if found.low is not None and found.high is not None:
        interval = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    answers = found.good + found.same + found.bad
    return (
        f"{name:20s} {100 * found.score:+6.1f} %  {interval}"
        f"  {found.good} better, {found.same} same, {found.bad} worse"
        f"; {answers} of {plural(pairs, 'pair')} answered"
    )


def score(values: flags.FlagValues) -> list[str]:
    """Scores files of answers, writes --out; returns what to print."""
    out = pathlib.Path(values.out) if values.out else None
    if out is not None:
        check_writable(out, overwrite=values.overwrite)
    paths = answer_files(values.score)
    if out is not None:
        check_kept([out], paths)
    key, answers = read_all(paths)
    found = preference(answers)
    of_viewers = {
        viewer: preference([answer for answer in answers if answer.viewer == viewer])
        for viewer in sorted({answer.viewer for answer in answers})
    }
    if out is not None:
        facts = {
            "a": key.a, "b": key.b, "score": found.score, "low": found.low, "high": found.high,
            "confidence": CONFIDENCE, "good": found.good, "same": found.same, "bad": found.bad,
            "pairs": len(key.clips),
            "viewers": {viewer: one.score for viewer, one in of_viewers.items()},
            "answers": [[x.viewer, x.clip, x.value] for x in answers],
        }  # fmt: skip
        write_json(out, facts, overwrite=values.overwrite)
    interval = f"{100 * CONFIDENCE:.0f} % interval by bootstrap"
    return [
        f"preference of {key.a} over {key.b}, {interval}: {plural(found.viewers, 'viewer')}, "
        f"{plural(found.clips, 'clip')}",
        line_of("all", found, len(key.clips) * found.viewers),
        *(line_of(viewer, one, len(key.clips)) for viewer, one in of_viewers.items()),
    ]


def run(argv: Sequence[str]) -> str:
    """The command line; returns what to print. ``argv`` starts with the program's name."""
    values = parse_flags(argv, define_flags(), __doc__, "a")
    return "\n".join(score(values) if values.score else build(values))


def main(argv: Sequence[str]) -> int:
    """``run``, with errors and signals as lines on stderr; returns the exit status."""
    return status_of(lambda argv: print(run(argv)), argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
