"""What holds the video up: rules over the last seconds of readings, pure functions.

Only what lasts counts: a rule must hold in nine of ten readings of a whole window. Cards on which other programs
alone are at work are none of our business. A busy card is no bottleneck to complain of: it is what one wants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from liveavatar.monitoring.readings import GpuReading, HostReading, Reading
from liveavatar.monitoring.remarks import Remark, memory_use

WINDOW_S = 10.0
_MIN_COVERED_S = 8.0
_SUSTAINED_SHARE = 0.9

_LINK_BUSY = 0.90  # of what the link can carry one way
_GPU_WAITS = 50  # percent of time
_GPU_BUSY = 85
_GPU_FULL = 90
_GPU_IDLES = 30
_MEMORY_CONTROLLER_BUSY = 90  # a share of time, of which 70 is ordinary under load
_MEMORY_CONTROLLER_IDLES = 10  # 2 % during copies alone, 30 % during large matrix products, on an H200
_CPU_BUSY = 90.0
_HOST_FREE_SHARE = 0.05


def find_bottlenecks(readings: Sequence[Reading]) -> list[Remark]:
    """Return what lasts, most telling first. `readings`: the last `WINDOW_S` seconds, oldest first."""
    if not readings or readings[-1].time_s - readings[0].time_s < _MIN_COVERED_S:
        return []
    remarks = []
    for index in _our_cards(readings[-1]):
        remarks += _of_card(index, readings)
    remarks += _uneven(readings)
    remarks += _of_host(readings)
    return remarks


def is_communication_bound(gpu: GpuReading) -> bool:
    """Whether the card waits for its link.

    Low utilisation alone does not tell: while an H200 does nothing but copy, and while kernels of NCCL wait for
    each other, the driver calls the card 100 % utilised. Its memory controller then has next to nothing to do.
    """
    if gpu.link_share is None or gpu.link_share <= _LINK_BUSY:
        return False
    is_waiting = gpu.utilisation is not None and gpu.utilisation < _GPU_WAITS
    only_copies = gpu.memory_utilisation is not None and gpu.memory_utilisation < _MEMORY_CONTROLLER_IDLES
    return is_waiting or only_copies


def is_memory_bound(gpu: GpuReading) -> bool:
    """Whether the card waits for its own memory: both are at work nearly all the time."""
    return (
        gpu.memory_utilisation is not None
        and gpu.utilisation is not None
        and gpu.memory_utilisation > _MEMORY_CONTROLLER_BUSY
        and gpu.utilisation > _GPU_BUSY
    )


def is_slowed_by_heat(gpu: GpuReading) -> bool:
    """Whether the card lowers its clock to stay cool."""
    return bool(gpu.is_slowed_by_heat)


def waits_for_processor(gpu: GpuReading, host: HostReading) -> bool:
    """Whether every core is busy while the card has little to do, but not nothing."""
    return (
        host.cpu_percent is not None
        and gpu.utilisation is not None
        and host.cpu_percent > _CPU_BUSY
        and 0 < gpu.utilisation < _GPU_WAITS
    )


def is_memory_short(host: HostReading) -> bool:
    """Whether the machine is about to swap, or to end a program."""
    return host.available_bytes < _HOST_FREE_SHARE * host.total_bytes


def _of_card(index: int, readings: Sequence[Reading]) -> list[Remark]:
    number, last = index + 1, _card(readings[-1], index)
    assert last is not None, "only cards of the last reading are judged"
    remarks = []
    if _lasts(readings, lambda reading: _holds(reading, index, is_communication_bound)):
        remarks.append(_communication_bound(last, has_partners=len(_our_cards(readings[-1])) > 1))
    if _lasts(readings, lambda reading: _holds(reading, index, is_memory_bound)):
        text = (
            f"GPU {number} works as fast as its own memory delivers data. "
            "8-bit weights (the app's option --precision fp8) halve what it has to read."
        )
        remarks.append(Remark(code="memory_bound", gpus=(index,), text=text))
    if _lasts(readings, lambda reading: _holds(reading, index, is_slowed_by_heat)):
        celsius = "" if last.temperature is None else f" ({last.temperature} °C)"
        text = f"GPU {number} slows down because it is too hot{celsius}. Check fans and air flow."
        remarks.append(Remark(code="heat", gpus=(index,), text=text))
    if _lasts(
        readings,
        lambda reading: _holds(reading, index, lambda gpu: waits_for_processor(gpu, reading.host)),
    ):
        text = (
            f"GPU {number} waits for the processor, whose cores are all busy. End other work on this machine."
        )
        remarks.append(Remark(code="processor_bound", gpus=(index,), text=text))
    return remarks


def _communication_bound(gpu: GpuReading, *, has_partners: bool) -> Remark:
    """Between cards it is the plan that sends too much; a single card can only wait for the machine's memory."""
    percent = round(100 * (gpu.link_share or 0))
    if has_partners:
        text = (
            f"GPU {gpu.index + 1} mostly waits for data from the other cards: the connection between them "
            f"(PCIe or NVLink) is {percent} % busy. Nothing is broken, but videos take longer than these cards need. "
            "Check that every card sits in its fastest slot, or let fewer cards make a video."
        )
        return Remark(code="communication_bound", gpus=(gpu.index,), text=text)
    text = (
        f"GPU {gpu.index + 1} mostly waits for data from the machine's memory: the connection to it (PCIe) is "
        f"{percent} % busy. Probably the card has no room for the whole model. "
        "Other programs closed, or a smaller picture, leave it more."
    )
    return Remark(code="transfer_bound", gpus=(gpu.index,), text=text)


def _uneven(readings: Sequence[Reading]) -> list[Remark]:
    """One of our cards works all the time while all the others mostly wait."""
    ours = _our_cards(readings[-1])
    if len(ours) < 2:
        return []
    for index in ours:

        def is_alone(reading: Reading, index: int = index) -> bool:
            busy = _card(reading, index)
            others = [_card(reading, other) for other in ours if other != index]
            return (
                busy is not None
                and (busy.utilisation or 0) > _GPU_FULL
                and all(gpu is not None and _is_below(gpu.utilisation, _GPU_IDLES) for gpu in others)
            )

        if _lasts(readings, is_alone):
            text = (
                f"GPU {index + 1} does nearly all of the work while the other cards wait for it. "
                "Videos take longer than they would with the work spread evenly."
            )
            return [Remark(code="uneven", gpus=(index,), text=text)]
    return []


def _of_host(readings: Sequence[Reading]) -> list[Remark]:
    if not _lasts(readings, lambda reading: is_memory_short(reading.host)):
        return []
    text = (
        "The machine's memory is almost full. It may become slow, or end a program. Close what is not needed."
    )
    return [Remark(code="host_memory", text=text)]


def _our_cards(reading: Reading) -> list[int]:
    """Return the cards that we work on, or may work on where the driver does not say."""
    return [gpu.index for gpu in reading.gpus if memory_use(gpu).own_bytes != 0]


def _card(reading: Reading, index: int) -> GpuReading | None:
    return next((gpu for gpu in reading.gpus if gpu.index == index), None)


def _holds(reading: Reading, index: int, rule: Callable[[GpuReading], bool]) -> bool:
    gpu = _card(reading, index)
    return gpu is not None and rule(gpu)


def _lasts(readings: Sequence[Reading], rule: Callable[[Reading], bool]) -> bool:
    return sum(map(rule, readings)) >= _SUSTAINED_SHARE * len(readings)


def _is_below(value: int | None, limit: int) -> bool:
    return value is not None and value < limit
