"""The streaming forward compiles as one graph that serves every block."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from liveavatar.loading.quantize import quantize_linears
from tests.parity.golden import relative_error
from tests.s2v.tiny import TinyStream, tiny_model

NUM_BLOCKS = 20


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_one_graph_serves_20_blocks_from_the_first_on() -> None:
    """The first blocks see a growing window, the later ones a full ring that rolls over."""
    model = tiny_model()
    stream, expected = TinyStream(model), TinyStream(model)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    for block in range(NUM_BLOCKS):
        velocity = stream.run(block, jitter=4 + block, forward=compiled)
        assert relative_error(velocity, expected.run(block, jitter=4 + block)) < 1e-6
    assert counter.frame_count == 1


def test_generated_code_gives_the_same_numbers() -> None:
    """Compiled to machine code, over a growing and a full window."""
    model = tiny_model(num_layers=1)
    stream, expected = TinyStream(model, capacity_blocks=2), TinyStream(model, capacity_blocks=2)
    compiled = torch.compile(model, fullgraph=True)
    for block in range(4):
        velocity = stream.run(block, forward=compiled)
        assert relative_error(velocity, expected.run(block)) < 1e-5


def test_one_graph_of_a_layer_serves_all_layers_and_blocks() -> None:
    """Compiling layer by layer takes a fraction of the time; the layers share the result."""
    model = tiny_model(num_layers=4, audio_inject_layers=[0, 2])
    stream, expected = TinyStream(model), TinyStream(model)
    expected_velocities = [expected.run(block) for block in range(6)]
    counter = CompileCounterWithBackend("aot_eager")
    model.compile_repeated_blocks(fullgraph=True, backend=counter)
    for block, velocity in enumerate(expected_velocities):
        assert relative_error(stream.run(block), velocity) < 1e-6
    assert counter.frame_count == 1


def test_8_bit_forward_quantises_every_input_once() -> None:
    """Query, key and value projections share one, four more in a layer and that of the GELU, two in an injection."""
    model = tiny_model(num_layers=1)
    quantize_linears(model)
    stream, expected = TinyStream(model), TinyStream(model)
    conversions: list[torch.fx.Node] = []

    def eager(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        conversions.extend(
            node
            for node in graph.graph.nodes
            if torch.float8_e4m3fn in node.args or "gelu_quantize" in str(node.target)
        )
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, backend=eager)
    assert relative_error(stream.run(0, forward=compiled), expected.run(0)) < 1e-6
    assert len(conversions) == 8
