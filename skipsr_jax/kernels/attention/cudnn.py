"""cuDNN's fused attention in its packed layout: NVIDIA Hopper and newer, bfloat16 or float16.

Segment lengths and offsets are run-time arrays, so one program serves any mask of a given shape.
JAX's primitives of the custom calls are private; their signature is the same in jax 0.10.2 to 0.12.

cuDNN sees a flat buffer, an offset and a length for each segment, and one static limit on the
lengths. That limit is what it pays for: the backward pass keeps a float32 sum for queries of size
segments x limit x heads x head_dim, whatever the segments hold. JAX takes the limit from the shape
of the arrays, (rows, limit, heads, head_dim). So the packs are viewed, without a copy where the
sizes divide, as many rows of a short ``limit``; segments may run over the end of a row, because
the offsets are those of the flat buffer.

Traps that this file stands between, each seen on an H200 with cuDNN 9.19:

* an element of that sum is addressed in 32 bits and those beyond 2^32 come back as zero dq:
  ``Rows`` never makes so many;
* a segment longer than the limit would be cut: backward, ``lax.cond`` on the run-time lengths sends
  such a call to the XLA version; forward, the packs are one row, and the limit all of it;
* rows that belong to no segment come back unwritten, and so do their gradients: zeros are written
  there in place. It reads none of those rows: NaN there changes nothing;
* XLA 0.11 fills a call's results and its workspace, the sum, with zeros before it, unless it
  records the call with others in a command buffer. It records no fewer than five operations, and
  each branch of a ``cond`` by itself: so the zeros outside are written within the branch;
* its dq is summed in an order that varies: gradients do not repeat bit for bit, unless XLA is told
  ``--xla_gpu_deterministic_ops=true``, with which the backward pass takes two thirds longer;
  ``pallas_gpu`` repeats without that and is the faster of the two;
* one segment alone is not treated as packed: there are two slots for segments at least.
"""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.attention import xla
from skipsr_jax.kernels.attention.gpu_zero_rows import zero_rows_of_no_segment
from skipsr_jax.kernels.attention.problem import Problem
from skipsr_jax.kernels.attention.residuals import named_residuals
from skipsr_jax.kernels.target import Target, gpu_refusal
from skipsr_jax.types import Float, Int

try:
    from jax._src.cudnn import fused_attention_stablehlo as _fused
except ImportError:  # a private module: another jax may move it
    _fused = None

HEAD_DIM_LIMIT = 128
SUM_ELEMENTS = 2**32  # of the backward pass's sum for queries, that its offsets can address
SUM_BUDGET = 2**30  # of them if several packs are to share a call: 4 GiB
OFFSET_ELEMENTS = 2**31  # rows * heads * head_dim of any call: int32 offsets in elements
USUAL_LENGTH = 4096  # rows; a window of SeedVR holds some 3,400 at most, with its text


@dataclasses.dataclass(frozen=True)
class Rows:
    """``count`` rows of ``limit``, with ``slots`` for segments in each."""

    count: int
    limit: int
    slots: int


