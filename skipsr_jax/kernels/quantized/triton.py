"""Quantised rows in one pass, for NVIDIA GPUs, in Pallas (Triton).

A program has a few whole rows in registers: it reads them once, computes, finds each row's largest
magnitude and writes 8 bits a number. ``interpret`` runs the kernel without a GPU.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from skipsr_jax.kernels.quantized.formats import Format
from skipsr_jax.kernels.quantized.problem import Compute, Operands, RowsProblem
from skipsr_jax.kernels.quantized.product import SMALLEST, Quantized, to_format
from skipsr_jax.kernels.target import Target

WIDEST = 16384
"""Columns of a block at most: more do not fit the registers of a program."""
BLOCK = 16384
"""Numbers of a block, of each operand."""


def supported(problem: RowsProblem, target: Target) -> str | None:
    """None when the kernel can run this problem, else the reason."""
    found, least = target.compute_capability, problem.format.least_capability
    if found is None:
        return f"it needs an NVIDIA GPU, and this is {target.platform}"
    if found < least:
        return f"{problem.format.name} needs compute capability {'.'.join(map(str, least))}"
    if problem.sharded:
        return "the compiler shards the rows over several devices"
    if problem.width > WIDEST:
        return f"it takes rows of at most {WIDEST} numbers, not {problem.width}"
    return None


def _kernel(*refs, compute: Compute, structure, width: int, shape, format: Format):
    operands = jax.tree.unflatten(structure, refs[:-2])
    values, scale = refs[-2:]
    rows, columns = shape
    n, batch = scale.shape[1], pl.program_id(1)
    row = pl.program_id(0) * rows + jnp.arange(rows)
    column = jnp.broadcast_to(jnp.arange(columns), shape)

    def across(x):
        return jnp.broadcast_to(x[:, None], shape)

    inside, in_row = row < n, column < width

    def load_rows(ref, row, inside):
        mask = across(inside) & in_row
        at = ref.at[jnp.full(shape, batch), across(row), column]
        return plgpu.load(at, mask=mask, other=0).astype(jnp.float32)

    def load_scalars(ref):
        at = ref.at[jnp.full_like(row, batch), row, jnp.zeros_like(row)]
        return plgpu.load(at, mask=inside, other=0).astype(jnp.float32)[:, None]

    def load_vector(ref):
        of_batch = 0 if ref.shape[0] == 1 else batch
        line = jnp.arange(columns)
        at = ref.at[jnp.full_like(line, of_batch), jnp.zeros_like(line), line]
        return plgpu.load(at, mask=line < width, other=0).astype(jnp.float32)[None]

    source, has_source = row, inside
    if operands.index is not None:
        at = operands.index.at[jnp.full_like(row, batch), row]
        source = plgpu.load(at, mask=inside, other=0)
        has_source = inside & (source < operands.rows[0].shape[1])
    y = compute(
        [load_rows(ref, source, has_source) for ref in operands.rows],
        [load_scalars(ref) for ref in operands.scalars],
        [load_vector(ref) for ref in operands.vectors],
        width,
    )
    largest = jnp.maximum(jnp.max(jnp.abs(y), axis=1), SMALLEST)
    quantized = to_format(y * (format.largest / largest)[:, None], format)
    at = values.at[jnp.full(shape, batch), across(row), column]
    plgpu.store(at, quantized, mask=across(inside) & in_row)
    at = scale.at[jnp.full_like(row, batch), row]
    plgpu.store(at, largest / format.largest, mask=inside)


def quantize(
    compute: Compute,
    operands: Operands,
    format: Format,
    *,
    block: int = BLOCK,
    warps: int = 8,
    interpret: bool = False,
) -> Quantized:
    """The computed rows as values (b, n, width) and scales (b, n, 1).

    ``block``: numbers of a program's block; ``warps``: of a program.
    """
    b, n, width = operands.rows[0].shape
    if operands.index is not None:
        n = operands.index.shape[1]
    columns = max(16, pl.next_power_of_2(width))
    rows = max(1, block // columns)
    refs, structure = jax.tree.flatten(operands)
    values, scale = pl.pallas_call(
        functools.partial(
            _kernel,
            compute=compute,
            structure=structure,
            width=width,
            shape=(rows, columns),
            format=format,
        ),
        out_shape=[
            jax.ShapeDtypeStruct((b, n, width), format.dtype),
            jax.ShapeDtypeStruct((b, n), jnp.float32),
        ],
        grid=(pl.cdiv(n, rows), b),
        compiler_params=plgpu.CompilerParams(num_warps=warps),
        interpret=interpret,
        name=f"quantize{type(compute).__name__.lower()}",
    )(*refs)
    return Quantized(values, scale[..., None])
