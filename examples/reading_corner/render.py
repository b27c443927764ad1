"""Render the "reading corner" example scene with known cameras.

Nobody needs this script to use the example: the photographs and ``ground_truth.json`` lie beside it. To render the
scene again, take Python 3.11 and

    pip install "bpy==5.0.1" "numpy<2" opencv-python-headless
    apt-get download sweethome3d-furniture && dpkg-deb -x sweethome3d-furniture_*.deb furniture
    python render.py --models furniture/usr/share/sweethome3d/furniture/BlendSwap-CC-0.sh3f --out .

(bpy is Blender as a Python module; on a bare Debian it wants libxrender1 libxi6 libxkbcommon0 libsm6 libgl1 libegl1.)

The shapes of eight objects are Blend Swap models under CC0 1.0, taken from the Debian package ``sweethome3d-furniture``
(file BlendSwap-CC-0.sh3f); see ``MODELS`` below for the authors. The licence file in each model's own folder says CC0
(a few other models of that collection say CC BY: look before adding one). None of their image textures is used: every
material, the printed patterns and all other geometry are made in this file, from fixed seeds.

Every view is rendered by Cycles as an ideal pinhole image, larger and wider than needed, and then resampled once into
the camera of the example: 1024 x 768, one focal length, a principal point off the centre, one radial term (COLMAP's
SIMPLE_RADIAL). Image coordinates put the centre of the top-left pixel at (0.5, 0.5).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import cv2
import numpy as np
from mathutils import Matrix, Vector

# ------------------------------------------------------------------------------------------------ the camera

WIDTH, HEIGHT = 1024, 768
FOCAL = 905.0
CX, CY = 512.0 + 9.4, 384.0 - 7.2
K1 = -0.05
NUM_VIEWS = 16
OVERSCAN = 1.06  # the pinhole image is this much wider than 1024 x 768, room for the distortion and the shift
JPEG_QUALITY = 80

Color = tuple[float, float, float]


# ------------------------------------------------------------------------------------------------ the models


@dataclass
class Model:
    """A CC0 model of BlendSwap-CC-0.sh3f, its place in the room (metres, degrees) and its materials by name prefix."""

    folder: str
    title: str
    author: str
    blend: int  # https://www.blendswap.com/blends/view/<blend>
    height: float
    place: tuple[float, float, float]
    turn: float
    materials: dict[str, str]
    tilt: float = 0.0


MODELS = [
    Model("armchair2", "Chair", "cris1983", 76803, 0.84, (-0.16, 0.42, 0.012), 10, {"": "leather"}),
    Model(
        "teddyBear",
        "Burlap Bear",
        "manitislate",
        759,
        0.36,
        (-0.12, 0.36, 0.395),
        22,
        {"eyes": "ebony", "": "plush"},
        tilt=-8,
    ),
    Model("crate", "Low poly Crate", "GyngaNynja", 71943, 0.50, (1.08, 0.50, 0.0), -17, {"": "pine"}),
    Model(
        "augalas",
        "Indoor Plant In A Pot",
        "MZiemys",
        84195,
        0.36,
        (1.05, 0.50, 0.50),
        150,
        {"Leaf": "leaf", "Stem": "stem", "Pot": "terracotta", "Ground": "soil"},
    ),
    Model(
        "decorativePlant",
        "Decorative Plant in a pot",
        "MZiemys",
        83379,
        1.16,
        (-1.22, 0.62, 0.0),
        40,
        {"Leaves": "olive_leaf", "Branches": "stem", "Wood": "walnut", "PotMat": "granite", "Ground": "soil"},
    ),
    Model(
        "caballito",
        "PW-Horse",
        "sangio",
        53548,
        0.50,
        (0.70, -0.44, 0.012),
        -28,
        {"C3": "paint_cream", "Madera.001": "paint_red", "X": "paint_blue", "": "honey"},
    ),
    Model("stoneLantern", "Stone Lantern", "argonius", 75106, 0.52, (-1.02, -0.30, 0.012), 20, {"": "sandstone"}),
    Model(
        "cuckooClock",
        "Cuckoo Clock",
        "Guclu",
        77889,
        0.74,
        (0.62, 1.09, 1.16),
        0,
        {
            "Clock": "paint_cream",
            "Front": "walnut",
            "Back": "walnut",
            "Side": "walnut",
            "Pendulum": "brass",
            "": "honey",
        },
    ),
]


# ------------------------------------------------------------------------------------------------ shader nodes


class Shader:
    """A node material on the Principled BSDF; coordinates are object coordinates in metres unless told otherwise."""

    def __init__(self, name: str) -> None:
        """An empty material of this name."""
        self.material = bpy.data.materials.new(name)
        if self.material.node_tree is None:  # before Blender 5
            self.material.use_nodes = True
        self.nodes = self.material.node_tree.nodes
        self.links = self.material.node_tree.links
        self.bsdf = next(n for n in self.nodes if n.type == "BSDF_PRINCIPLED")
        self.metres = self.node("ShaderNodeTexCoord").outputs["Object"]

    def node(self, kind: str, **inputs: object) -> bpy.types.Node:
        """A new node; inputs are named with underscores for spaces, values are constants or output sockets."""
        node = self.nodes.new(kind)
        for key, value in inputs.items():
            self.connect(value, node.inputs[key.replace("_", " ")])
        return node

    def connect(self, value: object, socket: bpy.types.NodeSocket) -> None:
        """Link an output socket to an input, or set the input's constant."""
        if isinstance(value, bpy.types.NodeSocket):
            self.links.new(value, socket)
        elif isinstance(value, tuple) and len(value) == 3 and socket.type == "RGBA":
            socket.default_value = (*value, 1.0)
        else:
            socket.default_value = value

    def stretch(self, vector: object, scale: tuple[float, float, float]) -> bpy.types.NodeSocket:
        """Coordinates scaled along their axes."""
        return self.node("ShaderNodeMapping", Vector=vector, Scale=scale).outputs[0]

    def add(self, a: object, b: object) -> bpy.types.NodeSocket:
        """Sum of two vectors."""
        node = self.node("ShaderNodeVectorMath")
        node.operation = "ADD"
        self.connect(a, node.inputs[0])
        self.connect(b, node.inputs[1])
        return node.outputs[0]

    def noise(
        self, scale: float, detail: float = 6.0, vector: object = None, roughness: float = 0.6, distortion: float = 0.0
    ) -> bpy.types.NodeSocket:
        """Fractal noise in 0..1 with `scale` bumps per metre."""
        node = self.node(
            "ShaderNodeTexNoise",
            Vector=vector or self.metres,
            Scale=scale,
            Detail=detail,
            Roughness=roughness,
            Distortion=distortion,
        )
        return node.outputs[0]

    def cells(self, scale: float, feature: str = "F1", vector: object = None) -> bpy.types.Node:
        """Voronoi cells, `scale` of them per metre."""
        node = self.node("ShaderNodeTexVoronoi", Vector=vector or self.metres, Scale=scale)
        node.feature = feature
        return node

    def ramp(self, factor: object, stops: Sequence[tuple[float, Color]]) -> bpy.types.NodeSocket:
        """Colours along a 0..1 factor."""
        node = self.node("ShaderNodeValToRGB", Fac=factor)
        elements = node.color_ramp.elements
        while len(elements) < len(stops):
            elements.new(0.5)
        for element, (position, color) in zip(elements, stops, strict=True):
            element.position = position
            element.color = (*color, 1.0)
        return node.outputs[0]

    def mix(self, factor: object, a: object, b: object, blend: str = "MIX") -> bpy.types.NodeSocket:
        """Blend two colours."""
        node = self.nodes.new("ShaderNodeMixRGB")
        node.blend_type = blend
        for value, socket in zip((factor, a, b), node.inputs, strict=True):
            self.connect(value, socket)
        return node.outputs[0]

    def grain(self, color: object, scale: float, low: float, high: float, amount: float = 1.0) -> bpy.types.NodeSocket:
        """Multiply a colour by fine noise between the grey levels `low` and `high`."""
        grey = self.ramp(self.noise(scale, 2.0), [(0.3, (low,) * 3), (0.7, (high,) * 3)])
        return self.mix(amount, color, grey, "MULTIPLY")

    def attribute(self, name: str) -> bpy.types.Node:
        """A mesh attribute (outputs Color, Vector, Fac)."""
        node = self.nodes.new("ShaderNodeAttribute")
        node.attribute_name = name
        return node

    def image(self, pixels: np.ndarray, vector: object) -> bpy.types.NodeSocket:
        """An RGB picture (uint8, top row first) as a texture."""
        height, width = pixels.shape[:2]
        image = bpy.data.images.new(self.material.name, width, height)
        rgba = np.ones((height, width, 4), np.float32)
        rgba[..., :3] = pixels[::-1].astype(np.float32) / 255.0
        image.pixels.foreach_set(rgba.ravel())
        image.pack()
        node = self.node("ShaderNodeTexImage", Vector=vector)
        node.image = image
        node.interpolation = "Cubic"
        return node.outputs[0]

    def finish(
        self,
        color: object,
        roughness: float = 0.7,
        height: object = None,
        depth: float = 0.002,
        specular: float = 0.3,
        average: Color = (0.3, 0.2, 0.14),
    ) -> bpy.types.Material:
        """Connect colour, roughness and a bump of `depth` metres; return the material.

        Only what the camera sees is shaded in full. Bounced light meets a plain surface of the `average` colour: the
        picture hardly changes, and Cycles is several times faster.
        """
        self.connect(color, self.bsdf.inputs["Base Color"])
        self.bsdf.inputs["Roughness"].default_value = roughness
        self.bsdf.inputs["Specular IOR Level"].default_value = specular
        if height is not None:
            bump = self.node("ShaderNodeBump", Height=height, Distance=depth, Strength=0.8)
            self.connect(bump.outputs[0], self.bsdf.inputs["Normal"])
        seen = self.node("ShaderNodeLightPath").outputs["Is Camera Ray"]
        plain = self.node("ShaderNodeBsdfDiffuse", Color=average)
        switch = self.node("ShaderNodeMixShader", Fac=seen)
        self.links.new(plain.outputs[0], switch.inputs[1])
        self.links.new(self.bsdf.outputs[0], switch.inputs[2])
        output = next(n for n in self.nodes if n.type == "OUTPUT_MATERIAL")
        self.links.new(switch.outputs[0], output.inputs["Surface"])
        return self.material


