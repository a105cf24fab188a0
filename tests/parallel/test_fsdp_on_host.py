"""Shares of FSDP in host memory while the ranks compute on cards, without any card: tensors that have no content."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from liveavatar.parallel.fsdp import _as_share


@pytest.fixture
def cards() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield DeviceMesh("cuda", torch.tensor([0]), _init_backend=False)
    dist.destroy_process_group()


@pytest.mark.parametrize("to_host", [True, False])
def test_rows_are_where_they_should_wait(cards: DeviceMesh, to_host: bool) -> None:
    """FSDP refuses to run when a parameter that it should bring from host memory says that it is on a card."""
    with FakeTensorMode():
        loaded = torch.empty(4, 3, device="cuda:0")
        whole = nn.Parameter(DTensor.from_local(loaded, cards, [Shard(0)], run_check=False), False)
        share = _as_share(loaded, whole, to_host=to_host)
    assert isinstance(share, DTensor)
    assert share.device.type == share.to_local().device.type == ("cpu" if to_host else "cuda")
    assert share.device_mesh.device_type == "cuda"
