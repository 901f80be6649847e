"""Analyses what skipping does to true clips: the paper's Tables 1 and 4, Figures 4b, 5b and 6.

    python -m skipsr_jax.evaluation.analyse --source=clips/ --out=analysis/
    python -m skipsr_jax.evaluation.analyse --source=clips/ --noswap --nopredictor --frames=0
    python -m skipsr_jax.evaluation.analyse --source=clips/ --times=end_to_end.json --figure=fig/

Each clip or picture (a folder has one for each file, or is one clip of frames) is made --scale
times smaller by area averaging. The first table has the oracle mask: what it skips, what the
autoencoder makes of skipped patches whose latent is that of the bilinear upscale (the latent
swap), and by how much the transformer's operations fall. The autoencoder is the full one unless
--config.coder says otherwise. The second has the masks that need no
truth: the model's predictor and the training-free one, with differences from the oracle mask in
brackets. The third is the sweep of tau. --noswap needs no autoencoder; with --nopredictor too no
model is loaded. --times names what benchmarks.end_to_end --out wrote on a GPU: the speed-up that
was measured, and the plot of seconds by stage. docs/evaluation.md says how the paper's numbers
differ.
"""

import sys

from skipsr_jax import signals

if __name__ == "__main__":  # before the imports that take long
    signals.end_from_now_on(sys.argv[0].rpartition("/")[2])

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from skipsr_jax import commandline
from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.data.oracle import oracle_error
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation import plots
from skipsr_jax.evaluation.analysis_tables import (
    table_of_masks,
    table_of_oracle,
    table_of_sweep,
)
from skipsr_jax.evaluation.clips import (
    FOLDER_HELP,
    FOLDER_MEANINGS,
    TRUTH_FOLDER,
    find_clips,
    missing_frames,
    remarks_of,
)
from skipsr_jax.evaluation.figure import side_by_side
from skipsr_jax.evaluation.measures import lpips
from skipsr_jax.evaluation.measures.weights import Weights
from skipsr_jax.evaluation.model_run import facts_of_model, line_of_model, upscaled
from skipsr_jax.evaluation.program import (
    check_folder,
    check_outside,
    status_of,
    warnings_of_files,
    writing,
)
from skipsr_jax.evaluation.skip_analysis import (
    MASKS,
    TAUS,
    Analysis,
    Row,
    analyse,
    means,
    without_speedup,
)
from skipsr_jax.evaluation.speedup import MeasuredTimes
from skipsr_jax.evaluation.true_clips import read_truth
from skipsr_jax.files import new_folder
from skipsr_jax.geometry import is_clip_length
from skipsr_jax.inference.model import chosen_mask, load_model
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import complete, explain, from_config
from skipsr_jax.media.image_writer import write_image
from skipsr_jax.media.inputs import FolderMeaning
from skipsr_jax.media.reader import open_media
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.tokens.criterion import TAU

FIGURE_FRAMES = 5
"""Frames of a clip that are upscaled for a figure, which shows the last of them."""


def define_flags() -> flags.FlagValues:
    """The flags beside --config."""
    values = flags.FlagValues()
    text = "A video, a picture, a folder of them, or a data set with GT/ in it; once for each."
    flags.DEFINE_multi_string("source", [], text, flag_values=values)
    flags.DEFINE_enum("folder", "auto", FOLDER_MEANINGS, FOLDER_HELP, flag_values=values)
    text = "The most frames of each clip, 4k + 1; 0: all."
    flags.DEFINE_integer("frames", 17, text, lower_bound=0, flag_values=values)
    text = "Frames that run at a time, 4k + 1."
    flags.DEFINE_integer("chunk", 17, text, lower_bound=5, flag_values=values)
    flags.DEFINE_integer("scale", 4, "How many times smaller the input is.", 1, flag_values=values)
    text = "Least pixels on a side; smaller files are left out, and said."
    flags.DEFINE_integer("smallest", 0, text, flag_values=values)
    flags.DEFINE_float("tau", TAU, "Threshold of the oracle mask.", 0, flag_values=values)
    taus = [f"{tau:g}" for tau in TAUS]
    flags.DEFINE_list("taus", taus, "Thresholds of the sweep.", flag_values=values)
    flags.DEFINE_bool("swap", True, "Run the latent swap.", flag_values=values)
    flags.DEFINE_bool("predictor", True, "Also analyse the predictor's mask.", flag_values=values)
    text = "The transformer whose operations are counted."
    flags.DEFINE_enum("transformer", "seedvr2_3b", list(DIT_PRESETS), text, flag_values=values)
    text = "JSON file of benchmarks.end_to_end, of the same transformer."
    flags.DEFINE_string("times", None, text, flag_values=values)
    text = "Folder with the weights of LPIPS (docs/evaluation.md)."
    flags.DEFINE_string("weights", None, text, flag_values=values)
    text = "Folder to make, for analysis.json and the plots."
    flags.DEFINE_string("out", None, text, flag_values=values)
    flags.DEFINE_enum("plots", "png", ["none", *plots.FORMATS], "Of --out.", flag_values=values)
    text = "Folder to make, for a picture of truth, mask and result of each clip."
    flags.DEFINE_string("figure", None, text, flag_values=values)
    return values


