"""Which configurations fit on one group of graphics cards, and which rank gets which card."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.memory import MemoryBudget
from liveavatar.core.parallel import ParallelPlan
from liveavatar.planning import layouts, memory_model, model_spec
from liveavatar.planning.calibration import Calibration
from liveavatar.planning.layouts import Configuration, RankGroup
from liveavatar.planning.memory_model import RankRole
from liveavatar.planning.model_spec import VideoSize
from liveavatar.planning.placement import Slots, place_ranks

_HOST_SHARE = 0.8  # of host memory that may be taken


@dataclass(frozen=True, kw_only=True)
class _Machine:
    num_slots: int  # ranks it takes at most
    cards: list[int]  # of the group, the emptiest first


@dataclass(frozen=True, kw_only=True)
class _Place:
    ranks: range
    cards: list[int]  # of their machine, the emptiest first


class GroupMemory:
    """The memory of a group of cards, for one picture size.

    On each machine the neediest rank gets the emptiest card.
    """

    def __init__(
        self,
        gpus: Iterable[GpuSpec],
        host_bytes: int | None,
        size: VideoSize,
        calibration: Calibration,
        slots: Slots,
    ) -> None:
        self._gpus = sorted(gpus, key=memory_model.available_bytes, reverse=True)
        self._available = [memory_model.available_bytes(gpu) for gpu in self._gpus]
        self._machines = [
            _Machine(
                num_slots=num_slots,
                cards=[card for card, gpu in enumerate(self._gpus) if gpu.machine == name],
            )
            for name, num_slots in slots or [("", len(self._gpus))]
        ]
        self._places: dict[ParallelPlan, list[_Place]] = {}
        self._host_bytes, self._size = host_bytes, size
        self._factors = [calibration.memory_factors(gpu) for gpu in self._gpus]
        self._measured: list[dict[str, float]] = []  # each of them once; none where nothing was measured
        for factors in self._factors if any(self._factors) else []:
            if factors not in self._measured:
                self._measured.append(factors)
        self._needs: dict[RankRole, int] = {}

    @property
    def factors(self) -> dict[str, float]:
        """Return by how much each item was more, or less, than forecast on the cards of the group; the most counts."""
        names = {name for factors in self._factors for name in factors}
        return {name: max(factors.get(name, 0.0) for factors in self._factors) for name in names}

    def placed(self, configuration: Configuration) -> Configuration | None:
        """Return the configuration with as many resident blocks as possible, None when it does not fit."""
        if configuration.offload.resident_blocks is not None:
            num_blocks = self._resident_blocks(configuration)
            if num_blocks is None:
                return None
            offload = dataclasses.replace(configuration.offload, resident_blocks=num_blocks)
            configuration = configuration._replace(offload=offload)
        elif self.missing_bytes(configuration) > 0:
            return None
        if configuration.offload.is_used and self._host_bytes is not None:
            groups = layouts.rank_groups(configuration, self._size)
            return configuration if host_bytes(groups) <= _HOST_SHARE * self._host_bytes else None
        return configuration

    def has_places(self, parallel: ParallelPlan) -> bool:
        """Whether the machines have a card for each rank, with those that talk most in one machine."""
        return bool(self._ranks_on_machines(parallel))

    def missing_bytes(self, configuration: Configuration) -> int:
        """Return what the worst-off rank lacks, 0 when everything fits."""
        return max(0, -min([spare for spare, _ in self._spare_bytes(configuration)]))

    def _ranks_on_machines(self, parallel: ParallelPlan) -> list[_Place]:
        """Return which consecutive ranks each machine takes, nothing when it cannot be done."""
        if parallel not in self._places:
            sizes = [min(machine.num_slots, len(machine.cards)) for machine in self._machines]
            counts = place_ranks(parallel, sizes) or []
            ends = itertools.accumulate(counts)
            self._places[parallel] = [
                _Place(ranks=range(end - count, end), cards=machine.cards)
                for machine, count, end in zip(self._machines, counts, ends, strict=False)
                if count
            ]
        return self._places[parallel]

    def _spare_bytes(self, configuration: Configuration) -> list[tuple[int, RankRole]]:
        """Return what ranks leave of their card, negative where they lack it; of equal ranks on a machine the least."""
        groups = layouts.rank_groups(configuration, self._size)
        most, least = self._available[0], self._available[-1]
        if most == least:  # it does not matter which card a rank gets
            return [(most - self._need(role), role) for role, _ in groups]
        needs = [(self._need(role), role, ranks) for role, ranks in groups]
        needs.sort(key=itemgetter(0), reverse=True)
        places = self._ranks_on_machines(configuration.parallel)
        spare = []
        for place in places:
            last = -1
            for need, role, ranks in needs:
                count = len(ranks) if len(places) == 1 else sum(rank in place.ranks for rank in ranks)
                if count:
                    last += count
                    spare.append((self._available[place.cards[last]] - need, role))
        return spare

    def _resident_blocks(self, configuration: Configuration) -> int | None:
        """Return how many blocks can stay on every card, fewer than all; None when not even the rest fits."""
        most = model_spec.NUM_LAYERS
        for spare, role in self._spare_bytes(configuration):
            if spare < 0:
                return None
            if role.num_steps:
                most = min(most, role.num_layers - 1, int(spare // self._block_bytes(configuration)))
        return most

    def _block_bytes(self, configuration: Configuration) -> float:
        """Return what one more block takes on a card."""
        factor = max((factors.get("weights", 1.0) for factors in self._measured), default=1.0)
        return factor * memory_model.block_bytes(configuration.precision, configuration.parallel.tensor)

    def _need(self, role: RankRole) -> int:
        """Return what a rank needs, whichever card of the group it gets."""
        if not self._measured:
            return memory_model.forecast_bytes(role)
        if role not in self._needs:
            items = memory_model.forecast(role)
            self._needs[role] = max(
                sum(item.num_bytes for item in memory_model.corrected(items, factors))
                for factors in self._measured
            )
        return self._needs[role]

    def budgets(self, configuration: Configuration, roles: Sequence[RankRole]) -> tuple[MemoryBudget, ...]:
        """Return what each rank needs and has. Of cards that are as empty, ranks take them in order.

        Neighbours then talk to neighbours. The text encoder, where it fits, changes no card.
        """
        needs = [
            self._need(dataclasses.replace(role, encodes_text=False) if role.encodes_text else role)
            for role in roles
        ]
        card_of: dict[int, int] = {}
        for place in self._ranks_on_machines(configuration.parallel):
            neediest_first = iter(sorted(place.ranks, key=lambda rank: needs[rank], reverse=True))
            for _, alike in itertools.groupby(place.cards, key=self._available.__getitem__):
                cards = list(alike)
                ranks = sorted(itertools.islice(neediest_first, len(cards)))
                card_of |= dict(zip(ranks, cards, strict=False))
        return tuple(
            MemoryBudget(
                rank=rank,
                role=layouts.role_name(configuration, rank),
                gpu=self._gpus[card_of[rank]].name,
                available_bytes=self._available[card_of[rank]],
                items=memory_model.corrected(memory_model.forecast(role), self._factors[card_of[rank]]),
                card=self._gpus[card_of[rank]].uuid,
                machine=self._gpus[card_of[rank]].machine,
            )
            for rank, role in enumerate(roles)
        )


def host_bytes(groups: Sequence[RankGroup]) -> int:
    """Return what a configuration keeps in host memory; every rank has a copy of its own."""
    total = 0.0
    for role, ranks in groups:
        if not role.num_steps:
            continue
        num_bytes = 0.0
        if role.resident_blocks is not None:
            block = memory_model.block_bytes(role.precision, role.tensor)
            num_bytes += (role.num_layers - role.resident_blocks) * block
        if role.shards_on_host:
            num_bytes += role.num_layers * memory_model.block_bytes(role.precision) / role.weight_shards
        if role.caches_on_host:
            num_bytes += role.num_steps * memory_model.step_cache_bytes(role)
        total += num_bytes * len(ranks)
    return int(total)
