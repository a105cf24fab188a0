"""How much an engine may hold of a card, without any card: what the driver and PyTorch would say is given."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from liveavatar.engines.s2v.memory import measure_available
from liveavatar.planning.memory_model import RankRole, forecast_bytes
from liveavatar.planning.model_spec import VideoSize

CARD, WEIGHTS = 24 << 30, 10 << 30


@pytest.mark.parametrize("is_one_of_many", [False, True])
def test_all_that_the_forecast_counts_beyond_the_allocator_is_its_own(
    is_one_of_many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone on a card, with a context and buffers for other cards as large as forecast, an engine may hold it all."""
    nothing_else = RankRole(size=VideoSize(64, 64), is_one_of_many=is_one_of_many)
    beyond = forecast_bytes(nothing_else)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (CARD - WEIGHTS - beyond, CARD))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: WEIGHTS)
    monkeypatch.setattr(dist, "is_initialized", lambda: is_one_of_many)
    assert measure_available() == CARD