def wood(
    name: str,
    dark: Color,
    middle: Color,
    light: Color,
    axes: tuple[float, float, float] = (9.0, 1.0, 9.0),
    tone: bool = False,
    roughness: float = 0.55,
) -> bpy.types.Material:
    """Wood with grain along the axis of the smallest number; with `tone`, each board differs (mesh attribute)."""
    s = Shader(name)
    base = s.metres
    if tone:
        base = s.add(base, s.stretch(s.attribute("tone").outputs["Vector"], (7.0, 31.0, 13.0)))
    along = s.stretch(base, axes)
    rings = s.noise(1.6, 5.0, along, 0.62, 1.4)
    pores = s.noise(16.0, 3.0, along, 0.7)
    blotch = s.noise(5.0, 4.0, base, 0.65)
    knots = s.cells(2.3, vector=s.stretch(base, (1.0, 0.6, 1.0))).outputs["Distance"]
    color = s.ramp(rings, [(0.30, dark), (0.42, middle), (0.52, light), (0.58, middle), (0.72, dark)])
    color = s.mix(0.9, color, s.ramp(pores, [(0.33, (0.22,) * 3), (0.55, (1.0,) * 3)]), "MULTIPLY")
    color = s.mix(0.8, color, s.ramp(blotch, [(0.35, (0.55,) * 3), (0.62, (1.15,) * 3)]), "MULTIPLY")
    color = s.mix(0.9, color, s.ramp(knots, [(0.02, (0.18, 0.12, 0.08)), (0.10, (1.0,) * 3)]), "MULTIPLY")
    if tone:
        shade = s.ramp(s.attribute("tone").outputs["Fac"], [(0.0, (0.42, 0.39, 0.36)), (1.0, (1.2, 1.15, 1.1))])
        color = s.mix(1.0, color, shade, "MULTIPLY")
    return s.finish(color, roughness, pores, 0.0015, average=tuple(0.8 * c for c in middle))


