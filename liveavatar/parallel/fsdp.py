"""Sharded weights (FSDP2): each rank keeps a share of every layer, and all gather a layer when they need it.

The ranks are the stages of a timestep pipeline. A gathering needs all of them, so they run layer after layer in step:
a rank that has no block at the moment gathers along. One layer is whole at a time, and the next is on its way. The
whole model crosses the link for every step: this is for cards that can hold the model in no other way.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from liveavatar.loading.tensor_slice import TensorSlice
from liveavatar.models.s2v import S2VTransformer

_Shapes = Mapping[str, torch.Size]


def share_rows(model: S2VTransformer, *, rank: int, num_ranks: int) -> dict[str, TensorSlice]:
    """Return the rows of each tensor of a transformer block that a rank keeps, for a model without weights."""
    return {
        f"blocks.{name}": _rows(tensor.shape[0], rank, num_ranks)
        for name, tensor in model.blocks.state_dict().items()
        if not name.endswith(".weight_scale")  # computed from the rows
    }


def block_shapes(model: S2VTransformer) -> dict[str, torch.Size]:
    """Return the shapes of the tensors of one whole block, for a model without weights."""
    return {name: tensor.shape for name, tensor in _first_block(model).state_dict().items()}


def shard_blocks(
    model: S2VTransformer, shapes: _Shapes, *, group: dist.ProcessGroup, keep_on_host: bool = False
) -> None:
    """Turn a model whose blocks were loaded with this rank's rows into one that gathers them when it needs them.

    `keep_on_host`: the rows wait in host memory.
    """
    device = model.patch_embedding.weight.device
    mesh = DeviceMesh.from_group(group, device.type)
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if keep_on_host else OffloadPolicy()
    blocks = [block for _, block in model.blocks.named_children()]
    for block in blocks:
        rows = {name: tensor.detach() for name, tensor in block.state_dict().items()}
        for name, shape in shapes.items():
            _set(block, name, torch.empty(shape, dtype=rows[name].dtype, device="meta"))
        fully_shard(block, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
        register_fsdp_forward_method(block, "encode_text")
        for name in shapes:
            _set(block, name, _as_share(rows[name], block.get_parameter(name), to_host=keep_on_host))
    held = set(model.parameters()) - {parameter for block in blocks for parameter in block.parameters()}
    fully_shard(model, mesh=mesh, reshard_after_forward=True, ignored_params=held)
    for method in ("encode_text", "prefill"):
        register_fsdp_forward_method(model, method)
    for block, following in itertools.pairwise(blocks):
        assert isinstance(block, FSDPModule), "sharded above"
        assert isinstance(following, FSDPModule), "sharded above"
        block.set_modules_to_forward_prefetch([following])


@contextmanager
def in_step(model: S2VTransformer, *, lead: int, trail: int, rounds: int) -> Iterator[None]:
    """Gather along with the ranks that begin earlier, and with those that end later.

    `lead` and `trail` count stages before and behind this one; `rounds` are the passes through the layers that each
    makes per block.
    """
    _gather_along(model, lead * rounds)
    yield
    _gather_along(model, trail * rounds)


def _gather_along(model: S2VTransformer, num_rounds: int) -> None:
    for _ in range(num_rounds):
        for block in model.blocks.children():
            assert isinstance(block, FSDPModule), "its blocks are sharded"
            block.unshard()
            block.reshard()


def _rows(num_rows: int, rank: int, num_ranks: int) -> TensorSlice:
    """Return a rank's rows: all ranks have as many but the last ones, which may have fewer, or none."""
    each = -(-num_rows // num_ranks)
    return TensorSlice(dim=0, start=min(rank * each, num_rows), stop=min((rank + 1) * each, num_rows))


def _as_share(rows: Tensor, whole: nn.Parameter, *, to_host: bool) -> Tensor:
    assert isinstance(whole, DTensor), "sharded above"
    share = DTensor.from_local(
        rows,
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )
    return share.cpu() if to_host else share  # afterwards: `from_local` would bring it back to the card


def _set(block: nn.Module, name: str, tensor: Tensor) -> None:
    """Make a tensor a parameter of the block, also where it was a buffer: only parameters are sharded."""
    owner_name, _, own_name = name.rpartition(".")
    owner = block.get_submodule(owner_name)
    if own_name in dict(owner.named_buffers(recurse=False)):
        delattr(owner, own_name)
    setattr(owner, own_name, nn.Parameter(tensor, requires_grad=False))


def _first_block(model: S2VTransformer) -> nn.Module:
    return next(iter(model.blocks.children()))