def check_flags(values: flags.FlagValues) -> tuple[float, ...]:
    """The thresholds of the sweep, ascending. Raises UserError for values that fit no clip."""
    if not values.source:
        raise UserError("--source is missing: name a video, a picture or a folder of them")
    for name in ("frames", "chunk"):
        count = getattr(values, name)
        if count and not is_clip_length(count):
            raise UserError(f"--{name}={count} is not 4k + 1: take {count // 4 * 4 + 1}")
    for folder in (values.out, values.figure):
        if folder:
            check_folder(pathlib.Path(folder))
    if values.out and values.figure:
        check_outside("--out", pathlib.Path(values.out), "--figure", pathlib.Path(values.figure))
    try:
        taus = sorted({float(tau) for tau in values.taus})
    except ValueError as error:
        raise UserError(f"--taus={','.join(values.taus)}: {error}") from error
    if not taus:
        raise UserError("--taus is empty: name a threshold, as --taus=2e-4")
    for flag, tau in (("tau", values.tau), *(("taus", tau) for tau in taus)):
        if not (math.isfinite(tau) and tau > 0):
            raise UserError(f"--{flag}={tau:g}: a threshold is a finite number above 0")
    if values.plots != "none" and values.out:
        plots.check_installed()
    return tuple(taus)


def complete_config(config: ConfigDict) -> ConfigDict:
    """`complete`, with the full coder where the config's file names none.

    The paper's tables are about the model's autoencoder; a light coder need not lose quality with
    the patches that are skipped.
    """
    config = complete(config)
    if config.coder == "auto":
        config.coder = "full"
    return config


def make_analysis(values: flags.FlagValues, config: ConfigDict) -> Analysis:
    """Loads what the flags ask for. Raises UserError."""
    taus, settings = check_flags(values), from_config(config)
    times = MeasuredTimes(values.times) if values.times else None
    if times is not None and times.facts["model"] != values.transformer:
        raise UserError(
            f"--times={values.times} is of {times.facts['model']}: give --transformer="
            f"{times.facts['model']}, or times of {values.transformer}"
        )
    metric = None
    if values.weights:
        try:
            metric = lpips.make("alex", Weights(values.weights).read)
        except UserError as error:
            raise UserError(f"lpips: {error}") from error
    if not values.predictor and settings.mask.source in ("auto", "predictor"):
        mask = dataclasses.replace(settings.mask, source="input")
        settings = dataclasses.replace(settings, mask=mask)
    programs = None
    if values.swap or values.predictor or values.figure:
        model = load_model(
            settings.checkpoint,
            settings.dtype,
            settings.mask,
            coder=settings.coder,
            sharpness=settings.sharpness,
        )
        settings = dataclasses.replace(settings, mask=chosen_mask(settings.mask, model))
        programs = Programs(model)
        if values.predictor and model.predictor is None:
            print("there is no mask predictor (mask.source): there are no rows of it")
        elif values.predictor and not values.swap and not programs.masks_from_pixels:
            raise UserError("the model's predictor takes the latent: leave out --noswap")
    return Analysis(
        values.tau, taus, values.scale, values.chunk, values.frames, values.swap, programs,
        settings, DIT_PRESETS[values.transformer], times, metric,
    )  # fmt: skip