def paint(name: str, color: Color) -> bpy.types.Material:
    """Old paint on wood: chips, dirt and brush marks."""
    s = Shader(name)
    brushed = s.grain(color, 160.0, 0.6, 1.15)
    brushed = s.grain(brushed, 26.0, 0.65, 1.1)
    chips = s.ramp(s.noise(34.0, 5.0, roughness=0.72), [(0.61, (0.0,) * 3), (0.63, (1.0,) * 3)])
    bare = s.ramp(
        s.noise(60.0, 3.0, s.stretch(s.metres, (6, 1, 6))), [(0.3, (0.16, 0.08, 0.04)), (0.7, (0.55, 0.36, 0.2))]
    )
    return s.finish(s.mix(chips, brushed, bare), 0.55, average=color)


def mineral(name: str, colors: Sequence[Color], size: float, pits: float = 0.004) -> bpy.types.Material:
    """Speckled stone or fired clay with grains of about 1 / `size` metres."""
    s = Shader(name)
    body = s.ramp(s.noise(9.0, 6.0, roughness=0.7), [(0.28, colors[0]), (0.5, colors[1]), (0.72, colors[2])])
    speck = s.ramp(s.cells(size).outputs["Color"], [(0.1, (0.42,) * 3), (0.5, (0.95,) * 3), (0.95, (1.35,) * 3)])
    color = s.mix(0.8, body, speck, "MULTIPLY")
    lichen = s.ramp(s.noise(19.0, 5.0, roughness=0.75), [(0.56, (0.0,) * 3), (0.64, (1.0,) * 3)])
    color = s.mix(lichen, color, s.mix(0.65, color, colors[-1]))
    return s.finish(color, 0.85, s.noise(70.0, 3.0, roughness=0.7), pits, average=colors[1])


def leaf(name: str, dark: Color, light: Color) -> bpy.types.Material:
    """Mottled foliage."""
    s = Shader(name)
    color = s.ramp(s.noise(55.0, 6.0, roughness=0.7), [(0.32, dark), (0.55, light), (0.7, dark)])
    color = s.grain(color, 260.0, 0.6, 1.2)
    color = s.grain(color, 11.0, 0.6, 1.25)
    return s.finish(color, 0.5, average=light)


def leather() -> bpy.types.Material:
    """Worn reddish leather: patina, creases, scuffs."""
    s = Shader("leather")
    color = s.ramp(
        s.noise(11.0, 6.0, roughness=0.68, distortion=0.6),
        [
            (0.28, (0.075, 0.018, 0.010)),
            (0.46, (0.24, 0.052, 0.026)),
            (0.60, (0.42, 0.125, 0.052)),
            (0.74, (0.56, 0.24, 0.11)),
        ],
    )
    warped = s.add(
        s.metres,
        s.stretch(s.node("ShaderNodeTexNoise", Vector=s.metres, Scale=30.0).outputs["Color"], (0.03, 0.03, 0.03)),
    )
    crease = s.cells(62.0, "DISTANCE_TO_EDGE", warped).outputs["Distance"]
    color = s.mix(0.75, color, s.ramp(crease, [(0.0, (0.22,) * 3), (0.14, (1.05,) * 3)]), "MULTIPLY")
    scuff = s.ramp(
        s.noise(44.0, 5.0, s.stretch(s.metres, (1.0, 1.0, 2.2)), 0.75), [(0.57, (0.0,) * 3), (0.66, (0.75,) * 3)]
    )
    color = s.mix(scuff, color, (0.58, 0.31, 0.17))
    color = s.grain(color, 230.0, 0.6, 1.15)
    return s.finish(color, 0.52, crease, 0.0015, 0.35)


def plush() -> bpy.types.Material:
    """Burlap-like plush with coloured flecks."""
    s = Shader("plush")
    color = s.ramp(
        s.noise(38.0, 5.0, roughness=0.75),
        [(0.3, (0.13, 0.065, 0.02)), (0.5, (0.47, 0.28, 0.10)), (0.7, (0.78, 0.58, 0.30))],
    )
    fleck = s.ramp(s.cells(190.0).outputs["Color"], [(0.1, (0.45,) * 3), (0.9, (1.3,) * 3)])
    color = s.mix(0.8, color, fleck, "MULTIPLY")
    color = s.grain(color, 14.0, 0.6, 1.15)
    return s.finish(color, 0.95, s.noise(210.0, 2.0, roughness=0.8), 0.006, 0.1)


def bricks() -> bpy.types.Material:
    """Old bricks, one tone each (mesh attribute), with soot, lime and pits."""
    s = Shader("brick")
    tone = s.attribute("tone")
    base = s.add(s.metres, s.stretch(tone.outputs["Vector"], (9.0, 5.0, 17.0)))
    color = s.ramp(
        tone.outputs["Fac"],
        [
            (0.10, (0.17, 0.055, 0.035)),
            (0.40, (0.33, 0.115, 0.06)),
            (0.62, (0.42, 0.19, 0.11)),
            (0.85, (0.50, 0.31, 0.20)),
        ],
    )
    mottle = s.ramp(s.noise(24.0, 5.0, base, 0.72), [(0.3, (0.42,) * 3), (0.5, (0.95,) * 3), (0.7, (1.5,) * 3)])
    color = s.mix(0.9, color, mottle, "MULTIPLY")
    color = s.mix(
        0.8, color, s.ramp(s.noise(130.0, 2.0, base, 0.7), [(0.34, (0.35,) * 3), (0.6, (1.15,) * 3)]), "MULTIPLY"
    )
    lime = s.ramp(s.noise(7.0, 7.0, roughness=0.74), [(0.56, (0.0,) * 3), (0.68, (0.75,) * 3)])
    color = s.mix(lime, color, s.grain((0.66, 0.60, 0.52), 90.0, 0.55, 1.15))
    return s.finish(color, 0.92, s.noise(60.0, 3.0, base, 0.75), 0.006, 0.15)


