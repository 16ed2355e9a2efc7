"""What captions of drawn scenes can speak of: the words, and when what they mean holds.

The grammar that writes captions (`scene_captions`) and the parser that reads them (`scene_parser`)
share these tables. What lies beside what is judged with two margins: captions say it only where it
is plain to see (`clear`), whether a caption holds (`related`, `in_place`) is judged more gently, so
that a sentence about a borderline case is not called a lie.
"""

from dataclasses import dataclass

# Each meaning with the words for it; the first is the usual one, the others are said now and then.
SHAPES = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
    "cross": (("cross", "crosses"),),
}
ANY_SHAPE = (("shape", "shapes"), ("object", "objects"))
SIZES = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PATTERNS = ("plain", "striped", "dotted", "shaded", "speckled")
TONES = ("grey", "beige", "pale blue", "pale green")
NUMBERS = ("", "one", "two", "three")
RELATIONS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "on": ("on", "on top of"),
    "beside": ("next to", "beside"),
}
PLACES = {
    "left": ("on the left",),
    "right": ("on the right",),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "middle": ("in the middle", "in the centre"),
    "top left": ("in the top left corner", "in the upper left corner"),
    "top right": ("in the top right corner", "in the upper right corner"),
    "bottom left": ("in the bottom left corner", "in the lower left corner"),
    "bottom right": ("in the bottom right corner", "in the lower right corner"),
}
VERBS = {"is": False, "sits": False, "are": True, "sit": True}  # word -> is it a plural?


def related(relation: str, a: dict, b: dict, margin: float = 0.1) -> bool:
    """Whether object `a` is `relation` object `b`.

    Args:
        relation: a key of `RELATIONS`.
        a, b: objects of a scene: centre `x`, `y` (y grows downwards) and side `extent` of the box
            that holds them, all as fractions of the picture's side.
        margin: how far apart the centres have to be (left, right, above, below); for "beside", how
            near the boxes (2.5 margins) and how level the centres (2 margins) have to be.
    """
    right, down = b["x"] - a["x"], b["y"] - a["y"]
    reach = (a["extent"] + b["extent"]) / 2
    if relation == "on":  # the boxes touch, and the middle of `a` is over `b`
        return abs(down - reach) < 0.01 and abs(right) <= b["extent"] / 2
    if relation == "beside":
        return abs(down) <= 2 * margin and 0 <= abs(right) - reach <= 2.5 * margin
    distance = {"left": right, "right": -right, "above": down, "below": -down}[relation]
    return distance >= margin


def clear(relation: str, a: dict, b: dict) -> bool:
    """Whether nobody would doubt that `a` is `relation` `b`: the direction is the dominant one."""
    right, down = abs(b["x"] - a["x"]), abs(b["y"] - a["y"])
    if relation == "on":
        return related("on", a, b)
    if relation == "beside":
        return related("beside", a, b, margin=0.06)
    dominant = right >= down if relation in ("left", "right") else down >= right
    return dominant and related(relation, a, b, margin=0.2)


def in_place(place: str, thing: dict, margin: float = 0.05) -> bool:
    """Whether an object is in the named part of the picture (a key of `PLACES`).

    Args:
        margin: the least distance of its centre from the middle line of the picture; for "middle",
            the object has to lie within 0.25 - `margin` of the centre.
    """
    right, down = thing["x"] - 0.5, thing["y"] - 0.5
    if place == "middle":
        return max(abs(right), abs(down)) <= 0.25 - margin
    distance = {"left": -right, "right": right, "top": -down, "bottom": down}
    return all(distance[side] >= margin for side in place.split())


def article(word: str) -> str:
    """The indefinite article in front of `word`."""
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Mention:
    """Objects as a caption speaks of them; None and () stand for what is not said.

    Attributes:
        count: how many objects.
        exact: whether the scene has to hold exactly `count` objects of this size, colour and shape.
        place: a key of `scene_words.PLACES`.
    """

    count: int = 1
    exact: bool = False
    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    place: str | None = None

    def describes(self, thing: dict) -> bool:
        """Whether size, colour and shape, as far as they are said, are those of the object."""
        said = ((self.size, "size"), (self.colour, "colour"), (self.shape, "shape"))
        return all(value is None or thing[key] == value for value, key in said)


@dataclass(frozen=True)
class ParsedCaption:
    """What a caption states.

    Attributes:
        mentions: the objects, in the order of the words.
        relations: (relation, number of the first mention, number of the second mention).
        including: the mention before the word "including", to which all `mentions` belong.
        background: (pattern or None, tone or None), or None where nothing is said of it.
        nothing_else: whether the mentions are said to be everything in the picture.
        not_understood: the words from the one at which the grammar ended; () for a whole sentence.
    """

    mentions: tuple[Mention, ...] = ()
    relations: tuple[tuple[str, int, int], ...] = ()
    including: Mention | None = None
    background: tuple[str | None, str | None] | None = None
    nothing_else: bool = False
    not_understood: tuple[str, ...] = ()
