"""Cycles materials: skin, eyes, hair, knitwear and backdrop."""

from collections.abc import Sequence
from typing import Any

import bpy

Colour = Sequence[float]


class NodeGraph:
    """A thin convenience over a material's node tree."""

    def __init__(self, name: str) -> None:
        """Start an empty material."""
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self._tree = self.material.node_tree
        self._tree.nodes.clear()
        self._output = self.add("ShaderNodeOutputMaterial")

    def add(self, kind: str, inputs: dict[str, Any] | None = None, **settings: Any) -> Any:
        """Add a node. An input value that is a socket is linked, anything else is its default."""
        node = self._tree.nodes.new(kind)
        for key, value in settings.items():
            setattr(node, key, value)
        for key, value in (inputs or {}).items():
            socket = node.inputs[int(key)] if key.isdigit() else node.inputs[key]
            if isinstance(value, bpy.types.NodeSocket):
                self._tree.links.new(value, socket)
            else:
                socket.default_value = value
        return node

    def surface(self, shader: Any) -> Any:
        """Make ``shader`` the surface and return the material."""
        self._tree.links.new(shader.outputs[0], self._output.inputs["Surface"])
        return self.material

    def attribute(self, name: str) -> Any:
        """Return a mesh attribute's factor socket."""
        return self.add("ShaderNodeAttribute", attribute_name=name).outputs["Fac"]

    def noise(self, scale: float, detail: float = 4.0, vector: Any = None) -> Any:
        """Return a noise factor (about 0.2 to 0.8) over object coordinates in metres."""
        vector = vector or self.add("ShaderNodeTexCoord").outputs["Object"]
        return self.add("ShaderNodeTexNoise", {"Vector": vector, "Scale": scale, "Detail": detail}).outputs[0]

    def ramp(self, factor: Any, stops: Sequence[tuple[float, Colour]]) -> Any:
        """Return the colour of a ramp at ``factor``."""
        node = self.add("ShaderNodeValToRGB", {"Fac": factor})
        elements = node.color_ramp.elements
        while len(elements) < len(stops):
            elements.new(1.0)
        for element, (position, colour) in zip(elements, stops, strict=True):
            element.position, element.color = position, (*colour, 1.0)
        return node.outputs["Color"]

    def mix(self, factor: Any, first: Any, second: Any, mode: str = "MIX") -> Any:
        """Blend two colours (sockets or RGB triples)."""
        node = self.add("ShaderNodeMix", data_type="RGBA", blend_type=mode)
        for index, value in ((0, factor), (6, first), (7, second)):
            if isinstance(value, bpy.types.NodeSocket):
                self._tree.links.new(value, node.inputs[index])
            else:
                node.inputs[index].default_value = value if index == 0 else (*value, 1.0)
        return node.outputs[2]

    def math(self, operation: str, first: Any, second: Any = 0.0) -> Any:
        """Return the result of a scalar operation."""
        return self.add("ShaderNodeMath", {"0": first, "1": second}, operation=operation).outputs[0]


def skin(tone: Colour, blush: Colour, lips: Colour, *, freckles: float = 0.0, wrinkles: float = 0.0) -> Any:
    """Skin with subsurface scattering; reads the mesh attributes ``lips`` and ``blush``."""
    graph = NodeGraph("skin")
    darker = tuple(channel * 0.80 for channel in tone)
    lighter = tuple(min(1.0, channel * 1.08) for channel in tone)
    mottled = graph.ramp(graph.noise(28.0, 6.0), [(0.3, darker), (0.7, lighter)])
    colour = graph.mix(graph.math("MULTIPLY", graph.attribute("blush"), 0.55), mottled, blush)
    if freckles > 0:
        spots = graph.ramp(graph.noise(520.0, 1.0), [(0.60, (0, 0, 0)), (0.68, (1, 1, 1))])
        amount = graph.math("MULTIPLY", spots, graph.math("MULTIPLY", graph.attribute("blush"), freckles))
        colour = graph.mix(amount, colour, tuple(channel * 0.55 for channel in tone))
    lip_colour = graph.mix(graph.noise(300.0), tuple(c * 0.85 for c in lips), lips)
    lip_mask = graph.attribute("lips")
    colour = graph.mix(lip_mask, colour, lip_colour)
    pores = graph.add(
        "ShaderNodeTexVoronoi",
        {"Vector": graph.add("ShaderNodeTexCoord").outputs["Object"], "Scale": 900.0},
        feature="SMOOTH_F1",
    ).outputs["Distance"]
    grain = graph.math("ADD", graph.math("MULTIPLY", pores, 0.5), graph.noise(180.0, 8.0))
    bump = graph.add(
        "ShaderNodeBump", {"Height": grain, "Strength": 0.10 + 0.12 * wrinkles, "Distance": 0.0016}
    )
    rough = graph.math("ADD", 0.40, graph.math("MULTIPLY", graph.noise(90.0), 0.2))
    rough = graph.math("SUBTRACT", rough, graph.math("MULTIPLY", lip_mask, 0.10))
    shader = graph.add(
        "ShaderNodeBsdfPrincipled",
        {
            "Base Color": colour,
            "Roughness": rough,
            "Specular IOR Level": 0.42,
            "Subsurface Weight": 0.85,
            "Subsurface Radius": (1.0, 0.32, 0.16),
            "Subsurface Scale": 0.0038,
            "Normal": bump.outputs["Normal"],
        },
    )
    return graph.surface(shader)


