"""Compiles the project's programs for TPU slices, without a TPU: memory, traffic, bounds of time.

    python -m benchmarks.tpu_aot --config=configs/seedvr2_3b_sr.py --topology=v5e:16x16 \
        --config.mesh.fsdp=64 --config.mesh.seq=4 --programs=refine,train --skip=0,0.4
    python -m benchmarks.tpu_aot --config=configs/seedvr2_3b_sr.py --topology=v6e --smallest

It needs libtpu (requirements-test.txt) and no device. --config is a config of train.py with stage
sr: it names the model, the mesh and the training batch. The programs are refine (the transformer in
inference), encode and decode (slices of the autoencoder) and train (the optimizer step). Each shard
of the pack axis has one clip of --frames x --height x --width; with --clips=1 all devices share one
clip, as in infer.py. With --smallest the slices of a chip are tried from the smallest on, with as
many devices along seq as the heads allow, until all programs fit.

The peak memory is what the compiler plans. FLOPs are counted by formula, because a compiler counts
a scanned layer once. Bytes are read from the compiled program, with the trips of loops multiplied
out (benchmarks/hlo.py). Times are lower bounds from the vendors' peaks (benchmarks/chips.py):
nothing runs. If a program does not fit, the exit status is 1 after one line.
"""

import dataclasses
import os
import re
import time
from collections.abc import Iterator, Sequence

import jax
from absl import flags
from jax.sharding import Mesh

from benchmarks import measure, programs
from benchmarks.chips import Chip, chip_named, devices_of, use_compiler_only
from benchmarks.hlo import moved, operations
from benchmarks.hlo_table import memory_table
from benchmarks.tpu_rows import Row, gigabytes, table, write_json
from skipsr_jax import commandline
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.quantized import UNQUANTIZED
from skipsr_jax.parallel.device_peaks import peak_flops
from skipsr_jax.parallel.mesh import make_mesh, pack_shards
from skipsr_jax.training.settings import Settings, complete, from_config
from skipsr_jax.training.stages.sr import SrLoss

LOSS_KINDS = {"sr": SrLoss}
"""The stages whose configs can be compiled."""
PROGRAMS = ("refine", "encode", "decode", "train")

EIGHT_BIT_SPEED = 2
"""Operations of int8 per second in terms of the bfloat16 ones: of v5e, v5p and v6e alike (Google's
pages, see benchmarks.chips)."""

