"""A transformer with random weights, made where they live: never whole on a card that has no room for it."""

from __future__ import annotations

import copy
import zlib
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from liveavatar.core.parallel import Precision
from liveavatar.core.plan import ExecutionPlan
from liveavatar.engines.s2v.rank_setup import ModelShare
from liveavatar.loading.quantize import quantize_linears
from liveavatar.loading.transformer import place_tensor, tensor_names
from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.s2v.block import S2VBlock
from liveavatar.parallel.offload import offload_blocks, streamed_blocks


def random_transformer(
    config: dict[str, Any], plan: ExecutionPlan, device: torch.device, dtype: torch.dtype
) -> S2VTransformer:
    """Return a transformer in the plan's precision, with the blocks in host memory that it wants there.

    All blocks have the weights of one that was drawn: it takes seconds, and costs the same time to compute with.
    """
    num_blocks, num_resident = config["num_layers"], plan.offload.resident_blocks
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with device:
        model: S2VTransformer = S2VTransformer(**config | {"num_layers": 0}).eval()
        drawn = S2VBlock(config["dim"], config["ffn_dim"], config["num_heads"], config["eps"]).eval()
    torch.set_default_dtype(default)
    model.register_to_config(num_layers=num_blocks)
    drawn.requires_grad_(False)
    if plan.precision == "fp8":
        quantize_linears(model)
        quantize_linears(drawn)
    streamed = [] if num_resident is None else streamed_blocks(num_blocks, num_resident)
    on_host = copy.deepcopy(drawn).to("cpu")
    model.blocks = nn.ModuleList(
        _sharing_weights(on_host) if index in streamed else copy.deepcopy(drawn)
        for index in range(num_blocks)
    )
    if num_resident is not None:
        offload_blocks(model, num_resident)
    return model


def random_share(
    config: dict[str, Any], precision: Precision, share: ModelShare, device: torch.device, dtype: torch.dtype
) -> S2VTransformer:
    """Return a rank's share of a transformer whose weights are the same however it is shared out."""
    with init_empty_weights():
        model: S2VTransformer = S2VTransformer(**config)
    if precision == "fp8":
        quantize_linears(model)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    slices = share.take(model)
    for name in tensor_names(model):
        whole = _drawn(name, shapes[name], device, dtype)
        place_tensor(model, name, slices[name].of(whole).contiguous() if name in slices else whole, device)
    share.finish(model)
    model.eval()
    return model


def _drawn(name: str, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a tensor that depends on its name: matrices that keep the scale of what they are given, norms of one."""
    if len(shape) == 1 and name.endswith("weight"):
        return torch.ones(shape, device=device, dtype=dtype)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    inputs = shape[1:].numel() if len(shape) > 1 else shape[0]
    return torch.randn(shape, generator=generator, device=device, dtype=dtype).div_((3 * inputs) ** 0.5)


def _sharing_weights(block: S2VBlock) -> S2VBlock:
    """Return a copy of the block that has the very same tensors; `offload_blocks` gives it its own."""
    tensors = [*block.parameters(), *block.buffers()]
    return copy.deepcopy(block, {id(tensor): tensor for tensor in tensors})
