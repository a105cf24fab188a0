"""Serve the real page on the real app with the paced engine: `python -m tests.fakes.serve_page PORT DATA_DIR [flags]`.

Flags: `one_gpu`, `five_gpus` or `eight_gpus` replays that recording of graphics cards and forecasts what the s2v engine
would need on them; `visitors` keeps visitors apart, `login` asks for ann / secret.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from pathlib import Path
from typing import Any

from liveavatar.config import AppConfig
from liveavatar.core.memory import MemoryBudget
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.monitoring.hardware import HardwareMonitor
from liveavatar.monitoring.trace import read_trace
from liveavatar.planning.choice import choose, execution_plan
from liveavatar.planning.machine_text import parse_machine, spec_of_installed
from liveavatar.planning.model_spec import TRANSFORMER_PARAMETERS
from liveavatar.planning.s2v_request import S2vSetup
from liveavatar.service.facade import Studio
from liveavatar.service.size_forecasts import SizeForecast, SizeForecasts
from tests.fakes.replayed_nvml import ReplayedNvml
from ui.page import build_page, launch_options

_TRACES = Path(__file__).parents[1] / "data" / "monitoring"
_MACHINES = {"one_gpu": "1xH200", "five_gpus": "5xH800", "eight_gpus": "8xL40S"}


class StudioOnRecordedCards(Studio):
    """A studio on replayed graphics cards. The paced engine makes the videos; the forecast is the s2v engine's."""

    def __init__(self, config: AppConfig, trace: str) -> None:
        nvml = ReplayedNvml(read_trace(_TRACES / f"{trace}.jsonl"))
        nvml.clock = time.monotonic
        self._budgets: tuple[MemoryBudget, ...] = execution_plan(
            choose(parse_machine(_MACHINES[trace]), size="720*400")
        ).budgets
        self._forecasts = SizeForecasts(self._setup)
        super().__init__(config, monitor=HardwareMonitor(reader=nvml.reader()))

    def size_forecasts(self) -> dict[str, SizeForecast]:
        """Return what the s2v engine would make, if this machine had it."""
        return self._forecasts.read()

    def _setup(self) -> S2vSetup:
        gpus = tuple(
            spec_of_installed(name=gpu.name, total_bytes=gpu.total_bytes, used_bytes=gpu.other_bytes or 0)[0]
            for gpu in self.hardware().gpus
        )
        files = ModelFiles(checkpoint="", lora="", cache="")
        return S2vSetup(files=files, num_parameters=TRANSFORMER_PARAMETERS, gpus=gpus)

    def _plan_for(self, *arguments: Any) -> ExecutionPlan:
        return dataclasses.replace(super()._plan_for(*arguments), budgets=self._budgets)

    def _warm_plan(self) -> ExecutionPlan:
        return dataclasses.replace(super()._warm_plan(), budgets=self._budgets)


def main() -> None:
    """Serve until terminated."""
    port, data_dir, flags = int(sys.argv[1]), Path(sys.argv[2]), set(sys.argv[3:])
    config = AppConfig(
        data_dir=data_dir, worker_module="tests.fakes.paced_engine", per_visitor="visitors" in flags
    )
    trace = next((name for name in _MACHINES if name in flags), None)
    studio = StudioOnRecordedCards(config, trace) if trace else Studio(config)
    signal.signal(signal.SIGTERM, _leave)
    page = build_page(studio)
    options: dict[str, Any] = launch_options(studio)
    if "login" in flags:
        options["auth"] = ("ann", "secret")
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **options)
    studio.start()
    try:
        page.block_thread()
    finally:
        studio.close()


def _leave(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
