"""From the command to the first frame: loading a checkpoint, compiling, and what a cache spares.

    export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
    XLA_FLAGS="--xla_gpu_force_conv_nhwc=true --xla_gpu_experimental_enable_conv_fusion=true" \\
        python -m benchmarks.startup --clip=21x720x1280 --out=startup.json
    python -m benchmarks.startup --model=tiny --clip=1x64x64
    python -m benchmarks.startup --nowarmup                   # loading alone, also on a CPU

Writes a checkpoint of random numbers and a clip of random frames into a folder of its own, which it
removes, and runs ``infer.py --warmup`` on them, twice, each in a process of its own: with no
compiled program, and with those that the first left in the compile cache. ``loaded`` is the
checkpoint's time, by its own account, and alone once the device has started, which takes
``device``; files are put out of the page cache before, where the system lets it be asked. ``first
frame`` counts from a loaded model, ``warm`` is the same again in that process. ``read`` is what
plain reading of the checkpoint's files takes from the same disk.
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
from skipsr_jax.models.params import to_dict
from skipsr_jax.types import DTYPES, HostArray

READ_AT_ONCE = 2**24
REPEATED_AFTER = 2**25
SAID = {
    "loaded_s": r"loaded in ([\d.]+) s",
    "first_frame_s": r"first frame after ([\d.]+) s",
    "warm_s": r"warm ([\d.]+) s",
}
"""Where infer.py's lines hold the numbers."""


def define_flags() -> flags.FlagValues:
    """The command line."""
    values = flags.FlagValues()
    text = "Which model; its config in configs/ says how it runs."
    flags.DEFINE_enum("model", "seedvr2_3b", CONFIGURED, text, flag_values=values)
    text = "frames x height x width, at the target size."
    flags.DEFINE_string("clip", "21x720x1280", text, flag_values=values)
    text = "Smallest share of kept patches to compile for."
    flags.DEFINE_float("warmup_from", 1.0, text, 0, 1, flag_values=values)
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the numbers stored.", flag_values=values)
    text = "Also run infer.py --warmup, not only load the checkpoint."
    flags.DEFINE_bool("warmup", True, text, flag_values=values)
    text = "A folder on the disk to measure; default: the system's for such."
    flags.DEFINE_string("folder", None, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def write_checkpoint(path: pathlib.Path, model: str, dtype_name: str) -> None:
    """A model of random numbers, which no compression makes smaller."""
    dtype, rng = jnp.dtype(dtype_name), np.random.default_rng(0)
    networks = abstract_networks(model, dtype)
    shapes = {name: to_dict(network) for name, network in networks.items()}
    text = TEXT_TOKENS, networks["dit"].config.text_width
    shapes["text"] = {"positive": jax.ShapeDtypeStruct(text, dtype)}

    # The same numbers again and again, further apart than a compression looks back.
    drawn = rng.standard_normal(REPEATED_AFTER, np.float32).astype(dtype)

    def draw(leaf: jax.ShapeDtypeStruct) -> HostArray:
        return np.resize(drawn, leaf.shape).astype(leaf.dtype, copy=False)

    configs = {name: to_json(network.config) for name, network in networks.items()}
    save_model(path, jax.tree.map(draw, shapes), configs)


def write_clip(folder: pathlib.Path, count: int, height: int, width: int) -> None:
    """Random frames, a picture each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        frame = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(frame).save(folder / f"{number:04}.png")


def files_of(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files below."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def forget(folder: pathlib.Path) -> None:
    """Asks the system to read the files below from the disk next time."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files_of(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_all(folder: pathlib.Path) -> tuple[float, int]:
    """Seconds that plain reading of all files takes, one after the other, and their bytes."""
    began, total = time.perf_counter(), 0
    for path in files_of(folder):
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(READ_AT_ONCE):
                total += len(piece)
    return time.perf_counter() - began, total


def in_a_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives in a process of its own, which leaves the device's memory to the next."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(call, *arguments).result()


def load(checkpoint: pathlib.Path, dtype: str) -> tuple[float, float]:
    """Seconds of starting the device, and then of loading the model."""
    began = time.perf_counter()
    jax.block_until_ready(jnp.zeros(1))
    started = time.perf_counter()
    jax.block_until_ready(load_model(str(checkpoint), dtype, with_predictor=False).params)
    return started - began, time.perf_counter() - started


def run_infer(
    model: str, checkpoint: pathlib.Path, clip: pathlib.Path, cache: pathlib.Path, share: float
) -> dict[str, float]:
    """Seconds of ``infer.py --warmup``, as it says them, and of the whole process."""
    command = [
        sys.executable, REPOSITORY / "infer.py", f"--config={model}",
        f"--config.checkpoint={checkpoint}", "--config.mask.source=input", f"--input={clip}",
        "--folder=frames", "--warmup", f"--warmup_from={share}", f"--compile_cache_dir={cache}",
    ]  # fmt: skip
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"infer.py ended with status {done.returncode}: {last}")
    found = {key: re.search(form, done.stdout) for key, form in SAID.items()}
    if not all(found.values()):
        raise UserError(f"infer.py did not say how long it took: {done.stdout}")
    return {key: float(said[1]) for key, said in found.items()} | {"process_s": seconds}


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    count, height, width = clip_size(values.clip)
    scale = int(read_config(values.model).size.factor)
    if height % scale or width % scale:
        raise UserError(f"--clip={values.clip}: its sides must be multiples of {scale}")
    with tempfile.TemporaryDirectory(dir=values.folder) as folder:
        root = pathlib.Path(folder)
        checkpoint, clip, cache = root / "model", root / "clip", root / "cache"
        in_a_process(write_checkpoint, checkpoint, values.model, values.dtype)
        write_clip(clip, count, height // scale, width // scale)
        forget(checkpoint)
        read, size = read_all(checkpoint)
        forget(checkpoint)
        started, loaded = in_a_process(load, checkpoint, values.dtype)
        rows = [{"run": "loading alone", "read_s": read, "device_s": started, "loaded_s": loaded}]
        for name in ("no program compiled", "programs in the cache") if values.warmup else ():
            forget(checkpoint)
            rows.append(
                {"run": name, "read_s": read}
                | run_infer(values.model, checkpoint, clip, cache, values.warmup_from)
            )
            print(rows[-1], flush=True)
    speed = size / read / 1e9
    print(f"{values.model}, {values.clip}: {size / 1e9:.2f} GB, read at {speed:.2f} GB/s")
    columns = ["run", "read_s", "device_s", *SAID, "process_s"]
    print(format_table(rows, columns))
    if values.out:
        write_json(values.out, {"argv": list(argv)[1:], "checkpoint_bytes": size, "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("startup", main)
