"""Measures the time to the first frame: loading a checkpoint, compiling, and with a compile cache.

    export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
    python -m benchmarks.startup --clip=21x720x1280 --out=startup.json
    python -m benchmarks.startup --model=tiny --clip=1x64x64
    python -m benchmarks.startup --nowarmup                   # loading alone, also on a CPU

It writes a checkpoint of random numbers and a clip of random frames into a temporary folder. On
them it runs ``infer.py --warmup`` twice, each time in a new process: first with an empty compile
cache, then with the programs that the first run left there. The columns, in seconds:

  read          reading the checkpoint's files from the same disk, without parsing them
  device        starting the device (in "loading alone")
  loaded        loading the checkpoint, as infer.py reports it, or after the device has started
  first_frame   from the loaded model to the first frame
  warm          the same once more in that process
  process       the whole process

Before each, the checkpoint's files are dropped from the page cache, where the system supports it.
"""

import concurrent.futures
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from PIL import Image

from benchmarks.measure import clip_size, format_table, run_program, write_json
from benchmarks.models import CONFIGURED, REPOSITORY, TEXT_TOKENS, abstract_networks
from skipsr_jax.checkpoints.store import save_model
from skipsr_jax.commandline import parse_flags, read_config
from skipsr_jax.config import to_json
from skipsr_jax.errors import UserError
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.settings import from_config
from skipsr_jax.models.params import to_dict
from skipsr_jax.types import DTYPES, HostArray

