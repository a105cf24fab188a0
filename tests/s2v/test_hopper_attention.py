"""What goes to the attention kernel for Hopper cards and what does not, and its operator under the compiler."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from liveavatar.models.s2v import attention
from liveavatar.models.s2v.hopper_attention import operator
from liveavatar.models.s2v.hopper_attention.split import Split, split_last_round

KEYS = operator.FEWEST_KEYS


def tokens(
    batch: int, queries: int, keys: int, *, head_dim: int = 128, dtype: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of two heads."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(batch, count, 2, head_dim, generator=generator).to(dtype)
        for count in (queries, keys, keys)
    )
    return q, k, v


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the keys that went to the operator."""
    shapes = []
    attend = operator.attend

    def note(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shapes.append(k.shape)
        return attend(q, k, v)

    monkeypatch.setattr(operator, "attend", note)
    return shapes


def test_a_long_context_is_taken(taken: list[torch.Size]) -> None:
    q, k, v = tokens(1, 70, KEYS + 3)
    attended = attention.hopper_attention(q, k, v)
    assert taken == [(KEYS + 3, 2, 128)]
    torch.testing.assert_close(attended, attention.native_attention(q, k, v), rtol=0.02, atol=0.002)


@pytest.mark.parametrize(
    ("batch", "keys", "changes"),
    [(1, 5, {}), (3, KEYS, {}), (1, KEYS, {"head_dim": 64}), (1, KEYS, {"dtype": torch.float32})],
    ids=["few keys", "several frames", "other heads", "other dtype"],
)
def test_the_rest_goes_to_pytorch(
    taken: list[torch.Size], batch: int, keys: int, changes: dict[str, object]
) -> None:
    q, k, v = tokens(batch, 20, keys, **changes)  # type: ignore[arg-type]
    assert torch.equal(attention.hopper_attention(q, k, v), attention.native_attention(q, k, v))
    assert not taken


def test_without_a_hopper_card_it_is_refused_and_auto_passes_over_it() -> None:
    cpu = {"device": torch.device("cpu"), "dtype": torch.bfloat16, "head_dim": 128}
    with pytest.raises(ValueError, match="it needs a graphics card"):
        attention.choose_attention("hopper", **cpu)
    assert attention.choose_attention("auto", **cpu) in {"flash", "native"}


def test_the_operator_tells_the_compiler_the_truth() -> None:
    """Shape and layout of what it gives, for the first rows of a buffer and a part of a wider projection."""
    q, k, v = (x[0] for x in tokens(1, 30, KEYS + 100))
    wide = torch.cat([q, q], dim=1)
    torch.library.opcheck(operator.attend, (wide[:, 2:], k[:KEYS], v[:KEYS]))


def test_one_graph_serves_every_number_of_keys() -> None:
    counter = CompileCounter()
    compiled = torch.compile(attention.hopper_attention, backend=counter, fullgraph=True, dynamic=False)
    q, k, v = tokens(1, 40, 3 * KEYS)
    for num_keys in (KEYS + 1, 2 * KEYS, 3 * KEYS):
        window = k[:, :num_keys], v[:, :num_keys]
        for x in window:
            torch._dynamo.maybe_mark_dynamic(x, 1)
        assert torch.equal(compiled(q, *window), attention.hopper_attention(q, *window))
    assert counter.frame_count == 1


@pytest.mark.parametrize("num_programs", [1000, 360, 50, 133])
def test_the_last_round_gets_shorter_and_keeps_all_work(num_programs: int) -> None:
    processors, key_tiles = 132, 46
    split = split_last_round(num_programs, key_tiles, processors)
    num_left = num_programs - split.num_whole
    assert split.num_whole % processors == 0
    assert 0 < num_left < processors
    rounds = -(-num_left * split.num_parts // processors)
    assert rounds * -(-key_tiles // split.num_parts) < key_tiles


def test_nothing_is_split_without_gain() -> None:
    assert split_last_round(264, 46, 132) == Split(264, 1)
    assert split_last_round(131, 46, 132) == Split(131, 1)
    assert split_last_round(10, 1, 132) == Split(10, 1)
