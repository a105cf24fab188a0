"""Load the S2V transformer: read, merge the adapter, quantise and place each tensor in one pass.

No more than one tensor is held besides the model itself, so an 8-bit model needs little more than its own size.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor, nn

from liveavatar.core.errors import Diagnosis, EngineFailed
from liveavatar.loading.lora import LoraMerge, LoraReceipt
from liveavatar.loading.quantize import Fp8Linear, Fp8Scheme, quantize_linears
from liveavatar.loading.tensor_slice import TensorSlice
from liveavatar.models.s2v import S2VTransformer

logger = logging.getLogger(__name__)

INDEX_NAME = "diffusion_pytorch_model.safetensors.index.json"
SINGLE_NAME = "diffusion_pytorch_model.safetensors"
NAMES_SHOWN = 5

CPU = torch.device("cpu")
_BLOCK_NAME = re.compile(r"blocks\.(\d+)\.")


# Takes a model without weights and returns which slice of each checkpoint tensor is left of it; all of those not named.
TakeShare = Callable[[S2VTransformer], Mapping[str, TensorSlice]]


class StoredTensor(Protocol):
    """A tensor in a file; what is indexed is read."""

    def __getitem__(self, index: slice | tuple[slice, ...]) -> Tensor:
        """Read a part."""


@dataclass(frozen=True, kw_only=True)
class LoadedTransformer:
    """A model ready to run and what was merged into it."""

    model: S2VTransformer
    lora: LoraReceipt | None


def load_transformer(
    folder: Path,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
    lora: LoraMerge | None = None,
    fp8: Fp8Scheme | None = None,
    host_blocks: Collection[int] = (),
    take_share: TakeShare | None = None,
) -> LoadedTransformer:
    """Load the published folder to a device, and those of its transformer blocks that are named to host memory.

    Tensors of the latter pass through the device one by one, too: merging and quantising is quicker there.
    `take_share` leaves the model, before it has weights, with a part of itself, and says which slices that part
    consists of; nothing else is read.
    Raises EngineFailed when tensors are missing or unknown, or when the adapter does not fit.
    """
    with init_empty_weights():
        model = S2VTransformer.from_config(S2VTransformer.load_config(folder))
    if fp8 is not None:
        quantize_linears(model, fp8)
    whole = set(tensor_names(model))
    slices = take_share(model) if take_share else {}
    expected = dict.fromkeys(tensor_names(model))
    unknown = []
    for name, stored in _checkpoint_tensors(folder, device):
        if name not in whole:
            unknown.append(name)
            continue
        if name not in expected:
            if lora:
                lora.leave_out(name)
            continue
        del expected[name]
        part = slices.get(name)
        tensor = stored[part.index] if part else stored[:]
        merged = (lora.apply(name, tensor, part) if lora else tensor).to(dtype)
        place_tensor(model, name, merged, CPU if _block_of(name) in host_blocks else device)
    if expected or unknown:
        raise _wrong_tensors(folder, missing=list(expected), unknown=unknown)
    receipt = lora.finish() if lora else None
    if receipt:
        logger.info("%s", receipt.sentence())
    return LoadedTransformer(model=model.eval(), lora=receipt)


def shard_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder in the order of their names."""
    index = folder / INDEX_NAME
    if index.exists():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return [folder / SINGLE_NAME]


def _checkpoint_tensors(folder: Path, device: torch.device) -> Iterator[tuple[str, StoredTensor]]:
    for path in shard_files(folder):
        with safe_open(path, framework="pt", device=str(device)) as shard:
            for name in shard.keys():  # noqa: SIM118  # not a dictionary
                yield name, shard.get_slice(name)


def tensor_names(model: nn.Module) -> list[str]:
    """Return the checkpoint's names: those of the model, less the scales it computes itself."""
    return [name for name in model.state_dict() if not name.endswith(".weight_scale")]


def place_tensor(model: nn.Module, name: str, tensor: Tensor, device: torch.device) -> None:
    """Give a model without weights one of its tensors, quantised where the layer wants it."""
    module_name, _, tensor_name = name.rpartition(".")
    module = model.get_submodule(module_name)
    if not isinstance(module, Fp8Linear):
        setattr(module, tensor_name, nn.Parameter(tensor.to(device), requires_grad=False))
    elif tensor_name == "weight":
        module.set_weight(tensor)
        module.weight, module.weight_scale = module.weight.to(device), module.weight_scale.to(device)
    else:
        module.bias = tensor.to(device)


def _block_of(name: str) -> int | None:
    """Return the index of the transformer block that a tensor belongs to."""
    match = _BLOCK_NAME.match(name)
    return int(match[1]) if match else None


def _wrong_tensors(folder: Path, *, missing: list[str], unknown: list[str]) -> EngineFailed:
    parts = [
        f"{len(names)} tensors are {problem} ({', '.join(names[:NAMES_SHOWN])})"
        for problem, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    return EngineFailed(
        Diagnosis(
            code="checkpoint_mismatch",
            title="The model files do not fit together.",
            cause=f"In {folder.name}, {' and '.join(parts)}.",
            remedy="Run `python -m liveavatar doctor --checkpoint DIR` to see which file to fetch again.",
            facts={"folder": folder.name, "num_missing": len(missing), "num_unknown": len(unknown)},
        )
    )
