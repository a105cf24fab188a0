"""Time and error of 8-bit attention beside cuDNN's in bfloat16, at the model's own sizes, on a Hopper card.

    python -m benchmarks.attention_int8 --out result.json
    python -m benchmarks.attention_int8 --only quantis

Every finished part is printed as one line of JSON; a part that fails says why, and the next one runs. It takes half a
minute, half of which the kernels are compiled. Without a card it rehearses the errors at a small size.
"""

from __future__ import annotations

import argparse
import datetime
import faulthandler
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_statistics import EPS, KINDS, AttentionInputs, Kind, draw_inputs
from benchmarks.difference import relative_rms
from liveavatar.models.s2v.attention import cudnn_attention, native_attention
from liveavatar.models.s2v.int8_attention import arithmetic, operators, probe
from liveavatar.models.s2v.int8_attention.cache import Int8LayerCache, new_layer
from liveavatar.models.s2v.rope import Rotary, apply_rotary

HEADS, HEAD_DIM, LAYERS = 40, 128, 40
REFERENCE_TOKENS = 1056  # of the picture at 384x704, moved along with every block
# Queries and keys: 384x704 with a full window, 384x704 in the first block, a quarter of the area.
SIZES = ((3168, 15312), (3168, 5808), (1152, 5568))
SMALL_SIZES = ((192, 3000),)
SINK_SHARE = 0.17  # of the keys; what the scales are measured on
ERROR_QUERIES = 256  # compared with float64, in all heads
HANG_S = 60  # a kernel that waits for ever is ended
LOOP_S = 0.25

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_CARD = DEVICE.type == "cuda"


class Report:
    """The parts measured so far."""

    def __init__(self, path: Path | None, only: str = "") -> None:
        self._path, self._only = path, only
        self._parts: list[dict[str, Any]] = []

    def run(self, part: str, measure: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        """Add what a part gives, or why it fails: the other parts may still work. A part not asked for is left out."""
        if self._only not in part:
            return
        started = time.perf_counter()
        try:
            values = measure(*arguments)
        except Exception as error:  # noqa: BLE001  # the compiler's, the driver's and the kernel's are many kinds
            values = {"error": f"{type(error).__name__}: {str(error)[:600]}"}
        seconds = round(time.perf_counter() - started, 1)
        self._parts.append({"part": part, **values, "seconds": seconds})
        print(json.dumps(self._parts[-1]), flush=True)
        if self._path is not None:
            self._path.write_text(json.dumps(self._parts, indent=1) + "\n")


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="run the parts whose name has these words"
    )
    arguments = parser.parse_args()
    report = Report(arguments.out, arguments.only)
    report.run("machine", describe_machine)
    sizes = SIZES if ON_CARD else SMALL_SIZES
    if ON_CARD:
        for size in sizes:
            report.run(f"cuDNN {name_of(size)}", time_cudnn, *size)
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        report.run("quantisation against the arithmetic", compare_quantisation)
        report.run("attention against the arithmetic", try_kernels)
        for size in sizes:
            report.run(f"8-bit {name_of(size)}", time_int8, *size, False)
        report.run(f"quantisation of a block of {SIZES[0][0]} tokens", time_quantisation)
    for kind in KINDS:
        report.run(f"error, {kind}, {name_of(sizes[0])}", measure_error, kind, *sizes[0])
    if ON_CARD:
        for size in sizes:
            report.run(f"8-bit, taking turns, {name_of(size)}", time_int8, *size, True)
    faulthandler.cancel_dump_traceback_later()


def name_of(size: tuple[int, int]) -> str:
    """Return "3168x15312"."""
    return f"{size[0]}x{size[1]}"


def describe_machine() -> dict[str, Any]:
    """Return hardware, versions and the date."""
    machine: dict[str, Any] = {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}
    machine["torch"] = torch.__version__
    if ON_CARD:
        machine |= {"card": torch.cuda.get_device_name(), "triton": version("triton")}
        machine["cudnn"] = torch.backends.cudnn.version()
    return machine


# ---------------------------------------------------------------------------------------------- right or wrong


def filled_layer(inputs: AttentionInputs) -> Int8LayerCache:
    """Return a buffer with all keys and values, written by the operators, its scales measured on the first of them."""
    _, k, v = inputs.rotated(torch.float32)
    sink_tokens = int(SINK_SHARE * len(k))
    layer = new_layer(torch.zeros(1, *k.shape[1:], device=k.device), len(k))
    measured = arithmetic.measure_scales(k[:sink_tokens], v[:sink_tokens])
    layer.key_scale_H.copy_(measured[0])
    layer.value_scale_HK.copy_(measured[1])
    store(layer, inputs, torch.arange(len(k), device=k.device))
    return layer


