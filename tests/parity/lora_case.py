"""Merged adapter weights against recorded ones."""

from __future__ import annotations

from liveavatar.loading.lora import LoraMerge
from tests.parity.golden import GoldenCase, relative_error

KINDS: tuple[str, ...] = ("lora_merge",)


def run_case(case: GoldenCase) -> dict[str, float]:
    """Return the relative error of every recorded weight, and how far the receipt is from the record."""
    adapter = {
        name.removeprefix("lora."): tensor for name, tensor in case.io.items() if name.startswith("lora.")
    }
    merge = LoraMerge(adapter, alpha=case.config["lora_alpha"])
    merged = {name: merge.apply(name, weight) for name, weight in case.weights.items()}
    receipt = merge.finish()
    errors = {
        name: relative_error(merged[name], case.io[f"merged.{name}"])
        for name in case.manifest["stored_merged"]
    }
    same_weights = set(receipt.merged) == set(case.manifest["changed"])
    same_rest = len(receipt.untouched) == case.manifest["unchanged_count"]
    errors["receipt"] = 0.0 if same_weights and same_rest else 1.0
    return errors
