"""Quantised rows in one pass, for NVIDIA GPUs, in Pallas (Triton).

A program has a few whole rows in registers: it reads them once, computes, finds each row's largest
magnitude and writes 8 bits a number. A row is taken in blocks of columns whose widths are powers of
two, as Triton needs them, and add up to the row: no thread computes what is not there.
``interpret`` runs the kernel without a GPU.
"""

import functools
import math

import jax
import jax.numpy as jnp

from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import triton as plgpu
from skipsr_jax.kernels.quantized.formats import Format
from skipsr_jax.kernels.quantized.problem import Compute, Operands, RowsProblem
from skipsr_jax.kernels.quantized.product import SMALLEST, Quantized, to_format
from skipsr_jax.kernels.target import Target

WIDEST = 16384
"""Numbers of a row at most: more do not fit the registers of a program."""
NARROWEST = 32
"""Numbers of the smallest block of columns."""
NUMBERS = 12288
"""Of the rows of a program at most, where they are more than one."""
WARPS = 4


def supported(problem: RowsProblem, target: Target) -> str | None:
    """None when the kernel can run this problem, else the reason."""
    found, least = target.compute_capability, problem.format.least_capability
    if found is None:
        return f"it needs an NVIDIA GPU, and this is {target.platform}"
    if found < least:
        return f"{problem.format.name} needs compute capability {'.'.join(map(str, least))}"
    if problem.sharded:
        return "the compiler shards the rows over several devices"
    if problem.width % NARROWEST or problem.width > WIDEST:
        return (
            f"it takes rows of a multiple of {NARROWEST} and at most {WIDEST} numbers, not "
            f"{problem.width}"
        )
    return None


def _blocks(width: int) -> list[tuple[int, int]]:
    """(first column, columns) of each block of a row, the widest first."""
    blocks, start = [], 0
    while start < width:
        columns = 1 << int(math.log2(width - start))
        blocks.append((start, columns))
        start += columns
    return blocks


def _kernel(*refs, compute: Compute, structure, width: int, rows: int, format: Format):
    operands: Operands = jax.tree.unflatten(structure, refs[:-2])
    values, scale = refs[-2:]
    n, batch = scale.shape[1], pl.program_id(1)
    row = pl.program_id(0) * rows + jnp.arange(rows)
    inside = None if n % rows == 0 else row < n
    other = None if inside is None else 0
    source, has_source = row, inside
    if operands.index is not None:
        at = operands.index.at[jnp.full_like(row, batch), row]
        source = plgpu.load(at, mask=inside, other=other)
        has_source = source < operands.rows[0].shape[1]
        has_source = has_source if inside is None else inside & has_source

    def at(ref, row, start, columns):
        line = jnp.broadcast_to(start + jnp.arange(columns), (rows, columns))
        across = jnp.broadcast_to(row[:, None], line.shape)
        return ref.at[jnp.full(line.shape, batch), across, line]

    def load_block(ref, row, mask, start, columns):
        block = at(ref, row, start, columns)
        if mask is None:
            return plgpu.load(block).astype(jnp.float32)
        mask = jnp.broadcast_to(mask[:, None], (rows, columns))
        return plgpu.load(block, mask=mask, other=0).astype(jnp.float32)

    def load_scalar(ref):
        at = ref.at[jnp.full_like(row, batch), row, jnp.zeros_like(row)]
        return plgpu.load(at, mask=inside, other=other).astype(jnp.float32)[:, None]

    def load_vector(ref, start, columns):
        line = start + jnp.arange(columns)
        of_batch = jnp.full_like(line, 0 if ref.shape[0] == 1 else batch)
        return plgpu.load(ref.at[of_batch, jnp.zeros_like(line), line]).astype(jnp.float32)[None]

    def load_modulation(ref, block):
        return (
            load_vector(ref, *block) if ref.shape[1] == 1 else load_block(ref, row, inside, *block)
        )

    blocks, scalars, found = _blocks(width), [load_scalar(ref) for ref in operands.scalars], []
    for block in blocks:
        of_rows = [load_block(ref, source, has_source, *block) for ref in operands.rows]
        vectors = [load_vector(ref, *block) for ref in operands.vectors]
        found.append(compute.number(of_rows, scalars, vectors))
    if compute.eps is not None:
        mean_square = sum(jnp.sum(x * x, axis=1) for x in found) / width
        factor = jax.lax.rsqrt(mean_square + compute.eps)[:, None]
        for i, block in enumerate(blocks):
            scales, shifts = (load_modulation(ref, block) for ref in operands.modulation)
            found[i] = found[i] * factor * scales + shifts
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x), axis=1) for x in found])
    largest = jnp.maximum(largest, SMALLEST)
    for block, x in zip(blocks, found, strict=True):
        quantized = to_format(x * (format.largest / largest)[:, None], format)
        mask = None if inside is None else jnp.broadcast_to(inside[:, None], x.shape)
        plgpu.store(at(values, row, *block), quantized, mask=mask)
    of_row = scale.at[jnp.full_like(row, batch), row]
    plgpu.store(of_row, largest / format.largest, mask=inside)


def quantize(
    compute: Compute,
    operands: Operands,
    format: Format,
    *,
    rows: int | None = None,
    warps: int = WARPS,
    interpret: bool = False,
) -> Quantized:
    """The computed rows as values (b, n, width) and scales (b, n, 1).

    ``rows``: of a program, a power of two; by default as many as ``NUMBERS`` allows. ``warps``: of
    a program.
    """
    b, n, width = operands.rows[0].shape
    if operands.index is not None:
        n = operands.index.shape[1]
    if rows is None:
        rows = 1 << int(math.log2(max(1, NUMBERS // width)))
    refs, structure = jax.tree.flatten(operands)
    values, scale = pl.pallas_call(
        functools.partial(
            _kernel, compute=compute, structure=structure, width=width, rows=rows, format=format
        ),
        out_shape=[
            jax.ShapeDtypeStruct((b, n, width), format.dtype),
            jax.ShapeDtypeStruct((b, n), jnp.float32),
        ],
        grid=(-(-n // rows), b),
        compiler_params=plgpu.CompilerParams(num_warps=warps),
        interpret=interpret,
        name=f"quantize_{compute.name}",
    )(*refs)
    return Quantized(values, scale[..., None])
