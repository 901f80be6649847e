"""What is particular to the TPU kernels: ranges, copies, sharding, and compiling for real chips."""

import importlib.util
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from skipsr_jax.kernels.attention import Problem, choose, varlen_attention, xla
from skipsr_jax.kernels.attention.segments import row_bounds
from skipsr_jax.kernels.attention.tpu import op as pallas_tpu
from skipsr_jax.kernels.attention.tpu.stream import Blocks, block_ranges, blocks_for
from skipsr_jax.kernels.target import Target

TPU = Target("tpu")
BFLOAT16 = jnp.dtype(jnp.bfloat16)
REAL = Problem(1, 95_688, 20, 128, 36, BFLOAT16)  # 720p, 101 frames, 3B, regular windows


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "needs a TPU, and this is cpu"),
        ({}, Target("gpu", (9, 0)), "needs a TPU, and this is gpu"),
        ({"dtype": jnp.dtype(jnp.float16)}, TPU, "float16"),
        ({"head_dim": 136}, TPU, "at most 128, not 136"),
    ],
)
def test_refusals_name_the_limit(change, target, reason):
    assert reason in pallas_tpu.supported(Problem(**(vars(REAL) | change)), target)


@pytest.mark.parametrize("head_dim", [48, 64, 128])
@pytest.mark.parametrize("dtype", [BFLOAT16, jnp.dtype(jnp.float32)])
def test_a_tpu_takes_it_before_xla(head_dim, dtype):
    problem = Problem(**(vars(REAL) | {"head_dim": head_dim, "dtype": dtype}))
    name, refused = choose(problem, TPU)
    assert name == "pallas_tpu"
    assert all("this is tpu" in reason for reason in refused.values())


@pytest.mark.parametrize(("rows", "stationary"), [(1, 128), (300, 384), (512, 512), (513, 1024)])
def test_few_rows_make_one_block(rows, stationary):
    assert blocks_for(rows).stationary == stationary


def test_blocks_must_divide():
    with pytest.raises(ValueError, match="must divide the stationary block"):
        Blocks(stationary=1024, part=384)


@pytest.mark.parametrize(
    "bounds", [[0, 3, 30, 30, 64], [0, 0, 9, 9, 10], [0, 64, 64, 64, 64], [0, 0, 0, 0, 0]]
)
def test_ranges_hold_the_blocks_that_rows_see_and_no_other(bounds):
    blocks = Blocks(16, 8, 4)
    start, end, _ = row_bounds(jnp.asarray([bounds] * 2, jnp.int32), 64)
    ranges = [np.asarray(x).reshape(2, -1) for x in block_ranges(start, end, blocks)]
    touched = np.zeros((64, 64 // blocks.streamed), bool)
    for a, b in itertools.pairwise(bounds):
        for row in range(a, b):
            touched[row, a // blocks.streamed : -(-b // blocks.streamed)] = True
    for first, last, size in ((*ranges[:2], 16), (*ranges[2:], 8)):
        for i, blocks_touched in enumerate(touched.reshape(-1, size, touched.shape[1]).any(axis=1)):
            want = set(np.flatnonzero(blocks_touched))
            if size == blocks.stationary:
                want = want or {0}  # the chain of copies goes through every block
            for pack in range(2):
                assert set(range(first[pack, i], last[pack, i])) == want


def value_and_grads(run):
    def loss(q, k, v, cu):
        return jnp.sin(3 * run(q, k, v, cu)).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))


def test_copies_are_waited_for_and_never_overwrite_what_is_read():
    """Simulated: each copy lands only when waited for, memory starts as NaN, races are found."""
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 32, 2, 8)), jnp.float32) for _ in range(3))
    cu = jnp.asarray([[0, 3, 12, 12, 25]], jnp.int32)
    simulated = pltpu.InterpretParams(detect_races=True)

    def attend(interpret):
        return lambda *x: pallas_tpu.varlen_attention(
            *x, scale=0.4, blocks=Blocks(16, 8, 8), interpret=interpret
        )

    got = jax.tree.leaves(value_and_grads(attend(simulated))(q, k, v, cu))
    want = value_and_grads(lambda *x: xla.varlen_attention(*x, scale=0.4, block_rows=8))
    for a, b in zip(got, jax.tree.leaves(want(q, k, v, cu)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    assert interpret_pallas_call.races is None or not interpret_pallas_call.races.races_found


def abstract(problem):
    size = (problem.packs, problem.rows, problem.heads, problem.head_dim)
    x = jax.ShapeDtypeStruct(size, problem.dtype)
    return x, x, x, jax.ShapeDtypeStruct((problem.packs, problem.segments + 1), jnp.int32)


@pytest.mark.parametrize(("head_dim", "dtype"), [(128, BFLOAT16), (48, jnp.dtype(jnp.float32))])
def test_it_lowers_for_a_tpu_that_is_not_here(head_dim, dtype):
    problem = Problem(**(vars(REAL) | {"head_dim": head_dim, "dtype": dtype}))

    def loss(q, k, v, cu):
        return varlen_attention(q, k, v, cu, scale=0.1).astype(jnp.float32).sum()

    device = AbstractDevice("TPU v5 lite", 1, "tpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        program = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*abstract(problem))
        text = program.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call(") == 3
    for kernel in ("forward", "d_query", "d_key_value"):
        assert f"varlen_attention_{kernel}" in text
    assert f"{problem.rows}x{problem.rows}" not in text


@pytest.mark.parametrize("check_vma", [True, False])
def test_heads_and_packs_may_be_sharded(check_vma):
    """Lowered only: the interpreter does not know of the axes that values vary over."""
    device = AbstractDevice("TPU v5 lite", 1, "tpu")
    mesh = AbstractMesh((2, 4), ("data", "seq"), abstract_device=device)
    rows = P("data", None, "seq")

    specs = {"in_specs": (rows, rows, rows, P("data")), "out_specs": rows}

    @jax.shard_map(mesh=mesh, **specs, check_vma=check_vma)
    def attend(q, k, v, cu):
        assert q.shape == (1, 3000, 3, 64)
        return varlen_attention(q, k, v, cu, scale=0.4)

    def loss(q, k, v, cu):
        return attend(q, k, v, cu).astype(jnp.float32).sum()

    problem = Problem(2, 3000, 12, 64, 7, BFLOAT16)
    program = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*abstract(problem))
    text = program.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call(") == 3


COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from skipsr_jax.kernels.attention import varlen_attention
for name in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    mesh = jax.sharding.Mesh(devices[:1], ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    x = jax.ShapeDtypeStruct((2, 1300, 3, 48), jnp.bfloat16, sharding=everywhere)
    cu = jax.ShapeDtypeStruct((2, 6), jnp.int32, sharding=everywhere)
    loss = lambda q, k, v, cu: varlen_attention(q, k, v, cu, scale=0.1).astype(jnp.float32).sum()
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(x, x, x, cu).compile()
    print(name, program.as_text().count('custom_call_target="tpu_custom_call"'))
"""


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.slow
def test_it_compiles_for_three_generations():
    """Through the real Mosaic compiler, with no TPU: in a process of its own, as libtpu wants."""
    alone = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=os.environ | alone, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:3] == ["v5e:2x2 3", "v5p:2x2x1 3", "v6e:2x2 3"]
