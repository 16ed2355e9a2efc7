"""Make up drawn scenes and draw them with Pillow: one to three shapes on a muted background.

`sample_facts` decides what is where, as fractions of the picture's side; `draw` makes a picture of
any size of it. Objects keep a distance, so that what is said of their places is plain to see (after
Johnson et al. 2017, CLEVR, section 3.1, where scenes with ambiguous relations are drawn again).
"""

import math
from functools import cache
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw

from captioner.datasets.scene_words import COLOURS, PATTERNS, SHAPES, TONES

COLOUR_RGB = {
    "red": (214, 30, 36),
    "orange": (250, 134, 10),
    "yellow": (252, 228, 36),
    "green": (24, 138, 48),
    "blue": (28, 76, 220),
    "purple": (134, 42, 168),
    "white": (252, 252, 252),
    "black": (18, 18, 20),
}
TONE_RGB = {
    "grey": (160, 160, 162),
    "beige": (205, 184, 148),
    "pale blue": (150, 184, 214),
    "pale green": (160, 200, 160),
}
# Least and most side of an object, of the picture's side: 13 to 15 and 24 to 28 pixels of 64.
EXTENTS = {"small": (0.205, 0.235), "large": (0.38, 0.435)}
GAP = 0.05  # between the boxes of objects that do not touch, and half of it to the frame
OVERSAMPLING = 4  # shapes are drawn at so many times the size and averaged down: smooth edges


def _outline(x: list[float], y: list[float]) -> np.ndarray:
    """A polygon that fills the box from -0.5 to 0.5 in both directions, (points, 2)."""
    points = np.stack([x, y], axis=1)
    least, most = points.min(axis=0), points.max(axis=0)
    return (points - least) / (most - least) - 0.5


_TURN = np.linspace(0, 2 * np.pi, 60, endpoint=False)
_TENTHS = np.arange(10) * np.pi / 5
_SPIKES = np.where(np.arange(10) % 2, 0.4, 1.0)
_A, _B = 0.15, 0.5  # half the width and half the length of a cross's bars
OUTLINES = {
    "circle": _outline(np.cos(_TURN), np.sin(_TURN)),
    "square": _outline([0, 1, 1, 0], [0, 0, 1, 1]),
    "triangle": _outline([0, 1, 0.5], [1, 1, 0]),
    "star": _outline(_SPIKES * np.sin(_TENTHS), -_SPIKES * np.cos(_TENTHS)),
    "heart": _outline(
        16 * np.sin(_TURN) ** 3,
        -15 * np.cos(_TURN) + 6 * np.cos(2 * _TURN) + 2 * np.cos(3 * _TURN) + np.cos(4 * _TURN),
    ),
    "cross": _outline(
        [-_A, _A, _A, _B, _B, _A, _A, -_A, -_A, -_B, -_B, -_A],
        [-_B, -_B, -_A, -_A, _A, _A, _B, _B, _A, _A, -_A, -_A],
    ),
}


def sample_facts(rng: np.random.Generator) -> dict:
    """The facts of a random scene, JSON-serialisable.

    Returns:
        {"objects": [{"shape", "colour", "size", "x", "y", "extent"}, ...],
        "background": {"pattern", "tone"}}. `x` and `y` are the centre of an object's box and
        `extent` its side, as fractions of the picture's side, y downwards. Boxes lie within the
        frame and keep `GAP` between each other, unless one rests on the other.
    """
    background = {"pattern": _pick(rng, PATTERNS), "tone": _pick(rng, TONES)}
    count = 1 + int(rng.random() * 3)
    while True:
        objects = _random_objects(rng, count)
        # Two of one colour would melt into one shape where they touch.
        resting = count > 1 and objects[0]["colour"] != objects[1]["colour"] and rng.random() < 0.3
        if resting:  # on top of a square: other tops would let it slide off
            objects[0].update(shape="square", size="large", extent=0.4)
        for _ in range(60):  # new places before new objects, else large ones would become rare
            _place(objects, resting, rng)
            pairs = list(combinations(objects, 2))
            if resting:
                del pairs[0]  # these two touch
            if not any(_near(a, b) for a, b in pairs):
                return {"objects": objects, "background": background}


