"""Put a person into a lit Cycles scene and photograph them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bmesh
import bpy
import numpy as np
from mathutils import Vector
from mathutils.bvhtree import BVHTree

from studio import materials
from studio.body import Body, FloatArray, IntArray
from studio.hair import HeadFrame, surface_tree


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Camera and light of one portrait."""

    width: int
    height: int
    yaw_degrees: float = 0.0  # camera moves to the person's left
    pitch_degrees: float = 2.0
    head_share: float = 0.42  # head height as a share of the picture's height
    centre_x: float = 0.0  # metres; shifts the person sideways in the picture
    aim_drop: float = 0.045  # metres below the eyes that the picture's centre lies
    key_power: float = 26.0
    key_colour: Sequence[float] = (1.0, 0.93, 0.85)
    fill_power: float = 7.0
    fill_colour: Sequence[float] = (0.82, 0.9, 1.0)
    rim_power: float = 20.0
    key_side: float = 1.0  # +1 lights from the person's left
    exposure: float = 0.35


def reset() -> None:
    """Empty the file and set Cycles up."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.use_denoising = True
    scene.cycles.denoiser = "OPENIMAGEDENOISE"
    scene.cycles.use_adaptive_sampling = True
    scene.cycles.adaptive_threshold = 0.03
    scene.cycles.max_bounces = 5
    scene.cycles.transparent_max_bounces = 8
    scene.cycles_curves.shape = "RIBBONS"
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.look = "AgX - Punchy"
    scene.world = bpy.data.worlds.new("world")
    scene.world.use_nodes = True


def add_mesh(
    name: str,
    vertices: FloatArray,
    faces: IntArray,
    material: Any,
    *,
    subdivisions: int = 0,
    **masks: FloatArray,
) -> Any:
    """Add the part of a mesh that ``faces`` uses; ``masks`` become vertex attributes."""
    used, compact = np.unique(faces, return_inverse=True)
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices[used].tolist(), [], compact.reshape(faces.shape).tolist())
    mesh.shade_smooth()
    mesh.materials.append(material)
    for key, values in masks.items():
        attribute = mesh.attributes.new(key, "FLOAT", "POINT")
        attribute.data.foreach_set("value", values[used].astype(np.float32))
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    if subdivisions:
        modifier = thing.modifiers.new("smooth", "SUBSURF")
        modifier.levels = modifier.render_levels = subdivisions
    return thing


def add_strands(name: str, strands: FloatArray, radius: float, material: Any, *, tip: float = 0.25) -> Any:
    """Add hair curves; ``tip`` is the tip's radius as a share of the root's."""
    num, num_points, _ = strands.shape
    curves = bpy.data.hair_curves.new(name)
    curves.add_curves([num_points] * num)
    curves.attributes["position"].data.foreach_set("vector", strands.astype(np.float32).ravel())
    taper = np.linspace(0, 1, num_points) ** 2
    radii = radius * (1 - (1 - tip) * np.tile(taper, num))
    attribute = curves.attributes.get("radius") or curves.attributes.new("radius", "FLOAT", "POINT")
    attribute.data.foreach_set("value", radii.astype(np.float32))
    curves.materials.append(material)
    thing = bpy.data.objects.new(name, curves)
    bpy.context.scene.collection.objects.link(thing)
    return thing


def add_eye(centre: FloatArray, radius: float, gaze: FloatArray, material: Any) -> None:
    """Add an eyeball that looks at the point ``gaze``."""
    bpy.ops.mesh.primitive_uv_sphere_add(segments=96, ring_count=64, radius=1.0)
    ball = bpy.context.object
    for vertex in ball.data.vertices:  # raise a cornea over the iris
        angle = np.arccos(np.clip(-vertex.co.y, -1, 1))
        vertex.co *= 1.0 + 0.055 * max(0.0, 1 - (angle / 0.52) ** 2)
    ball.data.shade_smooth()
    ball.data.materials.append(material)
    ball.scale = (radius,) * 3
    ball.location = centre
    ball.rotation_mode = "QUATERNION"
    ball.rotation_quaternion = Vector(gaze - centre).to_track_quat("-Y", "Z")


def add_sweater(
    body: Body,
    material: Any,
    *,
    neck_front: float,
    neck_back: float,
    loose: float = 0.009,
    collar_height: float = 0.02,
) -> None:
    """Dress the person; the neckline plane runs from ``neck_front`` to ``neck_back`` (z, metres)."""
    faces = body.faces["helper-tights"]
    shown = body.vertices[faces][:, :, 2].min(axis=1) > neck_front - 0.55
    garment = add_mesh("sweater", body.vertices, faces[shown], material)
    mesh = bmesh.new()
    mesh.from_mesh(garment.data)
    bmesh.ops.subdivide_edges(mesh, edges=mesh.edges, cuts=1, use_grid_fill=True)
    for _ in range(6):
        bmesh.ops.smooth_vert(
            mesh, verts=mesh.verts, factor=0.5, use_axis_x=True, use_axis_y=True, use_axis_z=True
        )
    mesh.normal_update()
    for vertex in mesh.verts:
        vertex.co += vertex.normal * loose
    slope = Vector((0.0, 0.16, neck_back - neck_front))  # front to back of the neckline plane
    normal = Vector((0.0, -slope.z, slope.y)).normalized()
    geometry = [*mesh.verts, *mesh.edges, *mesh.faces]
    base = Vector((0.0, -0.10, neck_front))
    bmesh.ops.bisect_plane(mesh, geom=geometry, plane_co=base, plane_no=normal, clear_outer=True)
    rim = [edge for edge in mesh.edges if edge.is_boundary and (edge.verts[0].co - base).dot(normal) > -0.002]
    _raise_collar(mesh, rim, surface_tree(body), collar_height)
    for face in mesh.faces:
        face.smooth = True
    mesh.to_mesh(garment.data)
    mesh.free()
    thick = garment.modifiers.new("thick", "SOLIDIFY")
    thick.thickness, thick.offset = 0.006, 0.0
    smooth = garment.modifiers.new("smooth", "SUBSURF")
    smooth.levels = smooth.render_levels = 2


def _raise_collar(mesh: Any, rim: list[Any], skin: BVHTree, height: float) -> None:
    """Close the gap to the neck, then fold a ribbed band upwards."""
    for rise, gap in ((0.25 * height, 0.006), (height, 0.0065)):
        made = bmesh.ops.extrude_edge_only(mesh, edges=rim)["geom"]
        for vertex in (item for item in made if isinstance(item, bmesh.types.BMVert)):
            nearest, normal, _, _ = skin.find_nearest(vertex.co + Vector((0.0, 0.0, rise)))
            vertex.co = nearest + Vector((normal.x, normal.y, 0.0)).normalized() * gap
        rim = [item for item in made if isinstance(item, bmesh.types.BMEdge) and item.is_boundary]


def add_backdrop(
    dark: Sequence[float], light: Sequence[float], centre_z: float, distance: float = 1.6
) -> None:
    """Hang a large painted cloth behind the person."""
    bpy.ops.mesh.primitive_plane_add(size=9.0, location=(0.0, distance, centre_z), rotation=(np.pi / 2, 0, 0))
    bpy.context.object.data.materials.append(materials.backdrop(dark, light))


def _area_light(at: Vector, target: Vector, size: float, power: float, colour: Sequence[float]) -> None:
    light = bpy.data.lights.new("area", "AREA")
    light.shape, light.size, light.energy, light.color = "DISK", size, power, tuple(colour)
    thing = bpy.data.objects.new("area", light)
    thing.location = at
    thing.rotation_euler = (target - at).to_track_quat("-Z", "Y").to_euler()
    bpy.context.scene.collection.objects.link(thing)


def camera_position(frame: HeadFrame, shot: Shot) -> FloatArray:
    """Return where the camera stands: far enough for the head to fill its share of the picture."""
    yaw, pitch = np.radians(shot.yaw_degrees), np.radians(shot.pitch_degrees)
    direction = np.array([np.sin(yaw) * np.cos(pitch), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    middle = np.array([0.0, (frame.eye_left[1] + frame.axis_y) / 2, frame.eye_z])
    return np.asarray(middle + 1.7 * direction)


def light_and_shoot(frame: HeadFrame, shot: Shot, path: Path, *, samples: int, scale: int) -> None:
    """Add lights and camera, then render to ``path`` (PNG)."""
    scene = bpy.context.scene
    target = Vector((0.0, frame.eye_left[1], frame.eye_z - 0.04))
    key = target + Vector((0.95 * shot.key_side, -0.8, 0.6))
    fill = target + Vector((-1.1 * shot.key_side, -0.9, 0.05))
    rim = target + Vector((-0.75 * shot.key_side, 0.85, 0.55))
    _area_light(key, target, 0.55, shot.key_power, shot.key_colour)
    _area_light(fill, target, 1.2, shot.fill_power, shot.fill_colour)
    _area_light(rim, target, 0.5, shot.rim_power, (1.0, 0.96, 0.92))
    back = Vector((0.0, 1.58, frame.eye_z))
    _area_light(back + Vector((0.9 * shot.key_side, -1.0, 0.9)), back, 0.8, 22.0, (1.0, 0.97, 0.94))
    scene.world.node_tree.nodes["Background"].inputs[0].default_value = (0.55, 0.6, 0.7, 1.0)
    scene.world.node_tree.nodes["Background"].inputs[1].default_value = 0.22
    camera = bpy.data.cameras.new("camera")
    thing = bpy.data.objects.new("camera", camera)
    scene.collection.objects.link(thing)
    thing.location = camera_position(frame, shot)
    aim = Vector((shot.centre_x, frame.eye_left[1] + 0.03, frame.eye_z - shot.aim_drop))
    thing.rotation_euler = (aim - thing.location).to_track_quat("-Z", "Y").to_euler()
    head_height = (frame.crown_z - frame.eye_z) * 2.1
    camera.sensor_fit, camera.sensor_height = "VERTICAL", 24.0
    camera.lens = 24.0 * (aim - thing.location).length * shot.head_share / head_height
    camera.dof.use_dof = True
    camera.dof.focus_distance = (Vector(frame.eye_left) - thing.location).length
    camera.dof.aperture_fstop = 5.0
    scene.camera = thing
    scene.view_settings.exposure = shot.exposure
    scene.render.resolution_x, scene.render.resolution_y = shot.width, shot.height
    scene.render.resolution_percentage = scale
    scene.cycles.samples = samples
    scene.render.threads_mode, scene.render.threads = "FIXED", 2
    scene.render.image_settings.file_format = "PNG"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
