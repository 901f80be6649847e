"""Compares upscalers on the same inputs: ours, interpolation, Real-ESRGAN, results made elsewhere.

    python -m benchmarks.peers --folder=../shared/data/eval --out=peers --page=peers.html
    python -m benchmarks.peers --folder=clips --degrade=real --out=peers_real --frames=5
    python -m benchmarks.peers --folder=clips --out=peers --resume --result=theirs=theirs/

Each file of --folder is a true clip or picture. It is cropped in the middle to --size, made 4 times
smaller (--degrade: area averaging, or the real-world chain of training, at a named level or at all
of its levels) and upscaled again by each of --peers and, with skipping and without, by each of
--models. --out gets PNG frames: GT/ with the truths, LQ/ with the inputs, results/NAME/ with the
results, a folder for each clip. To add a tool that is not here, run it on LQ/ and name its folder
of results with --result; --resume then keeps what is there. scores.json holds scores, seconds and
the options.

The table has means over the clips that all results have, seconds a frame on this machine, and the
fraction of patches that the mask skips; our seconds leave out compiling. Lines below it name the
clips that a result lacks. x4plus takes about half a minute a frame of
640x480 on two CPU cores: keep --frames and --size small.
Files with a side of less than --smallest pixels are left out: they are inputs without a truth.
"""

from skipsr_jax import signals

if __name__ == "__main__":  # before the imports that take long
    signals.end_from_now_on("peers")

import json
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks.measure import clip_size, device_facts, format_table, run_program, write_json
from benchmarks.peer_models import REAL_ESRGAN, SCALE, Peer, bicubic, lanczos, ours, real_esrgan
from skipsr_jax.commandline import parse_flags
from skipsr_jax.data.degradation.degrade import degraded
from skipsr_jax.data.degradation.levels import LEVELS, RealWorld
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.compare import compare, named_paths
from skipsr_jax.evaluation.comparison_page import clips_to_show, grouped, write_comparison
from skipsr_jax.evaluation.measures.registry import METRICS, WITH_TRUTH, WITHOUT_TRUTH, arrow
from skipsr_jax.evaluation.page.files import check_page
from skipsr_jax.evaluation.true_clips import read_truth
from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.media.image_writer import FrameFolderWriter
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.reader import open_media

PEERS = ("bicubic", "lanczos", *REAL_ESRGAN)
DEGRADATIONS = {"area": "area", "real": RealWorld()} | LEVELS
OPTIONS = ("folder", "degrade", "frames", "size", "smallest", "seed")
"""Flags that decide what the inputs are."""


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("folder", None, "Folder of true clips and pictures.", flag_values=values)
    flags.DEFINE_string("out", "peers", "Folder to write.", flag_values=values)
    text = "How inputs are made: area averaging, or blur, noise and compression too."
    flags.DEFINE_enum("degrade", "area", list(DEGRADATIONS), text, flag_values=values)
    flags.DEFINE_integer("frames", 5, "The most frames of each clip (4k + 1).", flag_values=values)
    text = "The most pixels of a true frame, height x width; the middle is taken."
    flags.DEFINE_string("size", "384x512", text, flag_values=values)
    flags.DEFINE_integer("smallest", 400, "Least pixels on a side.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the real-world degradation.", flag_values=values)
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
    _, height, width = clip_size(f"1x{text}", "--size")
    return height - height % PATCH_PIXELS, width - width % PATCH_PIXELS


