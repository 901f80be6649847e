"""Compile the real programs for TPU slices, with no TPU: do they fit, and what do they send?

    python -m benchmarks.tpu_aot --config=configs/seedvr2_3b_sr.py --topology=v5e:16x16 \
        --config.mesh.fsdp=64 --config.mesh.seq=4 --programs=refine,train --skip=0,0.4
    python -m benchmarks.tpu_aot --config=configs/seedvr2_3b_sr.py --topology=v6e --smallest

Needs libtpu (requirements-test.txt), and no device. --config is a config of train.py with stage sr:
it names the model, the mesh and the training batch. Programs: refine (the transformer in
inference), encode and decode (slices of the autoencoder), train (the optimizer step). Each share
of the packs carries one clip of --frames x --height x --width; with --clips=1 all devices share
one, as infer.py has it. With --smallest the slices of a chip are tried from the smallest on, with
more and more devices along seq, until all programs fit.

Peak memory is what the compiler plans. FLOPs are counted by formula, since a compiler counts a
scanned layer once; bytes are read from the compiled program, loops multiplied out. Times are
bounds from the vendors' peaks (benchmarks/chips.py): nothing runs. Exit status 1, after
one line, if a program does not fit.
"""

import dataclasses
import os
import re
import time
from collections.abc import Iterator, Sequence

import jax
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks import measure, programs
from benchmarks.chips import Chip, chip_named
from benchmarks.hlo import Moved, moved
from skipsr_jax import commandline
from skipsr_jax.errors import UserError
from skipsr_jax.parallel.device_peaks import peak_flops
from skipsr_jax.parallel.mesh import make_mesh, pack_shards
from skipsr_jax.training.settings import Settings, complete, from_config
from skipsr_jax.training.stages.sr import SrLoss

LOSS_KINDS = {"sr": SrLoss}
"""Configs of this stage are compiled."""
PROGRAMS = ("refine", "encode", "decode", "train")

_NO_ROOM = (
    re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"),
    re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"),
)
"""How libtpu says that a program does not fit: all of it, or its temporaries alone."""

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Row:
    """One program compiled for one slice; bytes, FLOPs and seconds are those of one chip and step.

    ``overlapped_seconds``, ``waiting_seconds``: of the links, while the chip computes and while it
    waits, each collective on the links of one axis of the torus. Of a program that does not fit,
    ``peak_bytes`` is what the compiler wanted, and the rest is unknown (NaN, None).
    """

    program: str
    model: str
    topology: str
    chips: int
    mesh: dict[str, int]
    clips: int
    tokens: int
    skip: float
    attention: str
    compile_seconds: float
    fits: bool
    peak_bytes: float
    hbm_bytes: float
    flops: float = float("nan")
    moved: Moved | None = None
    compute_seconds: float = float("nan")
    memory_seconds: float = float("nan")
    overlapped_seconds: float = float("nan")
    waiting_seconds: float = float("nan")

    @property
    def step_seconds(self) -> float:
        """The longest of computing, memory and links beside them, then the links waited for."""
        busy = max(self.compute_seconds, self.memory_seconds, self.overlapped_seconds)
        return busy + self.waiting_seconds


