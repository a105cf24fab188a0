"""Makes the invented recordings beside this file: five and eight graphics cards at work.

`one_gpu.jsonl` is a true recording (an H200, five readings a second): idle with another program on the card, then an
engine that fills 60 GB, multiplies matrices, copies from the machine's memory, and ends.
"""

from __future__ import annotations

import math
from pathlib import Path

from liveavatar.monitoring.readings import GpuProcess, GpuReading, HostReading, LinkLoad, Reading
from liveavatar.monitoring.trace import write_trace

GIB = 1024**3
FOLDER = Path(__file__).parent
_NVLINK = 450e9
_PCIE = 63.008e9


def five_gpus(second: float) -> Reading:
    """A timestep pipeline on four cards and a decoder; another program holds most of the fourth card."""
    wave = math.sin(second)
    used = [31 + (2 if second % 7 < 0.5 else 0), 30, 32, 77, 24]
    cards = []
    for index, gib in enumerate(used):
        ours = 30 if index == 3 else gib - 1
        processes = [GpuProcess(pid=4001 + index, name="python3", num_bytes=ours * GIB, is_ours=True)]
        if index == 3:
            processes.append(GpuProcess(pid=977, name="ollama", num_bytes=46 * GIB, is_ours=False))
        cards.append(
            GpuReading(
                index=index,
                name="NVIDIA H800",
                total_bytes=80 * GIB,
                used_bytes=gib * GIB,
                reserved_bytes=GIB,
                utilisation=round(78 + index + 6 * wave),
                memory_utilisation=41 + index,
                temperature=52 + index,
                power_w=410 + 30 * wave + index,
                is_slowed_by_heat=False,
                pcie=LinkLoad(sent=1.2e9, received=0.4e9, limit=_PCIE),
                nvlink=LinkLoad(sent=21e9 + 4e9 * wave, received=19e9, limit=_NVLINK),
                processes=tuple(processes),
            )
        )
    return Reading(time_s=second, gpus=tuple(cards), host=_host())


def eight_gpus(second: float) -> Reading:
    """Sharded weights over PCI Express: the links are full, the cards wait."""
    cards = [
        GpuReading(
            index=index,
            name="NVIDIA L40S",
            total_bytes=48 * GIB,
            used_bytes=(33 + index % 3) * GIB,
            reserved_bytes=GIB // 2,
            utilisation=34 + index,
            memory_utilisation=17,
            temperature=61,
            power_w=160.0 + index,
            is_slowed_by_heat=index == 6,
            pcie=LinkLoad(sent=29.6e9, received=29.9e9, limit=31.504e9),
            processes=(
                GpuProcess(pid=500 + index, name="python3", num_bytes=(32 + index % 3) * GIB, is_ours=True),
            ),
        )
        for index in range(8)
    ]
    return Reading(time_s=second, gpus=tuple(cards), host=_host())


def _host() -> HostReading:
    return HostReading(total_bytes=512 * GIB, available_bytes=431 * GIB, cpu_percent=31.0, own_bytes=9 * GIB)


def main() -> None:
    """Write both files, two readings a second."""
    write_trace(FOLDER / "five_gpus.jsonl", [five_gpus(step / 2) for step in range(29)])
    write_trace(FOLDER / "eight_gpus.jsonl", [eight_gpus(step / 2) for step in range(25)])


if __name__ == "__main__":
    main()
