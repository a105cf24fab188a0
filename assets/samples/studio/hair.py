"""Grow hair, brows and lashes as strands. Arrays of strands have shape (num_strands, num_points, 3), metres."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree
from PIL import Image

from studio.body import Body, FloatArray

# Hairline: height above the eyes, as a share of eyes-to-crown, by azimuth (0 front, 180 nape).
HAIRLINE_AZIMUTH = (0.0, 22.0, 38.0, 50.0, 60.0, 76.0, 90.0, 106.0, 124.0, 150.0, 180.0)
HAIRLINE_HEIGHT = (0.62, 0.63, 0.56, 0.36, 0.10, -0.16, -0.02, -0.28, -0.55, -0.74, -0.78)


@dataclass(frozen=True, kw_only=True)
class HairStyle:
    """How the hair is cut and combed."""

    comb: str  # "back", "part", "bun", "out" or "forward"
    top_length: float = 0.06
    side_length: float = 0.03
    volume: float = 0.02  # greatest distance between hair and scalp where it lies flat
    lift: float = 0.5  # how far the root stands up before it is combed
    comb_reach: float = 0.08  # metres of hair that follow the comb; the rest falls
    parting: float = 0.0  # x of the parting
    curl_radius: float = 0.0
    curl_length: float = 0.03
    clump: float = 0.35
    num_strands: int = 30_000
    strand_radius: float = 0.000045
    melanin: float = 0.8
    redness: float = 0.3
    grey: float = 0.0


@dataclass(frozen=True, kw_only=True)
class HeadFrame:
    """Landmarks that place hair on a head."""

    eye_left: FloatArray
    eye_right: FloatArray
    eye_radius: float
    axis_y: float  # the vertical head axis passes through (0, axis_y)
    crown_z: float

    @property
    def eye_z(self) -> float:
        return float((self.eye_left[2] + self.eye_right[2]) / 2)

    def azimuth_and_height(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return degrees from straight ahead and height over the eyes (1 is the crown)."""
        azimuth = np.degrees(np.arctan2(np.abs(points[:, 0]), self.axis_y - points[:, 1]))
        return azimuth, (points[:, 2] - self.eye_z) / (self.crown_z - self.eye_z)


def measure_head(body: Body) -> HeadFrame:
    """Find the eyes, the crown and the head's axis."""
    left, right = body.group_vertices("helper-l-eye"), body.group_vertices("helper-r-eye")
    centre_left, centre_right = _box_centre(left), _box_centre(right)
    head = body.vertices[:13380][body.head_weight[:13380] > 0.5]
    return HeadFrame(
        eye_left=centre_left,
        eye_right=centre_right,
        eye_radius=float(np.ptp(left[:, 0]) / 2),
        axis_y=float(body.group_vertices("joint-head")[:, 1].mean()),
        crown_z=float(head[:, 2].max()),
    )


def _box_centre(points: FloatArray) -> FloatArray:
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = np.ptp(points[:, 0]) / 2
    centre[1] = points[:, 1].max() - radius  # the cornea bulges forward: measure from the back
    return np.asarray(centre)


def surface_tree(body: Body) -> BVHTree:
    """Return a search tree over the skin."""
    return BVHTree.FromPolygons(body.vertices.tolist(), body.faces["body"].tolist())


def sample_texture(path: Path, uv: FloatArray) -> FloatArray:
    """Read a grey mask (0..1) at texture coordinates."""
    picture = np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255
    rows, columns = picture.shape
    x = np.clip((uv[:, 0] * columns).astype(int), 0, columns - 1)
    y = np.clip(((1 - uv[:, 1]) * rows).astype(int), 0, rows - 1)
    return np.asarray(picture[y, x])