def draw_figure(path: os.PathLike, out: pathlib.Path, analysis: Analysis) -> None:
    """Upscales the beginning of a clip and writes its truth, mask and result side by side."""
    truth = read_truth(path, FIGURE_FRAMES, analysis.scale)
    low = low_quality(truth, analysis.scale)
    made, keep = upscaled(low, truth.shape[1:3], analysis.programs, analysis.settings)
    result = np.rint(255 * np.clip(made[-1], 0, 1)).astype(np.uint8)
    error = oracle_error(truth, analysis.scale)
    write_image(out, side_by_side(truth[-1], keep[-1], result, error[-1]))


def main(argv: Sequence[str]) -> int:
    """Analyses all sources, prints the tables, and writes JSON, plots and figures."""
    return status_of(_run, argv)


def _run(argv: Sequence[str]) -> None:
    values, config = commandline.parse(
        argv, "tiny", define_flags(), __doc__, complete_config, explain
    )
    analysis = make_analysis(values, config)
    if analysis.programs is not None:
        print(line_of_model(analysis.programs.model))
    clips = _sources(values.source, values.smallest, values.folder)
    rows: list[Row] = []
    notes: list[str] = []
    with warnings_of_files() as damage:
        for name, path in tqdm(clips.items(), unit="clip", disable=None):
            media = open_media(path)
            notes += [*filter(None, [missing_frames(media)]), *remarks_of(media)]
            rows.append(analyse(name, media, analysis))
            head, line = table_of_oracle(rows[-1:]).splitlines()
            tqdm.write(line if rows[1:] else f"{head}\n{line}")
    notes += [*damage, *without_speedup(rows)]
    found = means(rows)
    print(*table_of_oracle(found).splitlines()[1:], sep="\n")
    print(table_of_masks([*rows, *found]))
    print(table_of_sweep(found))
    for line in notes:
        print(line)
    if values.out:
        out = pathlib.Path(values.out)
        with writing(out), new_folder(out) as folder:
            _write(folder, list(argv)[1:], rows, found, notes, analysis, values.plots)
    if values.figure:
        out = pathlib.Path(values.figure)
        with writing(out), new_folder(out) as folder:
            for name, path in clips.items():
                draw_figure(path, folder / f"{name}.png", analysis)


def _sources(
    sources: Sequence[str], smallest: int, folder: FolderMeaning
) -> dict[str, pathlib.Path]:
    """The clips of all sources by name, without those that are too small, which are printed."""
    clips: dict[str, pathlib.Path] = {}
    for source in sources:
        if (pathlib.Path(source) / TRUTH_FOLDER).is_dir():
            print(f"{source} is a data set: the clips of its {TRUTH_FOLDER}/ are analysed")
        for name, path in find_clips(source, truth=True, folder=folder).items():
            media = open_media(path)
            if min(media.height, media.width) < smallest:
                print(f"{path} is {media.width}x{media.height}: left out by --smallest={smallest}")
                continue
            if name in clips:
                raise UserError(f"{clips[name]} and {path} have one name: rename one")
            clips[name] = path
    if not clips:
        raise UserError(f"--smallest={smallest} leaves no clip: take a smaller one")
    return clips


def _write(
    folder: pathlib.Path,
    argv: Sequence[str],
    rows: Sequence[Row],
    found: Sequence[Row],
    notes: Sequence[str],
    analysis: Analysis,
    kind: str,
) -> None:
    model = {} if analysis.programs is None else facts_of_model(analysis.programs.model)
    content = {"argv": argv, **model, "tau": analysis.tau,
               "scale": analysis.scale, "masks": MASKS, "rows": rows, "means": found,
               "notes": notes}  # fmt: skip
    (folder / "analysis.json").write_text(json.dumps(content, indent=1))
    if kind == "none":
        return
    for row in found:
        of_kind = [one for one in rows if one["kind"] == row["kind"]]
        path = folder / f"tau_{row['kind']}s.{kind}"
        plots.threshold_effect(path, [*of_kind, row], analysis.tau, row["name"])
    if analysis.times is not None:
        plots.latency(folder / f"latency.{kind}", analysis.times)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
