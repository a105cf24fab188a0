"""Candidates for one stream on a machine, best first: memory per rank, speed, and one sentence why or why not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

from liveavatar.core.hardware import GpuSpec, Machine
from liveavatar.core.parallel import KvPrecision, Precision
from liveavatar.planning import layouts
from liveavatar.planning.calibration import NOTHING_MEASURED, Calibration
from liveavatar.planning.evaluation import Details, Evaluator
from liveavatar.planning.layouts import Configuration
from liveavatar.planning.model_spec import PICTURES_PER_BLOCK, VideoSize
from liveavatar.planning.wishes import ANYTHING, Abilities, Wishes

MAX_KINDS = 4  # of cards; of more, those with the fastest arithmetic are used


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to make a video of this size, whether it fits or not."""

    configuration: Configuration
    size: VideoSize
    streams: int  # videos at a time that the machine makes this way
    block_seconds: float  # from one block to the next; infinite when it does not fit
    missing_bytes: int  # on the rank that is worst off; 0 when everything fits
    evaluator: Evaluator = field(repr=False, compare=False)
    sparest: Configuration | None = None  # what was tried last, when it does not fit

    @property
    def fits(self) -> bool:
        """Whether it can run."""
        return self.sparest is None

    @property
    def fps(self) -> float:
        """Return the predicted pictures per second of each stream, 0 when it cannot run."""
        return PICTURES_PER_BLOCK / self.block_seconds

    @cached_property
    def details(self) -> Details:
        """The forecast per rank, the time to the first picture and the reason."""
        return self.evaluator.details(self.configuration, self.sparest)


def candidates(
    machine: Machine,
    size: VideoSize,
    wishes: Wishes = ANYTHING,
    calibration: Calibration = NOTHING_MEASURED,
) -> list[Candidate]:
    """Return every plan for one stream that fits, the fastest first, then those that do not, the closest first."""
    found: dict[Configuration, Candidate] = {}
    best_fps = 0.0
    for evaluator in _evaluators(machine, size, wishes, calibration):
        if best_fps and _fps_limit(evaluator, wishes) <= best_fps:
            continue  # slower cards that nothing depends on
        for candidate in _on_group(evaluator, wishes):
            known = found.get(candidate.configuration)
            if known is None or _order(candidate) < _order(known):
                found[candidate.configuration] = candidate
            best_fps = max(best_fps, candidate.fps)
    return sorted(found.values(), key=_order)


def first_to_reach(
    machine: Machine,
    size: VideoSize,
    min_fps: float,
    wishes: Wishes = ANYTHING,
    calibration: Calibration = NOTHING_MEASURED,
) -> Candidate | None:
    """Return a plan that makes at least `min_fps`, None when no plan does: the quick form of `candidates`.

    On cards of one kind it is a plan for as few of them as possible.
    """
    for evaluator in _evaluators(machine, size, wishes, calibration):
        if _fps_limit(evaluator, wishes) < min_fps:
            continue
        for candidate in _on_group(evaluator, wishes, min_fps=min_fps):
            if candidate.fits and candidate.fps >= min_fps:
                return candidate
    return None


def reaches(
    machine: Machine,
    size: VideoSize,
    min_fps: float,
    wishes: Wishes = ANYTHING,
    calibration: Calibration = NOTHING_MEASURED,
) -> bool:
    """Return whether some plan makes at least `min_fps`."""
    return first_to_reach(machine, size, min_fps, wishes, calibration) is not None


def rejections_by_rule(machine: Machine, wishes: Wishes = ANYTHING) -> list[tuple[str, str]]:
    """Return (plan, reason) of what no amount of memory makes possible on this machine."""
    rejected = list(layouts.forbidden_plans(len(machine.gpus), wishes.num_steps))
    names = {gpu.name for gpu in machine.gpus if gpu.fp8_flops is None}
    if names and "fp8" in wishes.precisions:
        rejected.append(("fp8 weights", f"The {' and the '.join(sorted(names))} cannot multiply in 8 bits."))
    names = {gpu.name for gpu in machine.gpus if gpu.compute_capability[0] != 9}
    if names and "int8" in wishes.kv_precisions:
        rejected.append(
            (
                "8-bit attention",
                f"Its kernel is for Hopper cards; the {' and the '.join(sorted(names))} is none.",
            )
        )
    if wishes.precision == "fp8" and len(machine.gpus) > 1:
        rejected.append(("sharded weights (FSDP)", "Sharding gathers parameters; 8-bit weights are none."))
    return rejected


def _usable_precisions(evaluator: Evaluator, wishes: Wishes) -> tuple[Precision, ...]:
    return tuple(each for each in wishes.precisions if each == "bf16" or evaluator.speed.multiplies_in_8_bits)


def _usable_kv_precisions(evaluator: Evaluator, wishes: Wishes) -> tuple[KvPrecision, ...]:
    return tuple(each for each in wishes.kv_precisions if each != "int8" or evaluator.speed.attends_in_8_bits)


def _fps_limit(evaluator: Evaluator, wishes: Wishes) -> float:
    """Return a speed that no plan on these cards exceeds, 0 when they cannot do what is wished."""
    precisions = _usable_precisions(evaluator, wishes)
    kv_precisions = _usable_kv_precisions(evaluator, wishes)
    if not kv_precisions or not precisions:
        return 0.0
    return evaluator.speed.fps_limit(wishes.num_steps, precisions, kv_precisions[0])


