"""Keeps a rank on the processors that are next to its graphics card, on machines where some are further away (NUMA)."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pynvml

log = logging.getLogger(__name__)

_PCI_DEVICES = Path("/sys/bus/pci/devices")


def stay_near_card(environment: Mapping[str, str] = os.environ) -> None:
    """Bind this thread, and all that it starts, to those of its processors that are near the rank's card.

    To be called before torch is loaded, which makes its threads then. Does nothing where it is not known which those
    are, or where this process may use none of them.
    """
    if sys.platform != "linux" or (bus_id := _bus_id(own_card(environment))) is None:
        return
    allowed = os.sched_getaffinity(0)
    chosen = allowed & near_processors(bus_id)
    if chosen and chosen != allowed:
        os.sched_setaffinity(0, chosen)
        log.info("on the %d of %d processors that are near the card", len(chosen), len(allowed))


def own_card(environment: Mapping[str, str]) -> str:
    """Return the rank's card, by UUID or by its number on the machine; empty when it has none."""
    local_rank = int(environment.get("LOCAL_RANK", "0"))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(local_rank)
    cards = [card.strip() for card in visible.split(",")]
    return cards[local_rank % len(cards)]  # ranks share cards where these are too few


def near_processors(bus_id: str, devices: Path = _PCI_DEVICES) -> set[int]:
    """Return the processors next to a PCI device, all where it is next to none; nothing for an unknown device.

    `bus_id`: as NVML writes it, "00000000:3B:00.0".
    """
    domain, _, rest = bus_id.lower().partition(":")
    try:
        text = (devices / f"{domain[-4:]}:{rest}" / "local_cpulist").read_text()
        return _processors(text)
    except (OSError, ValueError):
        return set()


def _processors(text: str) -> set[int]:
    """Read "0-3,8-11"."""
    ranges = [part.partition("-") for part in text.strip().split(",") if part]
    return {number for first, _, last in ranges for number in range(int(first), int(last or first) + 1)}


def _bus_id(card: str) -> str | None:
    """Return the card's PCI bus id, None when the driver does not tell."""
    try:
        pynvml.nvmlInit()
        try:
            handle = (
                pynvml.nvmlDeviceGetHandleByIndex(int(card))
                if card.isdigit()
                else pynvml.nvmlDeviceGetHandleByUUID(card)
            )
            if card.startswith("MIG-"):
                handle = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            bus_id = pynvml.nvmlDeviceGetPciInfo(handle).busId
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return bus_id.decode() if isinstance(bus_id, bytes) else str(bus_id)
