"""Paint a lid as it looks when it is shut: skin and its crease, and lashes along the edge.

Few portraits show enough of the lid to stretch: stretched pixels smear. So the colour is filled in from the skin
around the eye, the fine texture is that of the skin between the crease and the brow, mirrored down, and the lashes
have the colour of the open eye's own dark rim. The open eye's lashes, which would stay behind above the shut lid,
are taken away. All lengths are those of the eye's local frame: half the distance between its corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait.backdrop import fill_smoothly
from liveavatar.engines.portrait.geometry import CornerFrame, Floats, Picture, Region, floats, smoothstep

RIM = 0.26  # the open lid's dark rim and the roots of its lashes reach this far above its edge
LASH_REACH = 0.55  # and the tips of its lashes this far
LASH_THICKNESS = 0.34  # structures above the lid that are thinner than this are lashes
SKIN_HUE_TOLERANCE = 16.0  # in the colour plane of Lab, in steps of 8-bit values
SKIN_BRIGHTNESS = (0.62, 1.25)  # of the usual skin around the eye; darker is hair, brighter eyeball or glare
MIN_STRIP = 0.3  # height of the skin above the lid whose texture is mirrored down
MAX_GRAIN = 14.0  # of 255; a stronger detail of the skin is an edge, which must not be mirrored

LID_LIGHT, LID_SHADE = (
    0.07,
    0.15,
)  # an eyeball under the lid: light on its upper half, shade where it turns down
CREASE_SHADE = 0.10
LID_WARMTH = np.array([0.965, 0.980, 1.0], np.float32)  # blue green red: the thin skin of a lid is redder

LINE_WIDTH = 0.045
LINE_TONE = 0.36  # the line is at least this dark against the skin ...
LINE_CONTRAST = 36.0  # ... and on dark skin this many levels darker
LASH_LENGTH = 0.20
LASH_SPACING = 0.105
LASH_FAN = 0.9  # how much the lashes lean towards the corner they are near
LASH_HAIR_PX = 3.0  # lashes closer together than this many pixels are painted as a soft band
RIM_CONTRAST = (0.12, 0.45)  # a rim hardly darker than the skin has no lashes; one much darker has all


@dataclass(frozen=True, kw_only=True)
class EyeShape:
    """Where one eye's lids lie. Arrays are (rows, columns) of `region`."""

    frame: CornerFrame
    region: Region
    u: Floats
    v: Floats
    upper: Floats  # v of the open upper lid's edge
    lower: Floats  # v of the lower lid's edge
    crease: Floats  # v of the lid's crease
    meeting: Floats  # v of the line where the closed lids meet
    brow_v: float  # v of the middle of the brow


@dataclass(frozen=True, kw_only=True)
class ClosedLid:
    """A lid painted shut, for the region of its `EyeShape`."""

    skin_and_lashes: Floats  # (rows, columns, 4): skin as blue green red 0..255, and the share of lash 0..1
    lash_colour: Floats  # (3,), blue green red 0..255
    bare: Floats  # (rows, columns, 3), the skin above the open eye without its lashes
    lashed: Floats  # (rows, columns), where `bare` has to cover the picture, 0..1


def paint_closed_lid(picture: Picture, eye: EyeShape) -> ClosedLid:
    """Paint the lid of an eye from `picture` (rows, columns, 3), blue green red, of the eye's region."""
    bare, lashed = _without_lashes(picture, eye)
    skin = _surrounding_skin(bare, eye)
    lash_colour, strength = _eye_line(picture, skin, eye)
    shaded = skin * _shading(eye)[..., None] * _warmth(eye) + _mirrored_texture(bare, eye)
    lashes = strength * _lashes(eye)
    return ClosedLid(
        skin_and_lashes=np.dstack([np.clip(shaded, 0, 255), lashes]).astype(np.float32),
        lash_colour=lash_colour,
        bare=bare,
        lashed=lashed,
    )