_OUT_OF_MEMORY = (
    re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"),
    re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"),
)
"""Messages of libtpu for a program that does not fit: all of it, or its temporaries alone."""

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compiled and shown beside the rows.

    Attributes:
      precision: of the products in refine's blocks.
      coder: which one encode and decode run, "full" or "light".
      dump: a folder for the compiled HLO.
      top: how many operations with the most memory traffic are printed for each program.
    """

    precision: str = UNQUANTIZED
    coder: str = "full"
    dump: str | None = None
    top: int = 0


def define_flags() -> flags.FlagValues:
    """The flags beside --config."""
    values = flags.FlagValues()
    text = "Slice, as libtpu names it (v5e:16x16); with --smallest a chip (v5e)."
    flags.DEFINE_string("topology", None, text, flag_values=values)
    text = "Find the smallest slice of the chip on which all programs fit."
    flags.DEFINE_bool("smallest", False, text, flag_values=values)
    text = f"Programs, of {', '.join(PROGRAMS)}."
    flags.DEFINE_list("programs", ["refine"], text, flag_values=values)
    text = "Fractions of tokens that refine skips."
    flags.DEFINE_list("skip", ["0", "0.4"], text, flag_values=values)
    flags.DEFINE_integer("frames", 101, "Frames of a clip.", flag_values=values)
    flags.DEFINE_integer("height", 720, "Pixels.", flag_values=values)
    flags.DEFINE_integer("width", 1280, "Pixels.", flag_values=values)
    text = "Clips at once in inference; 0: one for each shard of the pack axis."
    flags.DEFINE_integer("clips", 0, text, flag_values=values)
    text = "Of the products in refine's blocks: bf16 or int8; no chip of the table multiplies fp8."
    flags.DEFINE_enum("precision", UNQUANTIZED, [UNQUANTIZED, "int8"], text, flag_values=values)
    text = "Which coder encode and decode run."
    flags.DEFINE_enum("coder", "full", ["full", "light"], text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    text = "Operations with the most memory traffic to print for each program."
    flags.DEFINE_integer("top", 0, text, lower_bound=0, flag_values=values)
    flags.DEFINE_string("dump", None, "Folder for the compiled HLO.", flag_values=values)
    return values


def build(
    name: str, settings: Settings, mesh: Mesh, clip: programs.Clip, options: Options
) -> programs.Program:
    """Makes the program of this name for a mesh."""
    if name == "refine":
        return programs.refine(settings.transformer, mesh, clip, precision=options.precision)
    if name == "train":
        return programs.train(settings, settings.transformer, mesh)
    return programs.CODER_PROGRAMS[name](mesh, clip, options.coder)


def _dump(folder: str, row: Row, text: str) -> None:
    os.makedirs(folder, exist_ok=True)
    facts = (row.topology.replace(":", "_"), row.model, row.program, row.coder, row.skip)
    path = "-".join(map(str, (*facts, row.precision))) + ".hlo"
    with open(os.path.join(folder, path), "w") as file:
        file.write(text)


def _out_of_memory(error: jax.errors.JaxRuntimeError) -> tuple[float, float] | None:
    """(needed, available) bytes of HBM where a program does not fit, None for other errors."""
    matches = (pattern.search(str(error)) for pattern in _OUT_OF_MEMORY)
    found = next(filter(None, matches), None)
    if found is None:
        return None
    needed, unit, available, available_unit = found.groups()
    return float(needed) * _UNITS[unit], float(available) * _UNITS[available_unit]


def compile_row(
    name: str,
    settings: Settings,
    topology: str,
    mesh: Mesh,
    clip: programs.Clip,
    options: Options,
) -> Row:
    """Compiles a program for a slice and estimates its step."""
    chip = chip_named(topology)
    program = build(name, settings, mesh, clip, options)
    row = Row(
        program=name,
        model=settings.model,
        topology=topology,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        clips=program.clips,
        tokens=program.tokens,
        skip=clip.skip if name == "refine" else 0.0,
        precision=options.precision if name == "refine" else UNQUANTIZED,
        coder=options.coder if name in programs.CODER_PROGRAMS else "",
        attention=program.attention,
        compile_seconds=0.0,
        fits=False,
        peak_bytes=float("nan"),
        hbm_bytes=chip.hbm_bytes,
    )
    began = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            compiled = program.function.lower(*program.arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        sizes = _out_of_memory(error)
        if sizes is None:
            raise
        seconds = time.perf_counter() - began
        return dataclasses.replace(
            row, compile_seconds=seconds, peak_bytes=sizes[0], hbm_bytes=sizes[1]
        )
    seconds = time.perf_counter() - began
    text = compiled.as_text()
    if options.dump:
        _dump(options.dump, row, text)
    if options.top:
        print(memory_table(operations(text, mesh.size), options.top), flush=True)
    found, flops = moved(text, mesh.size), program.flops / mesh.size
    link = chip.link_bandwidth / chip.link_axes
    return dataclasses.replace(
        row,
        compile_seconds=seconds,
        fits=True,
        peak_bytes=compiled.memory_analysis().peak_memory_in_bytes,
        flops=flops,
        moved=found,
        compute_seconds=(flops - program.quantized_flops / mesh.size * (1 - 1 / EIGHT_BIT_SPEED))
        / peak_flops(chip.device_kind),
        memory_seconds=found.hbm_bytes / chip.hbm_bandwidth,
        overlapped_seconds=found.overlapped / link,
        waiting_seconds=found.waited_for / link,
    )


def fitted(settings: Settings, mesh: Mesh) -> Settings:
    """The settings with one pack for each shard of the pack axis of the mesh."""
    batch = pack_shards(mesh) * settings.loss.samples_per_pack * settings.optimizer.accumulate
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, batch=batch))


def jobs(names: Sequence[str], clips: Sequence[programs.Clip]) -> list[tuple[str, programs.Clip]]:
    """The pairs of program and clip to compile: only refine depends on what is skipped."""
    found = []
    for name in names:
        found += [(name, clip) for clip in (clips if name == "refine" else clips[:1])]
    return found


def seq_of(heads: int, devices: int) -> int:
    """The largest size of axis seq: a divisor of both the heads and the devices."""
    return max(k for k in range(1, heads + 1) if heads % k == 0 and devices % k == 0)


def rows_of(
    topology: str,
    mesh: Mesh,
    settings: Settings,
    queue: Sequence,
    options: Options,
) -> Iterator[Row]:
    """Yields a row for each job on one slice, up to the first that does not fit."""
    for name, clip in queue:
        row = compile_row(name, fitted(settings, mesh), topology, mesh, clip, options)
        yield row
        if not row.fits:
            return


def smallest(chip: Chip, settings: Settings, queue: Sequence, options: Options) -> Iterator[Row]:
    """Yields the rows of each slice of a chip, from the smallest on, until all jobs fit."""
    for topology in chip.topologies:
        devices = devices_of(topology)
        seq = seq_of(settings.transformer.heads, len(devices))
        mesh = make_mesh(1, -1, seq, devices)
        rows = list(rows_of(topology, mesh, settings, queue, options))
        yield from rows
        if rows[-1].fits:
            return


def main(argv: Sequence[str]) -> int:
    """Compiles, prints the table and writes it as JSON.

    Raises UserError for a program that does not fit.
    """
    values, config = commandline.parse(
        argv, "", define_flags(), __doc__, lambda config: complete(config, LOSS_KINDS)
    )
    if not values.topology:
        raise UserError("--topology is missing: name a slice, e.g. --topology=v5e:16x16")
    unknown = [name for name in values.programs if name not in PROGRAMS]
    if unknown:
        raise UserError(f"unknown program {unknown[0]!r}: choose from {', '.join(PROGRAMS)}")
    settings = from_config(config, LOSS_KINDS)
    chip = chip_named(values.topology)
    try:
        skips = [float(skip) for skip in values.skip]
    except ValueError as error:
        raise UserError(f"--skip={','.join(values.skip)}: numbers from 0 to below 1") from error
    shape = (values.frames, values.height, values.width)
    clips = [programs.Clip(*shape, skip, values.clips) for skip in skips]
    queue = jobs(values.programs, clips)
    options = Options(values.precision, values.coder, values.dump, values.top)
    use_compiler_only()
    if values.smallest:
        found = smallest(chip, settings, queue, options)
    else:
        devices = devices_of(values.topology, settings.mesh.slices)
        mesh = make_mesh(**dataclasses.asdict(settings.mesh), devices=devices)
        found = rows_of(values.topology, mesh, settings, queue, options)
    rows: list[Row] = []
    for row in found:
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
        if values.out:
            write_json(values.out, argv, rows)
    print("\n" + table(rows))
    last = rows[-1]
    if not last.fits:
        raise UserError(
            f"{last.program} of {last.model} does not fit {last.topology}: it needs "
            f"{gigabytes(last.peak_bytes)} GB of a chip's {gigabytes(last.hbm_bytes)} GB; take "
            "more chips, or more of them along mesh.seq or mesh.fsdp"
        )
    if values.smallest:
        print(f"\nthe smallest slice: {last.topology}, {last.chips} chips")
    return 0


if __name__ == "__main__":
    measure.run_program("tpu_aot", main)
