"""The inside of the mouth: dark cavity, tongue, teeth, in the portrait's light.

Where the portrait shows its own teeth they are used as they are, still with the head; what opens beyond them is
painted. A painted pixel is a mixture of four materials (dark, gum, tongue, tooth), so that painting happens on one
plane per material and colour comes last. Lengths are in half mouth widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from liveavatar.engines.portrait.geometry import Floats, Picture, Region, TabulatedCurve, floats, smoothstep
from liveavatar.engines.portrait.mouth_anatomy import MouthAnatomy
from liveavatar.engines.portrait.mouth_light import WIDE_GAP, MouthLight
from liveavatar.engines.portrait.mouth_shape import MouthCommand, MouthShape

DARK, GUM, TONGUE, TOOTH = range(4)
SLIT_WARMTH = 0.5  # a narrow opening is lit through the lips; black would be a drawn outline

# Teeth. Widths of half a central incisor and so on, for an arch about as wide as the mouth.
INCISOR_WIDTH, SIDE_TOOTH_WIDTH = 0.27, 0.21
UPPER_TEETH_BELOW_LINE = 0.115  # edges of the upper incisors below the line of closed lips
UPPER_ARCH_RISE = 0.06  # the arch curves away: its edges are higher at the sides
ROUND_HIDES_TEETH = 0.08  # lips that come forward cover more of the teeth
UPPER_TEETH_REACH, UPPER_TEETH_FADE = 1.0, 0.30  # the last ones are lost in the cheeks' shadow
OWN_TEETH_REACH = (
    0.85  # beside the portrait's own teeth its own shadow begins; painted ones beyond would make it a hole
)
TIPS_IN_SHADOW = 0.09  # upper teeth are seen fully where this much of them shows
LOWER_TEETH_REACH = 0.66
LOWER_TOOTH_WIDTH = 0.17
LOWER_TEETH_SHOWN = 0.05  # above the lower lip in an open mouth
LOWER_TEETH_TONE = 0.58  # lower teeth lie in the shade of the upper ones
GAP_BETWEEN_TEETH_TONE = 0.80
SHADOW_TINT = np.array([-0.14, -0.03, 0.16], np.float32)  # blue green red: shadow under a lip is red
SHADE_REDNESS = 0.8  # gum light per lost tooth brightness
TOOTH_ROUNDNESS = 0.12  # loss of light from the middle of a tooth to its sides
SMALL_TOOTH_PX = 6.0  # teeth narrower than this are painted without gaps: they would only flicker

OWN_INTERIOR_GAP = 0.10  # lips parted this far with teeth between them show something worth keeping
RAISED_FLOOR_SHADE = 0.6
OWN_JAW_GAP = 0.62  # parted this far, the lower part of it hangs on the jaw


@dataclass(frozen=True, kw_only=True)
class InteriorView:
    """One frame's opening: pixels of a region, in local units. All arrays have the region's shape."""

    region: Region
    u: Floats  # column of the frame
    v: Floats
    column_u: Floats  # column of the portrait that the lips show here
    upper_edge: Floats  # v of the lips at this pixel's column
    lower_edge: Floats

    def crop(self, part: Region) -> InteriorView:
        """The view of a part of the region, given in the region's own coordinates."""
        rows, columns = part.slices
        origin = Region(
            x0=self.region.x0 + part.x0,
            y0=self.region.y0 + part.y0,
            x1=self.region.x0 + part.x1,
            y1=self.region.y0 + part.y1,
        )
        planes = {
            name: getattr(self, name)[rows, columns]
            for name in ("u", "v", "column_u", "upper_edge", "lower_edge")
        }
        return InteriorView(region=origin, **planes)