def rows_for(total: int, segments: int) -> Rows:
    """How to view ``total`` rows with ``segments`` segments: short rows of USUAL_LENGTH or more.

    Up to twice as long where that makes rows that fill the array, which spares a copy.
    """
    most = max(1, total // USUAL_LENGTH)
    fill = (n for n in range(most, most // 2, -1) if total % (2 * n) == 0)
    count = next(fill, most)
    limit = -(-total // count)
    return Rows(count, limit + limit % 2, max(2, -(-segments // count)))


def call_for(problem: Problem) -> tuple[int, Rows] | None:
    """How many packs go into one call, and as which rows; None where not even one fits."""
    width = problem.heads * problem.head_dim
    for elements in (SUM_BUDGET, SUM_ELEMENTS - 1):
        for packs in range(problem.packs, 0, -1):
            rows = rows_for(packs * problem.rows, packs * problem.segments)
            of_sum = rows.count * rows.slots * rows.limit * width
            if of_sum <= elements and rows.count * rows.limit * width < OFFSET_ELEMENTS:
                return packs, rows
    return None


def supported(problem: Problem, target: Target) -> str | None:
    """None when cuDNN can run this problem forward and backward, else the reason."""
    if _fused is None:
        return "this jax has no jax._src.cudnn.fused_attention_stablehlo"
    needs = "the packed layout needs compute capability 9.0 (Hopper)"
    refused = gpu_refusal(problem.dtype, target, needs, (9, 0))
    if refused is not None:
        return refused
    if problem.head_dim % 8 or problem.head_dim > HEAD_DIM_LIMIT:
        return (
            f"head_dim must be a multiple of 8 and at most {HEAD_DIM_LIMIT}, not {problem.head_dim}"
        )
    if call_for(problem) is None:
        return (
            f"{problem.rows} rows x {problem.heads} heads x {problem.head_dim} with "
            f"{problem.segments} segments of up to {USUAL_LENGTH} rows pass its 32-bit offsets"
        )
    return None


def _later_options() -> dict:
    """The options that came with jax 0.12, which say that scores pass through no function."""
    names = ("score_mod_name", "score_mod_jaxpr")
    known = inspect.signature(_fused._dot_product_attention_fwd_cuda_lowering).parameters
    return {name: None for name in names if name in known}


@dataclasses.dataclass(frozen=True)
class _Call:
    """What both passes of one call share, all of it static."""

    rows: Rows
    scale: float

    @property
    def options(self) -> dict:
        """The options of JAX's primitives: no bias, no dropout, (rows, limit, heads, head_dim)."""
        return _later_options() | {
            "scale": self.scale,
            "seed": 0,
            "dropout_rate": 0.0,
            "variadic_args": (False, False),
            "mask_type": _fused.MaskType.PADDING,
            "layout": _fused.AttentionLayout.BTNH.value,
            "sliding_window_length": None,
        }

    def view(self, x: Float[Array, "b s a p"]) -> Float[Array, "count limit a p"]:
        """The packs end to end, cut into rows."""
        x = x.reshape(-1, *x.shape[2:])
        more = self.rows.count * self.rows.limit - len(x)
        return jnp.pad(x, ((0, more), (0, 0), (0, 0))).reshape(
            self.rows.count, self.rows.limit, *x.shape[1:]
        )

    def packs(
        self, x: Float[Array, "count limit a p"], packs: int, rows: int
    ) -> Float[Array, "b s a p"]:
        """The inverse of ``view``."""
        x = x.reshape(-1, *x.shape[2:])[: packs * rows]
        return x.reshape(packs, rows, *x.shape[1:])

    def segments(
        self, cu_seqlens: Int[Array, "b g1"], rows: int, width: int
    ) -> tuple[Int[Array, "count slots"], Int[Array, "count slots+1"]]:
        """Length of each segment, and its offset in the flat buffer in elements.

        Slots are filled in order, whichever row a segment begins in; the rest is empty.
        """
        cu = jnp.clip(cu_seqlens.astype(jnp.int32), 0, rows)
        cu = cu + rows * jnp.arange(len(cu), dtype=jnp.int32)[:, None]
        lengths = (cu[:, 1:] - cu[:, :-1]).reshape(-1)
        starts = cu[:, :-1].reshape(-1)
        count, slots = self.rows.count, self.rows.slots
        end = count * self.rows.limit
        lengths = jnp.pad(lengths, (0, count * slots - len(lengths)))
        more = (0, count * (slots + 1) - len(starts))
        starts = jnp.pad(starts, more, constant_values=end) * width
        return lengths.reshape(count, slots), starts.reshape(count, slots + 1)


def _operands(call: _Call, arrays, cu_seqlens):
    """Arrays as rows; and the operands that the primitives take between them and the rest."""
    rows, heads, head_dim = arrays[0].shape[1:]
    lengths, offsets = call.segments(cu_seqlens, rows, heads * head_dim)
    none = jnp.zeros(0, arrays[0].dtype)
    return [call.view(x) for x in arrays], (none, lengths, lengths, offsets, offsets, none, none)


def _run_forward(call: _Call, q, k, v, cu_seqlens, training: bool):
    """Output, unwritten where no segment is, and the softmax's statistics if ``training``."""
    (q_rows, k_rows, v_rows), rest = _operands(call, (q, k, v), cu_seqlens)
    out, *statistics = _fused._dot_product_attention_fwd_p.bind(
        q_rows, k_rows, v_rows, *rest, is_training=training, **call.options
    )
    return call.packs(out, *q.shape[:2]), *statistics


def _run_backward(call: _Call, q, k, v, cu_seqlens, statistics, out, d_out):
    """Gradients, unwritten where no segment is."""
    arrays, rest = _operands(call, (q, k, v, out, d_out), cu_seqlens)
    grads = _fused._dot_product_attention_bwd_p.bind(
        *arrays[:3], *rest, statistics, *arrays[3:], **call.options
    )
    return tuple(call.packs(grad, *q.shape[:2]) for grad in grads)


def _forward(call: _Call, q, k, v, cu_seqlens, training: bool):
    """The output, and the statistics if ``training``.

    The packs are one row, which takes any segment and is faster: no array has the size of the sum.
    """
    total = q.shape[0] * q.shape[1]
    limit = max(total + total % 2, call.rows.limit)
    slots = call.rows.count * call.rows.slots
    one_row = dataclasses.replace(call, rows=Rows(1, limit, slots))
    out, *statistics = _run_forward(one_row, q, k, v, cu_seqlens, training)
    return zero_rows_of_no_segment(out, cu_seqlens), *statistics


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attention(q, k, v, cu_seqlens, call):
    return _forward(call, q, k, v, cu_seqlens, False)[0]


def _attention_forward(q, k, v, cu_seqlens, call):
    out, statistics = _forward(call, q, k, v, cu_seqlens, True)
    # Statistics of segments up to the length that the backward pass takes.
    out, statistics = named_residuals(out, statistics[:, :, : call.rows.limit])
    return out, (q, k, v, cu_seqlens, statistics, out)


def _attention_backward(call, saved, d_out):
    q, k, v, cu_seqlens, statistics, out = saved

    def by_cudnn():
        grads = _run_backward(call, q, k, v, cu_seqlens, statistics, out, d_out)
        return tuple(zero_rows_of_no_segment(grad, cu_seqlens) for grad in grads)

    def by_xla():
        def one_head(arrays):
            *qkv, grad = (x[:, :, None] for x in arrays)
            run = functools.partial(xla.varlen_attention, cu_seqlens=cu_seqlens, scale=call.scale)
            return tuple(x[:, :, 0] for x in jax.vjp(run, *qkv)[1](grad))

        grads = lax.map(one_head, tuple(jnp.moveaxis(x, 2, 0) for x in (q, k, v, d_out)))
        return tuple(jnp.moveaxis(x, 0, 2) for x in grads)

    if call.rows.limit >= q.shape[0] * q.shape[1]:
        grads = by_cudnn()
    else:
        longest = jnp.max(cu_seqlens[:, 1:] - cu_seqlens[:, :-1])
        grads = lax.cond(longest <= call.rows.limit, by_cudnn, by_xla)
    return *grads, None


_attention.defvjp(_attention_forward, _attention_backward)


def varlen_attention(
    q: Float[Array, "b s a p"],
    k: Float[Array, "b s a p"],
    v: Float[Array, "b s a p"],
    cu_seqlens: Int[Array, "b g1"],
    *,
    scale: float,
    view: Rows | None = None,
) -> Float[Array, "b s a p"]:
    """See ``api.varlen_attention``; call it only where ``supported`` gives None.

    ``view`` of all packs sets the cost of the work, not the result; by default ``call_for``'s.
    """
    if view is not None:
        return _attention(q, k, v, cu_seqlens, _Call(view, float(scale)))
    problem = Problem.of(q, cu_seqlens)
    found = call_for(problem)
    if found is None:
        raise ValueError(
            f"cuDNN attention of {problem.rows} rows x {problem.heads} heads x {problem.head_dim} "
            f"with {problem.segments} segments passes 32-bit offsets; use implementation='xla' or "
            "fewer rows"
        )
    together, view = found
    call = _Call(view, float(scale))
    parts = []
    for b in range(0, problem.packs, together):
        part = slice(b, b + together)  # the last may be fewer packs in the same view
        parts.append(_attention(q[part], k[part], v[part], cu_seqlens[part], call))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=0)
