"""The attention kernel for Hopper cards against float32, at the model's sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.attention_statistics import Kind, draw_inputs
from liveavatar.models.s2v.attention import choose_attention, cudnn_attention, hopper_attention
from liveavatar.models.s2v.hopper import HOPPER
from liveavatar.models.s2v.hopper_attention import operator
from tests.parity.golden import relative_rms

HEADS = 40
IS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == HOPPER

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not IS_HOPPER, reason="needs a Hopper card")]


def errors(kind: Kind, num_queries: int, num_keys: int, num_heads: int = HEADS) -> tuple[float, float]:
    """Return the relative errors of cuDNN and of the kernel on the same bfloat16 inputs."""
    q, k, v = draw(kind, num_queries, num_keys, num_heads)
    exact = exact_attention(q, k, v)
    theirs = cudnn_attention(q[None], k[None], v[None])[0]
    return relative_rms(theirs, exact), relative_rms(operator.attend(q, k, v), exact)


def draw(kind: Kind, num_queries: int, num_keys: int, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values; the keys may be fewer than the queries."""
    tokens = max(num_keys, num_queries)
    inputs = draw_inputs(kind, num_queries=num_queries, num_keys=tokens, num_heads=num_heads, device="cuda")
    q, k, v = inputs.rotated(torch.bfloat16)
    return q, k[:num_keys], v[:num_keys]


def exact_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the attention in float32, head by head: logits of all heads take much memory."""
    heads = []
    for head in range(q.shape[1]):
        logits = q[:, head].float() @ k[:, head].float().T * q.shape[-1] ** -0.5
        heads.append(logits.softmax(-1) @ v[:, head].float())
    return torch.stack(heads, dim=1)


def test_the_engine_takes_it() -> None:
    name = choose_attention("hopper", device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=128)
    assert name == "hopper"


@pytest.mark.parametrize("kind", ["flat", "peaked", "outlier"])
def test_error_at_the_models_size(kind: Kind) -> None:
    cudnn, hopper = errors(kind, 3168, 15312)
    assert hopper < 1.2 * cudnn


@pytest.mark.parametrize(
    ("num_queries", "num_keys"),
    [
        (3168, 5808), (1152, 5568), (2640, 2640), (300, 1799), (64, 1024), (65, 1025), (129, 1151), (1, 1280),
        (64, 128), (64, 100), (64, 5), (64, 129), (64, 300),
    ],
)  # fmt: skip
def test_error_at_other_sizes(num_queries: int, num_keys: int) -> None:
    """Ragged numbers; one, two and three tiles, which the ring holds without turning round."""
    cudnn, hopper = errors("peaked", num_queries, num_keys, 4)
    assert hopper < max(1.2 * cudnn, 0.004)  # of few values, the error is a matter of luck


@pytest.mark.parametrize(("num_queries", "num_keys"), [(3168, 5808), (1152, 5568), (300, 1799), (64, 5)])
def test_splitting_the_last_round_changes_nothing_but_rounding(num_queries: int, num_keys: int) -> None:
    from liveavatar.models.s2v.hopper_attention import launch

    q, k, v = draw("peaked", num_queries, num_keys, 10)
    whole, split = (
        launch.attend(q, k, v, launch.Tiling(split_last_round=is_split)) for is_split in (False, True)
    )
    assert relative_rms(split, whole) < 0.003


def test_what_lies_behind_the_keys_in_the_buffer_does_not_count() -> None:
    """Rows of the buffer that were never written may hold anything."""
    q, k, v = draw_inputs("flat", num_queries=300, num_keys=2000, num_heads=4, device="cuda").rotated(
        torch.bfloat16
    )
    expected = operator.attend(q, k[:1500].clone(), v[:1500].clone())
    k[1500:], v[1500:] = float("inf"), float("nan")
    assert torch.equal(operator.attend(q, k[:1500], v[:1500]), expected)


def test_parts_of_a_wider_projection_need_no_copy() -> None:
    q, k, v = draw_inputs("flat", num_queries=1200, num_keys=1200, num_heads=4, device="cuda").rotated(
        torch.bfloat16
    )
    wide = torch.cat([x.flatten(1) for x in (q, k, v)], dim=1)
    parts = (x.unflatten(1, (4, 128)) for x in wide.chunk(3, dim=1))
    assert torch.equal(operator.attend(*parts), operator.attend(q, k, v))


def test_equal_keys_share_evenly() -> None:
    v = torch.randn(1536, 2, 128, device="cuda", dtype=torch.bfloat16)
    k = torch.ones_like(v)
    attended = operator.attend(k[:64], k[:1500], v[:1500])
    expected = v[:1500].float().mean(0).expand(64, 2, 128)
    assert relative_rms(attended, expected) < 0.01


def test_compiled_and_captured_it_stays_the_same() -> None:
    """One graph for every number of keys; a CUDA graph replays it."""
    q, k, v = (
        x[None]
        for x in draw_inputs("flat", num_queries=256, num_keys=2048, num_heads=4, device="cuda").rotated(
            torch.bfloat16
        )
    )

    def run(rows: Tensor) -> Tensor:
        return hopper_attention(q * 2, k[:, : len(rows)], v[:, : len(rows)]) * 2

    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    for num_keys in (1100, 1500, 2048):
        rows = torch.empty(1, device="cuda").expand(num_keys)
        torch._dynamo.maybe_mark_dynamic(rows, 0)
        with torch.inference_mode():
            assert torch.equal(compiled(rows), run(rows))
    expected = run(rows)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(rows)
    captured.zero_()
    graph.replay()
    assert torch.equal(captured, expected)


def test_repeated_calls_agree() -> None:
    """No race between the groups of warps: the order of sums is fixed."""
    q, k, v = draw_inputs("flat", num_queries=3168, num_keys=5808, num_heads=HEADS, device="cuda").rotated(
        torch.bfloat16
    )
    first = operator.attend(q, k, v)
    assert all(torch.equal(operator.attend(q, k, v), first) for _ in range(20))
