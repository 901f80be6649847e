"""A program that was compiled for a TPU slice, as a row of the table, and the table."""

import dataclasses
from collections.abc import Sequence

import jax

from benchmarks import measure
from benchmarks.hlo import Moved


@dataclasses.dataclass(frozen=True)
class Row:
    """A program compiled for a slice; bytes, FLOPs and seconds are those of one chip and step.

    ``overlapped_seconds`` and ``waiting_seconds`` are the times of the links while the chip
    computes and while it waits, with each collective on the links of one axis of the torus. For a
    program that does not fit, ``peak_bytes`` is what the compiler asked for and the rest is unknown
    (NaN, None).
    """

    program: str
    model: str
    topology: str
    chips: int
    mesh: dict[str, int]
    clips: int
    tokens: int
    skip: float
    precision: str
    coder: str
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
        """The longest of computing, memory and overlapped links, plus the links waited for."""
        busy = max(self.compute_seconds, self.memory_seconds, self.overlapped_seconds)
        return busy + self.waiting_seconds


def gigabytes(size: float) -> str:
    """A number of bytes in GB, with three digits."""
    return f"{size / 1e9:.2f}" if size < 1e10 else f"{size / 1e9:.1f}"


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    heads = (
        "program", "model", "slice", "data, fsdp, seq", "tokens", "products", "attention",
        "GB of HBM",
        "TFLOP", "received GB (overlapped)", "compute, memory, links ms", "step ms", "clips/s",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        program = f"{row.program}, light coder" if row.coder == "light" else row.program
        cells = [program, row.model, row.topology, ", ".join(map(str, row.mesh.values()))]
        cells += [str(row.tokens or "-"), row.precision, row.attention or "-"]
        cells.append(f"{gigabytes(row.peak_bytes)} of {gigabytes(row.hbm_bytes)}")
        cells += _estimate_cells(row) if row.moved else ["does not fit", *["-"] * 4]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _estimate_cells(row: Row) -> list[str]:
    kinds = [
        f"{kind} {gigabytes(found.bytes)} ({gigabytes(found.overlapped)})"
        for kind, found in row.moved.collectives.items()
        if found.bytes >= 5e6
    ]
    if row.moved.between_slices.count:
        kinds.append(f"between slices {gigabytes(row.moved.between_slices.bytes)}")
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
    """Writes all rows and the command; unknown numbers are null."""
    entries = []
    for row in rows:
        entry = dataclasses.asdict(row) | {"step_seconds": row.step_seconds}
        entries.append({k: None if v != v else v for k, v in entry.items()})
    measure.write_json(path, {"argv": list(argv), "jax": jax.__version__, "rows": entries})
