"""Which of several ranks failed first, told by what each one says and not by the clock.

When one rank fails, its peers fail too: their connections break, or they wait in vain. Those are consequences. The
clock cannot tell them apart, because a consequence is often heard before its cause.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from liveavatar.core.errors import Diagnosis
from liveavatar.core.plan import ExecutionPlan
from liveavatar.diagnostics.diagnose import engine_exited, engine_silent

_SILENT_S = 3.0  # three heartbeats
_MEMORY = {"graphics_memory_full", "out_of_memory"}
_CONSEQUENCES = {"peer_lost": 1, "peer_waited_for": 2}
# How a rank may end because of another: torch's watchdog aborts, and who ends one rank by hand ends several.
_AFTER_PEERS = (-signal.SIGABRT, -signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class RankState:
    """What is known of one rank at the end of an engine."""

    rank: int
    last_words: Diagnosis | None = None
    exit_code: int | None = None  # None: it still runs
    silent_s: float = 0.0  # since its last heartbeat


def first_failure(states: Sequence[RankState], *, is_start: bool) -> tuple[int, Diagnosis]:
    """Return the rank that failed first and why. One of them must have failed."""
    failed = [state for state in states if state.last_words is not None or state.exit_code is not None]
    state = max(failed, key=_weight)  # of equals the lowest rank
    if state.last_words is not None:
        return state.rank, state.last_words
    assert state.exit_code is not None
    return state.rank, engine_exited(state.exit_code, is_start=is_start)


def is_cause_known(states: Sequence[RankState]) -> bool:
    """Whether one of the failures is more than the consequence of another."""
    return any(_weight(state) > max(_CONSEQUENCES.values()) for state in states)


def all_accounted_for(states: Sequence[RankState]) -> bool:
    """Whether nothing more can be heard: every rank has spoken or is gone."""
    return all(state.last_words is not None or state.exit_code is not None for state in states)


def hang(
    states: Sequence[RankState], plan: ExecutionPlan, phrase: str, waited_s: float, *, record: str
) -> Diagnosis:
    """Explain that a deadline passed, and which ranks gave no sign of life meanwhile. See `engine_silent`."""
    silent = [state.rank for state in states if state.exit_code is None and state.silent_s > _SILENT_S]
    if len(states) == 1:
        return engine_silent(phrase, waited_s, silent=[], record=record)
    diagnosis = engine_silent(phrase, waited_s, silent=[place(rank, plan) for rank in silent], record=record)
    if len(silent) != 1:
        return diagnosis
    return dataclasses.replace(diagnosis, facts={**diagnosis.facts, **_place_facts(silent[0], plan)})


def at_rank(diagnosis: Diagnosis, rank: int, plan: ExecutionPlan) -> Diagnosis:
    """Add to the cause where it was, when there are several places."""
    if plan.parallel is None or plan.parallel.world_size == 1:
        return diagnosis
    return dataclasses.replace(
        diagnosis,
        cause=f"{diagnosis.cause} It happened on {place(rank, plan)}.",
        facts={**diagnosis.facts, **_place_facts(rank, plan)},
    )


def _place_facts(rank: int, plan: ExecutionPlan) -> dict[str, int]:
    assert plan.parallel is not None
    return {"rank": rank, "num_ranks": plan.parallel.world_size}


def place(rank: int, plan: ExecutionPlan) -> str:
    """Return "graphics card 3 of 4 (NVIDIA H800, steps 3-4)"; cards are counted as the plan uses them."""
    assert plan.parallel is not None
    number = f"{rank + 1} of {plan.parallel.world_size}"
    budget = next((budget for budget in plan.budgets if budget.rank == rank), None)
    return f"graphics card {number} ({budget.gpu}, {budget.role})" if budget else f"engine process {number}"


def _weight(state: RankState) -> int:
    """Return how surely this is the cause: memory, then a crash, then an error that was told, then the rest."""
    if state.last_words is not None:
        code = state.last_words.code
        if code in _CONSEQUENCES:
            return _CONSEQUENCES[code]
        if code in _MEMORY:
            return 7
        return 4 if code == "engine_error" else 6
    if not state.exit_code:
        return 0
    return 5 if state.exit_code < 0 and state.exit_code not in _AFTER_PEERS else 3
