"""Which rank failed first, from what each one said."""

from __future__ import annotations

import pytest

from liveavatar.core.memory import MemoryBudget
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan
from liveavatar.diagnostics.diagnose import from_exception
from liveavatar.diagnostics.first_failure import (
    RankState,
    all_accounted_for,
    at_rank,
    first_failure,
    hang,
    is_cause_known,
)
from liveavatar.diagnostics.torch_errors import from_torch_log


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class DistBackendError(RuntimeError):
    """Named as torch's."""


def said(rank: int, error: Exception) -> RankState:
    return RankState(rank=rank, last_words=from_exception(error))


def gone(rank: int, exit_code: int) -> RankState:
    return RankState(rank=rank, exit_code=exit_code)


GLOO = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:5123"
)
MEMORY = OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
WATCHDOG = DistBackendError(
    "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=SEND) ran for 60002 ms"
)
REMOTE = DistBackendError(
    "NCCL error in: NCCLUtils.cpp:77, remote process exited or there was a network error, NCCL version 2.29.7"
)
ODD = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
SIGKILL, SIGTERM, SIGABRT, SIGSEGV = -9, -15, -6, -11


@pytest.mark.parametrize(
    ("states", "rank", "code"),
    [
        ([said(0, GLOO), said(1, MEMORY)], 1, "graphics_memory_full"),
        ([said(0, REMOTE), said(1, WATCHDOG), said(2, MEMORY)], 2, "graphics_memory_full"),
        ([gone(0, SIGKILL), said(1, GLOO), said(2, MemoryError())], 2, "out_of_memory"),
        ([said(0, GLOO), gone(1, SIGKILL), said(2, GLOO)], 1, "engine_killed"),
        ([gone(0, SIGABRT), gone(1, SIGSEGV)], 1, "engine_crashed"),
        ([gone(0, SIGTERM), said(1, ODD), gone(2, SIGABRT)], 1, "engine_error"),
        ([said(0, GLOO), gone(1, SIGTERM)], 1, "engine_killed"),
        ([said(0, ODD), gone(1, SIGKILL)], 1, "engine_killed"),
        ([said(0, WATCHDOG), said(1, REMOTE)], 0, "peer_waited_for"),
        ([said(0, GLOO), RankState(rank=1)], 0, "peer_lost"),
        ([gone(0, SIGTERM), gone(1, SIGTERM)], 0, "engine_killed"),
    ],
)
def test_cause_is_told_from_consequences(states: list[RankState], rank: int, code: str) -> None:
    for order in (states, states[::-1]):
        assert first_failure(order, is_start=False)[1].code == code
    assert first_failure(states, is_start=False)[0] == rank


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (
            DistBackendError("ncclUnhandledCudaError: unhandled cuda error, NCCL version 2.29.7"),
            "nccl_cuda_error",
        ),
        (DistBackendError("unhandled cuda error: out of memory"), "graphics_memory_full"),
        (
            DistBackendError("ncclSystemError: unhandled system error (run with NCCL_DEBUG=INFO)"),
            "nccl_system_error",
        ),
        (RuntimeError("EADDRINUSE, address already in use"), "port_taken"),
        (ConnectionResetError(104, "Connection reset by peer"), "peer_lost"),
        (RuntimeError("Timed out waiting 2000ms for recv operation to complete"), "peer_waited_for"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "graphics_card_error"),
        (ValueError("Connection closed by peer"), "engine_error"),
    ],
)
def test_errors_of_torch_and_nccl_have_plain_words(error: Exception, code: str) -> None:
    diagnosis = from_exception(error)
    assert diagnosis.code == code
    assert diagnosis.remedy
    assert not {"NCCL", "CUDA", "rank", "tensor"} & set(diagnosis.title.split())


def test_rank_that_torch_aborted_is_explained_by_its_own_lines_of_the_log() -> None:
    log = (
        "[rank0]:[E1126 10:00:00 ProcessGroupNCCL.cpp:688] [Rank 0] Watchdog caught collective operation timeout\n"
        "rank 1 INFO: block 7\n"
        "[rank1]:[E1126 10:00:01 ProcessGroupNCCL.cpp:2068] [Rank 1] Process group watchdog thread terminated with"
        " exception: CUDA error: an illegal memory access was encountered\n"
    )
    codes = {
        rank: diagnosis and diagnosis.code for rank in range(3) for diagnosis in [from_torch_log(log, rank)]
    }
    assert codes == {0: "peer_waited_for", 1: "graphics_card_error", 2: None}


def test_more_is_heard_only_while_no_cause_is_known() -> None:
    assert not is_cause_known([said(0, GLOO), RankState(rank=1)])
    assert is_cause_known([said(0, GLOO), gone(1, SIGKILL), RankState(rank=2)])
    assert not all_accounted_for([said(0, GLOO), RankState(rank=1)])
    assert all_accounted_for([said(0, GLOO), gone(1, 1)])


def test_rank_without_a_heartbeat_is_named_when_the_engine_hangs() -> None:
    plan = ExecutionPlan(engine="s2v", width=64, height=64, parallel=ParallelPlan(step_split=(2, 2)))
    states = [RankState(rank=0, silent_s=0.9), RankState(rank=1, silent_s=8.0)]
    diagnosis = hang(states, plan, "start", 60, record="/failures/1")
    assert diagnosis.facts["rank"] == 1
    assert "engine process 2 of 2" in diagnosis.cause
    assert "/failures/1" in diagnosis.remedy
    busy = hang([RankState(rank=0), RankState(rank=1)], plan, "start", 60, record="/failures/1")
    assert "rank" not in busy.facts


def test_place_is_a_card_when_the_plan_has_cards() -> None:
    budgets = tuple(
        MemoryBudget(
            rank=rank,
            role=f"steps {2 * rank + 1}-{2 * rank + 2}",
            gpu="NVIDIA H800",
            available_bytes=1,
            items=(),
        )
        for rank in range(2)
    )
    plan = ExecutionPlan(
        engine="s2v", width=64, height=64, parallel=ParallelPlan(step_split=(2, 2)), budgets=budgets
    )
    diagnosis = at_rank(from_exception(MEMORY), 1, plan)
    assert diagnosis.cause.endswith("It happened on graphics card 2 of 2 (NVIDIA H800, steps 3-4).")
    assert (diagnosis.facts["rank"], diagnosis.facts["num_ranks"]) == (1, 2)
