"""Watts and clock of the card while something runs."""

from __future__ import annotations

import statistics
import threading

import torch

_PERIOD_S = 0.2


class PowerMeter:
    """Reads the card five times a second between `start` and `stop`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._watts: list[float] = []
        self._mhz: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_reading, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """Return mean watts and median clock in MHz; nothing where the driver does not say."""
        self._stopped.set()
        self._thread.join()
        if not self._watts:
            return {}
        return {
            "watts": round(statistics.mean(self._watts)),
            "sm_mhz": round(statistics.median(self._mhz)),
        }

    def _keep_reading(self) -> None:
        if self._device.type != "cuda":
            return
        while not self._stopped.wait(_PERIOD_S):
            try:
                watts = torch.cuda.power_draw(self._device) / 1000
                mhz = torch.cuda.clock_rate(self._device)
            except (ModuleNotFoundError, RuntimeError):  # no pynvml, or a driver that does not say
                return
            self._watts.append(watts)
            self._mhz.append(float(mhz))
