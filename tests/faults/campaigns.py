"""The campaigns: which fault is injected, how often, and what the outputs must then be.

Each function returns a `Row`. A case is the same for the same number, so a fault can be repeated
alone (``run.py --only=mp4 --first=17 --mutations=1``).
"""

import hashlib
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
from faults import inputs
from faults.harness import Outcome, Programs, Row, files_below
from faults.mutations import mutated

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError
from skipsr_jax.inference.done_notes import NAME
from skipsr_jax.media.reader import open_media
from skipsr_jax.models.params import flatten

HEIGHT, WIDTH = inputs.SIZE
BATCH = 25
"""Damaged files in one run of infer.py, which loads the model once."""
SHARDS = ("d/*", "*.ocdbt", "ocdbt.process_*/d/*", "ocdbt.process_*/*.ocdbt")
JSON = ("_CHECKPOINT_METADATA", "config/metadata", "state/_METADATA", "state/array_metadatas/*")


def infer_arguments(checkpoint: pathlib.Path, cache: pathlib.Path) -> list[str]:
    """A run of the small model at one size, whatever the input's."""
    return [
        f"--config.checkpoint={checkpoint}", f"--compile_cache_dir={cache}",
        "--config.mask.source=input", f"--config.size.height={HEIGHT}",
        f"--config.size.width={WIDTH}", "--config.encode=dense", "--config.decode=dense",
    ]  # fmt: skip


