"""Compiles the TPU kernels of attention without a TPU, and counts their work.

Times are those of a roofline model, not measurements: the larger of operations / the chip's
bfloat16 peak and bytes / its memory bandwidth. They count all blocks that a kernel visits, in full
where a window ends within them, and all its copies. Splash attention, jax's own TPU kernel, gets
the same windows as segment ids. The blocks that it visits are fixed when it is traced, so it
multiplies every pair of blocks, and masks. ``vmem_mib`` is what the compiler assigned to the
largest kernel; ``own_vmem_mib`` follows from the block shapes: buffers and scratch, without the
compiler's temporaries.
"""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    FullMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha_single_device,
)
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.chips import CHIPS, devices_of, use_compiler_only
from benchmarks.measure import format_table
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.attention import varlen_attention
from skipsr_jax.kernels.attention.segments import row_bounds
from skipsr_jax.kernels.attention.tpu.stream import LANES, Blocks, block_ranges, blocks_for

TOPOLOGIES = {chip.name: chip.topologies[0] for chip in CHIPS}
SPLASH_BLOCK = 512
BFLOAT16, FLOAT32 = 2, 4  # bytes
FORWARD, BACKWARD = 4, 14  # operations per visited pair and channel; backward computes scores twice
_SCOPED = re.compile(r'"used_scoped_memory_configs":\[\{"memory_space":"1"[^}]*"size":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations and bytes to and from HBM of one pass."""

    operations: float
    moved: float

    def milliseconds(self, chip: pltpu.TpuInfo, cores: int) -> float:
        """The time in the roofline model on all cores of a chip."""
        compute = self.operations / (chip.bf16_ops_per_second * cores)
        return max(compute, self.moved / (chip.mem_bw_bytes_per_second * cores)) * 1e3


def chip_facts(name: str) -> tuple[pltpu.TpuInfo, int]:
    """The published numbers of one core, and the number of cores of a chip."""
    version = pltpu.ChipVersion(name)
    return pltpu.get_tpu_info_for_chip(version, 1), version.num_physical_tensor_cores_per_chip


def own_work(lengths: np.ndarray, heads: int) -> dict[str, Work]:
    """The work of our kernels, counted from the ranges of blocks that they get."""
    rows = int(lengths.sum())
    blocks = blocks_for(rows)
    cu = jnp.asarray(np.cumsum([0, *lengths])[None], jnp.int32)
    start, end, _ = row_bounds(cu, rows)
    more = ((0, 0), (0, -rows % blocks.stationary))
    ranges = block_ranges(jnp.pad(start, more), jnp.pad(end, more), blocks)
    first, last, part_first, part_last = (np.asarray(x, np.int64) for x in ranges)
    pairs = int(np.maximum(part_last - part_first, 0).sum()) * blocks.part * blocks.streamed
    row = LANES * BFLOAT16
    stationary = rows * row
    streamed = int((last - first).sum()) * blocks.streamed * row
    forward = Work(FORWARD * LANES * heads * pairs, heads * (2 * stationary + 2 * streamed))
    backward = Work(BACKWARD * LANES * heads * pairs, heads * (7 * stationary + 4 * streamed))
    return {"forward": forward, "backward": backward}


def splash_work(lengths: np.ndarray, heads: int) -> dict[str, Work]:
    """The work of splash attention: all pairs of blocks, keys read once per block of queries."""
    rows = -(-int(lengths.sum()) // SPLASH_BLOCK) * SPLASH_BLOCK
    pairs = rows**2
    stationary = rows * LANES * BFLOAT16
    streamed = rows // SPLASH_BLOCK * stationary
    forward = Work(FORWARD * LANES * heads * pairs, heads * (2 * stationary + 2 * streamed))
    backward = Work(BACKWARD * LANES * heads * pairs, heads * (7 * stationary + 4 * streamed))
    return {"forward": forward, "backward": backward}


def own_vmem_bytes(blocks: Blocks) -> dict[str, int]:
    """Bytes of buffers and scratch of each kernel for bfloat16; inputs and outputs have two."""
    stationary = blocks.stationary * LANES * BFLOAT16
    streamed = 2 * 2 * blocks.streamed * LANES * BFLOAT16
    total = blocks.stationary * LANES * FLOAT32
    column = 8 * blocks.stationary * FLOAT32  # up to 8 numbers a row take a tile of sublanes
    return {
        "forward": 2 * (2 * stationary + 2 * column) + streamed + total + 2 * column,
        "d_query": 2 * (3 * stationary + 2 * column) + streamed + total,
        "d_key_value": 2 * 4 * stationary
        + streamed
        + 2 * 2 * 8 * blocks.streamed * FLOAT32
        + 2 * total,
    }


def own_pass(q: Array, k: Array, v: Array, cu: Array) -> Array:
    """Our attention; q, k and v are (1, s, a, p)."""
    return varlen_attention(q, k, v, cu, scale=LANES**-0.5, implementation="pallas_tpu")


def splash_pass(q: Array, k: Array, v: Array, cu: Array) -> Array:
    """Splash attention with the windows as segment ids and its rows padded to whole blocks."""
    _, rows, heads, _ = q.shape
    more = -rows % SPLASH_BLOCK
    sizes = BlockSizes(*[SPLASH_BLOCK] * 8)
    mask = MultiHeadMask([FullMask((rows + more, rows + more))] * heads)
    run = make_splash_mha_single_device(mask, block_sizes=sizes)
    segment = jnp.searchsorted(cu[0], jnp.arange(rows + more), side="right").astype(jnp.int32)

    def heads_first(x: Array) -> Array:
        return jnp.pad(x[0], ((0, more), (0, 0), (0, 0))).swapaxes(0, 1)

    out = run(heads_first(q * LANES**-0.5), *map(heads_first, (k, v)), SegmentIds(segment, segment))
    return out.swapaxes(0, 1)[None, :rows]


def compile_pass(
    run: Callable, rows: int, heads: int, segments: int, chip: str
) -> dict[str, float | None]:
    """Compiles forward, and forward with backward, for a chip.

    Returns the seconds of compiling, the VMEM of the largest kernel and the bytes of temporaries.
    Raises UserError where libtpu is not installed.
    """
    mesh = Mesh(np.asarray(devices_of(TOPOLOGIES[chip])[:1]), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    size = (1, rows, heads, LANES)
    x = jax.ShapeDtypeStruct(size, jnp.bfloat16, sharding=everywhere)
    cu = jax.ShapeDtypeStruct((1, segments + 1), jnp.int32, sharding=everywhere)

    def both(q, k, v, cu, d_out):
        out, pull = jax.vjp(lambda *qkv: run(*qkv, cu), q, k, v)
        return out, *pull(d_out)

    found = {}
    programs = {"forward": (run, (x, x, x, cu)), "both": (both, (x, x, x, cu, x))}
    with jax.set_mesh(mesh):
        for name, (function, arguments) in programs.items():
            began = time.perf_counter()
            program = jax.jit(function).lower(*arguments).compile()
            text = program.as_text().splitlines()
            kernels = [line for line in text if 'custom_call_target="tpu_custom_call"' in line]
            scoped = [int(m[1]) for line in kernels if (m := _SCOPED.search(line))]
            found |= {
                f"{name}_compile_s": time.perf_counter() - began,
                f"{name}_vmem_mib": max(scoped) / 2**20 if scoped else None,
                f"{name}_temporary_gib": program.memory_analysis().temp_size_in_bytes / 2**30,
            }
    return found


def run(lengths: dict[str, np.ndarray], heads: int, chips: Sequence[str]) -> dict:
    """Compiles our and splash attention for each kind of windows and chip; prints the table.

    Args:
      lengths: rows of each window, by kind of windows.
      heads: number of heads, of 128 channels each.
      chips: keys of TOPOLOGIES.

    Raises:
      UserError: a chip is unknown, or libtpu is not installed.
    """
    for chip in chips:
        if chip not in TOPOLOGIES:
            raise UserError(f"unknown chip {chip!r}; choose from {', '.join(TOPOLOGIES)}")
    use_compiler_only()
    runs = {"pallas_tpu": (own_pass, own_work), "splash": (splash_pass, splash_work)}
    rows = []
    for shape, of_windows in lengths.items():
        useful = FORWARD * LANES * heads * (of_windows.astype(float) ** 2).sum()
        for chip in chips:
            facts, cores = chip_facts(chip)
            for name, (function, work_of) in runs.items():
                work = work_of(of_windows, heads)
                forward, backward = work["forward"], work["backward"]
                ms = forward.milliseconds(facts, cores)
                row = {"shape": shape, "chip": chip, "kernel": name}
                row |= {"forward_ms": ms, "backward_ms": backward.milliseconds(facts, cores)}
                row |= {"visited_of_useful": forward.operations / useful}
                row |= {"useful_of_peak": useful / ms * 1e3 / facts.bf16_ops_per_second / cores}
                size = (int(of_windows.sum()), heads, len(of_windows))
                row |= compile_pass(function, *size, chip)
                rows.append(row | {"chip_vmem_mib": facts.vmem_capacity_bytes / 2**20})
    total = max(int(of_windows.sum()) for of_windows in lengths.values())
    own = {name: size / 2**20 for name, size in own_vmem_bytes(blocks_for(total)).items()}
    print("Roofline estimates of compiled kernels, not measurements; backward excludes forward")
    print(format_table(rows))
    print("own_vmem_mib " + ", ".join(f"{name} {size:.3g}" for name, size in own.items()))
    return {"rows": rows, "own_vmem_mib": own}
