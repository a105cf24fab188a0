"""The 8-bit linear layer in the published per-tensor scheme against a recorded one."""

from __future__ import annotations

import torch
from torch import nn

from liveavatar.loading.quantize import Fp8Linear, quantize
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("fp8",)


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the relative error of the quantised values, the scales and the product."""
    errors = {}
    for index in range(len(case.manifest["cases"])):
        recorded = {
            name.split(".", 1)[1]: tensor
            for name, tensor in case.io.items()
            if name.startswith(f"case{index}.")
        }
        weight = recorded["w"]
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        linear.load_state_dict({"weight": weight, "bias": recorded["bias"]})
        layer = Fp8Linear(linear, "per_tensor")
        x_q, x_scale = quantize(recorded["x"].flatten(0, -2), "per_tensor")
        for name, actual in (
            ("w_q_as_f32", layer.weight.float()),
            ("w_scale", layer.weight_scale[0]),
            ("x_q_as_f32", x_q.float()),
            ("x_scale", x_scale[0]),
        ):
            errors[f"case{index}.{name}"] = relative_error(actual, recorded[name])
        with torch.no_grad():
            errors[f"case{index}.y"] = relative_error(layer(recorded["x"]), recorded["y"])
    return errors
