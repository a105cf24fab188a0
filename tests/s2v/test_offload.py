"""Blocks and caches in host memory: the same numbers, bit for bit, whatever waits there and in whatever order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from liveavatar.core.parallel import KvPrecision
from liveavatar.loading.quantize import quantize_linears
from liveavatar.models.s2v import S2VTransformer
from liveavatar.models.s2v.attention import KeyValues
from liveavatar.models.s2v.kv_cache import KVCache
from liveavatar.parallel.cache_offload import HostCaches
from liveavatar.parallel.host_memory import DoubleBuffer, HostArena
from liveavatar.parallel.offload import StreamedBlock, arriving_tensors, offload_blocks, streamed_blocks
from tests.s2v.tiny import SMALL_GRID, TinyStream, tiny_model

CPU = torch.device("cpu")
LAYERS = 5
BLOCKS_MADE = 7  # the window is full after 4


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model_of(precision: str = "bf16", num_layers: int = LAYERS) -> S2VTransformer:
    model = tiny_model(num_layers=num_layers, audio_inject_layers=[0, 2])
    if precision == "fp8":
        quantize_linears(model)
    return model


def velocities(model: S2VTransformer, caches: list[KVCache]) -> list[Tensor]:
    """Return those of several blocks and all steps of two videos, the first of which is given up within a block."""
    found = []
    for num_blocks, is_given_up in ((2, True), (BLOCKS_MADE, False)):
        stream = TinyStream(model, cache=caches[0])
        model.prefill(stream.latents_of(1), stream.latents_of(19), stream.text, caches)
        for block in range(num_blocks):
            if block == 5:
                model.prefill(stream.latents_of(1), stream.latents_of(19), stream.text, caches)
            for stream.cache in caches[: 1 if is_given_up and block == num_blocks - 1 else None]:
                found.append(stream.run(block, jitter=4 + block))
    return found


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize(("num_resident", "precision"), [(0, "fp8"), (1, "bf16"), (2, "fp8"), (4, "bf16")])
def test_streamed_blocks_compute_the_same(num_resident: int, precision: str) -> None:
    plain, streamed = model_of(precision), model_of(precision)
    offload_blocks(streamed, num_resident)
    num_streamed = sum(isinstance(block, StreamedBlock) for block in streamed.blocks)
    assert num_streamed == LAYERS - num_resident
    expected = velocities(plain, plain.allocate_caches(SMALL_GRID, 2))
    assert equal(velocities(streamed, streamed.allocate_caches(SMALL_GRID, 2)), expected)


def test_streamed_blocks_hold_two_blocks_of_memory() -> None:
    """Everything a streamed block uses lies in one of two places; nothing is left of what it was loaded with."""
    model = model_of("fp8")
    offload_blocks(model, 1)
    arriving = arriving_tensors(model)
    assert len(arriving) == 4 * len(arriving_tensors(model.blocks[1])) > 0
    addresses = {tensor.untyped_storage().data_ptr() for tensor in arriving}
    assert len(addresses) == 2


def test_all_blocks_resident_changes_nothing() -> None:
    model = model_of()
    offload_blocks(model, LAYERS)
    assert not any(isinstance(block, StreamedBlock) for block in model.blocks)


def test_one_graph_serves_streamed_and_resident_blocks() -> None:
    plain, streamed = model_of("fp8"), model_of("fp8")
    offload_blocks(streamed, 2)
    caches = HostCaches(streamed).allocate(SMALL_GRID, 1)
    expected, stream = TinyStream(plain), TinyStream(streamed, cache=caches[0])
    counter = CompileCounterWithBackend("aot_eager")
    streamed.compile_repeated_blocks(fullgraph=True, backend=counter)
    for block in range(6):
        torch.testing.assert_close(stream.run(block), expected.run(block), rtol=1e-5, atol=1e-6)
    assert counter.frame_count == 1


def test_resident_blocks_are_spread_evenly() -> None:
    assert streamed_blocks(40, 40) == []
    assert streamed_blocks(40, 0) == list(range(40))
    assert streamed_blocks(6, 3) == [0, 2, 4]
    assert streamed_blocks(8, 2) == [0, 1, 2, 4, 5, 6]
    assert [len(streamed_blocks(40, resident)) for resident in range(41)] == list(range(40, -1, -1))
    with pytest.raises(ValueError, match="41 of 40"):
        streamed_blocks(40, 41)


@pytest.mark.parametrize("num_layers", [1, 2, 5])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_caches_in_host_memory_hold_the_same(num_layers: int, precision: KvPrecision) -> None:
    model = model_of(num_layers=num_layers) if num_layers > 2 else tiny_model(num_layers=num_layers)
    expected = velocities(model, model.allocate_caches(SMALL_GRID, 2, precision=precision))
    assert equal(velocities(model, HostCaches(model).allocate(SMALL_GRID, 2, precision=precision)), expected)


def test_blocks_and_caches_together() -> None:
    plain, streamed = model_of(), model_of()
    offload_blocks(streamed, 2)
    expected = velocities(plain, plain.allocate_caches(SMALL_GRID, 3))
    assert equal(velocities(streamed, HostCaches(streamed).allocate(SMALL_GRID, 3)), expected)


def test_the_next_video_uses_the_same_host_memory() -> None:
    model = model_of()
    caches = HostCaches(model)
    first = caches.allocate(SMALL_GRID, 2)[0].layers[0].k_THK
    second = caches.allocate(SMALL_GRID, 1)[0].layers[0].k_THK
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    larger = caches.allocate(SMALL_GRID, 4)[-1].layers[-1].k_THK
    assert larger.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()


class TestDoubleBuffer:
    """Order and freshness, with one number per item."""

    def buffer(self, num_items: int) -> tuple[DoubleBuffer, Tensor, Tensor]:
        arena = HostArena(256, CPU)
        items = arena.take((num_items,), torch.float32).copy_(torch.arange(num_items))
        places = torch.full((2, 1), -1.0)
        return (
            DoubleBuffer([[item] for item in items.split(1)], [[place] for place in places], [arena]),
            items,
            places,
        )

    @pytest.mark.parametrize("num_items", [1, 2, 3, 4, 7])
    def test_every_item_is_there_when_it_is_asked_for(self, num_items: int) -> None:
        buffer, _, places = self.buffer(num_items)
        for _ in range(3):
            for item in range(num_items):
                buffer.fetch(item)
                assert places[item % 2] == item
                buffer.release(item)

    def test_the_next_item_is_on_its_way_before_it_is_asked_for(self) -> None:
        buffer, _, places = self.buffer(6)
        for item in (0, 1):
            buffer.fetch(item)
        buffer.release(0)
        assert places.flatten().tolist() == [2, 1]

    def test_any_order_is_served(self) -> None:
        buffer, _, places = self.buffer(5)
        for item in (0, 1, 2, 0, 1, 4, 3, 3, 2, 0):
            buffer.fetch(item)
            assert places[item % 2] == item
            buffer.release(item)

    def test_what_is_written_back_is_found_again(self) -> None:
        buffer, items, places = self.buffer(3)
        for _ in range(4):
            for item in range(3):
                buffer.fetch(item)
                places[item % 2] += 10
                buffer.release(item, [(items[item : item + 1], places[item % 2])])
        assert items.tolist() == [40, 41, 42]

    def test_forgotten_items_are_copied_anew(self) -> None:
        buffer, items, places = self.buffer(2)
        buffer.fetch(0)
        items += 5
        buffer.forget()
        buffer.fetch(0)
        assert places[0] == 5


def test_the_text_passes_through_streamed_blocks() -> None:
    plain, streamed = model_of(), model_of()
    offload_blocks(streamed, 0)
    text = torch.randn(4, plain.config["text_dim"])
    expected: list[KeyValues] = plain.encode_text(text)
    assert all(
        torch.equal(one.k_BTHK, other.k_BTHK)
        for one, other in zip(streamed.encode_text(text), expected, strict=True)
    )
