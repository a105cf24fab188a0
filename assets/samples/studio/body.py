"""Build a person's head and shoulders from the public-domain (CC0) MakeHuman base mesh.

The base mesh and its morph targets are read from a folder laid out like MPFB2's ``data`` folder
(``3dobjs/base.obj``, ``targets/``, ``rigs/standard/``, ``textures/``). Lengths are metres; the person
looks along -y, z is up, and the person's left is +x.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METRES_PER_UNIT = 0.1  # the base mesh is measured in decimetres
ARM_BONES = ("upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist", "metacarpal", "finger")


@dataclass(frozen=True, kw_only=True)
class Phenotype:
    """Who the person is: weights of the macro morphs, plus named detail morphs."""

    ancestry: Mapping[str, float]  # african / asian / caucasian, sums to 1
    femininity: float = 1.0
    old_age: float = 0.0  # 0 is a young adult, 1 is about eighty
    muscle: float = 0.0  # -1 slight .. 1 strong
    weight: float = 0.0  # -1 thin .. 1 heavy
    details: Mapping[str, float] = field(default_factory=dict)  # e.g. {"nose/nose-hump-incr": 0.4}


@dataclass(frozen=True, kw_only=True)
class Body:
    """Morphed base mesh. ``faces`` maps an OBJ group to its quads; ``uv`` is per body vertex."""

    vertices: FloatArray  # (num_vertices, 3) metres
    faces: Mapping[str, IntArray]  # group -> (num_faces, 4)
    uv: FloatArray  # (num_vertices, 2)
    head_weight: FloatArray  # (num_vertices,) 0..1

    def group_vertices(self, group: str) -> FloatArray:
        """Return the positions of the vertices that a group uses."""
        return self.vertices[np.unique(self.faces[group])]


def build_body(data_dir: Path, phenotype: Phenotype, arm_drop_degrees: float = 36.0) -> Body:
    """Load the base mesh, apply the person's morphs and lower the arms."""
    vertices, faces, uv = _load_obj(data_dir / "3dobjs" / "base.obj")
    for name, amount in _macro_weights(phenotype).items():
        _apply_target(vertices, data_dir / "targets" / f"{name}.target.gz", amount)
    for name, amount in phenotype.details.items():
        _apply_target(vertices, data_dir / "targets" / f"{name}.target.gz", amount)
    weights = json.loads((data_dir / "rigs/standard/weights.default.json").read_text())["weights"]
    for side, sign in (("L", 1.0), ("R", -1.0)):
        _lower_arm(vertices, faces, weights, side, sign * np.radians(arm_drop_degrees))
    head = _bone_weight(weights, len(vertices), ("head", "jaw"), "")
    metres = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1) * METRES_PER_UNIT
    return Body(vertices=metres, faces=faces, uv=uv, head_weight=head)


def _load_obj(path: Path) -> tuple[FloatArray, dict[str, IntArray], FloatArray]:
    positions: list[list[float]] = []
    texture: list[list[float]] = []
    groups: dict[str, list[list[int]]] = {}
    uv_of_vertex: dict[int, int] = {}
    current = ""
    for line in path.read_text().splitlines():
        kind, *rest = line.split() or [""]
        if kind == "v":
            positions.append([float(value) for value in rest[:3]])
        elif kind == "vt":
            texture.append([float(value) for value in rest[:2]])
        elif kind == "g":
            current = rest[0]
        elif kind == "f":
            corners = [corner.split("/") for corner in rest]
            groups.setdefault(current, []).append([int(corner[0]) - 1 for corner in corners])
            uv_of_vertex.update({int(corner[0]) - 1: int(corner[1]) - 1 for corner in corners})
    uv = np.zeros((len(positions), 2))
    for vertex, index in uv_of_vertex.items():
        uv[vertex] = texture[index]
    faces = {name: np.array(quads, dtype=np.int64) for name, quads in groups.items()}
    return np.array(positions), faces, uv


def _apply_target(vertices: FloatArray, path: Path, amount: float) -> None:
    """Add ``amount`` of a morph target ("index dx dy dz" per line) in place."""
    if amount == 0.0:
        return
    with gzip.open(path, "rt") as lines:
        rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    vertices[table[:, 0].astype(np.int64)] += amount * table[:, 1:4]


def _macro_weights(person: Phenotype) -> dict[str, float]:
    """Spread sex, age, ancestry, muscle and weight over the macro morphs that mix them."""
    sexes = {"female": person.femininity, "male": 1.0 - person.femininity}
    ages = {"young": 1.0 - person.old_age, "old": person.old_age}
    muscles = _three_way(person.muscle, "muscle")
    weights = _three_way(person.weight, "weight")
    result: dict[str, float] = {}
    for sex, sex_share in sexes.items():
        for age, age_share in ages.items():
            share = sex_share * age_share
            for race, race_share in person.ancestry.items():
                result[f"macrodetails/{race}-{sex}-{age}"] = share * race_share
            for muscle, muscle_share in muscles.items():
                for weight, weight_share in weights.items():
                    name = f"macrodetails/universal-{sex}-{age}-{muscle}-{weight}"
                    result[name] = share * muscle_share * weight_share
    return result


def _three_way(value: float, noun: str) -> dict[str, float]:
    return {
        f"min{noun}": max(0.0, -value),
        f"average{noun}": 1.0 - abs(value),
        f"max{noun}": max(0.0, value),
    }


def _bone_weight(
    weights: Mapping[str, list[list[float]]], num_vertices: int, bones: tuple[str, ...], side: str
) -> FloatArray:
    total = np.zeros(num_vertices)
    for bone, pairs in weights.items():
        stem, _, bone_side = bone.partition(".")
        if bone_side == side and stem.startswith(bones):
            table = np.array(pairs, dtype=np.float64)
            total[table[:, 0].astype(np.int64)] += table[:, 1]
    return np.clip(total, 0.0, 1.0)


def _lower_arm(
    vertices: FloatArray,
    faces: Mapping[str, IntArray],
    weights: Mapping[str, list[list[float]]],
    side: str,
    angle: float,
) -> None:
    """Turn one arm about its shoulder joint, towards the flank (mesh units, y up)."""
    joint = vertices[np.unique(faces[f"joint-{side.lower()}-shoulder"])].mean(axis=0)
    share = _bone_weight(weights, len(vertices), ARM_BONES, side)[:, None]
    offset = vertices - joint
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack(
        [cos * offset[:, 0] + sin * offset[:, 1], -sin * offset[:, 0] + cos * offset[:, 1]], axis=1
    )
    vertices[:, :2] += share * (turned - offset[:, :2])