def plaster() -> bpy.types.Material:
    """Trowelled, weathered lime plaster in layers of paint."""
    s = Shader("plaster")
    color = s.ramp(
        s.noise(3.2, 8.0, roughness=0.72, distortion=0.5),
        [
            (0.30, (0.10, 0.155, 0.15)),
            (0.45, (0.20, 0.285, 0.255)),
            (0.56, (0.36, 0.42, 0.35)),
            (0.66, (0.56, 0.52, 0.41)),
            (0.75, (0.66, 0.58, 0.45)),
        ],
    )
    color = s.grain(color, 24.0, 0.62, 1.2)
    color = s.grain(color, 75.0, 0.6, 1.2)
    flakes = s.ramp(s.noise(9.5, 7.0, roughness=0.78), [(0.585, (0.0,) * 3), (0.60, (1.0,) * 3)])
    color = s.mix(flakes, color, s.grain((0.60, 0.50, 0.38), 60.0, 0.5, 1.1))
    return s.finish(color, 0.92, s.noise(30.0, 4.0, roughness=0.72), 0.006, 0.15, average=(0.3, 0.33, 0.28))


def printed(
    name: str, pixels: np.ndarray, coordinate: str, fine: float, bump: float, roughness: float = 0.85
) -> bpy.types.Material:
    """A picture on paper or cloth, with fibres of about 1 / `fine` metres and stains."""
    s = Shader(name)
    picture = s.image(pixels, s.node("ShaderNodeTexCoord").outputs[coordinate])
    color = s.grain(picture, fine, 0.6, 1.2)
    color = s.grain(color, fine / 4.0, 0.7, 1.15)
    color = s.grain(color, 6.0, 0.72, 1.12)
    return s.finish(
        color,
        roughness,
        s.noise(fine, 1.0),
        bump,
        0.15,
        average=tuple(float(c) for c in (pixels.reshape(-1, 3).mean(0) / 255.0) ** 2.2),
    )


def make_materials() -> dict[str, bpy.types.Material]:
    """Everything that is not printed, by the names used in MODELS."""
    brass = Shader("brass")
    return {
        "leather": leather(),
        "plush": plush(),
        "brick": bricks(),
        "plaster": plaster(),
        "walnut": wood("walnut", (0.035, 0.016, 0.008), (0.12, 0.055, 0.026), (0.24, 0.12, 0.06), (9.0, 9.0, 1.0)),
        "honey": wood("honey", (0.22, 0.09, 0.025), (0.46, 0.22, 0.07), (0.66, 0.40, 0.17), (9.0, 9.0, 1.5)),
        "pine": wood("pine", (0.16, 0.085, 0.04), (0.40, 0.25, 0.13), (0.60, 0.43, 0.26), (1.4, 7.0, 7.0)),
        "floor": wood("floor", (0.085, 0.042, 0.02), (0.26, 0.145, 0.072), (0.42, 0.27, 0.15), (1.0, 8.0, 8.0), True),
        "frame": wood("frame", (0.05, 0.025, 0.012), (0.17, 0.085, 0.04), (0.32, 0.18, 0.09), (6.0, 6.0, 6.0)),
        "granite": mineral("granite", [(0.12, 0.13, 0.15), (0.30, 0.31, 0.33), (0.55, 0.55, 0.53)], 120.0),
        "sandstone": mineral("sandstone", [(0.20, 0.17, 0.13), (0.40, 0.36, 0.29), (0.60, 0.56, 0.46)], 95.0, 0.008),
        "terracotta": mineral("terracotta", [(0.22, 0.075, 0.035), (0.45, 0.17, 0.08), (0.66, 0.42, 0.29)], 140.0),
        "mortar": mineral("mortar", [(0.22, 0.20, 0.17), (0.38, 0.35, 0.30), (0.52, 0.49, 0.43)], 110.0),
        "soil": mineral("soil", [(0.02, 0.013, 0.008), (0.06, 0.04, 0.025), (0.14, 0.10, 0.07)], 90.0, 0.01),
        "leaf": leaf("leaf", (0.035, 0.11, 0.018), (0.20, 0.36, 0.06)),
        "olive_leaf": leaf("olive_leaf", (0.05, 0.10, 0.03), (0.24, 0.33, 0.13)),
        "stem": leaf("stem", (0.07, 0.06, 0.02), (0.25, 0.24, 0.09)),
        "paint_red": paint("paint_red", (0.46, 0.055, 0.03)),
        "paint_blue": paint("paint_blue", (0.04, 0.14, 0.29)),
        "paint_cream": paint("paint_cream", (0.68, 0.57, 0.38)),
        "ebony": paint("ebony", (0.02, 0.02, 0.02)),
        "brass": brass.finish(brass.grain((0.55, 0.38, 0.12), 80.0, 0.4, 1.2), 0.5),
    }


# ------------------------------------------------------------------------------------------------ printed patterns


