"""Run every golden case of a folder: python tests/parity/run.py DIR

Prints one line per case with the relative error of each output. Exits 0 only if all cases pass.
"""

from __future__ import annotations

import argparse
import importlib
import math
import pkgutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file, from anywhere

import tests.parity
from tests.parity.golden import GoldenCase, iterate_cases

CaseRunner = Callable[[GoldenCase], dict[str, float]]

# Largest relative error; for bfloat16, the largest multiple of the recorded distance to float32.
_TOLERANCES = {"transformer": 1e-5, "transformer_bf16": 1.2}
_TOLERANCE = 1e-4
_END_TO_END_TOLERANCE = 1e-3
_FRAMES_TOLERANCE = 1e-2  # of decoded pictures at the end of everything


def main() -> int:
    """Run the cases; return 0 when all pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="folder with NAME.json and its tensor files")
    directory = parser.parse_args().directory
    runners = case_runners()
    results = [report(case, runners) for case in iterate_cases(directory)]
    print(f"{sum(results)} of {len(results)} cases pass")
    return 0 if results and all(results) else 1


def case_runners() -> dict[str, CaseRunner]:
    """Return the function that runs each kind, from every module of this package that names KINDS."""
    runners: dict[str, CaseRunner] = {}
    for module_info in pkgutil.iter_modules(tests.parity.__path__):
        if module_info.name == "run":
            continue
        module = importlib.import_module(f"tests.parity.{module_info.name}")
        for kind in getattr(module, "KINDS", ()):
            runners[kind] = module.run_case
    return runners


def report(case: GoldenCase, runners: dict[str, CaseRunner]) -> bool:
    """Run one case, print its line and return whether it passes."""
    if case.kind not in runners:
        print(f"FAIL {case.name}: unsupported: there is no implementation of “{case.kind}”", flush=True)
        return False
    started = time.monotonic()
    try:
        errors = runners[case.kind](case)
    except (OSError, LookupError, ValueError, RuntimeError, SafetensorError) as error:
        print(f"FAIL {case.name} ({case.kind}): {type(error).__name__}: {error}", flush=True)
        return False
    failed = failures(case, errors)
    listed = ", ".join(f"{name} {error:.1e}" for name, error in errors.items())
    verdict = "FAIL" if failed else "ok"
    seconds = time.monotonic() - started
    print(f"{verdict:4} {case.name} ({case.kind}, {seconds:.1f} s): {listed}", flush=True)
    return not failed


def failures(case: GoldenCase, errors: dict[str, float]) -> list[str]:
    """Return the names of the outputs that are too far off; no output at all is a failure too."""
    failed = [
        name for name, error in errors.items() if math.isnan(error) or error > tolerance(case.kind, name)
    ]
    return failed or ([] if errors else ["no output was compared"])


def tolerance(kind: str, output: str) -> float:
    """Return the largest error that an output may have."""
    if kind.startswith("e2e_"):
        return _FRAMES_TOLERANCE if "frames" in output else _END_TO_END_TOLERANCE
    return _TOLERANCES.get(kind, _TOLERANCE)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the networks are tiny: threads would only wait for each other
    sys.exit(main())
