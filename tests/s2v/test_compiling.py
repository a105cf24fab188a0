"""A machine that cannot compile works all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from liveavatar.engines.s2v.compiling import compiled_or_not


@pytest.fixture(autouse=True)
def default_stance() -> Iterator[None]:
    yield
    torch.compiler.set_stance("default")


def broken_backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")


def double(x: Tensor) -> Tensor:
    return 2 * x


def test_without_a_compiler_the_result_is_the_same_and_the_reason_is_told() -> None:
    compiled = torch.compile(double, backend=broken_backend, fullgraph=True)
    result, reason = compiled_or_not(lambda: compiled(torch.ones(3)))
    assert torch.equal(result, 2 * torch.ones(3))
    assert "Failed to find C compiler" in reason
    assert torch.equal(compiled(torch.ones(3)), 2 * torch.ones(3)), "also from then on"


def test_where_it_compiles_there_is_nothing_to_tell() -> None:
    compiled = torch.compile(double, backend="eager", fullgraph=True)
    assert compiled_or_not(lambda: compiled(torch.ones(3)).sum().item()) == (6.0, "")


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        compiled_or_not(lambda: 1 // 0)