class MouthInterior:
    """Paints what lies between the lips."""

    def __init__(self, picture: Picture, anatomy: MouthAnatomy, light: MouthLight) -> None:
        self._picture = picture
        self._anatomy = anatomy
        self._light = light
        self._shows_own = anatomy.gap > (OWN_INTERIOR_GAP if light.own_teeth else WIDE_GAP)
        self._own_hangs_on_jaw = anatomy.gap > OWN_JAW_GAP
        self._upper_teeth = _find_upper_teeth(self._picture, anatomy)
        self._paints_teeth = not self._own_hangs_on_jaw or self._upper_teeth.max() == 0
        self._contact = TabulatedCurve(values=anatomy.contact_line())
        self._soft = 0.8 * anatomy.pixel + 0.012  # width of a painted edge
        tooth_px = LOWER_TOOTH_WIDTH * anatomy.frame.half_width
        self._detail = float(smoothstep(tooth_px, 0.3 * SMALL_TOOTH_PX, SMALL_TOOTH_PX))

    def paint(self, view: InteriorView, shape: MouthShape, command: MouthCommand) -> Floats:
        """Return the inside (height, width, 3), blue green red 0..255, for every pixel of the view."""
        height = np.maximum(view.lower_edge - view.upper_edge, 1e-3)
        depth = np.clip((view.v - view.upper_edge) / height, 0.0, 1.0)
        materials = self._cavity(view, depth)
        self._add_tongue(materials, view, shape, command)
        if self._paints_teeth:
            self._add_lower_teeth(materials, view, shape, command)
            self._add_upper_teeth(materials, view, command)
        light = self._side_light(view) * self._lip_shadow(view, command)
        warm_light = light[..., None] + (light * (1.0 - light))[..., None] * (
            self._light.colour * SHADOW_TINT
        )
        colours = floats(cv2.transform(cv2.merge(materials), self._light.materials.T) * warm_light)
        if self._own_hangs_on_jaw:
            self._add_own_shout(colours, view, shape)
        elif self._shows_own:
            self._add_own_smile(colours, view)
        return colours

    def _cavity(self, view: InteriorView, depth: Floats) -> list[Floats]:
        """Almost black in the depth, warmer towards the lower lip and the cheeks, and between lips hardly parted."""
        corner = np.minimum(view.column_u**2, 1.0) ** 2
        slit = smoothstep(view.lower_edge - view.upper_edge, 0.16, 0.03)
        warm = floats(np.minimum(0.06 + 0.20 * depth**2 + 0.60 * corner + SLIT_WARMTH * slit, 1.0))
        return [1.0 - warm, warm, np.zeros_like(warm), np.zeros_like(warm)]

    def _add_tongue(
        self, materials: list[Floats], view: InteriorView, shape: MouthShape, command: MouthCommand
    ) -> None:
        """A soft hump on the floor of the mouth; `tongue` raises it to the teeth."""
        opening = max(shape.gap - 0.12, 0.0)
        if opening == 0.0:
            return
        floor, _ = self._middle_of(shape)
        top = floor - opening * (0.58 + 0.30 * command.tongue) + 0.22 * view.u**2
        cover = smoothstep(view.v - top, 0.0, 0.10) * smoothstep(np.abs(view.u), 0.86, 0.55)
        cover *= min(1.0, opening / 0.12)
        rise = np.clip((view.v - top) / 0.34, 0.0, 1.0)
        furrow = np.exp(-((view.u / 0.09) ** 2)) * 0.12 * rise
        _lay_over(materials, TONGUE, cover, floats(0.40 + 0.60 * rise - furrow - 0.25 * view.u**2))

    def _add_lower_teeth(
        self, materials: list[Floats], view: InteriorView, shape: MouthShape, command: MouthCommand
    ) -> None:
        """A low arch that stands just above the lower lip, in the shade."""
        floor, middle = self._middle_of(shape)
        shown = LOWER_TEETH_SHOWN + 0.05 * command.teeth + 0.05 * command.jaw
        top = max(floor - shown, middle + 0.5 * (floor - middle)) + 0.20 * view.u**2
        cover = np.clip((view.v - top) / self._soft + 0.5, 0.0, 1.0)
        cover *= smoothstep(np.abs(view.u), LOWER_TEETH_REACH, LOWER_TEETH_REACH - 0.2)
        cover *= min(1.0, max(0.0, shape.gap - 0.08) / 0.08) * (1.0 - 0.8 * min(command.round, 1.0))
        cover *= self._detail  # a row two pixels high would be a grey line on the lip
        across = view.u / LOWER_TOOTH_WIDTH
        tone = self._tooth_gaps(across - np.floor(across))
        tone *= floats(LOWER_TEETH_TONE * (1.0 - 0.45 * np.abs(view.u) ** 1.5))
        tone *= 0.85 + 0.15 * np.clip((view.v - top) / 0.05, 0.0, 1.0)
        _lay_teeth(materials, floats(cover), tone)

    def _add_upper_teeth(self, materials: list[Floats], view: InteriorView, command: MouthCommand) -> None:
        """The upper arch: two incisors, their neighbours, canines, premolars fading into the cheeks."""
        side = np.abs(view.u)
        count = np.where(
            side < INCISOR_WIDTH, side / INCISOR_WIDTH, 1.0 + (side - INCISOR_WIDTH) / SIDE_TOOTH_WIDTH
        )
        across = count - np.floor(count)
        rounded = self._detail * 0.028 * (2.0 * np.abs(across - 0.5)) ** 2.5
        shorter = np.where((count >= 1.0) & (count < 2.0), self._detail * 0.016, 0.0)
        below_line = UPPER_TEETH_BELOW_LINE - ROUND_HIDES_TEETH * min(command.round, 1.0)
        edge = self._contact(view.u) + below_line - UPPER_ARCH_RISE * view.u**2 - rounded - shorter
        if self._shows_own:  # painted tips below the portrait's own teeth would be a second row
            edge = np.minimum(edge, self._own_edges(view.u)[1])
        cover = np.clip((edge - view.v) / self._soft + 0.5, 0.0, 1.0)
        reach = OWN_TEETH_REACH if self._shows_own else UPPER_TEETH_REACH
        cover *= smoothstep(side, reach, reach - UPPER_TEETH_FADE)
        # Tips that just show below the lip lie in its shadow; painted bright they would be a row of dots.
        cover *= smoothstep(edge - view.upper_edge, 0.0, TIPS_IN_SHADOW)
        tone = self._tooth_gaps(across) * (1.0 - 0.55 * side**1.6) * (1.0 - 0.25 * min(command.round, 1.0))
        _lay_teeth(materials, floats(cover), floats(tone))

    def _tooth_gaps(self, across: Floats) -> Floats:
        """1 on a tooth, less in the gaps; `across` runs 0..1 over each tooth."""
        to_gap = np.minimum(across, 1.0 - across)
        depth = self._detail * (1.0 - GAP_BETWEEN_TEETH_TONE)
        bulge = 1.0 - self._detail * TOOTH_ROUNDNESS * (1.0 - 2.0 * to_gap) ** 2
        return floats(bulge - depth * np.exp(-((to_gap / 0.09) ** 2)))

    def _middle_of(self, shape: MouthShape) -> tuple[float, float]:
        """v of the lower lip and of the upper lip half-way between the corners."""
        lower = float(np.interp(0.0, shape.edges.u, shape.edges.lower))
        upper = float(np.interp(0.0, shape.edges.u, shape.edges.upper))
        return lower, upper

    def _side_light(self, view: InteriorView) -> Floats:
        """The portrait's light from the left or the right falls into the mouth, too."""
        return np.asarray(np.exp(np.float32(self._light.sideways) * np.clip(view.u, -1.0, 1.0)), np.float32)

    def _lip_shadow(self, view: InteriorView, command: MouthCommand) -> Floats:
        """The upper lip shades what is behind it, and the corners are dark."""
        below_upper = 0.50 + 0.50 * smoothstep(view.v - view.upper_edge, 0.0, 0.10 + 0.05 * command.open)
        above_lower = 0.82 + 0.18 * smoothstep(view.lower_edge - view.v, 0.0, 0.07)
        corners = 1.0 - 0.45 * smoothstep(np.abs(view.column_u), 0.6, 1.0)
        return np.asarray(below_upper * above_lower * corners, np.float32)

    def _add_own_smile(self, colours: Floats, view: InteriorView) -> None:
        """Lay the portrait's own teeth over the painted ones, still with the head."""
        upper, lower = self._own_edges(view.u)
        cut = lower - 0.05 * self._anatomy.gap
        cover = smoothstep(np.abs(view.u), 0.98, 0.88) * smoothstep(cut - view.v, 0.0, 0.045)
        own, _ = self._own_pixels(view.u, np.maximum(view.v, upper))
        self._lay_own(colours, view, own, cover)

    def _add_own_shout(self, colours: Floats, view: InteriorView, shape: MouthShape) -> None:
        """A wide-open portrait shows everything: its floor moves with the jaw, behind its still upper teeth."""
        upper, lower = self._own_edges(view.u)
        within = smoothstep(np.abs(view.u), 0.98, 0.85)
        row = view.v - shape.chin_drop
        floor, _ = self._own_pixels(0.95 * view.u, np.clip(row, upper, lower))
        # Raised by the jaw, the tongue comes near to the upper lip, where less light reaches it than in the portrait.
        floor *= 1.0 - RAISED_FLOOR_SHADE * smoothstep(view.v - view.upper_edge, 0.35, 0.0)[..., None]
        self._lay_own(colours, view, floor, smoothstep(row - upper - 0.3 * (lower - upper), -0.15, 0.0))
        teeth, is_tooth = self._own_pixels(view.u, np.maximum(view.v, upper))
        self._lay_own(colours, view, teeth, within * is_tooth)

    def _own_edges(self, u: Floats) -> tuple[Floats, Floats]:
        """Rows between which the portrait's pixels show nothing of its lips."""
        margin = np.float32(0.02 + self._anatomy.pixel)
        return self._anatomy.upper_inner(u) + margin, self._anatomy.lower_inner(u) - margin

    def _own_pixels(self, u: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Pixels of the portrait at local positions, and how much each one is an upper tooth (0..1)."""
        x, y = self._anatomy.frame.to_picture(u, row)
        pixels = cv2.remap(self._picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        teeth = cv2.remap(self._upper_teeth, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        return pixels.astype(np.float32), teeth.astype(np.float32) * np.float32(1 / 255)

    @staticmethod
    def _lay_own(colours: Floats, view: InteriorView, own: Floats, cover: Floats) -> None:
        """Mix in the portrait's pixels by `cover` (0..1), darker right under the upper lip."""
        under_lip = 0.72 + 0.28 * smoothstep(view.v - view.upper_edge, 0.0, 0.06)
        colours += (own * under_lip[..., None] - colours) * cover[..., None]


def _lay_teeth(materials: list[Floats], cover: Floats, tone: Floats) -> None:
    """Cover with tooth. Shade inside a mouth is light that was reflected by gums: it is red, not grey."""
    _lay_over(materials, TOOTH, cover, tone)
    materials[GUM] += cover * (1.0 - tone) * SHADE_REDNESS


def _find_upper_teeth(picture: Picture, anatomy: MouthAnatomy) -> Picture:
    """Mark the bright pixels in the upper half of a wide-open mouth: 255 on teeth, soft edges, picture size."""
    rows, columns = picture.shape[:2]
    marked = np.zeros((rows, columns), np.uint8)
    region = anatomy.frame.region(
        u_range=(-1.0, 1.0),
        v_range=(float(anatomy.upper_inner.values.min()), float(anatomy.lower_inner.values.max())),
        picture_shape=picture.shape,
    )
    if region.is_empty:
        return marked
    u, v = anatomy.frame.grid(region)
    upper, lower = anatomy.upper_inner(u), anatomy.lower_inner(u)
    upper_half = (v > upper) & (v < upper + np.minimum(0.5 * (lower - upper), 0.55)) & (np.abs(u) < 0.97)
    luma = cv2.cvtColor(picture[region.slices], cv2.COLOR_BGR2GRAY).astype(np.float32)
    if upper_half.sum() < 12:
        return marked
    dark, bright = np.percentile(luma[upper_half], (10, 92))
    if bright - dark < 25:  # no teeth to be seen
        return marked
    tooth = smoothstep(luma, float(dark + 0.28 * (bright - dark)), float(dark + 0.50 * (bright - dark)))
    soft = cv2.GaussianBlur(tooth * upper_half, (0, 0), max(0.5, 0.01 * anatomy.frame.half_width))
    marked[region.slices] = np.clip(255 * soft, 0, 255).astype(np.uint8)
    return marked


def _lay_over(materials: list[Floats], material: int, cover: Floats, tone: Floats) -> None:
    """Cover the mixture with a material of the given brightness (1 = its full colour)."""
    bare = 1.0 - cover
    for plane in materials:
        plane *= bare
    materials[material] += cover * tone