def _without_lashes(picture: Picture, eye: EyeShape) -> tuple[Floats, Floats]:
    """The picture with skin over the opening and without thin lines above it, and where those were."""
    opening = (np.abs(eye.u) < 1.08) & (eye.v > eye.upper - RIM) & (eye.v < eye.lower + 0.12)
    filled = fill_smoothly(picture, _ring(eye) & _has_usual_colour(picture, _ring(eye)))
    shut = np.where(opening[..., None], filled, picture.astype(np.float32))
    thickness = max(3, round(LASH_THICKNESS * eye.frame.half_width) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thickness, thickness))
    smooth = cv2.morphologyEx(cv2.morphologyEx(shut, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)
    smooth = floats(cv2.GaussianBlur(smooth, (0, 0), 0.8))
    # At the corners, lashes stand out to the side.
    near_lid = smoothstep(eye.v, eye.upper - LASH_REACH, eye.upper - 0.7 * LASH_REACH)
    near_lid *= smoothstep(eye.v, eye.brow_v + 0.18, eye.brow_v + 0.32)
    near_lid *= smoothstep(eye.upper + 0.10 - eye.v, 0.0, 0.05) * smoothstep(np.abs(eye.u), 1.6, 1.4)
    differs = np.abs(smooth - picture).mean(axis=-1)
    lashed = cv2.GaussianBlur(smoothstep(differs, 4.0, 12.0), (0, 0), 0.7) * near_lid
    bare = shut + (smooth - shut) * lashed[..., None]
    return floats(bare), floats(lashed)


def _ring(eye: EyeShape) -> NDArray[np.bool_]:
    """The skin around the eye, below its brow."""
    opening = (np.abs(eye.u) < 1.18) & (eye.v > eye.upper - RIM) & (eye.v < eye.lower + 0.12)
    below_brow = eye.v > max(eye.brow_v + 0.22, float(eye.upper.min()) - 0.8)
    ring = ~opening & (np.abs(eye.u) < 1.5) & below_brow & (eye.v < eye.lower + 0.6)
    return np.asarray(ring if ring.any() else ~opening)


def _surrounding_skin(bare: Floats, eye: EyeShape) -> Floats:
    """The colours of the skin around the eye, continued over the opening; brows, hair and rims are left out."""
    ring = _ring(eye)
    picture = np.clip(bare, 0, 255).astype(np.uint8)
    filled = fill_smoothly(picture, ring & _has_usual_colour(picture, ring))
    soft = max(0.6, 0.12 * eye.frame.half_width)
    return floats(cv2.GaussianBlur(filled, (0, 0), soft))


def _has_usual_colour(picture: Picture, ring: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels whose brightness and hue are those of most of `ring`: skin, as opposed to hair or eyeball."""
    if not ring.any():
        return ring
    lab = cv2.cvtColor(picture, cv2.COLOR_BGR2LAB).astype(np.float32)
    lightness, hue = lab[..., 0], lab[..., 1:]
    typical = float(np.percentile(lightness[ring], 60))  # of the ring the darker part is brows and shadow
    darkest, brightest = SKIN_BRIGHTNESS
    is_as_bright = (lightness > darkest * typical) & (lightness < brightest * typical)
    usual_hue = np.median(hue[ring & is_as_bright], axis=0)
    has_hue = np.linalg.norm(hue - usual_hue, axis=-1) < SKIN_HUE_TOLERANCE
    return np.asarray(is_as_bright & has_hue)


def _shading(eye: EyeShape) -> Floats:
    """Light on a lid that lies round on its eyeball, as a factor."""
    across = np.clip(1 - eye.u**2, 0, 1)
    down_the_lid = np.clip((eye.v - eye.crease) / np.maximum(eye.meeting - eye.crease, 0.05), 0, 1)
    roundness = 1 + across * (LID_LIGHT * np.sin(np.pi * down_the_lid**0.8) - LID_SHADE * down_the_lid**3)
    crease_width = 0.08 + 0.5 / eye.frame.half_width
    fold = 1 - CREASE_SHADE * across * np.exp(-(((eye.v - eye.crease) / crease_width) ** 2))
    return floats(roundness * fold)


def _warmth(eye: EyeShape) -> Floats:
    """The tint of the lid's thin skin, as factors (rows, columns, 3)."""
    on_lid = smoothstep(eye.v, eye.crease, eye.crease + 0.15) * smoothstep(1.1 - np.abs(eye.u), 0.0, 0.3)
    return floats(1 + (LID_WARMTH - 1) * on_lid[..., None])


def _mirrored_texture(bare: Floats, eye: EyeShape) -> Floats:
    """The fine texture of the skin between crease and brow, mirrored down over the lid to and fro."""
    detail = bare - cv2.GaussianBlur(bare, (0, 0), max(0.8, 0.12 * eye.frame.half_width))
    grain = detail * np.exp(-((detail / MAX_GRAIN) ** 4))
    top = max(eye.brow_v + 0.28, float(eye.upper.min()) - 0.9)
    bottom = eye.upper - RIM
    depth = np.maximum(bottom - top, MIN_STRIP)
    below = eye.v - bottom  # a triangle wave: up from the rim to the brow, down again
    source = bottom - np.abs(np.mod(below + depth, 2 * depth) - depth)
    x, y = eye.frame.to_picture(eye.u, floats(source))
    x, y = x - np.float32(eye.region.x0), y - np.float32(eye.region.y0)
    return floats(cv2.remap(floats(grain), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _eye_line(picture: Picture, skin: Floats, eye: EyeShape) -> tuple[Floats, float]:
    """The colour of the open eye's upper rim, blue green red, and how strong its lashes are, 0..1."""
    rim = (np.abs(eye.u) < 0.85) & (np.abs(eye.v - eye.upper + 0.07) < 0.09)  # above the iris
    if not rim.any():
        return floats(0.5 * skin.mean(axis=(0, 1))), 0.5
    colours, light = picture[rim].astype(np.float32), picture[rim].mean(axis=-1)
    dark = light <= np.percentile(light, 20)
    line, around = colours[dark].mean(axis=0), skin[rim].mean(axis=0)
    share = float(line.mean() / max(float(around.mean()), 1.0))
    line = (line + share * around) / 2  # the iris, which may show among the lashes, must not tint them
    strength = 0.65 + 0.35 * float(smoothstep(1 - share, *RIM_CONTRAST))
    tone = min(LINE_TONE, max(0.0, 1 - LINE_CONTRAST / max(float(around.mean()), 1.0)))
    return floats(line * min(1.0, tone / max(share, 1e-3))), strength


def _lashes(eye: EyeShape) -> Floats:
    """The share of lash (rows, columns), 0..1: a line along the lid's edge and hairs that hang from it."""
    pixel = 1 / eye.frame.half_width
    side = np.abs(eye.u)
    taper = smoothstep(1.06 - side, 0.0, 0.45)
    width = (LINE_WIDTH + 0.4 * pixel) * (0.45 + 0.55 * taper)
    below = eye.v - eye.meeting
    line = np.exp(-((below / np.where(below < 0, 1.3 * width, width)) ** 2)) * smoothstep(
        1.05 - side, 0, 0.25
    )
    return floats(np.clip(0.88 * line + (1 - line) * _hairs(eye, below, pixel), 0, 1))


def _hairs(eye: EyeShape, below: Floats, pixel: float) -> Floats:
    """Lashes hanging from the lid's edge, fanned out to both sides; a soft band where they are too fine to see."""
    root = eye.u - LASH_FAN * eye.u * np.maximum(below, 0)
    number = root / LASH_SPACING
    which, across = np.floor(number), number - np.floor(number) - 0.5
    uneven = floats(np.mod(0.618 * which, 1.0))  # neighbours differ; the same every time
    length = LASH_LENGTH * (0.65 + 0.35 * uneven) * (0.55 + 0.45 * np.clip(np.abs(root), 0, 1))
    reach = np.clip(below / length, 0, 1)
    crossing = across + 0.35 * (uneven - 0.5)
    hair = np.exp(-((crossing / (0.30 - 0.16 * reach)) ** 2))
    seen = float(smoothstep(LASH_SPACING / pixel / LASH_HAIR_PX, 0.4, 1.0))
    density = 0.35 + seen * (hair - 0.35)
    ends = smoothstep(1.02 - np.abs(root), 0.0, 0.2)
    return floats(0.75 * density * (1 - reach) ** 0.8 * (below > -pixel) * ends)