def eye(iris: Colour) -> Any:
    """Eyeball whose iris faces the object's own -y axis."""
    graph = NodeGraph("eye")
    position = graph.add("ShaderNodeTexCoord").outputs["Object"]
    unit = graph.add("ShaderNodeVectorMath", {"0": position}, operation="NORMALIZE").outputs[0]
    parts = graph.add("ShaderNodeSeparateXYZ", {"Vector": unit}).outputs
    angle = graph.math("ARCCOSINE", graph.math("MULTIPLY", parts["Y"], -1.0))
    streak_at = graph.add(
        "ShaderNodeCombineXYZ",
        {"X": graph.math("ARCTAN2", parts["Z"], parts["X"]), "Y": graph.math("MULTIPLY", angle, 0.6)},
    ).outputs[0]
    streaks = graph.noise(9.0, 3.0, streak_at)
    inner = tuple(min(1.0, channel * 2.1) for channel in iris)
    fibres = graph.mix(streaks, tuple(channel * 0.55 for channel in iris), inner)
    white = graph.mix(graph.noise(120.0, 5.0), (0.72, 0.62, 0.58), (0.80, 0.77, 0.74))
    black, rim = (0.004, 0.003, 0.003), tuple(channel * 0.16 for channel in iris)
    colour = graph.mix(_step(graph, angle, 0.185, 0.205), black, fibres)
    colour = graph.mix(_step(graph, angle, 0.39, 0.46), colour, rim)
    colour = graph.mix(_step(graph, angle, 0.465, 0.50), colour, white)
    shader = graph.add(
        "ShaderNodeBsdfPrincipled",
        {
            "Base Color": colour,
            "Roughness": 0.25,
            "Coat Weight": 1.0,
            "Coat Roughness": 0.015,
            "Coat IOR": 1.38,
        },
    )
    return graph.surface(shader)


def _step(graph: NodeGraph, value: Any, low: float, high: float) -> Any:
    inputs = {"Value": value, "1": low, "2": high, "3": 0.0, "4": 1.0}
    return graph.add("ShaderNodeMapRange", inputs, interpolation_type="SMOOTHSTEP").outputs[0]


def hair(melanin: float, redness: float, *, variation: float = 0.25, roughness: float = 0.32) -> Any:
    """Strand material; melanin 0 is white and 1 is black."""
    graph = NodeGraph("hair")
    inputs = {"Melanin": melanin, "Melanin Redness": redness, "Roughness": roughness}
    inputs |= {"Radial Roughness": 0.4, "Random Color": variation, "Random Roughness": 0.2}
    shader = graph.add("ShaderNodeBsdfHairPrincipled", inputs, parametrization="MELANIN", model="CHIANG")
    return graph.surface(shader)


def knit(colour: Colour, *, rib_scale: float = 330.0, roughness: float = 0.85) -> Any:
    """Soft fabric with a fine rib and a little sheen."""
    graph = NodeGraph("knit")
    position = graph.add("ShaderNodeTexCoord").outputs["Object"]
    ribs = graph.add(
        "ShaderNodeTexWave",
        {"Vector": position, "Scale": rib_scale, "Distortion": 1.5, "Detail": 2.0},
        bands_direction="X",
    ).outputs["Fac"]
    rows = graph.add(
        "ShaderNodeTexWave",
        {"Vector": position, "Scale": rib_scale, "Distortion": 1.5, "Detail": 2.0},
        bands_direction="Z",
    ).outputs["Fac"]
    height = graph.math("ADD", graph.math("MULTIPLY", ribs, rows), graph.noise(700.0))
    bump = graph.add("ShaderNodeBump", {"Height": height, "Strength": 0.45, "Distance": 0.001})
    shade = graph.mix(graph.noise(60.0), tuple(channel * 0.82 for channel in colour), colour)
    shader = graph.add(
        "ShaderNodeBsdfPrincipled",
        {
            "Base Color": shade,
            "Roughness": roughness,
            "Specular IOR Level": 0.2,
            "Sheen Weight": 0.35,
            "Sheen Roughness": 0.4,
            "Normal": bump.outputs["Normal"],
        },
    )
    return graph.surface(shader)


def backdrop(dark: Colour, light: Colour) -> Any:
    """A painted studio backdrop: brighter behind the head, mottled towards the edges."""
    graph = NodeGraph("backdrop")
    position = graph.add("ShaderNodeTexCoord").outputs["Object"]
    distance = graph.add("ShaderNodeVectorMath", {"0": position}, operation="LENGTH").outputs["Value"]
    mottled = graph.math("ADD", distance, graph.math("MULTIPLY", graph.noise(2.2, 5.0), 0.6))
    colour = graph.ramp(graph.math("MULTIPLY", mottled, 0.6), [(0.15, light), (0.9, dark)])
    shader = graph.add("ShaderNodeBsdfPrincipled", {"Base Color": colour, "Roughness": 0.9})
    return graph.surface(shader)