def _on_group(evaluator: Evaluator, wishes: Wishes, *, min_fps: float = 0.0) -> Iterator[Candidate]:
    """Yield the candidates of every plan and precision.

    Plans that cannot make `min_fps` with any amount of memory are left out.
    """
    num_gpus = min(evaluator.num_gpus, wishes.abilities.max_ranks)
    precisions = _usable_precisions(evaluator, wishes)
    kv_precisions = _usable_kv_precisions(evaluator, wishes)
    if not kv_precisions:
        return
    for parallel in layouts.parallel_plans(num_gpus, wishes.num_steps):
        if not evaluator.memory.has_places(parallel):
            continue
        for precision in precisions:
            if parallel.weights_sharded and precision == "fp8":
                continue  # sharding gathers parameters, and 8-bit weights are none
            plainest = Configuration(parallel=parallel, precision=precision, kv_precision=kv_precisions[0])
            if min_fps and PICTURES_PER_BLOCK / evaluator.speed.block_seconds(plainest) < min_fps:
                continue
            yield from _variants(evaluator, plainest, kv_precisions, wishes.abilities)


def _variants(
    evaluator: Evaluator,
    plainest: Configuration,
    kv_precisions: Sequence[KvPrecision],
    abilities: Abilities,
) -> Iterator[Candidate]:
    """Yield the best variant with everything on the cards, or why there is none, and the best that uses host memory."""
    if evaluator.memory.missing_bytes(plainest) == 0:  # nothing is faster
        yield _fitting(evaluator, plainest)
        return
    resident = layouts.resident_variants(plainest.parallel, plainest.precision, kv_precisions)
    best = _best(evaluator, resident)
    yield best or _rejected(evaluator, plainest, layouts.frugal_variants(resident[-1])[-1])
    spilled = layouts.offload_variants(plainest.parallel, plainest.precision, kv_precisions)
    if not abilities.shards_on_host:
        spilled = [variant for variant in spilled if not variant.offload.sharded_weights]
    offloaded = _best(evaluator, spilled)
    if offloaded is not None:
        yield offloaded


def _best(evaluator: Evaluator, variants: Sequence[Configuration]) -> Candidate | None:
    """Return the fastest variant that fits, of equally fast ones the first."""
    best, best_seconds = None, math.inf
    for variant in variants:
        for placed in _placed(evaluator, variant):
            seconds = evaluator.speed.block_seconds(placed)
            if seconds < best_seconds:
                best, best_seconds = placed, seconds
    return None if best is None else _fitting(evaluator, best)


def _placed(evaluator: Evaluator, variant: Configuration) -> Iterator[Configuration]:
    """Yield what fits of a variant and its more frugal forms, as far as it can be the fastest.

    Decoding frugally takes longer; it is worth it when nothing else fits, or when more blocks stay on the cards.
    """
    *others, most_frugal = variant, *layouts.frugal_variants(variant)
    sparest = evaluator.memory.placed(most_frugal)
    if sparest is None:
        return
    for each in others:
        placed = evaluator.memory.placed(each)
        if placed is not None:
            yield placed
            if placed.offload == sparest.offload:
                return
    yield sparest


def _fitting(evaluator: Evaluator, configuration: Configuration) -> Candidate:
    return Candidate(
        configuration=configuration,
        size=evaluator.size,
        # Streams that read from host memory would share its bandwidth, which is spoken for.
        streams=1
        if configuration.offload.is_used
        else evaluator.num_gpus // configuration.parallel.world_size,
        block_seconds=evaluator.speed.block_seconds(configuration),
        missing_bytes=0,
        evaluator=evaluator,
    )


def _rejected(evaluator: Evaluator, plainest: Configuration, sparest: Configuration) -> Candidate:
    return Candidate(
        configuration=plainest,
        size=evaluator.size,
        streams=0,
        block_seconds=math.inf,
        missing_bytes=evaluator.memory.missing_bytes(plainest),
        evaluator=evaluator,
        sparest=sparest,
    )


def _order(candidate: Candidate) -> tuple[float, ...]:
    configuration = candidate.configuration
    return (
        not candidate.fits,
        candidate.missing_bytes,
        candidate.block_seconds,
        configuration.parallel.world_size,
        configuration.offload.is_used,
        configuration.kv_precision != "bf16",
        configuration.parallel.tensor,
        configuration.parallel.layer_parts,
        configuration.precision != "bf16",
    )


def _evaluators(
    machine: Machine, size: VideoSize, wishes: Wishes, calibration: Calibration
) -> Iterator[Evaluator]:
    """Yield one for every combination of kinds of cards, so that a slow card never holds back faster ones."""
    by_kind: dict[tuple[object, ...], list[GpuSpec]] = {}
    for gpu in sorted(machine.gpus, key=lambda gpu: gpu.bf16_flops, reverse=True):
        by_kind.setdefault(kind_of_card(gpu), []).append(gpu)
    kinds = list(by_kind)[:MAX_KINDS]
    for count in range(1, len(kinds) + 1):
        for chosen in combinations(kinds, count):
            group = [gpu for kind in chosen for gpu in by_kind[kind]]
            yield Evaluator(group, machine.host_bytes, size, calibration, wishes.slots)


def kind_of_card(gpu: GpuSpec) -> tuple[object, ...]:
    """Return what makes cards alike: the name and every rate, memory excepted."""
    return (
        gpu.name,
        gpu.driver,
        gpu.bf16_flops,
        gpu.fp8_flops,
        gpu.memory_bytes_per_s,
        gpu.link_bytes_per_s,
        gpu.host_bytes_per_s,
        gpu.compute_capability,
    )