READ_BYTES = 2**24
"""Bytes of one read."""
REPEATED_NUMBERS = 2**25
"""Random numbers that are drawn once and repeated: more than compression looks back."""
REPORTED = {
    "loaded_s": r"loaded in ([\d.]+) s",
    "first_frame_s": r"first frame after ([\d.]+) s",
    "warm_s": r"warm ([\d.]+) s",
}
"""Patterns of the numbers in the output of infer.py."""


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "The model; the config of its name says how it runs."
    flags.DEFINE_enum("model", "seedvr2_3b", CONFIGURED, text, flag_values=values)
    text = "frames x height x width, at the target size."
    flags.DEFINE_string("clip", "21x720x1280", text, flag_values=values)
    text = "Smallest fraction of kept patches to compile for."
    flags.DEFINE_float("warmup_from", 1.0, text, 0, 1, flag_values=values)
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the stored numbers.", flag_values=values)
    text = "Also run infer.py --warmup, not only load the checkpoint."
    flags.DEFINE_bool("warmup", True, text, flag_values=values)
    text = "A folder on the disk to measure; default: the system's temporary folder."
    flags.DEFINE_string("folder", None, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def write_checkpoint(path: pathlib.Path, model: str, dtype_name: str) -> None:
    """Writes a model of random numbers, which compression does not make smaller."""
    dtype, rng = jnp.dtype(dtype_name), np.random.default_rng(0)
    networks = abstract_networks(model, dtype)
    networks["vae"] = networks.pop("coder")
    shapes = {name: to_dict(network) for name, network in networks.items()}
    text = TEXT_TOKENS, networks["dit"].config.text_width
    shapes["text"] = {"positive": jax.ShapeDtypeStruct(text, dtype)}

    # Small numbers: with larger ones the frames are not finite, and infer.py ends there.
    drawn = (0.02 * rng.standard_normal(REPEATED_NUMBERS, np.float32)).astype(dtype)

    def draw(leaf: jax.ShapeDtypeStruct) -> HostArray:
        # np.resize would copy all drawn numbers for each array, however small.
        numbers = drawn[: leaf.size] if leaf.size <= drawn.size else np.resize(drawn, leaf.size)
        return numbers.reshape(leaf.shape).astype(leaf.dtype, copy=False)

    configs = {name: to_json(network.config) for name, network in networks.items()}
    save_model(path, jax.tree.map(draw, shapes), configs)


def write_clip(folder: pathlib.Path, count: int, height: int, width: int) -> None:
    """Writes random frames, each as a picture."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(frame).save(folder / f"{number:04}.png")


def files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files below ``folder``."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def drop_from_page_cache(folder: pathlib.Path) -> None:
    """Asks the system to drop the files below ``folder`` from its page cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files_of(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(folder: pathlib.Path) -> tuple[float, int]:
    """Reads all files below ``folder``, one after the other; returns the seconds and the bytes."""
    began, total = time.perf_counter(), 0
    for path in files_of(folder):
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                total += len(piece)
    return time.perf_counter() - began, total


def in_a_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the result of a call in a new process, which then frees the device's memory."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(call, *arguments).result()


def load(checkpoint: pathlib.Path, dtype: str) -> tuple[float, float]:
    """Returns the seconds of starting the device, and then of loading the model."""
    began = time.perf_counter()
    jax.block_until_ready(jnp.zeros(1))
    started = time.perf_counter()
    jax.block_until_ready(load_model(str(checkpoint), dtype).params)
    return started - began, time.perf_counter() - started


def usual_environment() -> dict[str, str]:
    """The environment without what would make a run faster or slower than a user's.

    That is a folder from which JAX itself takes compiled programs; and that Python keeps no
    bytecode, and so compiles this package again in every run (0.3 s).
    """
    unusual = ("JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in unusual}


def run_infer(
    model: str, checkpoint: pathlib.Path, clip: pathlib.Path, cache: pathlib.Path, kept: float
) -> dict[str, float]:
    """Runs ``infer.py --warmup``; returns the seconds that it reports and those of the process.

    ``kept``: the smallest fraction of kept patches to compile for. Raises UserError when infer.py
    fails, with its last line.
    """
    command = [
        sys.executable, REPOSITORY / "infer.py", f"--config={model}",
        f"--config.checkpoint={checkpoint}", "--config.mask.source=input", f"--input={clip}",
        "--folder=frames", "--warmup", f"--warmup_from={kept}", f"--compile_cache_dir={cache}",
    ]  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=usual_environment()
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"infer.py ended with status {done.returncode}: {last}")
    found = {key: re.search(form, done.stdout) for key, form in REPORTED.items()}
    if not all(found.values()):
        raise UserError(f"infer.py did not print how long it took: {done.stdout}")
    return {key: float(match[1]) for key, match in found.items()} | {"process_s": seconds}


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    count, height, width = clip_size(values.clip, "--clip")
    scale = int(from_config(read_config(values.model)).size.factor)
    if height % scale or width % scale:
        raise UserError(f"--clip={values.clip}: its sides must be multiples of {scale}")
    with tempfile.TemporaryDirectory(dir=values.folder) as folder:
        root = pathlib.Path(folder)
        checkpoint, clip, cache = root / "model", root / "clip", root / "cache"
        in_a_process(write_checkpoint, checkpoint, values.model, values.dtype)
        write_clip(clip, count, height // scale, width // scale)
        drop_from_page_cache(checkpoint)
        read, size = read_all(checkpoint)
        drop_from_page_cache(checkpoint)
        started, loaded = in_a_process(load, checkpoint, values.dtype)
        rows = [{"run": "loading alone", "read_s": read, "device_s": started, "loaded_s": loaded}]
        for name in ("empty compile cache", "filled compile cache") if values.warmup else ():
            drop_from_page_cache(checkpoint)
            rows.append(
                {"run": name, "read_s": read}
                | run_infer(values.model, checkpoint, clip, cache, values.warmup_from)
            )
            print(rows[-1], flush=True)
    speed = size / read / 1e9
    print(f"{values.model}, {values.clip}: {size / 1e9:.2f} GB, read at {speed:.2f} GB/s")
    columns = ["run", "read_s", "device_s", *REPORTED, "process_s"]
    print(format_table(rows, columns))
    if values.out:
        write_json(values.out, {"argv": list(argv)[1:], "checkpoint_bytes": size, "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("startup", main)
