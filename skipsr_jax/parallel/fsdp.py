"""Parameters that are sharded over fsdp, gathered where a layer uses them (ZeRO-3).

Rajbhandari et al. 2020, arXiv 1910.02054: each device keeps its shard of every parameter. A layer
gathers its own just before it runs and drops them after, and gathers them again in the backward
pass. Gradients are summed into shards. Invariant: no more than one layer is whole at a time.
"""

import functools

import jax
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from skipsr_jax.parallel.activations import multi_device_mesh
from skipsr_jax.parallel.rules import path_of, spec_for
from skipsr_jax.types import DType

GATHERED = "gathered"
"""Name of whole parameters for rematerialisation policies, none of which should store them."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(x: Array, spec: PartitionSpec) -> Array:
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _whole_forward(x: Array, spec: PartitionSpec) -> tuple[Array, None]:
    return _whole(x, spec), None


def _whole_backward(spec: PartitionSpec, _: None, gradient: Array) -> tuple[Array]:
    # The gradient of a constraint would be the constraint: every device would get all of the sum.
    return (jax.lax.with_sharding_constraint(gradient, spec),)


_whole.defvjp(_whole_forward, _whole_backward)


def gathered(module: nnx.Module, name: str, dtype: DType) -> nnx.Module:
    """``module`` with whole parameters, for use at once.

    Args:
      module: one layer or block, whose parameters are sharded as ``parallel.rules`` says.
      name: of the module in its model, as the rules see it.
      dtype: of the gathered parameters, all of them kernels; they are sent and used in it.
        Quantised kernels keep their own.
    """
    mesh = multi_device_mesh()
    if mesh is None or mesh.shape["fsdp"] == 1:
        return module
    graphdef, state = nnx.split(module)

    def gather(keys: tuple, x: Array) -> Array:
        spec = spec_for(f"{name}/{path_of(keys[:-1])}", x.shape, mesh)  # the last key: "value"
        if not any(spec):
            return x
        sent = x if x.dtype.itemsize == 1 else x.astype(dtype)  # quantised kernels as they are
        return checkpoint_name(_whole(sent, spec), GATHERED)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(gather, state))
