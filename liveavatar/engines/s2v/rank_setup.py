"""A rank's place among the others: process groups, links, and its share of the transformer."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from liveavatar.core.parallel import ParallelPlan, RankPlace
from liveavatar.loading.tensor_slice import TensorSlice
from liveavatar.models.s2v import S2VTransformer
from liveavatar.parallel.fsdp import block_shapes, shard_blocks, share_rows
from liveavatar.parallel.layers import keep_layers, layers_of_part
from liveavatar.parallel.tensor import TensorGroup, share_heads
from liveavatar.pipeline.links import Link, RankRefresh, allocate, describe
from liveavatar.pipeline.rank_loop import RankLinks
from liveavatar.pipeline.wiring import Wire, blocks_ahead, wires

log = logging.getLogger(__name__)

# For whatever comes from another rank, which may be loading, or compiling for its first block. Between cards too: what
# is under way there for longer has PyTorch end the process. The supervisor's deadlines, which know the plan, are
# shorter; this one only ends ranks that it lost sight of.
LINK_DEADLINE_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Rank:
    """What a rank needs to talk to the others."""

    plan: ParallelPlan
    place: RankPlace
    device: torch.device
    links: RankLinks
    tensor_group: TensorGroup | None
    denoising_group: dist.ProcessGroup | None  # of all ranks with a part of the transformer, in host memory
    shard_group: dist.ProcessGroup | None
    deadline_s: float

    def refresh(self, like: Tensor) -> RankRefresh:
        """Return one video's channel for the new reference; `like` has its shape [1, 16, 1, h, w] and dtype."""
        return RankRefresh(
            self.plan.num_denoising_ranks - 1,
            group=self.denoising_group,
            like=like,
            device=self.device,
            deadline_s=self.deadline_s,
        )

    def share(self, tensor: Tensor | None, sender: int) -> Tensor:
        """Return on every rank the sender's tensor; the others give None."""
        description = torch.tensor(describe(tensor))
        dist.broadcast(description, sender)
        on_host = (
            allocate(description.tolist(), torch.device("cpu"))
            if tensor is None
            else tensor.detach().cpu().contiguous()
        )
        assert on_host is not None, "the sender has a tensor"
        dist.broadcast(on_host, sender)
        return on_host.to(self.device)

    def gather(self, number: int) -> list[int]:
        """Return on every rank what each rank gave, by rank."""
        gathered = [torch.zeros(1, dtype=torch.int64) for _ in range(self.plan.world_size)]
        dist.all_gather(gathered, torch.tensor([number]))
        return [int(each) for each in gathered]

    def leave(self) -> None:
        """End all connections."""
        dist.destroy_process_group()


def use_own_card(device: torch.device) -> torch.device:
    """Return this rank's card where `device` is a card: by its number among those visible, shared where they are few.

    To be called before anything is on a card.
    """
    if device.type != "cuda":
        return device
    card = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    torch.cuda.set_device(card)
    return card


def join(plan: ParallelPlan, device: torch.device, *, deadline_s: float = LINK_DEADLINE_S) -> Rank:
    """Meet the other ranks under the address in the environment, and make all connections of the plan.

    Cards talk through NCCL where each rank has one of its own, and only where the plan needs it. `deadline_s` is for
    whatever comes from another rank.
    """
    rank = int(os.environ["RANK"])
    by_card = device.type == "cuda" and int(os.environ["LOCAL_WORLD_SIZE"]) <= torch.cuda.device_count()
    card = device if by_card and (plan.ranks_per_stage > 1 or plan.weights_sharded) else None
    # Not bound to the card: from a bound group PyTorch makes others by splitting, which every rank has to join, but for
    # a group in host memory only those join that are not in it. They would wait for ever.
    dist.init_process_group("gloo", timeout=timedelta(seconds=deadline_s))
    if dist.get_world_size() != plan.world_size:
        raise ValueError(f"{dist.get_world_size()} ranks were started for a plan of {plan.world_size}")
    place = plan.place(rank)
    denoising = range(plan.num_denoising_ranks)
    connected = Rank(
        plan=plan,
        place=place,
        device=device,
        links=_connect(plan, rank, device, card=card, deadline_s=deadline_s),
        tensor_group=_tensor_group(plan, place, card=card, deadline_s=deadline_s),
        denoising_group=_group(denoising, deadline_s=deadline_s),
        shard_group=_group(denoising, card=card, deadline_s=deadline_s) if plan.weights_sharded else None,
        deadline_s=deadline_s,
    )
    log.info("rank %d of %d on %s: %s", rank, plan.world_size, device, plan.describe())
    return connected