def sample_scalp(
    body: Body, frame: HeadFrame, style: HairStyle, num: int, rng: np.random.Generator, ears: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Draw hair roots evenly over the scalp. Returns positions and normals, (num, 3) each."""
    quads = body.faces["body"]
    quads = quads[(body.head_weight[quads] > 0.3).all(axis=1) & (ears[quads] < 0.3).all(axis=1)]
    triangles = body.vertices[np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])]
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    area = np.linalg.norm(normals, axis=1)
    pick = rng.choice(len(triangles), size=num * 5, p=area / area.sum())
    u, v = rng.random((2, num * 5, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    chosen = triangles[pick]
    roots = chosen[:, 0] + u * (chosen[:, 1] - chosen[:, 0]) + v * (chosen[:, 2] - chosen[:, 0])
    azimuth, height = frame.azimuth_and_height(roots)
    line = np.interp(azimuth, HAIRLINE_AZIMUTH, HAIRLINE_HEIGHT)
    line = line + rng.normal(0, 0.022, len(roots))
    keep = np.flatnonzero(height > line)[:num]
    return roots[keep], normals[pick[keep]] / area[pick[keep], None]


def grow_hair(
    body: Body, frame: HeadFrame, style: HairStyle, ears: FloatArray, seed: int, num_guides: int = 1400
) -> FloatArray:
    """Comb guide hairs over the head, then fill in the strands between them."""
    rng = np.random.default_rng(seed)
    tree = surface_tree(body)
    roots, normals = sample_scalp(body, frame, style, num_guides, rng, ears)
    guides = _comb(roots, normals, frame, style, tree, rng)
    fill_roots, _ = sample_scalp(body, frame, style, style.num_strands, rng, ears)
    return _fill_in(fill_roots, guides, style, rng)


def _lengths(roots: FloatArray, frame: HeadFrame, style: HairStyle) -> FloatArray:
    _, height = frame.azimuth_and_height(roots)
    share = np.clip((height - 0.25) / 0.45, 0, 1)
    share = share * share * (3 - 2 * share)
    return np.asarray(style.side_length + share * (style.top_length - style.side_length))


def _comb_direction(points: FloatArray, frame: HeadFrame, style: HairStyle) -> FloatArray:
    """Return the direction in which hair at these points is combed, (num, 3), not normalised."""
    side = np.where(points[:, 0] >= style.parting, 1.0, -1.0)
    one = np.ones(len(points))
    if style.comb == "back":
        return np.stack([side * 0.12, one, -0.1 * one], axis=1)
    if style.comb == "part":
        return np.stack([side * 0.9, 0.22 * one, -0.5 * one], axis=1)
    if style.comb == "forward":
        return np.stack([0.5 * one, -0.7 * one, -0.35 * one], axis=1)
    if style.comb == "bun":
        return np.asarray(bun_centre(frame) - points)
    if style.comb == "out":
        centre = np.array([0.0, frame.axis_y, frame.eye_z + 0.02])
        return np.asarray(points - centre)
    raise ValueError(f"unknown comb {style.comb!r}")


def _comb(
    roots: FloatArray,
    normals: FloatArray,
    frame: HeadFrame,
    style: HairStyle,
    tree: BVHTree,
    rng: np.random.Generator,
    num_points: int = 22,
) -> FloatArray:
    """Walk each guide hair from its root along comb direction and gravity, kept outside the skin."""
    lengths = _lengths(roots, frame, style) * rng.uniform(0.85, 1.05, len(roots))
    if style.comb == "bun":
        lengths = np.linalg.norm(roots - bun_centre(frame), axis=1) * 1.15
    step = (lengths / (num_points - 1))[:, None]
    layer = 0.0012 + style.volume * rng.random(len(roots)) ** 1.3
    direction, points, path, skin_normals = normals.copy(), roots.copy(), [roots.copy()], normals
    for index in range(1, num_points):
        travelled = index / num_points
        held = np.exp(-((index * step / style.comb_reach) ** 2))
        comb = _unit(_comb_direction(points, frame, style))
        if style.comb != "out":  # a comb slides over the head, it does not lift off or dig in
            comb = comb - skin_normals * (comb * skin_normals).sum(axis=1, keepdims=True)
        combed = held * comb + (1 - held) * _fall(points, frame)
        rise = max(0.0, 1 - travelled * 6) * style.lift
        blend = 0.45 if style.comb != "out" else 0.15
        direction = _unit((1 - blend) * direction + blend * _unit(combed) + rise * normals * 0.5)
        points = points + direction * step
        points, skin_normals = _push_out(points, layer * min(1.0, travelled * 5), tree)
        path.append(points.copy())
    return np.stack(path, axis=1)


def _fall(points: FloatArray, frame: HeadFrame) -> FloatArray:
    """Return gravity with a slight pull towards the neck, so that long hair frames the face."""
    outward = points - np.array([0.0, frame.axis_y + 0.02, 0.0])
    outward[:, 2] = 0.0
    down = np.tile([0.0, 0.0, -1.0], (len(points), 1))
    excess = np.clip(np.linalg.norm(outward, axis=1) - 0.07, 0.0, 0.06)[:, None]
    return np.asarray(down - 9.0 * excess * _unit(outward))


def _push_out(points: FloatArray, layer: FloatArray, tree: BVHTree) -> tuple[FloatArray, FloatArray]:
    """Keep points at least ``layer`` above the skin. Returns them and the skin normals below them."""
    result, normals = points.copy(), np.empty_like(points)
    for index, (point, least) in enumerate(zip(points, layer, strict=True)):
        nearest, normal, _, _ = tree.find_nearest(Vector(point))
        normals[index] = normal
        if (Vector(point) - nearest).dot(normal) < least:
            result[index] = nearest + normal * float(least)
    return result, normals


def _fill_in(roots: FloatArray, guides: FloatArray, style: HairStyle, rng: np.random.Generator) -> FloatArray:
    """Blend the three nearest guides for every root, then add clumps, curls and stray hairs."""
    num_points = guides.shape[1]
    t = np.linspace(0, 1, num_points)[None, :, None]
    strands = np.empty((len(roots), num_points, 3))
    offsets = guides - guides[:, :1]
    guide_side = guides[:, 0, 0] >= style.parting
    phase = rng.uniform(0, 2 * np.pi, len(guides))
    for start in range(0, len(roots), 2000):
        part = roots[start : start + 2000]
        distance = np.linalg.norm(part[:, None] - guides[None, :, 0], axis=2)
        distance += 0.05 * ((part[:, 0] >= style.parting)[:, None] != guide_side[None])
        near = np.argsort(distance, axis=1)[:, :3]
        share = 1 / (np.take_along_axis(distance, near, axis=1) + 1e-4) ** 2
        share /= share.sum(axis=1, keepdims=True)
        length = rng.uniform(0.82, 1.04, (len(part), 1, 1))
        curve = part[:, None] + length * np.einsum("nk,nkpc->npc", share, offsets[near])
        clump = style.clump * rng.uniform(0.5, 1.2, (len(part), 1, 1)) * t**1.2
        curve += np.clip(clump, 0, 0.95) * (guides[near[:, 0]] - curve)
        strands[start : start + 2000] = curve + _curls(curve, style, phase[near[:, 0]], rng)
    return strands


def _curls(curve: FloatArray, style: HairStyle, phase: FloatArray, rng: np.random.Generator) -> FloatArray:
    num, num_points, _ = curve.shape
    t = np.linspace(0, 1, num_points)[None, :]
    arc = np.concatenate(
        [np.zeros((num, 1)), np.cumsum(np.linalg.norm(np.diff(curve, axis=1), axis=2), axis=1)], axis=1
    )
    stray = rng.normal(0, 0.0011, (num, 1, 3)) * t[..., None]
    wobble = rng.uniform(0, 6.28, (num, 1, 3)) + t[..., None] * rng.uniform(3, 9, (num, 1, 3))
    stray = stray + 0.0007 * np.sin(wobble) * t[..., None]
    if style.curl_radius == 0.0:
        return np.asarray(stray)
    angle = 2 * np.pi * arc / style.curl_length + phase[:, None] + rng.normal(0, 0.35, (num, 1))
    grow = style.curl_radius * np.minimum(1.0, t * 4)
    curl = np.stack([np.cos(angle) * grow, np.sin(angle) * grow, 0.6 * np.sin(angle + 1) * grow], axis=2)
    return np.asarray(stray + curl)


def bun_centre(frame: HeadFrame) -> FloatArray:
    """Return where a top bun sits."""
    return np.array([0.0, frame.axis_y + 0.045, frame.crown_z + 0.018])


def wind_bun(
    frame: HeadFrame, seed: int, radius: float = 0.036, num: int = 9000, num_points: int = 24
) -> FloatArray:
    """Wind strands around a ball, in a few twisted bundles."""
    rng = np.random.default_rng(seed)
    bundle = rng.integers(0, 9, num)
    axes = _unit(rng.normal(0, 1, (9, 3)) * (0.6, 0.6, 1.0) + (0.0, 0.0, 0.6))[bundle]
    first = _unit(np.cross(axes, rng.normal(0, 1, (9, 3))[bundle]))
    second = np.cross(axes, first)
    angle = rng.uniform(0, 6.28, (num, 1)) + np.linspace(0, 2.6, num_points)[None]
    latitude = rng.normal(0, 0.22, (num, 1)) + 0.18 * np.sin(3 * angle + bundle[:, None])
    shell = radius * (1 - 0.16 * rng.random((num, 1)) + 0.05 * np.cos(latitude * 9))
    ring = np.cos(angle)[..., None] * first[:, None] + np.sin(angle)[..., None] * second[:, None]
    ball = np.cos(latitude)[..., None] * ring + np.sin(latitude)[..., None] * axes[:, None]
    return np.asarray(bun_centre(frame) + shell[..., None] * ball * (1.08, 1.0, 0.88))


def grow_brows(body: Body, frame: HeadFrame, seed: int, thickness: float, num: int = 800) -> FloatArray:
    """Lay short hairs along both brow ridges."""
    rng = np.random.default_rng(seed)
    tree = surface_tree(body)
    half = float(frame.eye_left[0] - frame.eye_right[0]) / 2
    strands = []
    for side in (1.0, -1.0):
        s = np.sort(rng.random(num))
        width = thickness * 0.0070 * np.interp(s, [0, 0.1, 0.5, 1], [0.8, 1.1, 0.9, 0.2])
        across = np.clip(rng.normal(0, 0.27, num), -0.6, 0.6)
        x = half * np.interp(s, [0, 1], [0.42, 1.62])
        z = half * np.interp(s, [0, 0.35, 0.66, 1], [0.56, 0.67, 0.715, 0.53]) + across * width
        tilt = np.interp(s, [0, 0.25, 1], [1.15, 0.45, -0.45]) - across * 0.7 + rng.normal(0, 0.16, num)
        length = rng.uniform(0.005, 0.0085, num) * np.interp(s, [0, 0.2, 1], [0.75, 1, 0.8])
        for k in range(num):
            root = _project(tree, side * x[k], frame.eye_z + z[k])
            along = Vector((side * np.cos(tilt[k]), 0.0, np.sin(tilt[k])))
            strands.append(_lay_on_skin(tree, root, along, length[k]))
    return np.array(strands)


def _project(tree: BVHTree, x: float, z: float) -> Vector:
    hit, _, _, _ = tree.ray_cast(Vector((x, -1.0, z)), Vector((0.0, 1.0, 0.0)))
    assert hit is not None, f"no skin in front of x={x:.3f} z={z:.3f}"
    return hit


def _lay_on_skin(
    tree: BVHTree, root: Vector, along: Vector, length: float, num_points: int = 5
) -> FloatArray:
    points = [np.array(root)]
    for index in range(1, num_points):
        target = root + along * (length * index / (num_points - 1))
        nearest, normal, _, _ = tree.find_nearest(target)
        points.append(np.array(nearest + normal * (0.0009 * np.sin(np.pi * index / num_points) + 0.0003)))
    return np.array(points)


def grow_lashes(body: Body, frame: HeadFrame, seed: int, length: float = 1.0) -> FloatArray:
    """Curl lashes outward from the lid rims, using the base mesh's lash strips as their path."""
    rng = np.random.default_rng(seed)
    strands = []
    for side, eye in (("l", frame.eye_left), ("r", frame.eye_right)):
        for strip, upward, num in (("2", 1.0, 130), ("1", -0.5, 70)):
            points = body.group_vertices(f"helper-{side}-eyelashes-{strip}")
            distance = np.linalg.norm(points - eye, axis=1)
            order = np.argsort(distance)
            rim = points[order[: len(points) // 2]]
            rim = rim[np.argsort(rim[:, 0])]
            x = rng.uniform(rim[0, 0], rim[-1, 0], num)
            root = np.stack(
                [x, np.interp(x, rim[:, 0], rim[:, 1]), np.interp(x, rim[:, 0], rim[:, 2])], axis=1
            )
            fan = (x - eye[0]) / frame.eye_radius
            size = length * rng.uniform(0.0048, 0.0072, num) * (1.0 if upward > 0 else 0.55)
            t = np.linspace(0, 1, 7)[None, :]
            forward = -size[:, None] * 0.85 * t
            lift = size[:, None] * upward * (-0.15 * t + 0.95 * t**2)
            sideways = (size * fan * 0.75 + rng.normal(0, 0.0004, num))[:, None] * t
            strands.append(root[:, None] + np.stack([sideways, forward, lift], axis=2))
    return np.concatenate(strands)


def _unit(vectors: FloatArray) -> FloatArray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))
