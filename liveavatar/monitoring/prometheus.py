"""The machine in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from liveavatar.monitoring.hardware import GpuSample, HardwareSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Value = float | int | None
Family = tuple[str, str, Iterable[tuple[Labels, Value]]]  # name, help, samples


def metrics_text(hardware: HardwareSnapshot, extra: Iterable[Family] = ()) -> str:
    """Return all metrics, all of them gauges. What is not known is left out."""
    lines: list[str] = []
    for name, explanation, samples in [*_gpu_families(hardware), *_host_families(hardware), *extra]:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines += [f"# HELP liveavatar_{name} {explanation}", f"# TYPE liveavatar_{name} gauge"]
            lines += [f"liveavatar_{name}{_label_text(labels)} {value}" for labels, value in known]
    return "\n".join(lines) + "\n"


def _gpu_families(hardware: HardwareSnapshot) -> list[Family]:
    named = [({"gpu": str(gpu.index), "name": gpu.name}, gpu) for gpu in hardware.gpus]
    return [
        (
            "gpu_memory_bytes",
            "Memory of a graphics card: total, used, free, peak of 10 s, ours, others'",
            [
                ({**labels, "kind": kind}, value)
                for labels, gpu in named
                for kind, value in _memory(gpu).items()
            ],
        ),
        (
            "gpu_utilisation_ratio",
            "Share of time at work",
            [(at, _ratio(gpu.utilisation)) for at, gpu in named],
        ),
        (
            "gpu_memory_controller_ratio",
            "Share of time in which memory was moved",
            [(at, _ratio(gpu.memory_utilisation)) for at, gpu in named],
        ),
        ("gpu_temperature_celsius", "Temperature", [(at, gpu.temperature) for at, gpu in named]),
        ("gpu_power_watts", "Power drawn", [(at, gpu.power_w) for at, gpu in named]),
        (
            "gpu_link_bytes_per_second",
            "What moves over PCI Express and NVLink",
            [
                ({**at, "link": kind, "direction": direction}, rate)
                for at, gpu in named
                for kind, link in (("pcie", gpu.pcie), ("nvlink", gpu.nvlink))
                if link is not None
                for direction, rate in (("sent", link.sent), ("received", link.received))
            ],
        ),
    ]


def _host_families(hardware: HardwareSnapshot) -> list[Family]:
    cpu = None if hardware.cpu_percent is None else hardware.cpu_percent / 100
    memory = [
        ({"kind": "total"}, hardware.host_total_bytes),
        ({"kind": "available"}, hardware.host_available_bytes),
        ({"kind": "ours"}, hardware.own_bytes),
    ]
    bottlenecks = [
        ({"code": remark.code, "gpu": ",".join(map(str, remark.gpus))}, 1) for remark in hardware.warnings
    ]
    return [
        ("gpus", "Graphics cards that can be read", [({}, len(hardware.gpus))]),
        ("host_memory_bytes", "Memory of the machine", memory),
        ("host_cpu_ratio", "Share of all cores at work", [({}, cpu)]),
        ("warning", "1 while a bottleneck or a foreign program is shown on the page", bottlenecks),
    ]


def _memory(gpu: GpuSample) -> dict[str, int | None]:
    return {
        "total": gpu.total_bytes,
        "used": gpu.used_bytes,
        "free": gpu.free_bytes,
        "peak": gpu.peak_bytes,
        "ours": gpu.own_bytes,
        "others": gpu.other_bytes,
    }


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


def _label_text(labels: Labels) -> str:
    if not labels:
        return ""
    quoted = [f'{name}="{_escape(value)}"' for name, value in labels.items()]
    return "{" + ",".join(quoted) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