class ModelShare:
    """A rank's share of the transformer: `take` before it has weights, `finish` when it has them."""

    def __init__(self, rank: Rank, *, keep_on_host: bool = False) -> None:
        self._rank, self._keep_on_host = rank, keep_on_host
        self._block_shapes: dict[str, torch.Size] = {}

    def layers(self, num_layers: int) -> range:
        """Return which of the model's layers this rank holds."""
        return layers_of_part(num_layers, self._rank.plan.layer_parts, self._rank.place.layer_part)

    def take(self, model: S2VTransformer) -> dict[str, TensorSlice]:
        """Leave the model with this rank's layers and heads; return which slices of the tensors those are.

        Raises ValueError where the model cannot be shared out like that.
        """
        plan, place = self._rank.plan, self._rank.place
        if plan.layer_parts > 1:
            keep_layers(model, self.layers(model.config["num_layers"]))
        if self._rank.tensor_group is not None:
            return share_heads(model, self._rank.tensor_group)
        if plan.weights_sharded:
            self._block_shapes = block_shapes(model)
            return share_rows(model, rank=place.rank, num_ranks=plan.num_denoising_ranks)
        return {}

    def finish(self, model: S2VTransformer) -> None:
        """Make a model whose weights were loaded ready to run."""
        if self._rank.shard_group is not None and self._rank.place.stage is not None:
            shard_blocks(
                model, self._block_shapes, group=self._rank.shard_group, keep_on_host=self._keep_on_host
            )


def _connect(
    plan: ParallelPlan, rank: int, device: torch.device, *, card: torch.device | None, deadline_s: float
) -> RankLinks:
    """Make a group for every wire, on every rank in the same order; return the links of this rank."""
    links: list[tuple[Wire, Link]] = []
    for wire in wires(plan):
        tokens_by_card = card is not None and wire.kind == "tokens"
        ends = sorted((wire.sender, wire.receiver))
        group = _group(ends, card=card if tokens_by_card else None, deadline_s=deadline_s)
        if rank in (wire.sender, wire.receiver):
            link = Link(
                wire.receiver if rank == wire.sender else wire.sender,
                group=group,
                device=device,
                tokens_by_card=tokens_by_card,
                deadline_s=deadline_s,
                max_under_way=blocks_ahead(plan) if wire.kind == "feed" else 2,
            )
            links.append((wire, link))
    return RankLinks(links=tuple(links), rank=rank)


def _tensor_group(
    plan: ParallelPlan, place: RankPlace, *, card: torch.device | None, deadline_s: float
) -> TensorGroup | None:
    if plan.tensor == 1:
        return None
    mine: TensorGroup | None = None
    for first in range(0, plan.num_denoising_ranks, plan.tensor):
        ranks = range(first, first + plan.tensor)
        group = _group(ranks, card=card, deadline_s=deadline_s)
        if place.rank in ranks:
            mine = TensorGroup(rank=place.lane, num_ranks=plan.tensor, group=group)
    return mine


def _group(ranks: Sequence[int], *, card: torch.device | None = None, deadline_s: float) -> dist.ProcessGroup:
    """Make a group for tensors in host memory and, where a card is given, for those on it. All ranks make all groups.

    Cards meet now, not in mid-video, where a failure would cost more. NCCL makes its buffers with the first transfer.
    """
    group: dist.ProcessGroup = dist.new_group(
        list(ranks),
        timeout=timedelta(seconds=deadline_s),
        backend="cpu:gloo,cuda:nccl" if card is not None else "gloo",
        device_id=card,
    )
    return group
