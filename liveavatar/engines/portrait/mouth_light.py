"""The light on one portrait's mouth: how bright and of what colour its inside would be."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.geometry import Floats, Picture
from liveavatar.engines.portrait.mouth_anatomy import MouthAnatomy

Mask = NDArray[np.bool_]

LUMA = np.array([0.114, 0.587, 0.299], np.float32)  # ITU-R BT.601, blue green red
TYPICAL_SKIN = np.array([122.0, 148.0, 188.0], np.float32)  # a light skin in neutral daylight
TYPICAL_SKIN_LUMA = 157.0
WORK_HALF_WIDTH_PX = 48.0  # colours are measured on a small copy: large mouths have no more colours

# Materials in neutral daylight, blue green red.
DARK_COLOUR = (14.0, 12.0, 26.0)
GUM_COLOUR = (62.0, 56.0, 112.0)
TONGUE_COLOUR = (86.0, 80.0, 164.0)
TOOTH_COLOUR = (168.0, 191.0, 205.0)
SKIN_SHADE = np.array([1.35, 1.15, 0.60], np.float32)  # blue green red: skin in shade is redder, not greyer
GREY_SKIN_SPREAD = 0.15  # red minus blue over mean: real skin has 0.2 or more
CAST_SHARE = 0.45  # how much of the skin's colour cast is the light's, not the skin's ...
PLAIN_SKIN = 0.7  # ... and less of darker skin, which is more colourful by itself; luma against typical skin

# Where the lips are hardly parted, a few bright pixels between them are shine or lip, not teeth.
PLAIN_TOOTH = 0.7  # teeth are so much less colourful than skin
LEAST_TEETH, LEAST_TEETH_WIDE = 0.20, 0.05  # share of the opening in which there must be teeth to be believed
WIDE_GAP = 0.35  # half mouth widths; lips parted this far surely show the inside


@dataclass(frozen=True, kw_only=True)
class MouthLight:
    """Colours of the mouth's materials and the light's slope."""

    materials: Floats  # (4, 3): dark, gum, tongue, tooth; blue green red 0..255
    sideways: float  # change of log brightness from the mouth's middle to its right corner
    colour: float  # 0 in grey pictures .. 1 where skin has its usual colour
    skin_shade: Floats  # (3,), blue green red: a shade on skin darkens each by this many times its strength
    skin: Floats  # (3,), median skin around the mouth
    own_teeth: bool  # whether teeth can be seen in the portrait's own opening


def measure_light(picture: Picture, anatomy: MouthAnatomy) -> MouthLight:
    """Look at the skin around the mouth, and at the teeth where the portrait shows some."""
    patch, u, v = _small_patch(picture, anatomy)
    skin_mask = _skin_mask(anatomy, u, v)
    skin_pixels = patch[skin_mask]
    skin = np.median(skin_pixels, axis=0) if len(skin_pixels) > 20 else TYPICAL_SKIN
    luma = float(np.clip(skin @ LUMA / TYPICAL_SKIN_LUMA, 0.15, 1.25))
    cast = (skin / max(float(skin.mean()), 1.0)) / (TYPICAL_SKIN / TYPICAL_SKIN.mean())
    cast = np.clip(cast, 0.4, 2.0) ** (CAST_SHARE * min(1.0, luma / PLAIN_SKIN))
    # Teeth brighten less than skin darkens: dark skin does not mean dark light.
    brightness = np.array([luma, 0.08 + 0.92 * luma, 0.10 + 0.90 * luma, min(0.93, 0.29 + 0.64 * luma)])[
        :, None
    ]
    materials = np.array([DARK_COLOUR, GUM_COLOUR, TONGUE_COLOUR, TOOTH_COLOUR]) * cast * brightness
    colour = float(np.clip(np.ptp(skin) / max(GREY_SKIN_SPREAD * float(skin.mean()), 1.0), 0.0, 1.0))
    grey = (materials @ LUMA)[:, None]
    materials = grey + (materials - grey) * colour
    inside = (v > anatomy.upper_inner(u) + 0.03) & (v < anatomy.lower_inner(u) - 0.03) & (np.abs(u) < 0.9)
    least_teeth = LEAST_TEETH_WIDE if anatomy.gap > WIDE_GAP else LEAST_TEETH
    own_teeth = _learn_from_own_inside(materials, patch[inside], skin, least_teeth)
    return MouthLight(
        materials=np.clip(materials, 0.0, 245.0).astype(np.float32),
        sideways=_sideways_slope(patch, skin_mask, u),
        colour=colour,
        skin_shade=1.0 + (SKIN_SHADE - 1.0) * np.float32(colour),
        skin=skin.astype(np.float32),
        own_teeth=own_teeth,
    )


def _small_patch(picture: Picture, anatomy: MouthAnatomy) -> tuple[Floats, Floats, Floats]:
    """The mouth and its surroundings, upright, at a bounded size; with its u and v."""
    step = 1.0 / min(WORK_HALF_WIDTH_PX, max(12.0, anatomy.frame.half_width))
    u, v = np.meshgrid(
        np.arange(-1.4, 1.4, step, dtype=np.float32),
        np.arange(anatomy.nose_level, 0.9 * anatomy.chin_level, step, dtype=np.float32),
    )
    x, y = anatomy.frame.to_picture(u, v)
    patch = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return patch.astype(np.float32), u, v


def _skin_mask(anatomy: MouthAnatomy, u: Floats, v: Floats) -> Mask:
    clear_of_lips = (v < anatomy.upper_outer(u) - 0.12) | (v > anatomy.lower_outer(u) + 0.12)
    return np.asarray(clear_of_lips & (np.abs(u) < 1.3), np.bool_)


def _learn_from_own_inside(
    materials: NDArray[np.float64], inside: Floats, skin: Floats, least_teeth: float
) -> bool:
    """Take the colour of teeth and of the dark from the portrait where it shows them (in place).

    Returns whether it shows teeth: in at least a share of `least_teeth` of `inside`.
    """
    if len(inside) < 12:
        return False
    luma = inside @ LUMA
    spread = inside.max(axis=1) - inside.min(axis=1)
    skin_luma, skin_spread = float(skin @ LUMA), float(skin.max() - skin.min())
    plain = PLAIN_TOOTH * skin_spread / max(skin_luma, 1.0) * luma
    is_tooth = (luma > 0.75 * skin_luma) & (spread < np.maximum(plain, 25.0))
    shows_teeth = float(is_tooth.mean()) > least_teeth
    if shows_teeth:
        materials[3] = 0.3 * materials[3] + 0.7 * np.median(inside[is_tooth], axis=0)
    dark = inside[luma < 0.35 * skin_luma]
    if len(dark) > 0.05 * len(inside):
        materials[0] = 0.5 * materials[0] + 0.5 * np.median(dark, axis=0)
    return shows_teeth


def _sideways_slope(patch: Floats, skin_mask: Mask, u: Floats) -> float:
    """How the light falls off from left to right, from the skin on both sides."""
    luma = patch @ LUMA
    sides = []
    for side_mask in (skin_mask & (u < -0.4), skin_mask & (u > 0.4)):
        if side_mask.sum() < 20:
            return 0.0
        sides.append(float(np.median(luma[side_mask])) + 8.0)
    return float(np.clip(0.5 * np.log(sides[1] / sides[0]), -0.45, 0.45))
