"""Memory and speed of configurations on one group of graphics cards."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from liveavatar.core.hardware import GpuSpec
from liveavatar.core.memory import MemoryBudget, gb_text
from liveavatar.core.parallel import LATENTS_PER_BLOCK, KvPrecision, ParallelPlan, Precision
from liveavatar.planning import layouts, memory_model, model_spec, speed_model
from liveavatar.planning.calibration import Calibration
from liveavatar.planning.layouts import Configuration, RankGroup
from liveavatar.planning.memory_model import RankRole
from liveavatar.planning.model_spec import WINDOW_BLOCKS, VideoSize
from liveavatar.planning.placement import Slots, place_ranks

_HOST_SHARE = 0.8  # of host memory that may be taken
_LINK_IS_WORTH_A_WORD = 0.2  # of a step


@dataclass(frozen=True, kw_only=True)
class Details:
    """What is shown of a candidate."""

    budgets: tuple[MemoryBudget, ...]  # by rank
    rank_seconds: tuple[float, ...]  # work of each rank on one block
    first_frame_seconds: float  # engine loaded, portrait new
    host_bytes: int  # of weights and caches kept in host memory
    reason: str  # why it is as fast as it is, or why it cannot run


@dataclass(frozen=True, kw_only=True)
class _Machine:
    num_slots: int  # ranks it takes at most
    cards: list[int]  # of the group, the emptiest first


@dataclass(frozen=True, kw_only=True)
class _Place:
    ranks: range
    cards: list[int]  # of their machine, the emptiest first


class Evaluator:
    """Answers for one group of cards, one picture size."""

    def __init__(
        self,
        gpus: Iterable[GpuSpec],
        host_bytes: int | None,
        size: VideoSize,
        calibration: Calibration,
        slots: Slots = (),
    ) -> None:
        self.gpus = sorted(gpus, key=memory_model.available_bytes, reverse=True)
        self._available = [memory_model.available_bytes(gpu) for gpu in self.gpus]
        self._machines = [
            _Machine(
                num_slots=num_slots,
                cards=[card for card, gpu in enumerate(self.gpus) if gpu.machine == name],
            )
            for name, num_slots in slots or [("", len(self.gpus))]
        ]
        self._places: dict[ParallelPlan, list[_Place]] = {}
        self._speed = _slowest(self.gpus)
        self._host_bytes, self.size = host_bytes, size
        self._factors = [calibration.memory_factors(gpu) for gpu in self.gpus]
        self._measured: list[dict[str, float]] = []  # each of them once; none where nothing was measured
        for factors in self._factors if any(self._factors) else []:
            if factors not in self._measured:
                self._measured.append(factors)
        self._slowdown = max(calibration.time_factor(gpu) for gpu in self.gpus)
        self._steps: dict[tuple[Precision, KvPrecision, int], speed_model.StepSeconds] = {}
        self._needs: dict[RankRole, int] = {}
        self._busy: dict[tuple[RankRole, int], float] = {}

    @property
    def memory_factors(self) -> dict[str, float]:
        """Return by how much each item was more, or less, than forecast on the cards of the group; the most counts."""
        names = {name for factors in self._factors for name in factors}
        return {name: max(factors.get(name, 0.0) for factors in self._factors) for name in names}

    @property
    def multiplies_in_8_bits(self) -> bool:
        """Whether every card of the group does."""
        return self._speed.fp8_flops is not None

    @property
    def attends_in_8_bits(self) -> bool:
        """Whether there is a kernel for every card of the group: for Hopper alone."""
        return all(gpu.compute_capability[0] == 9 for gpu in self.gpus)

    # ---------------------------------------------------------------------------------------- memory
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
            groups = layouts.rank_groups(configuration, self.size)
            return configuration if host_bytes(groups) <= _HOST_SHARE * self._host_bytes else None
        return configuration

    def has_places(self, parallel: ParallelPlan) -> bool:
        """Whether the machines have a card for each rank, with those that talk most in one machine."""
        return bool(self._ranks_on_machines(parallel))

    def missing_bytes(self, configuration: Configuration) -> int:
        """Return what the worst-off rank lacks when on each machine the neediest rank gets the emptiest card."""
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
        groups = layouts.rank_groups(configuration, self.size)
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

    # ---------------------------------------------------------------------------------------- speed
    def fps_limit(self, num_steps: int, precisions: Sequence[Precision], kv_precision: KvPrecision) -> float:
        """Return a speed that no plan exceeds: the work shared evenly by all cards, nothing else counted."""
        num_ranks = min(len(self.gpus), layouts.MAX_WORLD)
        steps = [
            speed_model.step_seconds(self._speed, self.size, precision, kv_precision)
            for precision in precisions
        ]
        fastest = min((step.matrix + step.attention) * num_steps / num_ranks for step in steps)
        decoding = self._decode_seconds(LATENTS_PER_BLOCK, False)
        return speed_model.BLOCK_PICTURES / (max(fastest, decoding) * self._slowdown)

    def block_seconds(self, configuration: Configuration) -> float:
        """Return the time from one block to the next: that of the busiest rank."""
        num_streaming = _num_streaming(configuration)
        groups = layouts.rank_groups(configuration, self.size)
        return max([self._busy_seconds(role, num_streaming) for role, _ in groups])

    def _busy_seconds(self, role: RankRole, num_streaming: int) -> float:
        """Return the work of a rank on one block, while `num_streaming` ranks read from host memory."""
        busy = self._busy.get((role, num_streaming))
        if busy is None:
            busy = 0.0
            if role.num_steps:
                busy += role.num_steps * self._step(role, num_streaming).total
            if role.latents_per_decode:
                busy += self._decode_seconds(role.latents_per_decode, role.tiled_vae)
            busy *= self._slowdown
            self._busy[role, num_streaming] = busy
        return busy

    def _decode_seconds(self, latents_per_decode: int, tiled_vae: bool) -> float:
        return speed_model.decode_seconds(self._speed, self.size, latents_per_decode, tiled_vae)

    def _step(
        self, role: RankRole, num_streaming: int, window_blocks: int = WINDOW_BLOCKS
    ) -> speed_model.RankStep:
        key = role.precision, role.kv_precision, window_blocks
        whole = self._steps.get(key)
        if whole is None:
            whole = self._steps[key] = speed_model.step_seconds(
                self._speed, self.size, role.precision, role.kv_precision, window_blocks=window_blocks
            )
        return speed_model.rank_step(self._speed, role, whole, num_streaming=num_streaming)

    def _first_frame_seconds(self, configuration: Configuration, roles: Sequence[RankRole]) -> float:
        """Return the time from a request to its first picture: the first block passes through one rank at a time."""
        num_streaming = _num_streaming(configuration)
        denoising = sum(
            role.num_steps * self._step(role, num_streaming, window_blocks=1).total for role in roles
        )
        decoding = self._decode_seconds(configuration.latents_per_decode, configuration.tiled_vae)
        in_turn = denoising / configuration.parallel.tensor + decoding
        prefill = speed_model.prefill_seconds(self._speed, self.size, configuration.precision)
        portrait = speed_model.portrait_seconds(self._speed, self.size)
        transfers = sum(speed_model.beginning_transfer_seconds(self._speed, role) for role in roles)
        on_the_card = (prefill + portrait + in_turn) * self._slowdown
        return on_the_card + transfers + speed_model.SPEECH_ENCODE_S + speed_model.DELIVERY_S

    # ---------------------------------------------------------------------------------------- to show
    def details(self, configuration: Configuration, sparest: Configuration | None = None) -> Details:
        """Return all there is to say. `sparest` is what was tried last for a configuration that does not fit."""
        roles = layouts.roles_by_rank(layouts.rank_groups(configuration, self.size))
        budgets = self._budgets(configuration, roles)
        if sparest is not None:
            return Details(
                budgets=budgets,
                rank_seconds=(),
                first_frame_seconds=math.inf,
                host_bytes=0,
                reason=_why_not(budgets, self.missing_bytes(sparest)),
            )
        source = configuration.parallel.source_rank
        if budgets[source].spare_bytes >= memory_model.text_encoder_bytes():
            roles[source] = dataclasses.replace(roles[source], encodes_text=True)
            budgets = self._budgets(configuration, roles)
        return Details(
            budgets=budgets,
            rank_seconds=tuple(self._busy_seconds(role, _num_streaming(configuration)) for role in roles),
            first_frame_seconds=self._first_frame_seconds(configuration, roles),
            host_bytes=host_bytes(layouts.rank_groups(configuration, self.size)),
            reason=self._why(configuration, roles),
        )

    def _budgets(self, configuration: Configuration, roles: Sequence[RankRole]) -> tuple[MemoryBudget, ...]:
        """Give the neediest rank the emptiest card; of cards that are as empty, ranks take them in order.

        Neighbours then talk to neighbours. The text encoder, where it fits, changes no card.
        """
        needs = [self._need(dataclasses.replace(role, encodes_text=False)) for role in roles]
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
                gpu=self.gpus[card_of[rank]].name,
                available_bytes=self._available[card_of[rank]],
                items=memory_model.corrected(memory_model.forecast(role), self._factors[card_of[rank]]),
                card=self.gpus[card_of[rank]].uuid,
                machine=self.gpus[card_of[rank]].machine,
            )
            for rank, role in enumerate(roles)
        )

    def _why(self, configuration: Configuration, roles: Sequence[RankRole]) -> str:
        """Return what sets the pace."""
        num_streaming = _num_streaming(configuration)
        rank_seconds = [self._busy_seconds(role, num_streaming) for role in roles]
        slowest = max(range(len(roles)), key=lambda rank: rank_seconds[rank])
        pace = f"{rank_seconds[slowest]:.2f} s per block"
        role = roles[slowest]
        if not role.num_steps:
            return f"The decoder sets the pace with {pace}."
        name = layouts.role_name(configuration, slowest)
        words = (
            f"The card of {name} sets the pace with {pace}" if len(roles) > 1 else f"One card needs {pace}"
        )
        step = self._step(role, num_streaming)
        if step.waits:
            source = "other cards' weights" if configuration.parallel.weights_sharded else "host memory"
            return f"{words}, waiting for {source}."
        if step.link > _LINK_IS_WORTH_A_WORD * step.total:
            return f"{words}, {step.link / step.total:.0%} of it for the link between cards."
        return f"{words}."


def _num_streaming(configuration: Configuration) -> int:
    """Return how many ranks read from host memory at a time."""
    return configuration.parallel.num_denoising_ranks if configuration.offload.is_used else 1


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


def _why_not(budgets: Sequence[MemoryBudget], missing_at_least: int) -> str:
    worst = max(budgets, key=lambda budget: budget.missing_bytes)
    largest = sorted(worst.items, key=lambda item: item.num_bytes, reverse=True)[:2]
    parts = " and ".join(f"{gb_text(item.num_bytes)} of {item.name}" for item in largest)
    sentence = (
        f"The card of {worst.role} needs {gb_text(worst.needed_bytes)} ({parts})"
        f" and has {gb_text(worst.available_bytes)} to give: {gb_text(worst.missing_bytes)} too few"
    )
    if missing_at_least == 0:
        return f"{sentence}."
    return f"{sentence}, and still {gb_text(missing_at_least)} at its most frugal."


def _slowest(gpus: Sequence[GpuSpec]) -> GpuSpec:
    """Return a card with the worst of every rate: what a group of different cards works like."""
    fp8_rates = [gpu.fp8_flops for gpu in gpus if gpu.fp8_flops is not None]
    return dataclasses.replace(
        gpus[0],
        bf16_flops=min(gpu.bf16_flops for gpu in gpus),
        fp8_flops=min(fp8_rates) if len(fp8_rates) == len(gpus) else None,
        memory_bytes_per_s=min(gpu.memory_bytes_per_s for gpu in gpus),
        link_bytes_per_s=min(gpu.link_bytes_per_s for gpu in gpus),
        host_bytes_per_s=min(gpu.host_bytes_per_s for gpu in gpus),
    )