def define_flags() -> flags.FlagValues:
    """The flags beside --config."""
    values = flags.FlagValues()
    text = "Slice, as libtpu names it (v5e:16x16); with --smallest a chip (v5e)."
    flags.DEFINE_string("topology", None, text, flag_values=values)
    text = "Find the smallest slice of the chip on which all programs fit."
    flags.DEFINE_bool("smallest", False, text, flag_values=values)
    text = f"Which programs: {', '.join(PROGRAMS)}."
    flags.DEFINE_list("programs", ["refine"], text, flag_values=values)
    text = "Shares of the tokens that refine skips."
    flags.DEFINE_list("skip", ["0", "0.4"], text, flag_values=values)
    flags.DEFINE_integer("frames", 101, "Frames of a clip.", flag_values=values)
    flags.DEFINE_integer("height", 720, "Pixels.", flag_values=values)
    flags.DEFINE_integer("width", 1280, "Pixels.", flag_values=values)
    text = "Clips at once in inference; 0: one for each share of the packs."
    flags.DEFINE_integer("clips", 0, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    flags.DEFINE_string("dump", None, "Folder for the compiled HLO.", flag_values=values)
    return values


def use_compiler_only() -> None:
    """This process computes on the CPU and compiles with libtpu, asking no cloud about itself."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several compilers side by side
    jax.config.update("jax_platforms", "cpu")


def devices_of(topology: str) -> list[jax.Device]:
    """The devices of a slice that need not exist.

    Raises UserError without libtpu, and for a name that it does not know.
    """
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"no topology {topology!r}: {first} (it needs libtpu, see requirements-test.txt, and a "
            "name such as v5e:16x16, v5p:4x4x8, v6e:2x4)"
        ) from error
    return list(found.devices)


def build(name: str, settings: Settings, mesh: Mesh, clip: programs.Clip) -> programs.Program:
    """The program of a name, for a mesh."""
    if name == "refine":
        return programs.refine(settings.transformer, mesh, clip)
    if name == "train":
        return programs.train(settings, settings.transformer, mesh)
    return programs.VAE_PROGRAMS[name](mesh, clip)


def _room_missing(error: jax.errors.JaxRuntimeError) -> tuple[float, float] | None:
    """(wanted, there) bytes of HBM where a compile ended for want of memory, else None."""
    found = next((said for form in _NO_ROOM if (said := form.search(str(error)))), None)
    if found is None:
        return None
    used, unit, room, room_unit = found.groups()
    return float(used) * _UNITS[unit], float(room) * _UNITS[room_unit]


def compile_row(
    name: str,
    settings: Settings,
    topology: str,
    mesh: Mesh,
    clip: programs.Clip,
    dump: str | None = None,
) -> Row:
    """Compiles one program and reads what it will do."""
    chip = chip_named(topology)
    program = build(name, settings, mesh, clip)
    row = Row(
        program=name,
        model=settings.model,
        topology=topology,
        chips=mesh.size,
        mesh=dict(mesh.shape),
        clips=program.clips,
        tokens=program.tokens,
        skip=clip.skip if name == "refine" else 0.0,
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
        room = _room_missing(error)
        if room is None:
            raise
        seconds = time.perf_counter() - began
        return dataclasses.replace(
            row, compile_seconds=seconds, peak_bytes=room[0], hbm_bytes=room[1]
        )
    seconds = time.perf_counter() - began
    text = compiled.as_text()
    if dump:
        os.makedirs(dump, exist_ok=True)
        path = f"{topology.replace(':', '_')}-{settings.model}-{name}-{clip.skip}.hlo"
        with open(os.path.join(dump, path), "w") as file:
            file.write(text)
    found, flops = moved(text, mesh.size), program.flops / mesh.size
    link = chip.link_bandwidth / chip.link_axes
    return dataclasses.replace(
        row,
        compile_seconds=seconds,
        fits=True,
        peak_bytes=compiled.memory_analysis().peak_memory_in_bytes,
        flops=flops,
        moved=found,
        compute_seconds=flops / peak_flops(chip.device_kind),
        memory_seconds=found.hbm_bytes / chip.hbm_bandwidth,
        overlapped_seconds=found.overlapped / link,
        waiting_seconds=found.waited_for / link,
    )


def fitted(settings: Settings, mesh: Mesh) -> Settings:
    """The settings with one pack for each share of the packs that the mesh has."""
    batch = pack_shards(mesh) * settings.loss.samples_per_pack * settings.optimizer.accumulate
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, batch=batch))


def jobs(names: Sequence[str], clips: Sequence[programs.Clip]) -> list[tuple[str, programs.Clip]]:
    """Which program is compiled for which clip: only the transformer sees what is skipped."""
    found = []
    for name in names:
        found += [(name, clip) for clip in (clips if name == "refine" else clips[:1])]
    return found


def seq_of(heads: int, devices: int) -> int:
    """The most devices that can share a sequence: they divide the heads and the devices."""
    return max(k for k in range(1, heads + 1) if heads % k == 0 and devices % k == 0)


def rows_of(
    topology: str, mesh: Mesh, settings: Settings, wanted: Sequence, dump: str | None
) -> Iterator[Row]:
    """A row for each wanted program on one slice; ends with the first that does not fit."""
    for name, clip in wanted:
        row = compile_row(name, fitted(settings, mesh), topology, mesh, clip, dump)
        yield row
        if not row.fits:
            return


def smallest(chip: Chip, settings: Settings, wanted: Sequence, dump: str | None) -> Iterator[Row]:
    """The rows of each slice of a chip, from the smallest on, up to the first where all fit."""
    for slice_name in chip.slices:
        topology = f"{chip.name}:{slice_name}"
        devices = devices_of(topology)
        seq = seq_of(settings.transformer.heads, len(devices))
        mesh = make_mesh(1, -1, seq, devices)
        rows = list(rows_of(topology, mesh, settings, wanted, dump))
        yield from rows
        if rows[-1].fits:
            return


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f}" if size < 1e10 else f"{size / 1e9:.1f}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    heads = (
        "program", "model", "slice", "data, fsdp, seq", "tokens", "attention", "GB of HBM",
        "TFLOP", "received GB (overlapped)", "compute, memory, links ms", "step ms", "clips/s",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        cells = [row.program, row.model, row.topology, ", ".join(map(str, row.mesh.values()))]
        cells += [str(row.tokens or "-"), row.attention or "-"]
        cells.append(f"{_gigabytes(row.peak_bytes)} of {_gigabytes(row.hbm_bytes)}")
        cells += _estimate_cells(row) if row.moved else ["does not fit", *["-"] * 4]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _estimate_cells(row: Row) -> list[str]:
    kinds = [
        f"{kind} {_gigabytes(found.bytes)} ({_gigabytes(found.overlapped)})"
        for kind, found in row.moved.collectives.items()
        if found.bytes >= 5e6
    ]
    links = row.overlapped_seconds + row.waiting_seconds
    parts = (row.compute_seconds, row.memory_seconds, links)
    return [
        f"{row.flops / 1e12:.1f}",
        ", ".join(kinds) or "-",
        ", ".join(f"{1e3 * seconds:.0f}" for seconds in parts),
        f"{1e3 * row.step_seconds:.0f}",
        f"{row.clips / row.step_seconds:.2f}",
    ]


def write_json(path: str, argv: Sequence[str], rows: Sequence[Row]) -> None:
    """All rows, with the command that made them; numbers that are not known are null."""
    entries = []
    for row in rows:
        entry = dataclasses.asdict(row) | {"step_seconds": row.step_seconds}
        entries.append({k: None if v != v else v for k, v in entry.items()})
    measure.write_json(path, {"argv": list(argv), "jax": jax.__version__, "rows": entries})


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON. Raises UserError where something does not fit."""
    values, config = commandline.parse(
        argv, "", define_flags(), __doc__, lambda config: complete(config, LOSS_KINDS)
    )
    if not values.topology:
        raise UserError("--topology is missing: name a slice, e.g. --topology=v5e:16x16")
    unknown = [name for name in values.programs if name not in PROGRAMS]
    if unknown:
        raise UserError(f"unknown program {unknown[0]!r}: choose of {', '.join(PROGRAMS)}")
    settings = from_config(config, LOSS_KINDS)
    chip = chip_named(values.topology)
    try:
        shares = [float(share) for share in values.skip]
    except ValueError as error:
        raise UserError(f"--skip={','.join(values.skip)}: numbers from 0 to below 1") from error
    shape = (values.frames, values.height, values.width)
    clips = [programs.Clip(*shape, share, values.clips) for share in shares]
    wanted = jobs(values.programs, clips)
    use_compiler_only()
    if values.smallest:
        found = smallest(chip, settings, wanted, values.dump)
    else:
        sizes = settings.mesh
        mesh = make_mesh(sizes.data, sizes.fsdp, sizes.seq, devices_of(values.topology))
        found = rows_of(values.topology, mesh, settings, wanted, values.dump)
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
            f"{last.program} of {last.model} does not fit {last.topology}: it wants "
            f"{_gigabytes(last.peak_bytes)} GB of a chip's {_gigabytes(last.hbm_bytes)} GB; take "
            "more chips, or more of them along mesh.seq or mesh.fsdp"
        )
    if values.smallest:
        print(f"\nthe smallest slice: {last.topology}, {last.chips} chips")
    return 0


if __name__ == "__main__":
    measure.run_program("tpu_aot", main)