def store(layer: Int8LayerCache, inputs: AttentionInputs, rows: Tensor) -> None:
    """Quantise the first keys and values into these rows."""
    count = len(rows)
    rotary = (factor[:count] for factor in inputs.rotary_T)
    operators.store_keys(
        layer.k_HTK, layer.key_scale_H, rows, inputs.k_TD[:count], inputs.gain_k_D, EPS, *rotary
    )
    operators.store_values(layer.v_HKT, layer.value_scale_HK, rows, inputs.v_TD[:count])


def attend(inputs: AttentionInputs, layer: Int8LayerCache) -> Tensor:
    """Return the attention `[L, H, K]` by the operator: kernels on a card, arithmetic on the processor."""
    num_keys = len(inputs.k_TD)
    attended = operators.attend(
        inputs.q_LD, inputs.gain_q_D, EPS, *inputs.rotary_L,
        layer.k_HTK, layer.key_scale_H, layer.v_HKT, layer.value_scale_HK, num_keys,
    )  # fmt: skip
    return attended.unflatten(1, (inputs.num_heads, -1))


def by_arithmetic(inputs: AttentionInputs, layer: Int8LayerCache, num_queries: int) -> Tensor:
    """Return the attention `[L, H, K]` of the first queries in plain PyTorch, from what the buffer holds."""
    rotary = Rotary(*(factor[:num_queries] for factor in inputs.rotary_L))
    queries = arithmetic.quantize_queries(
        inputs.q_LD[:num_queries], inputs.gain_q_D, EPS, rotary, layer.key_scale_H
    )
    return arithmetic.attend(queries, layer.k_HTK, layer.v_HKT, layer.value_scale_HK, len(inputs.k_TD))


def compare_quantisation() -> dict[str, Any]:
    """Return which share of the quantised values differs from the arithmetic's, and by how much at most."""
    inputs = draw_inputs("peaked", num_queries=300, num_keys=700, num_heads=HEADS, device=DEVICE)
    layer = filled_layer(inputs)
    expected = new_layer(layer.reference_k_SHK, len(inputs.k_TD))
    rows = torch.arange(len(inputs.k_TD), device=DEVICE)
    normalised = arithmetic.normalize(inputs.k_TD, inputs.gain_k_D, EPS).unflatten(1, (HEADS, -1))
    rotated = apply_rotary(normalised, inputs.rotary_T)
    arithmetic.write_keys(expected.k_HTK, layer.key_scale_H, rows, rotated)
    arithmetic.write_values(expected.v_HKT, layer.value_scale_HK, rows, inputs.v_TD.unflatten(1, (HEADS, -1)))
    difference = (layer.k_HTK.int() - expected.k_HTK.int()).abs()
    return {
        "keys_differing": (difference > 0).float().mean().item(),
        "largest_difference": difference.max().item(),
        "values_differing": (layer.v_HKT != expected.v_HKT).float().mean().item(),
    }


def try_kernels() -> dict[str, Any]:
    """Return what the engine's own probe says, and the largest difference at a size with ragged ends."""
    refusal = probe.why_not(device=DEVICE, dtype=torch.bfloat16, head_dim=HEAD_DIM)
    inputs = draw_inputs("peaked", num_queries=300, num_keys=1799, num_heads=HEADS, device=DEVICE)
    layer = filled_layer(inputs)
    difference = relative_rms(attend(inputs, layer), by_arithmetic(inputs, layer, 300))
    return {"refusal": refusal, "from_arithmetic": round(difference, 5)}


def measure_error(kind: Kind, num_queries: int, num_keys: int) -> dict[str, Any]:
    """Return relative errors against float64."""
    heads = HEADS if ON_CARD else 8
    inputs = draw_inputs(kind, num_queries=num_queries, num_keys=num_keys, num_heads=heads, device=DEVICE)
    count = min(ERROR_QUERIES, num_queries)
    exact = inputs.attend(torch.float64, num_queries=count)
    q, k, v = inputs.rotated(torch.bfloat16)
    bf16 = (cudnn_attention if ON_CARD else native_attention)(q[None, :count], k[None], v[None])[0]
    layer = filled_layer(inputs)
    int8 = attend(inputs, layer)[:count]
    expected = by_arithmetic(inputs, layer, count)
    return {
        "bf16": round(relative_rms(bf16, exact), 5),
        "int8": round(relative_rms(int8, exact), 5),
        "int8_arithmetic": round(relative_rms(expected, exact), 5),
        "int8_from_arithmetic": round(relative_rms(int8, expected), 5),
    }


