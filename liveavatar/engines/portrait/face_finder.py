"""Find the faces in a picture and the points of each.

Haar cascades propose places. If none of these is a face, the cascades' faintest hits are tried, then every part
of the picture, both sorted out by the landmark net's own face decision. The net then places its points in three
passes, each on a crop that is centred, sized and turned by the pass before. The last pass looks at five slightly
shifted crops: their agreement tells a face from a thing that only resembles one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from liveavatar.engines.portrait import landmark_net as net_points
from liveavatar.engines.portrait.face_points import EyePoints, FacePoints
from liveavatar.engines.portrait.landmark_net import (
    CROP_PIXELS,
    face_probability,
    load_landmark_net,
    place_points,
)

Picture = NDArray[np.uint8]  # (height, width, 3), BGR
Doubles = NDArray[np.float64]

ACCEPT_SCORE = 0.78  # sample portraits: 0.83 and more; the best of what is no face, an upside-down man: 0.73
WORTH_REFINING = 0.20  # face probability of a first look
HAAR_PIXELS = 640  # cascades look at the picture at this size
HAAR_MAX_ENLARGEMENT = 3.0
FRONTAL_CASCADES = (
    "haarcascade_frontalface_alt.xml",
    "haarcascade_frontalface_alt2.xml",
    "haarcascade_frontalface_default.xml",
)
PROFILE_CASCADE = "haarcascade_profileface.xml"
MAX_PROPOSALS = 12
SCAN_RADII = (0.7, 0.5, 0.36, 0.26, 0.18)  # crop radius as a share of the picture's shorter side
RATING_BATCH = 24  # crops between two looks at the clock
MIN_FACE_WIDTH_PX = 10.0
MIN_FACE_SHARE = (
    0.10  # of the picture's shorter side: smaller ones are no portraits, and letters look like them
)
NUM_PASSES = 3
# Shift right, shift down and scale of the crops of the last pass, in crop radii.
LAST_LOOKS = ((0.0, 0.0, 1.0), (0.05, 0.0, 1.06), (-0.05, 0.03, 0.95), (0.0, -0.05, 1.1), (0.0, 0.05, 0.9))

# The standard face of training, in half head widths: where a crop is centred, and how large.
EYE_HEIGHT = 0.17  # from the crop centre up to the eyes
EYE_DISTANCE, EYES_TO_MOUTH = 0.84, 0.90
CROP_RADIUS = 1.6


@dataclass(frozen=True, kw_only=True)
class FoundFace:
    """One face of a picture."""

    points: FacePoints
    score: float  # 1 is certain; at least ACCEPT_SCORE
    width_px: float  # of the head, about ear to ear


@dataclass(frozen=True)
class _Place:
    """A square of the picture that may hold a face, turned by `angle` (radians, clockwise)."""

    centre: Doubles
    radius: float
    angle: float = 0.0

    def is_near(self, other: _Place) -> bool:
        distance = float(np.hypot(*(self.centre - other.centre)))
        larger = max(self.radius, other.radius)
        return distance < 0.35 * larger and min(self.radius, other.radius) > 0.7 * larger


class _Pyramid:
    """A picture and its halvings, so that crops of any size are taken without aliasing."""

    def __init__(self, picture: Picture):
        self.levels = [picture]
        while min(self.levels[-1].shape[:2]) >= 2 * CROP_PIXELS:
            half: Picture = cv2.pyrDown(self.levels[-1])  # type: ignore[assignment]
            self.levels.append(half)

    def crop(self, place: _Place) -> tuple[Picture, Doubles]:
        """Return the crop (128, 128, 3) of a place, and the 2x3 matrix from picture to crop pixels."""
        zoom = CROP_PIXELS / 2 / place.radius
        cosine, sine = np.cos(place.angle) * zoom, np.sin(place.angle) * zoom
        linear = np.array([[cosine, sine], [-sine, cosine]])
        offset = (CROP_PIXELS - 1) / 2 - linear @ place.centre
        level = int(np.clip(np.floor(np.log2(max(1 / zoom, 1)) + 0.25), 0, len(self.levels) - 1))
        # A pixel of level n has its centre where 2^n pixels of the picture have theirs.
        matrix_of_level = np.column_stack([linear * 2**level, offset])
        crop: Picture = cv2.warpAffine(  # type: ignore[assignment]
            self.levels[level],
            matrix_of_level,
            (CROP_PIXELS, CROP_PIXELS),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return crop, np.column_stack([linear, offset])


@dataclass(frozen=True)
class _Fit:
    """What the net made of one place."""

    points: Doubles  # (68, 2), picture pixels
    probability: float
    disagreement: float  # of the mirrored view, crop pixels
    spread: float  # of the crops of the last pass, in half head widths

    @property
    def score(self) -> float:
        """Probability less what the views differ: on things that are no faces the points wander."""
        return self.probability - 0.06 * self.disagreement - 3 * self.spread

    @property
    def half_width(self) -> float:
        left, right, mouth = _eyes_and_mouth(self.points)
        eye_distance = float(np.hypot(*(right - left)))
        drop = float(np.hypot(*(mouth - (left + right) / 2)))
        return max(eye_distance / EYE_DISTANCE, drop / EYES_TO_MOUTH, 1e-3)

    def next_place(self) -> _Place:
        """Return the upright crop that shows this face as the faces of training are shown."""
        left, right, mouth = _eyes_and_mouth(self.points)
        middle = (left + right) / 2
        upwards = (middle - mouth) / max(float(np.hypot(*(middle - mouth))), 1e-3)
        angle = float(np.arctan2(right[1] - left[1], right[0] - left[0]))
        half_width = self.half_width
        return _Place(middle - upwards * EYE_HEIGHT * half_width, half_width * CROP_RADIUS, angle)


class FaceFinder:
    """Holds the cascades and the landmark net; build one and keep it (about 60 ms). Not for several threads."""

    def __init__(self, weights: Path = net_points.WEIGHTS_PATH):
        self._net = load_landmark_net(weights)
        folder = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]
        self._frontal = [cv2.CascadeClassifier(str(folder / name)) for name in FRONTAL_CASCADES]
        self._profile = cv2.CascadeClassifier(str(folder / PROFILE_CASCADE))

    def find_faces(self, image_bgr: Picture, *, time_limit_s: float = 6.0) -> list[FoundFace]:
        """Return each face once, the largest first; an empty list when there is none.

        The limit is in processor seconds, so that a busy machine finds the same faces as an idle one. When it is
        over the search ends with what it has by then; one step (a cascade, a batch of crops) may outlast it.
        Raises ValueError unless the picture is 8-bit BGR.
        """
        if (
            image_bgr.ndim != 3
            or image_bgr.shape[2] != 3
            or image_bgr.dtype != np.uint8
            or not image_bgr.size
        ):
            raise ValueError(f"need a BGR picture of 8-bit values, got {image_bgr.shape}, {image_bgr.dtype}")
        deadline = time.process_time() + time_limit_s
        pyramid = _Pyramid(image_bgr)
        fits = self._fit(pyramid, self._propose(image_bgr, deadline)[:MAX_PROPOSALS], deadline)
        if not fits:
            guesses = self._propose(image_bgr, deadline, bold=True)
            fits = self._fit(pyramid, self._best_places(pyramid, guesses, deadline), deadline)
        if not fits:
            fits = self._fit(pyramid, self._best_places(pyramid, _everywhere(image_bgr), deadline), deadline)
        faces = [
            FoundFace(points=to_face_points(fit.points), score=fit.score, width_px=2 * fit.half_width)
            for fit in _each_face_once(fits)
        ]
        return sorted(faces, key=lambda face: -face.width_px)

    def _propose(self, image: Picture, deadline: float, *, bold: bool = False) -> list[_Place]:
        """Return where the cascades see a face, largest first; `bold` also takes faint hits and profiles."""
        scale = min(HAAR_MAX_ENLARGEMENT, HAAR_PIXELS / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        grey = cv2.cvtColor(cv2.resize(image, size, interpolation=how), cv2.COLOR_BGR2GRAY)
        looks = [(cascade, False) for cascade in self._frontal]
        if bold:
            looks += [(self._profile, False), (self._profile, True)]
        places: list[_Place] = []
        for cascade, mirrored in looks:
            if time.process_time() > deadline:
                break
            view = cv2.flip(grey, 1) if mirrored else grey
            for x, y, width, height in cascade.detectMultiScale(
                view, 1.1, 0 if bold else 3, minSize=(24, 24)
            ):
                middle = x + width / 2
                centre = np.array([size[0] - middle if mirrored else middle, y + 0.54 * height]) / scale
                place = _Place(centre, 0.62 * width / scale)
                if not any(place.is_near(other) for other in places):
                    places.append(place)
        return sorted(places, key=lambda place: -place.radius)

    def _best_places(self, pyramid: _Pyramid, places: list[_Place], deadline: float) -> list[_Place]:
        """Return the places that look most like a face to the net."""
        rated: list[tuple[float, _Place]] = []
        for first in range(0, len(places), RATING_BATCH):
            if time.process_time() > deadline:
                break
            batch = places[first : first + RATING_BATCH]
            crops = np.stack([pyramid.crop(place)[0] for place in batch])
            rated += zip(face_probability(self._net, crops).tolist(), batch, strict=True)
        rated.sort(key=lambda pair: -pair[0])
        best: list[_Place] = []
        for probability, place in rated:
            if probability < WORTH_REFINING or len(best) == MAX_PROPOSALS:
                break
            if not any(place.is_near(other) for other in best):
                best.append(place)
        return best

    def _fit(self, pyramid: _Pyramid, places: list[_Place], deadline: float) -> list[_Fit]:
        """Fit the points at each place and return the fits that are faces."""
        for _ in range(NUM_PASSES - 1):
            if not places or time.process_time() > deadline:
                return []
            fits = self._look(pyramid, [[place] for place in places])
            places = [
                fit.next_place() for fit in fits if fit.probability > WORTH_REFINING and _is_upright(fit)
            ]
        if not places or time.process_time() > deadline:
            return []
        fits = self._look(pyramid, [[_shifted(place, *look) for look in LAST_LOOKS] for place in places])
        height, width = pyramid.levels[0].shape[:2]
        return [fit for fit in fits if fit.score >= ACCEPT_SCORE and _is_plausible(fit, width, height)]

    def _look(self, pyramid: _Pyramid, groups: list[list[_Place]]) -> list[_Fit]:
        """Place the points in all crops at once and combine those of each group (all groups equally long)."""
        crops, matrices = zip(*(pyramid.crop(place) for group in groups for place in group), strict=True)
        points, probability, disagreement = place_points(self._net, np.stack(crops))
        in_picture = np.stack(
            [
                (found - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
                for found, matrix in zip(points, matrices, strict=True)
            ]
        ).reshape(len(groups), -1, *points.shape[1:])
        fits = []
        for group_points, group_probability, group_disagreement in zip(
            in_picture,
            probability.reshape(len(groups), -1),
            disagreement.reshape(len(groups), -1),
            strict=True,
        ):
            middle = np.median(group_points, axis=0)
            fit = _Fit(middle, float(group_probability.mean()), float(group_disagreement.mean()), 0.0)
            spread = float(group_points.std(axis=0).mean()) / fit.half_width
            fits.append(_Fit(middle, fit.probability, fit.disagreement, spread))
        return fits


def to_face_points(points: Doubles) -> FacePoints:
    """Name the net's 68 points (68, 2)."""
    chin, forehead = points[net_points.CHIN], points[net_points.FOREHEAD]
    return FacePoints(
        mouth_left=points[net_points.MOUTH_LEFT],
        mouth_right=points[net_points.MOUTH_RIGHT],
        upper_lip_outer=points[net_points.UPPER_LIP_OUTER],
        upper_lip_inner=points[net_points.UPPER_LIP_INNER],
        lower_lip_inner=points[net_points.LOWER_LIP_INNER],
        lower_lip_outer=points[net_points.LOWER_LIP_OUTER],
        nose_base=points[net_points.NOSE_BASE],
        chin=chin,
        jaw_left=points[net_points.JAW_LEFT],
        jaw_right=points[net_points.JAW_RIGHT],
        eyes=(
            _eye_points(points, net_points.LEFT_EYE, net_points.LEFT_BROW),
            _eye_points(points, net_points.RIGHT_EYE, net_points.RIGHT_BROW),
        ),
        head_centre=(forehead + chin) / 2,
        head_radius=0.55 * float(np.hypot(*(forehead - chin))),
    )


