"""Picture sizes: how an operator writes them, which are offered, and which one suits a portrait."""

from __future__ import annotations

import re
from dataclasses import dataclass

from liveavatar.core.errors import Diagnosis, InputRejected


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A level of detail in its three shapes, each as (width, height) in pixels."""

    name: str
    landscape: tuple[int, int]
    upright: tuple[int, int]
    square: tuple[int, int]


STANDARD = Tier(name="standard", landscape=(720, 400), upright=(400, 720), square=(544, 544))
TIERS = (
    Tier(name="small", landscape=(384, 256), upright=(256, 384), square=(320, 320)),
    Tier(name="compact", landscape=(576, 320), upright=(320, 576), square=(384, 384)),
    Tier(name="medium", landscape=(688, 368), upright=(368, 688), square=(496, 496)),
    STANDARD,
    Tier(name="large", landscape=(1280, 720), upright=(720, 1280), square=(960, 960)),
)
SIZES: dict[str, tuple[int, int]] = {
    f"{width}*{height}": (width, height)
    for tier in TIERS
    for width, height in (tier.landscape, tier.upright, tier.square)
}

# A picture within a fifth of square is shown square: cropping it wide or tall would cut into the head.
_SQUARE_BAND = 1.2


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) of "720*400" or "720x400". Raise InputRejected when it is not offered."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*[*xX×]\s*(\d{1,5})\s*", text)
    size = (int(match[1]), int(match[2])) if match else None
    if size is None or size not in SIZES.values():
        raise InputRejected(
            Diagnosis(
                code="unknown_size",
                title=f"The picture size “{text}” is not offered.",
                cause="Only sizes that every engine can make are.",
                remedy=f"Choose auto or one of {', '.join(SIZES)}.",
                facts={"size": text, "sizes": ", ".join(SIZES)},
            )
        )
    return size


def size_for_picture(width: int, height: int, tier: Tier = STANDARD) -> tuple[int, int]:
    """Return the tier's size in the shape that suits a picture of `width` x `height` pixels."""
    if width > height * _SQUARE_BAND:
        return tier.landscape
    if height > width * _SQUARE_BAND:
        return tier.upright
    return tier.square