def middle(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of frames (f, h, w, 3), at most of ``size`` = (height, width)."""
    height, width = (min(a, b) for a, b in zip(frames.shape[1:3], size, strict=True))
    top, left = (frames.shape[1] - height) // 2, (frames.shape[2] - width) // 2
    return frames[:, top : top + height, left : left + width]


def write_frames(folder: pathlib.Path, frames: np.ndarray) -> None:
    """Writes frames as PNG into a new folder, which is complete or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FrameFolderWriter(folder) as writer:
        for frame in frames:
            writer.write(frame)


def read_frames(folder: pathlib.Path) -> np.ndarray:
    """The frames of a folder, (f, h, w, 3)."""
    return np.stack(list(open_media(folder).frames()))


def make_inputs(values: flags.FlagValues, out: pathlib.Path) -> list[str]:
    """Writes GT/ and LQ/; returns the names of the clips. Raises UserError."""
    size, names = size_of(values.size), []
    for path in list_inputs(values.folder, folder="files"):
        media = open_media(path)
        if min(media.height, media.width) < values.smallest:
            continue
        names.append(path.stem)
        if (out / "LQ" / path.stem).is_dir():
            continue
        truth = middle(read_truth(path, values.frames), size)
        rng = np.random.default_rng([values.seed, zlib.crc32(path.stem.encode())])
        low = degraded(
            truth, SCALE, (LEVELS | {"real": RealWorld()}).get(values.degrade, "area"), rng
        )
        write_frames(out / "GT" / path.stem, truth)
        write_frames(out / "LQ" / path.stem, low)
    if not names:
        raise UserError(f"{values.folder} holds no file with sides of {values.smallest} pixels")
    return names


def loaders(values: flags.FlagValues) -> dict[str, Any]:
    """What loads each upscaler, by the name of its results. Raises UserError."""
    simple = {"bicubic": lambda: bicubic, "lanczos": lambda: lanczos}
    found: dict[str, Any] = {}
    for name in values.peers:
        if name not in PEERS:
            raise UserError(f"--peers: there is no {name}; choose from {', '.join(PEERS)}")
        found[name] = simple.get(name) or (lambda name=name: real_esrgan(name))
    for config in values.models:
        name = pathlib.PurePath(config).stem
        found[name] = lambda config=config: ours(config, dense=False)
        found[f"{name}-dense"] = lambda config=config: ours(config, dense=True)
    return found


class Results:
    """The results in a folder, and how long each took.

    Attributes:
      seconds: of each stage, by result and clip.
      elapsed: seconds in all, by result and clip.
      keep: keep masks, by result and clip.
    """

    def __init__(self, out: pathlib.Path, options: Mapping[str, Any], resume: bool):
        """Raises UserError when the folder has results that may not or cannot be kept."""
        self.out, self._facts = out, out / "made.json"
        self.seconds: dict[str, dict[str, Any]] = {}
        self.elapsed: dict[str, dict[str, float]] = {}
        self.keep: dict[str, dict[str, np.ndarray]] = {}
        if self._facts.is_file():
            made = json.loads(self._facts.read_text())
            differ = [name for name in OPTIONS if made["options"].get(name) != options[name]]
            if not resume:
                raise UserError(f"{out} has results: give --resume to keep them, or another --out")
            if differ:
                raise UserError(
                    f"{out} was made with --{differ[0]}={made['options'].get(differ[0])}: give the "
                    "same again, or another --out"
                )
            self.seconds, self.elapsed = made["seconds"], made["elapsed"]
        elif out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} is a folder with other files; name another --out")
        out.mkdir(parents=True, exist_ok=True)
        self._options = dict(options)
        self._save()

    def folder(self, name: str) -> pathlib.Path:
        """Where the results of an upscaler are."""
        return self.out / "results" / name

    def make(self, name: str, load: Any, clips: Sequence[str]) -> None:
        """Runs an upscaler on all clips whose results are not there."""
        peer: Peer | None = None
        for clip in tqdm(clips, desc=name, disable=None):
            folder, mask = self.folder(name) / clip, self.out / "masks" / name / f"{clip}.npy"
            if not (folder.is_dir() and clip in self.seconds.get(name, {})):
                peer = peer or load()
                made = peer(read_frames(self.out / "LQ" / clip))
                if made.keep is not None:
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    np.save(mask, made.keep)
                write_frames(folder, made.frames)
                self.seconds.setdefault(name, {})[clip] = dict(made.seconds)
                self.elapsed.setdefault(name, {})[clip] = made.elapsed
                self._save()
            if mask.is_file():
                self.keep.setdefault(name, {})[clip] = np.load(mask)

    def _save(self) -> None:
        facts = {"options": self._options, "seconds": self.seconds, "elapsed": self.elapsed}
        write_json(str(self._facts), facts)


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
        )
    return format_table(rows)


def main(argv: Sequence[str]) -> int:
    """Makes inputs and results, scores them, and prints the table of the means."""
    values = parse_flags(argv, define_flags(), __doc__)
    if not values.folder:
        raise UserError("--folder is missing: name a folder of true clips and pictures")
    if values.page:
        check_page(pathlib.Path(values.page), overwrite=values.overwrite)
    out, load = pathlib.Path(values.out), loaders(values)
    elsewhere = named_paths(values.result)
    options = {name: getattr(values, name) for name in OPTIONS}
    results = Results(out, options, values.resume)
    clips = make_inputs(values, out)
    for name, of in load.items():
        results.make(name, of, clips)
    paths = {name: str(results.folder(name)) for name in load} | elsewhere
    scores = compare(paths, out, values.metrics, weights=values.weights, show_progress=True)
    times = {"seconds": results.seconds, "elapsed": results.elapsed}
    facts = {"argv": list(argv), **device_facts(), **times, **scores}
    write_json(str(out / "scores.json"), facts)
    print("\n".join([table(scores, results, values.metrics), *grouped(scores["notes"])]))
    if values.page:
        to_show = clips_to_show(paths, out, masks=results.keep, seconds=results.seconds)
        page = pathlib.Path(values.page)
        write_comparison(page, to_show, scores, overwrite=values.overwrite)
        print(f"page {page}")
    return 0


if __name__ == "__main__":
    run_program("peers", main)
