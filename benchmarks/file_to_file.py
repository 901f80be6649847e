"""Seconds of infer.py from file to file, beside those of its pipeline and of each stage alone.

    python -m benchmarks.file_to_file --input=clip180.mp4 --out=file_to_file.json
    python -m benchmarks.file_to_file --input=clip180.mp4 --model=seedvr2_3b

infer.py runs in processes of its own: first with an empty folder for its programs, then again with
what the first run left there. The stages then run one by one in this process: reading the file, the
pipeline from frames in memory to the codes of the file (programs compiled before), and writing
these codes. Models but tiny have random weights. --root names a checkout of another commit whose
infer.py is run instead; then nothing but its processes is measured.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import flags

from benchmarks.measure import device_facts, format_table, run_program, write_json
from benchmarks.models import CONFIGURED
from benchmarks.startup import in_a_process, usual_environment, write_checkpoint
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.inference.api import Upscaler
from skipsr_jax.inference.outputs import open_writer
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.target_size import target_size
from skipsr_jax.media.reader import open_media

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("input", None, "The video to upscale.", flag_values=values)
    text = "The model; the config of its name says how it runs."
    flags.DEFINE_enum("model", "tiny", CONFIGURED, text, flag_values=values)
    text = "Further arguments of infer.py, such as --config.mask.source=input."
    flags.DEFINE_multi_string("argument", [], text, flag_values=values)
    text = "A checkout whose infer.py runs; default: this one, and its stages alone as well."
    flags.DEFINE_string("root", None, text, flag_values=values)
    flags.DEFINE_integer("warm", 1, "Runs with programs in the cache.", 0, flag_values=values)
    flags.DEFINE_bool("cold", True, "Also the run before, without.", flag_values=values)
    flags.DEFINE_bool("stages", True, "Also each stage alone.", flag_values=values)
    flags.DEFINE_string("cache", None, "Folder for programs; default: new.", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "Default: tiny's, else random.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def run_infer(
    root: pathlib.Path, arguments: Sequence[str], cache: str, output: str
) -> dict[str, Any]:
    """Runs infer.py once; returns its seconds, processor seconds and what it printed.

    Raises UserError with its last line when it fails.
    """
    command = [sys.executable, str(root / "infer.py"), *arguments, f"--output={output}"]
    command += ["--overwrite", f"--compile_cache_dir={cache}"]
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False, env=usual_environment()
    )
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"infer.py ended with status {done.returncode}: {last}")
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    return {"seconds": seconds, "processor_s": spent, "printed": done.stdout.splitlines()}


def stages_alone(path: str, config: str, checkpoint: str | None, cache: str, output: str) -> dict:
    """Seconds of reading, of the pipeline and of writing, each alone, with nothing to compile."""
    media = open_media(path)
    began = time.perf_counter()
    frames = list(media.frames())
    seconds = {"reading": time.perf_counter() - began}
    began = time.perf_counter()
    upscaler = Upscaler(config, checkpoint=checkpoint, cache=cache)
    jax.block_until_ready(upscaler.programs.model.params)
    seconds["loading"] = time.perf_counter() - began
    target = target_size(media.height, media.width, upscaler.settings.size)
    upscaler.reserve([(len(frames), target)])
    writer = open_writer(pathlib.Path(output), media, target, upscaler.settings.output, True)
    codes = []
    for _ in range(2):  # the first loads or compiles the programs
        codes.clear()
        began = time.perf_counter()
        stream = upscaler.stream_codes(
            frames, [writer.yuv_format], upscaler.settings.size, Report()
        )
        codes += [planes for [planes], _ in stream]
        seconds["pipeline"] = time.perf_counter() - began
    began = time.perf_counter()
    with writer:
        for planes in codes:
            writer.write_planes(planes)
    seconds["writing"] = time.perf_counter() - began
    return seconds


def main(argv: Sequence[str]) -> int:
    """Prints a table of all runs."""
    values = parse_flags(argv, define_flags(), __doc__, example="input")
    if not values.input:
        raise UserError("--input is missing: name a video")
    rows, facts = [], {"argv": list(argv)[1:]}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = values.checkpoint
        if checkpoint is None and values.model != "tiny":
            checkpoint = os.path.join(folder, "model")
            in_a_process(write_checkpoint, pathlib.Path(checkpoint), values.model, "bfloat16")
        cache, output = values.cache or os.path.join(folder, "cache"), f"{folder}/out.mp4"
        root = pathlib.Path(values.root or REPOSITORY).resolve()
        chosen = [f"--config=configs/{values.model}.py", f"--input={os.path.abspath(values.input)}"]
        chosen += [f"--config.checkpoint={checkpoint}"] if checkpoint else []
        names = ["empty cache"] * values.cold + ["filled cache"] * values.warm
        for name in names:
            rows.append({"run": f"infer.py, {name}"} | run_infer(
                root, [*chosen, *values.argument], cache, output
            ))  # fmt: skip
            print("\n".join(rows[-1]["printed"]), flush=True)
        if values.stages and not values.root:
            alone = in_a_process(
                stages_alone, values.input, values.model, checkpoint, cache, output
            )
            rows += [{"run": f"{name} alone", "seconds": took} for name, took in alone.items()]
            slowest = max(alone["reading"], alone["pipeline"], alone["writing"])
            if values.warm:
                facts["of_slowest_stage"] = rows[len(names) - 1]["seconds"] / slowest
    print(format_table(rows, ["run", "seconds", "processor_s"]))
    if "of_slowest_stage" in facts:
        print(f"infer.py takes {facts['of_slowest_stage']:.2f} times its slowest stage alone")
    if values.out:
        write_json(values.out, facts | device_facts() | {"rows": rows})
    return 0


if __name__ == "__main__":
    run_program("file_to_file", main)