def emptied(folder: pathlib.Path) -> pathlib.Path:
    """The folder without contents; it is made if needed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def leftovers(outcome: Outcome, out: pathlib.Path, expected: list[str]) -> list[str]:
    """The fault of files that a run should not have left, or has not made."""
    found = [name for name in files_below(out) if name != NAME]
    wanted = expected if outcome.status == 0 else []
    return [] if found == wanted else [f"partial output: {found} instead of {wanted}"]


def media(programs: Programs, work: pathlib.Path, kind: str, numbers: range) -> Row:
    """infer.py on damaged files of a kind, `BATCH` of them in a run.

    A result has the frames that the run says it has. That of a PNG, which has checksums, has the
    pixels that it has without the damage, or it does not come to be. Where a run ends in a fault
    that may be that of any of its files, each of them has a run of its own.
    """
    row = Row(f"damaged .{kind}", "infer")
    sound = inputs.write_medium(emptied(work / "sound"), kind)
    common = infer_arguments(inputs.write_checkpoint(emptied(work / "model")), work / "cache")
    right: list[bytes] = []

    def run(folder: pathlib.Path) -> Outcome:
        emptied(work / "here" / "out")
        return programs.run(
            "infer", f"--input={folder}", "--output=out", "--folder=files", *common,
            folder=work / "here",
        )  # fmt: skip

    def judge(path: pathlib.Path, what: str, outcome: Outcome, shared: bool) -> None:
        result = _result_of(work / "here" / "out", path)
        refused = any(
            path.name in line for line in outcome.stderr.splitlines() if "infer: " in line
        )
        faults = [] if result or outcome.status else ["silence: no result and no line"]
        end = "refused in one line" if result is None else "upscaled"
        if result and refused:
            faults.append("partial output: a result of a file that was refused")
        elif result:
            faults += _wrong_result(result, path.name, outcome)
            index = int(path.stem.split("_")[1]) % len(sound)
            if kind == "png" and result.read_bytes() != right[index]:
                faults.append("wrong numbers: other pixels than those of the sound file")
            warned = any(path.name in line for line in outcome.stderr.splitlines())
            end += " with a warning" if warned else ""
        row.add(what, end, outcome, faults, of_all=not shared)

    for path in sound:
        shutil.copy(path, emptied(work / "in") / path.name)
        outcome = run(work / "in")
        assert outcome.status == 0, outcome.stderr
        right.append(_result_of(work / "here" / "out", path).read_bytes())
    for start in range(0, len(numbers), BATCH):
        folder, cases = emptied(work / "in"), {}
        for number in numbers[start : start + BATCH]:
            path = folder / f"n_{number:05d}.{kind}"
            cases[path], data = mutated(sound[number % len(sound)].read_bytes(), f"{kind} {number}")
            path.write_bytes(data)
        outcome = run(folder)
        left = [name for name in files_below(work / "here") if "partial" in name]
        if not outcome.faults and not left:
            for path, how in cases.items():
                judge(path, f"{path.stem} ({how})", outcome, shared=True)
            row.add_run(outcome)
            continue
        for path, how in cases.items():
            alone = emptied(work / "alone")
            shutil.copy(path, alone)
            judge(path, f"{path.stem} ({how})", run(alone), shared=False)
    return row


def _result_of(out: pathlib.Path, path: pathlib.Path) -> pathlib.Path | None:
    """The result of an input in the folder of results."""
    found = sorted(out.glob(f"{path.stem}_{WIDTH}x{HEIGHT}.*"))
    return found[0] if found else None


def _wrong_result(path: pathlib.Path, source: str, outcome: Outcome) -> list[str]:
    """The fault of a result that cannot be read, or has other frames than the run said."""
    try:
        result = open_media(path)
        frames = sum(1 for _ in result.frames())
    except UserError as error:
        return [f"partial output: {error}"]
    lines = iter(outcome.stdout.splitlines())
    said = next((next(lines, "") for line in lines if f"{source} -> " in line), "")
    right = f"-> {WIDTH}x{HEIGHT}, {frames} frame" in said
    if right and (result.height, result.width) == (HEIGHT, WIDTH):
        return []
    return [f"wrong numbers: {frames} frames of {result.width}x{result.height}, said: {said}"]


def checkpoint(programs: Programs, work: pathlib.Path, kind: str, numbers: range) -> Row:
    """infer.py with a checkpoint of which one file is damaged: ``kind`` is "shard" or "json".

    The result is what it is with the sound checkpoint, to the byte, or there is none.
    """
    row = Row(f"damaged checkpoint, {kind}", "infer")
    sound = inputs.write_checkpoint(emptied(work / "model"))
    picture = inputs.write_medium(emptied(work / "sound"), "png")[0]
    broken, out = work / "broken", work / "out"

    def run(model: pathlib.Path) -> Outcome:
        return programs.run(
            "infer", f"--input={picture}", "--output=out.png",
            *infer_arguments(model, work / "cache"), folder=emptied(out),
        )  # fmt: skip

    assert run(sound).status == 0
    right = (out / "out.png").read_bytes()
    steps = [path for path in sound.iterdir() if path.name.isdigit()]
    patterns = SHARDS if kind == "shard" else JSON
    base = steps[0] / "state" if kind == "shard" else steps[0]
    files = sorted(path for pattern in patterns for path in base.glob(pattern) if path.is_file())
    files = [path for path in files if path.stat().st_size]
    for number in numbers:
        victim = files[number % len(files)]
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(sound, broken)
        how, data = mutated(victim.read_bytes(), f"{kind} {number}")
        (broken / victim.relative_to(sound)).write_bytes(data)
        outcome = run(broken)
        faults = leftovers(outcome, out, ["out.png"])
        end = "refused in one line" if outcome.status else "upscaled as with the sound one"
        if outcome.status == 0 and not faults and (out / "out.png").read_bytes() != right:
            faults.append("wrong numbers: another picture than with the sound checkpoint")
        row.add(f"{number} ({how} in {victim.relative_to(sound)})", end, outcome, faults)
    return row


def digest(checkpoint: pathlib.Path) -> str:
    """A digest of the arrays of a checkpoint."""
    hashed = hashlib.sha256()
    for name, array in sorted(flatten(store.restore_host(checkpoint)).items()):
        hashed.update(f"{name} {array.shape} {array.dtype}".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def official(programs: Programs, work: pathlib.Path, kind: str, numbers: range) -> Row:
    """convert with damaged official weights.

    A .pth file has checksums, so what is converted is what the sound file holds. A file of
    safetensors has none: there the checkpoint names the sha256 of the file that it was made of.
    """
    row = Row(f"damaged .{kind}", "convert")
    sound = inputs.write_official(emptied(work / "sound"), kind)
    out, damaged = work / "out", work / f"damaged.{kind}"
    outcome = programs.run("convert", f"--dit={sound}", "--out=model", folder=emptied(out))
    assert outcome.status == 0, outcome.stderr
    right = digest(out / "model")
    for number in numbers:
        how, data = mutated(sound.read_bytes(), f"{kind} {number}")
        damaged.write_bytes(data)
        outcome = programs.run("convert", f"--dit={damaged}", "--out=model", folder=emptied(out))
        faults, end = [], "refused in one line"
        if outcome.status == 0:
            end = "converted"
            if digest(out / "model") != right:
                end = "converted, with the sha256 of the damaged file"
                named = hashlib.sha256(data).hexdigest() in str(store.load_config(out / "model"))
                if kind == "pth" or not named:
                    faults.append("wrong numbers: other weights than the sound file holds")
        else:
            faults = leftovers(outcome, out, [])
        row.add(f"{number} ({how})", end, outcome, faults)
    return row


MUTATED: dict[str, Callable[[Programs, pathlib.Path, str, range], Row]] = {
    **dict.fromkeys((*inputs.VIDEOS, *inputs.PICTURES), media),
    "shard": checkpoint,
    "json": checkpoint,
    **dict.fromkeys(inputs.OFFICIAL, official),
}
"""The campaign of each kind of file that is damaged."""
