"""Which graphics cards the app may use: those that CUDA_VISIBLE_DEVICES leaves it. The driver lists all of them."""

from __future__ import annotations

from collections.abc import Sequence

from liveavatar.monitoring.hardware import GpuSample


def visible_cards(gpus: Sequence[GpuSample], setting: str | None) -> tuple[GpuSample, ...]:
    """Return the cards that `setting` names, in its order; all where it is None.

    It is read as CUDA reads it: numbers, UUIDs or their beginnings, up to the first that means no card. Numbers are
    those of nvidia-smi.
    """
    if setting is None:
        return tuple(gpus)
    chosen: list[GpuSample] = []
    for name in setting.split(","):
        card = _named(gpus, name.strip())
        if card is None:
            break
        chosen.append(card)
    return tuple(dict.fromkeys(chosen))


def _named(gpus: Sequence[GpuSample], name: str) -> GpuSample | None:
    if name.isdigit():
        return next((gpu for gpu in gpus if gpu.index == int(name)), None)
    return next((gpu for gpu in gpus if name and gpu.uuid.startswith(name)), None)
