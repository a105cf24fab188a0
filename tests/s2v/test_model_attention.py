"""Attention kernels are tried before they are used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from liveavatar.models.s2v.attention import (
    ATTENTION_KERNELS,
    choose_attention,
    native_attention,
    probe_attention,
)
from tests.s2v.tiny import tiny_model

CPU_FLOAT = {"device": torch.device("cpu"), "dtype": torch.float32, "head_dim": 16}


def test_auto_finds_one_that_works_here() -> None:
    model = tiny_model()
    name = model.select_attention("auto")
    assert model.blocks[0].self_attn.kernel is ATTENTION_KERNELS[name]
    assert model.audio_injector.injector[0].kernel is ATTENTION_KERNELS[name]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel may work on this machine")
def test_one_that_does_not_work_here_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match="cudnn"):
        choose_attention("cudnn", **CPU_FLOAT)


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown attention kernel 'fastest'"):
        choose_attention("fastest", **CPU_FLOAT)


def test_one_that_computes_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return native_attention(q, k, v) + 0.1

    monkeypatch.setitem(ATTENTION_KERNELS, "native", off)
    reason = probe_attention("native", **CPU_FLOAT)
    assert reason is not None
    assert "off by 0.1" in reason