def _eye_points(points: Doubles, first: int, brow: slice) -> EyePoints:
    return EyePoints(
        corner_left=points[first],
        corner_right=points[first + 1],
        upper_lid=points[first + 2 : first + 7],
        lower_lid=points[first + 7 : first + 12],
        brow=points[brow].mean(axis=0),
    )


def _eyes_and_mouth(points: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return the middles of left eye, right eye and mouth corners."""
    left = points[net_points.LEFT_EYE : net_points.LEFT_EYE + 2].mean(axis=0)
    right = points[net_points.RIGHT_EYE : net_points.RIGHT_EYE + 2].mean(axis=0)
    mouth = points[[net_points.MOUTH_LEFT, net_points.MOUTH_RIGHT]].mean(axis=0)
    return left, right, mouth


def _everywhere(image: Picture) -> list[_Place]:
    """Return overlapping squares of several sizes all over the picture, the largest first."""
    height, width = image.shape[:2]
    return [
        _Place(np.array([x, y]), radius)
        for radius in (share * min(height, width) for share in SCAN_RADII)
        for y in _positions(height, radius)
        for x in _positions(width, radius)
    ]


def _positions(length: int, radius: float) -> Doubles:
    """Return crop centres along one side: half a radius apart, a crop may hang over the edge by a third."""
    positions = np.arange(0.7 * radius, length - 0.5 * radius, 0.5 * radius)
    return positions if positions.size else np.array([length / 2])


def _shifted(place: _Place, right: float, down: float, scale: float) -> _Place:
    return _Place(place.centre + place.radius * np.array([right, down]), place.radius * scale, place.angle)


def _is_upright(fit: _Fit) -> bool:
    """The net is trained on heads tilted by up to 45 degrees; beyond that its points mean nothing."""
    left, right, mouth = _eyes_and_mouth(fit.points)
    return bool(left[0] < right[0] and mouth[1] > (left[1] + right[1]) / 2)


def _is_plausible(fit: _Fit, width: int, height: int) -> bool:
    """Check size, place and order: mouth and chin below the eyes, most of the face inside the picture."""
    left, right, mouth = _eyes_and_mouth(fit.points)
    down = mouth - (left + right) / 2
    chin_below = float((fit.points[net_points.CHIN] - mouth) @ down) > 0
    features = fit.points[: net_points.NOSE_TIP]
    inside = ((features >= 0) & (features < [width, height])).all(axis=1).mean()
    large_enough = 2 * fit.half_width >= max(MIN_FACE_WIDTH_PX, MIN_FACE_SHARE * min(width, height))
    return _is_upright(fit) and chin_below and inside > 0.8 and large_enough


def _each_face_once(fits: list[_Fit]) -> list[_Fit]:
    """Drop fits whose face lies within that of a better one."""
    kept: list[_Fit] = []
    for fit in sorted(fits, key=lambda fit: -fit.score):
        centre = fit.points.mean(axis=0)
        distances = [
            float(np.hypot(*(centre - other.points.mean(axis=0)))) / max(fit.half_width, other.half_width)
            for other in kept
        ]
        if all(distance > 0.9 for distance in distances):
            kept.append(fit)
    return kept