def rug_pattern(rng: np.random.Generator, width: int = 2000, height: int = 1400) -> np.ndarray:
    """A hand-woven rug: mirrored ornament, but knotted with so many irregularities that no two spots are alike."""
    navy, red, cream, gold, teal = (24, 34, 62), (132, 32, 28), (214, 196, 158), (186, 132, 54), (44, 98, 98)
    palette = np.array([navy, red, cream, gold, teal], np.uint8)
    field = np.full((height, width, 3), red, np.uint8)
    for inset, color in ((0, navy), (26, gold), (40, navy), (150, cream), (168, teal), (196, gold), (206, red)):
        cv2.rectangle(field, (inset, inset), (width - 1 - inset, height - 1 - inset), color, -1)

    def motif(centre: tuple[int, int], size: float) -> None:
        petals = int(rng.integers(5, 10))
        colors = palette[rng.permutation(5)]
        phase = rng.uniform(0, math.tau)
        for ring, (radius, color) in enumerate(zip((1.0, 0.78, 0.55, 0.3), colors[:4], strict=True)):
            angles = np.linspace(0, math.tau, 90)
            wave = 1.0 + 0.24 * np.cos(petals * angles + phase + ring)
            shape = np.stack([np.cos(angles), np.sin(angles)], 1) * (size * radius * wave)[:, None] + centre
            cv2.fillPoly(field, [shape.astype(np.int32)], color.tolist(), cv2.LINE_AA)

    for x in range(95, width, 122):
        for y in (95, height - 95):
            motif((x, y), rng.uniform(36, 46))
    for y in range(215, height - 150, 122):
        for x in (95, width - 95):
            motif((x, y), rng.uniform(36, 46))
    for _ in range(420):
        motif((int(rng.uniform(240, width - 240)), int(rng.uniform(240, height - 240))), rng.uniform(12, 30))
    for x, y, size in ((0.5, 0.5, 250), (0.26, 0.5, 135), (0.74, 0.5, 135), (0.5, 0.26, 80), (0.5, 0.74, 80)):
        motif((int(x * width), int(y * height)), size)
    knots = rng.normal(1.0, 0.20, (height // 5, width // 5, 1)) * rng.normal(1.0, 0.07, (height // 5, 1, 1))
    field = field * cv2.resize(knots, (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
    return np.clip(field, 0, 255).astype(np.uint8)


def leaf_paper(rng: np.random.Generator, width: int = 2600, height: int = 2100) -> np.ndarray:
    """Wallpaper printed with leaves scattered at random."""
    paper = np.full((height, width, 3), (222, 205, 172), np.uint8)
    inks = [(58, 84, 60), (92, 118, 76), (150, 96, 58), (176, 142, 78), (64, 92, 104), (128, 60, 48)]
    for _ in range(2300):
        centre = rng.uniform((0, 0), (width, height))
        length, slim = rng.uniform(34, 100), rng.uniform(0.16, 0.34)
        angle = rng.uniform(0, math.tau)
        along = np.array([math.cos(angle), math.sin(angle)])
        across = np.array([-along[1], along[0]])
        t = np.linspace(0, 1, 24)
        half = slim * length * np.sin(math.pi * t**0.8)
        bend = rng.normal(0, 0.1) * length * np.sin(math.pi * t)
        spine = centre + along * ((t - 0.5) * length)[:, None] + across * bend[:, None]
        outline = np.concatenate([spine + across * half[:, None], (spine - across * half[:, None])[::-1]])
        ink = np.array(inks[int(rng.integers(len(inks)))]) * rng.uniform(0.8, 1.25)
        cv2.fillPoly(paper, [outline.astype(np.int32)], np.clip(ink, 0, 255).tolist(), cv2.LINE_AA)
        vein = np.clip(ink * 0.55 + 90, 0, 255).tolist()
        cv2.polylines(paper, [spine.astype(np.int32)], False, vein, 2, cv2.LINE_AA)
        for k in range(4, 21, 4):
            for side in (1, -1):
                tip = spine[k] + (along * 0.35 + across * side) * half[k] * 0.8
                cv2.line(paper, tuple(spine[k].astype(int)), tuple(tip.astype(int)), vein, 1, cv2.LINE_AA)
    return paper


def abstract_print(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A colourful picture: hills of random strata under a few suns."""
    palette = np.array(
        [(206, 92, 50), (232, 176, 84), (40, 74, 98), (92, 140, 138), (236, 222, 190), (120, 44, 52), (70, 96, 62)]
    )
    palette = palette[rng.permutation(len(palette))]
    picture = np.full((height, width, 3), palette[0], np.uint8)
    x = np.arange(width)
    for ring in range(1, int(rng.integers(3, 7))):
        centre = (int(rng.uniform(0.15, 0.85) * width), int(rng.uniform(0.1, 0.4) * height))
        cv2.circle(picture, centre, int(0.2 * width / ring), palette[ring].tolist(), -1, cv2.LINE_AA)
    for level in np.linspace(rng.uniform(0.2, 0.5), 0.95, 10):
        waves = sum(
            rng.normal(0, 0.03 / k) * np.sin(x / width * math.tau * k + rng.uniform(0, 7)) for k in range(1, 12)
        )
        color = np.clip(palette[int(rng.integers(len(palette)))] * rng.uniform(0.7, 1.15), 0, 255)
        line = np.stack([x, (level + waves) * height], 1)
        shape = np.concatenate([line, [(width, height), (0, height)]]).astype(np.int32)
        cv2.fillPoly(picture, [shape], color.tolist(), cv2.LINE_AA)
        for _ in range(60):
            spot = (int(rng.uniform(0, width)), int((level + rng.uniform(0, 0.1)) * height))
            dot = np.clip(palette[int(rng.integers(len(palette)))] * rng.uniform(0.8, 1.1), 0, 255)
            cv2.circle(picture, spot, int(rng.uniform(2, 0.02 * width)), dot.tolist(), -1, cv2.LINE_AA)
    return picture


# ------------------------------------------------------------------------------------------------ geometry


def add_mesh(
    name: str,
    vertices: np.ndarray,
    faces: Sequence[Sequence[int]],
    material: bpy.types.Material,
    tones: np.ndarray | None = None,
    bevel: float = 0.0,
) -> bpy.types.Object:
    """A mesh object; `tones` (faces x 3) becomes the attribute that varies bricks and boards."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices.tolist(), [], faces)
    mesh.materials.append(material)
    if tones is not None:
        attribute = mesh.attributes.new("tone", "FLOAT_COLOR", "CORNER")
        corners = np.concatenate(
            [np.repeat(tones, [len(f) for f in faces], 0), np.ones((sum(map(len, faces)), 1))], 1
        ).astype(np.float32)
        attribute.data.foreach_set("color", corners.ravel())
    item = bpy.data.objects.new(name, mesh)
    bpy.context.collection.objects.link(item)
    if bevel:
        modifier = item.modifiers.new("bevel", "BEVEL")
        modifier.width, modifier.segments = bevel, 2
    return item


def add_boxes(
    name: str, boxes: np.ndarray, material: bpy.types.Material, rng: np.random.Generator, bevel: float
) -> bpy.types.Object:
    """Boxes given as rows (x0, y0, z0, x1, y1, z1), each with its own random tone."""
    corners = [(0, 1, 2), (3, 1, 2), (3, 4, 2), (0, 4, 2), (0, 1, 5), (3, 1, 5), (3, 4, 5), (0, 4, 5)]
    sides = [(3, 2, 1, 0), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
    vertices = np.concatenate([box[np.array(corners)] for box in boxes])
    faces = [[8 * i + k for k in side] for i in range(len(boxes)) for side in sides]
    tones = np.repeat(rng.uniform(0, 1, (len(boxes), 3)), len(sides), 0)
    return add_mesh(name, vertices, faces, material, tones, bevel)


def add_panel(name: str, corners: Sequence[Sequence[float]], material: bpy.types.Material) -> bpy.types.Object:
    """A rectangle (bottom-left, bottom-right, top-right, top-left as seen) with UV 0..1."""
    item = add_mesh(name, np.array(corners, float), [[0, 1, 2, 3]], material)
    layer = item.data.uv_layers.new(name="UVMap")
    layer.data.foreach_set("uv", [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    return item


def add_cuboid(
    name: str,
    size: Sequence[float],
    material: bpy.types.Material,
    place: Sequence[float],
    turn: float = 0.0,
    bevel: float = 0.003,
) -> bpy.types.Object:
    """A box of `size` standing on `place`, turned about the vertical by degrees."""
    sx, sy, sz = size
    box = np.array([[-sx / 2, -sy / 2, 0, sx / 2, sy / 2, sz]])
    item = add_boxes(name, box, material, np.random.default_rng(0), bevel)
    item.matrix_world = Matrix.Translation(Vector(place)) @ Matrix.Rotation(math.radians(turn), 4, "Z")
    return item


def build_room(mats: dict[str, bpy.types.Material], rng: np.random.Generator) -> None:
    """Floor boards, the brick wall behind, the papered and the plastered wall at the sides, the rug, the pictures."""
    left, right, back, front, top = -3.05, 3.05, 1.25, -3.6, 3.1
    boards = []
    for y in np.arange(front, back + 0.3, 0.135):
        x = left - 0.1 - rng.uniform(0, 1)
        while x < right + 0.1:
            length = rng.uniform(0.7, 1.7)
            lift = rng.uniform(-0.001, 0.001)
            boards.append((x, y, -0.03, x + length - 0.002, y + 0.1325, lift))
            x += length
    add_boxes("floor", np.array(boards), mats["floor"], rng, 0.002)
    courses = []
    for row, z in enumerate(np.arange(0, top, 0.077)):
        for x in np.arange(left - 0.2 + (row % 2) * 0.113, right + 0.2, 0.226):
            j = rng.normal(0, 0.0022, 5)
            courses.append(
                (x + j[0], back - 0.008 + 2 * j[1], z + j[2], x + 0.213 + j[3], back + 0.1, z + 0.065 + j[4])
            )
    add_boxes("bricks", np.array(courses), mats["brick"], rng, 0.005)
    add_panel(
        "mortar",
        [(left, back + 0.003, 0), (right, back + 0.003, 0), (right, back + 0.003, top), (left, back + 0.003, top)],
        mats["mortar"],
    )
    add_panel("plaster", [(left, front, 0), (left, back, 0), (left, back, top), (left, front, top)], mats["plaster"])
    paper = printed("paper", leaf_paper(rng), "UV", 170.0, 0.001)
    add_panel("paper", [(right, back, 0), (right, front, 0), (right, front, top), (right, back, top)], paper)
    for x, name in ((left, "skirting left"), (right, "skirting right")):
        add_cuboid(name, (0.036, back - front, 0.13), mats["frame"], (x, (back + front) / 2, 0))
    rug = printed("rug", rug_pattern(rng), "UV", 150.0, 0.004, 0.95)
    corners = [(-1.3, -1.02, 0), (1.3, -1.02, 0), (1.3, 0.80, 0), (-1.3, 0.80, 0)]
    turned = [tuple(Matrix.Rotation(math.radians(-5), 3, "Z") @ Vector(c) + Vector((0, 0, 0.009))) for c in corners]
    add_panel("rug", turned, rug)

    def picture(name: str, centre: tuple[float, float, float], width: float, height: float, turn: float) -> None:
        """A framed print; `turn` is the direction it faces, degrees about the vertical (0: towards the cameras)."""
        art = printed(name, abstract_print(rng, 900, int(900 * height / width)), "UV", 300.0, 0.0005, 0.6)
        w, h = width / 2, height / 2
        panel = add_panel(name, [(-w, -0.012, -h), (w, -0.012, -h), (w, -0.012, h), (-w, -0.012, h)], art)
        edge, thick = 0.035, 0.03
        bars = np.array(
            [
                (-w - edge, -thick, -h - edge, w + edge, 0, -h),
                (-w - edge, -thick, h, w + edge, 0, h + edge),
                (-w - edge, -thick, -h, -w, 0, h),
                (w, -thick, -h, w + edge, 0, h),
            ]
        )
        frame = add_boxes(name + " frame", bars, mats["frame"], rng, 0.004)
        pose = Matrix.Translation(Vector(centre)) @ Matrix.Rotation(math.radians(turn), 4, "Z")
        panel.matrix_world = frame.matrix_world = pose

    picture("print 1", (-0.62, back - 0.01, 1.52), 0.62, 0.46, 0)
    picture("print 2", (-1.62, back - 0.01, 1.36), 0.44, 0.58, 0)
    picture("print 3", (1.62, back - 0.01, 1.30), 0.50, 0.66, 0)
    picture("print 4", (left + 0.005, 0.35, 1.30), 0.66, 0.50, 90)
    picture("print 5", (left + 0.005, -0.65, 1.38), 0.46, 0.62, 90)
    picture("print 6", (right - 0.005, 0.25, 1.35), 0.60, 0.80, -90)

    height = 0.012
    for i in range(5):
        size = (rng.uniform(0.22, 0.27), rng.uniform(0.30, 0.36), rng.uniform(0.028, 0.05))
        turn = rng.uniform(-25, 25) + 20
        cover = printed(f"book {i}", abstract_print(rng, 500, 680), "Generated", 240.0, 0.0006, 0.6)
        add_cuboid(f"book {i}", size, cover, (-0.42, -0.62, height), turn)
        height += size[2]
    add_cuboid("chest", (0.54, 0.44, 0.30), mats["pine"], (2.05, 0.82, 0.0), -14, 0.008)
    add_cuboid("box", (0.42, 0.34, 0.20), mats["paint_blue"], (2.03, 0.84, 0.30), -2, 0.008)
    add_cuboid("plinth", (0.46, 0.40, 0.44), mats["sandstone"], (-2.15, 0.85, 0), 14, 0.01)
    bust = mineral("ball", [(0.10, 0.14, 0.13), (0.28, 0.34, 0.30), (0.62, 0.60, 0.50)], 80.0)
    bpy.ops.mesh.primitive_uv_sphere_add(segments=64, ring_count=32, radius=0.17, location=(-2.15, 0.85, 0.61))
    ball = bpy.context.object
    ball.data.materials.append(bust)
    for polygon in ball.data.polygons:
        polygon.use_smooth = True


def add_model(model: Model, folder: Path, mats: dict[str, bpy.types.Material]) -> None:
    """Import one OBJ, bring it to its height in metres with the foot at the origin, dress and place it."""
    bpy.ops.object.select_all(action="DESELECT")
    bpy.ops.wm.obj_import(filepath=str(next(folder.glob("*.obj"))))
    parts = [o for o in bpy.context.selected_objects if o.type == "MESH"]
    bpy.context.view_layer.objects.active = parts[0]
    bpy.ops.object.join()
    item = bpy.context.view_layer.objects.active
    item.name = model.folder
    bpy.ops.object.transform_apply(location=True, rotation=True, scale=True)
    points = np.empty(len(item.data.vertices) * 3, np.float32)
    item.data.vertices.foreach_get("co", points)
    points = points.reshape(-1, 3)
    low, high = points.min(0), points.max(0)
    foot = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    points = (points - foot) * (model.height / (high[2] - low[2]))
    item.data.vertices.foreach_set("co", points.astype(np.float32).ravel())
    item.data.update()
    for slot in item.material_slots:
        key = next(
            k
            for k in [*sorted(filter(None, model.materials), key=len, reverse=True), ""]
            if slot.material.name.startswith(k)
        )
        slot.material = mats[model.materials[key]]
    item.matrix_world = (
        Matrix.Translation(Vector(model.place))
        @ Matrix.Rotation(math.radians(model.turn), 4, "Z")
        @ Matrix.Rotation(math.radians(model.tilt), 4, "X")
    )


def add_lights() -> None:
    """A low, soft sun from the front left, a window-sized area light and a pale sky."""

    def lamp(
        kind: str, place: tuple[float, float, float], target: tuple[float, float, float], energy: float, color: Color
    ) -> bpy.types.Light:
        light = bpy.data.lights.new(kind, kind)
        light.energy, light.color = energy, color
        item = bpy.data.objects.new(kind, light)
        item.location = place
        item.rotation_euler = (Vector(target) - Vector(place)).to_track_quat("-Z", "Y").to_euler()
        bpy.context.collection.objects.link(item)
        return light

    lamp("SUN", (-3.2, -4.2, 4.6), (0.1, 0.3, 0.3), 5.0, (1.0, 0.85, 0.66)).angle = math.radians(2.0)
    area = lamp("AREA", (2.2, -3.4, 3.2), (0.0, 0.4, 0.6), 90.0, (0.86, 0.92, 1.0))
    area.size = 2.4
    world = bpy.data.worlds.new("sky")
    bpy.context.scene.world = world
    if world.node_tree is None:
        world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.74, 0.84, 1.0, 1.0)
    world.node_tree.nodes["Background"].inputs["Strength"].default_value = 0.45


# ------------------------------------------------------------------------------------------------ cameras


def view_poses(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """World-to-camera rotations and translations on an uneven arc of 136 degrees around the armchair."""
    poses = []
    for i, azimuth in enumerate(np.linspace(-68.0, 68.0, NUM_VIEWS)):
        angle = math.radians(azimuth + rng.uniform(-0.7, 0.7))
        radius = 2.72 + 0.28 * math.sin(1.1 * i + 0.6) + rng.uniform(-0.06, 0.06)
        target = np.array([0.0, 0.25, 0.62]) + rng.uniform(-0.08, 0.08, 3)
        height = 1.30 + 0.38 * math.sin(0.83 * i + 2.2) + rng.uniform(-0.05, 0.05)
        centre = np.array([radius * math.sin(angle), 0.2 - radius * math.cos(angle), height])
        forward = (target - centre) / np.linalg.norm(target - centre)
        side = np.cross(forward, (0.0, 0.0, 1.0))
        side /= np.linalg.norm(side)
        down = np.cross(forward, side)
        roll = math.radians(5.0 * math.sin(1.7 * i) + rng.uniform(-2.0, 2.0))
        x = math.cos(roll) * side + math.sin(roll) * down
        rotation = np.stack([x, np.cross(forward, x), forward])
        poses.append((rotation, -rotation @ centre))
    return poses


def set_camera(rotation: np.ndarray, translation: np.ndarray) -> None:
    """Give the scene's camera an OpenCV pose (Blender looks along -z with y up)."""
    pose = np.eye(4)
    pose[:3, :3] = rotation.T @ np.diag([1.0, -1.0, -1.0])
    pose[:3, 3] = -rotation.T @ translation
    bpy.context.scene.camera.matrix_world = Matrix(pose.tolist())


def setup_render(scale: float, samples: int) -> tuple[int, int, float]:
    """Cycles and a pinhole camera of `scale` x FOCAL; returns its width, height and focal length in pixels."""
    scene = bpy.context.scene
    width, height = (2 * round(size * OVERSCAN * scale / 2) for size in (WIDTH, HEIGHT))
    focal = FOCAL * scale
    lens = bpy.data.cameras.new("camera")
    lens.sensor_fit, lens.sensor_width = "HORIZONTAL", 36.0
    lens.lens = focal * lens.sensor_width / width
    focal = lens.lens * width / lens.sensor_width  # as stored, in single precision
    scene.camera = bpy.data.objects.new("camera", lens)
    scene.collection.objects.link(scene.camera)
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.render.engine = "CYCLES"
    scene.render.use_persistent_data = True
    cycles = scene.cycles
    cycles.samples, cycles.seed = samples, 1
    cycles.use_adaptive_sampling, cycles.adaptive_threshold, cycles.adaptive_min_samples = True, 0.03, samples // 3
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_input_passes, cycles.denoising_prefilter = "RGB_ALBEDO_NORMAL", "ACCURATE"
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 2, 1
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.sample_clamp_indirect = 4.0
    scene.view_settings.view_transform = "AgX"
    scene.view_settings.look = "AgX - Medium High Contrast"
    scene.view_settings.exposure = 0.32
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGB"
    scene.render.image_settings.color_depth = "16"
    return width, height, focal


def undistort_radius(radius: np.ndarray) -> np.ndarray:
    """Solve r (1 + K1 r^2) = radius for r by Newton's method."""
    r = radius.copy()
    for _ in range(12):
        r -= (r * (1.0 + K1 * r * r) - radius) / (1.0 + 3.0 * K1 * r * r)
    return r


def resample(pinhole: np.ndarray, focal: float, oversampling: int = 2) -> np.ndarray:
    """Turn the pinhole image (principal point in its middle) into the example's camera."""
    n = oversampling
    u = (np.arange(WIDTH * n) + 0.5) / n  # pixel centres at half integers
    v = (np.arange(HEIGHT * n) + 0.5) / n
    x, y = np.meshgrid((u - CX) / FOCAL, (v - CY) / FOCAL)
    radius = np.hypot(x, y)
    factor = undistort_radius(radius) / np.maximum(radius, 1e-12)
    height, width = pinhole.shape[:2]
    map_x = x * factor * focal + width / 2 - 0.5  # OpenCV's remap counts pixel centres from 0
    map_y = y * factor * focal + height / 2 - 0.5
    if min(map_x.min(), map_y.min()) < 0 or map_x.max() > width - 1 or map_y.max() > height - 1:
        raise ValueError("OVERSCAN is too small")
    fine = cv2.remap(pinhole, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LANCZOS4)
    return cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def write_ground_truth(path: Path, poses: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write every view's exact camera."""
    matrix = [[FOCAL, 0.0, CX], [0.0, FOCAL, CY], [0.0, 0.0, 1.0]]
    images = {
        f"view_{i + 1:02d}.jpg": {
            "R": r.tolist(),
            "t": t.tolist(),
            "K": matrix,
            "width": WIDTH,
            "height": HEIGHT,
            "distortion_k1k2p1p2": [K1, 0.0, 0.0, 0.0],
        }
        for i, (r, t) in enumerate(poses)
    }
    convention = (
        "x_cam = R x_world + t, metres; OpenCV axes (x right, y down, z forward); K in pixels, the centre of "
        "the top-left pixel is (0.5, 0.5); distortion as in OpenCV, only k1 is not 0 (COLMAP SIMPLE_RADIAL)"
    )
    path.write_text(
        json.dumps({"convention": convention, "trust": "exact (rendered)", "images": images}, indent=1) + "\n"
    )


# ------------------------------------------------------------------------------------------------ main


def build_scene(models: Path) -> None:
    """Everything but the camera."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    rng = np.random.default_rng(20240607)
    mats = make_materials()
    build_room(mats, rng)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(models) as archive:
        for model in MODELS:
            prefix = f"blendswap-cc-0/{model.folder}/"
            archive.extractall(folder, [n for n in archive.namelist() if n.startswith(prefix)])
            add_model(model, Path(folder) / prefix, mats)
    add_lights()


def timed(label: str, job: Callable[[], object]) -> None:
    """Run a job and say how long it took."""
    start = time.time()
    job()
    print(f"{label}: {time.time() - start:.0f} s", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="BlendSwap-CC-0.sh3f")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--views", default="", help="only these, e.g. 1,8,16")
    parser.add_argument("--scale", type=float, default=1.15, help="size of the pinhole image over that of the result")
    parser.add_argument("--samples", type=int, default=16)
    args = parser.parse_args()

    build_scene(args.models)
    poses = view_poses(np.random.default_rng(7))
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    write_ground_truth(args.out / "ground_truth.json", poses)
    focal = setup_render(args.scale, args.samples)[2]
    wanted = [int(v) for v in args.views.split(",") if v] or range(1, NUM_VIEWS + 1)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "pinhole.png"
        bpy.context.scene.render.filepath = str(raw)
        for number in wanted:
            set_camera(*poses[number - 1])
            timed(f"view {number}", lambda: bpy.ops.render.render(write_still=True))
            pinhole = cv2.imread(str(raw), cv2.IMREAD_UNCHANGED).astype(np.float32) / 257.0
            picture = np.clip(np.rint(resample(pinhole, focal)), 0, 255).astype(np.uint8)
            cv2.imwrite(
                str(args.out / "images" / f"view_{number:02d}.jpg"),
                picture,
                [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1],
            )


if __name__ == "__main__":
    main()