# ---------------------------------------------------------------------------------------------- time


def time_cudnn(num_queries: int, num_keys: int) -> dict[str, Any]:
    """Return the time of cuDNN's kernel alone."""
    q, k, v = (
        torch.randn(1, tokens, HEADS, HEAD_DIM, device=DEVICE, dtype=torch.bfloat16)
        for tokens in (num_queries, num_keys, num_keys)
    )
    return rate(milliseconds(lambda: cudnn_attention(q, k, v)), num_queries, num_keys)


def time_int8(num_queries: int, num_keys: int, take_turns: bool) -> dict[str, Any]:
    """Return the time of the attention kernel alone, with queries that are quantised already, and its difference."""
    from liveavatar.models.s2v.int8_attention import launch

    inputs = draw_inputs("flat", num_queries=num_queries, num_keys=num_keys, num_heads=HEADS, device=DEVICE)
    layer = filled_layer(inputs)
    queries = launch.quantize_queries(inputs.q_LD, inputs.gain_q_D, EPS, inputs.rotary_L, layer.key_scale_H)
    values = layer.v_HKT, layer.value_scale_HK

    def attend_all() -> Tensor:
        return launch.attend(
            queries,
            layer.k_HTK,
            *values,
            num_queries=num_queries,
            num_keys=num_keys,
            take_turns=take_turns,
        )

    expected = by_arithmetic(inputs, layer, ERROR_QUERIES)
    difference = relative_rms(attend_all()[:ERROR_QUERIES], expected)
    return rate(milliseconds(attend_all), num_queries, num_keys) | {"from_arithmetic": round(difference, 5)}


def time_quantisation() -> dict[str, Any]:
    """Return the time of every kernel that quantises, and of all of them for a step; 2 bytes are read, 1 is written."""
    from liveavatar.models.s2v.int8_attention import launch

    tokens, num_keys = SIZES[0]
    inputs = draw_inputs("flat", num_queries=tokens, num_keys=num_keys, num_heads=HEADS, device=DEVICE)
    layer = filled_layer(inputs)
    rows = torch.arange(2640, 2640 + tokens, device=DEVICE)
    k, v = inputs.k_TD[:tokens], inputs.v_TD[:tokens]
    reference, reference_rotary = (
        inputs.k_TD[:REFERENCE_TOKENS],
        Rotary(*(factor[:REFERENCE_TOKENS] for factor in inputs.rotary_T)),
    )
    keys = layer.k_HTK, layer.key_scale_H
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "queries": (
            tokens,
            lambda: launch.quantize_queries(inputs.q_LD, inputs.gain_q_D, EPS, inputs.rotary_L, keys[1]),
        ),
        "keys": (tokens, lambda: launch.store_keys(*keys, rows, k, inputs.gain_k_D, EPS, inputs.rotary_L)),
        "reference": (
            REFERENCE_TOKENS,
            lambda: launch.store_keys(*keys, rows[:REFERENCE_TOKENS], reference, None, EPS, reference_rotary),
        ),
        "values": (tokens, lambda: launch.store_values(layer.v_HKT, layer.value_scale_HK, rows, v)),
    }
    results: dict[str, float] = {}
    for name, (count, call) in calls.items():
        ms = results[f"{name}_ms"] = milliseconds(call)
        results[f"{name}_gb_per_s"] = round(count * HEADS * HEAD_DIM * (2 + 1) / ms / 1e6)
    step_ms = LAYERS * sum(value for name, value in results.items() if name.endswith("_ms"))
    return results | {"step_ms": round(step_ms, 2)}


def rate(ms: float, num_queries: int, num_keys: int) -> dict[str, Any]:
    """Return the time of a layer and of a step, and the rate; a multiply and an add count as two."""
    operations = 4 * num_queries * num_keys * HEADS * HEAD_DIM
    return {"ms": ms, "tflops": round(operations / ms / 1e9), "step_ms": round(LAYERS * ms, 1)}


def milliseconds(call: Callable[[], object]) -> float:
    """Return the mean time of a call on the card, after a while of the same load."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    num_calls = max(3, round(LOOP_S / _seconds(call, 3)))
    _seconds(call, num_calls)
    return round(1000 * _seconds(call, num_calls), 4)


def _seconds(call: Callable[[], object], num_calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(num_calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / num_calls


if __name__ == "__main__":
    main()