def _random_objects(rng: np.random.Generator, count: int) -> list[dict]:
    """Objects without places; equal shapes and colours more often than chance would have it."""
    objects: list[dict] = []
    for _ in range(count):
        size = _pick(rng, tuple(EXTENTS))
        least, most = EXTENTS[size]
        thing = {
            "shape": _pick(rng, tuple(SHAPES)),
            "colour": _pick(rng, COLOURS),
            "size": size,
            "extent": round(least + (most - least) * rng.random(), 4),
        }
        if objects:  # else there would hardly be anything to count
            alike = rng.random()
            if alike < 0.4:
                thing["shape"] = objects[-1]["shape"]
            if alike < 0.25 or alike > 0.9:
                thing["colour"] = objects[-1]["colour"]
        objects.append(thing)
    return objects


def _place(objects: list[dict], resting: bool, rng: np.random.Generator) -> None:
    """Give every object a random centre; where `resting`, the second stands on the first."""
    for thing in objects:
        edge = (thing["extent"] + GAP) / 2
        thing["x"], thing["y"] = (round(edge + (1 - 2 * edge) * rng.random(), 4) for _ in "xy")
    if resting:
        base, thing = objects[:2]
        base["x"] = round(0.3 + 0.4 * rng.random(), 4)
        edge = (base["extent"] + GAP) / 2
        highest, lowest = thing["extent"] + edge, 1 - edge
        base["y"] = round(highest + (lowest - highest) * rng.random(), 4)
        thing["x"] = round(base["x"] + 0.4 * base["extent"] * (rng.random() - 0.5), 4)
        thing["y"] = round(base["y"] - (base["extent"] + thing["extent"]) / 2, 4)


def _near(a: dict, b: dict) -> bool:
    """Whether the boxes overlap or come closer than `GAP`."""
    reach = (a["extent"] + b["extent"]) / 2 + GAP
    return abs(a["x"] - b["x"]) < reach and abs(a["y"] - b["y"]) < reach


def draw(facts: dict, size: int, rng: np.random.Generator) -> Image.Image:
    """Draw a scene as a square RGB picture of `size` pixels.

    Args:
        rng: chooses what the facts leave open: the exact shade of a colour, the way of stripes.
    """
    picture = Image.fromarray(_background(facts["background"], size, rng))
    for thing in facts["objects"]:
        shade = np.array(COLOUR_RGB[thing["colour"]]) + rng.integers(-8, 9, 3)
        colour = tuple(int(level) for level in np.clip(shade, 0, 255))
        outline = size * (OUTLINES[thing["shape"]] * thing["extent"] + (thing["x"], thing["y"]))
        left, top = (math.floor(least) - 1 for least in outline.min(axis=0))
        side = (math.ceil(thing["extent"] * size) + 3) * OVERSAMPLING
        mask = Image.new("L", (side, side))
        outline = (outline - (left, top)) * OVERSAMPLING
        ImageDraw.Draw(mask).polygon(outline.ravel().tolist(), fill=255)
        picture.paste(colour, (left, top), mask.reduce(OVERSAMPLING))
    return picture


def _background(background: dict, size: int, rng: np.random.Generator) -> np.ndarray:
    """The background, (size, size, 3) uint8: lighter and darker shades of the tone."""
    across, down = _coordinates(size)
    pattern = background["pattern"]
    tone = np.array(TONE_RGB[background["tone"]], np.float32) + rng.integers(-8, 9)
    if pattern == "plain":
        light = np.zeros((size, size), np.float32)
    elif pattern == "striped":
        right, below = _pick(rng, ((1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7)))
        phase = 2 * np.pi * (6 + 3 * rng.random()) * (across * right + down * below)
        light = 20 * np.clip(3 * np.sin(phase + rng.random()), -1, 1)
    elif pattern == "dotted":
        dots = 7 + int(rng.random() * 3)
        wave = np.cos(2 * np.pi * dots * across) + np.cos(2 * np.pi * dots * down)
        light = -40 * np.clip(2 * wave - 1.6, 0, 1)
    elif pattern == "shaded":
        angle = 2 * np.pi * rng.random()
        light = 75 * ((across - 0.5) * np.cos(angle) + (down - 0.5) * np.sin(angle))
    else:  # speckled
        light = rng.normal(0, 17, (size, size))
    return np.clip(tone + light[:, :, None], 0, 255).astype(np.uint8)


@cache
def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the pixels' centres in 0..1, both (size, size) float32."""
    along = (np.arange(size, dtype=np.float32) + 0.5) / size
    across, down = np.meshgrid(along, along)
    return across, down


def _pick(rng: np.random.Generator, items: tuple):
    return items[int(rng.random() * len(items))]
