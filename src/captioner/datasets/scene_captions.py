"""Captions of drawn scenes: a small grammar turns the facts of a scene into five true sentences.

The five differ as people's do: a short one, one that lists sizes, one that says where things are,
one that counts, and a longer one. The idea of scenes whose sentences can be checked word by word:
Johnson et al. 2017, CLEVR, section 3.
"""

import numpy as np

from captioner.datasets.scene_words import (
    ANY_SHAPE,
    NUMBERS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    article,
    clear,
    in_place,
)

LONGEST = 20  # words


def captions(facts: dict, rng: np.random.Generator) -> tuple[str, str, str, str, str]:
    """Five different captions, all true of the scene, of at most `LONGEST` words each.

    Args:
        facts: `objects` (1 to 3, each with shape, colour, size, x, y, extent) and `background`
            (pattern and tone), as `scene_drawing.sample_facts` makes them.
        rng: chooses the words; the same state gives the same captions.
    """
    found = []
    for kind in (_short, _sized, _placed, _counted, _long):
        while (caption := kind(facts, rng)) in found or len(caption.split()) > LONGEST:
            pass
        found.append(caption)
    return tuple(found)


def _short(facts: dict, rng: np.random.Generator) -> str:
    """ "a red circle", "two stars", "a circle and a heart": no sizes, not always everything."""
    attributes = _pick(rng, (("shape",), ("colour", "shape"), ("colour", "shape")))
    groups = _groups(facts["objects"], attributes, rng)
    if rng.random() < 0.4:
        groups = groups[:1]
    return _list(groups, attributes, rng)


def _sized(facts: dict, rng: np.random.Generator) -> str:
    """Every object with its size: "a small red circle and two big blue stars"."""
    attributes = _pick(rng, (("size", "colour", "shape"),) * 3 + (("size", "shape"),))
    return _list(_groups(facts["objects"], attributes, rng), attributes, rng)


def _placed(facts: dict, rng: np.random.Generator) -> str:
    """Where things are: "a red circle is left of a star", "a star in the middle"."""
    attributes = _pick(rng, (("shape",), ("size", "shape")) + (("colour", "shape"),) * 2)
    if len(facts["objects"]) > 1 and rng.random() < 0.85:
        return _relation(facts["objects"], attributes, rng, verbs=True)
    caption = _places(facts["objects"], attributes, rng, verbs=True)
    if caption is None:
        things = _phrase([_pick(rng, facts["objects"])], attributes, rng)
        caption = f"{things} {_background(facts, rng)}"
    return caption


def _counted(facts: dict, rng: np.random.Generator) -> str:
    """How many: "three shapes including a star", "one heart and two circles and nothing else"."""
    objects = facts["objects"]
    form = rng.random()
    if form < 0.25:
        one = _pick(rng, ("one", "a single", "only one"))
        everything = _phrase(objects, (), rng, determiner=one)
        opening = _pick(rng, ("", "there is ", "a picture of "))
        if len(objects) > 1:
            opening = opening.replace(" is ", " are ")
        return f"{opening}{everything} {_background(facts, rng)}"
    attributes = _pick(rng, (("shape",), ("colour", "shape"), ("colour", "shape"), ("colour",)))
    groups = _groups(objects, attributes, rng)
    if form < 0.5 and len(groups) > 1:
        return f"{_phrase(objects, (), rng)} including {_phrase(groups[0], attributes, rng)}"
    if form < 0.65:
        return f"{_list(groups, attributes, rng)} and nothing else"
    one = _pick(rng, ("one", "one", "a single"))
    return _list(groups, attributes, rng, determiner=one)


def _long(facts: dict, rng: np.random.Generator) -> str:
    """Nearly everything there is to say, with the background."""
    objects = facts["objects"]
    attributes = _pick(rng, (("size", "colour", "shape"),) * 2 + (("colour", "shape"),))
    if len(objects) > 1 and rng.random() < 0.6:
        things = _relation(objects, attributes, rng, verbs=False)
    elif len(objects) == 1 and rng.random() < 0.6:
        things = _places(objects, attributes, rng, verbs=False)
    else:
        things = None
    if things is None:
        things = _list(_groups(objects, attributes, rng), attributes, rng)
    behind = _background(facts, rng, full=True)
    form = rng.random()
    if form < 0.2:
        return f"{behind.partition(' ')[2]} with {things}"
    if form < 0.35:
        return f"this picture shows {things} {behind}"
    if form < 0.5:
        return f"a picture of {things} {behind}"
    if form < 0.75:
        verb = "are" if things.split()[0] in NUMBERS[2:] else "is"
        return f"there {verb} {things} {behind}"
    return f"{things} {behind}"


def _relation(objects: list, attributes: tuple, rng: np.random.Generator, verbs: bool) -> str:
    """A clear relation of two objects or groups, sometimes with a third: "and above a star"."""
    for units in (_groups(objects, attributes, rng), [[thing] for thing in objects]):
        options = [
            (name, subject, target)
            for subject in units
            for target in units
            if subject is not target
            for name in RELATIONS
            if all(clear(name, a, b) for a in subject for b in target)
        ]
        if options:  # none where twins lie on both sides of the third; then one of them is named
            break
    resting = [option for option in options if option[0] == "on"]
    name, subject, target = _pick(rng, resting if resting and rng.random() < 0.6 else options)
    first = _phrase(subject, attributes, rng)
    twins = all(subject[0][key] == target[0][key] for key in attributes)
    second = _phrase(target, attributes, rng, determiner="another" if twins else "a")
    words = _pick(rng, RELATIONS[name])
    if not twins and len(target) == 1 and name != "beside" and rng.random() < 0.15:
        return f"{second} with {first} {words} it"
    thirds = [(n, t) for n, s, t in options if s is subject and t is not target]
    if verbs and rng.random() < 0.4:
        words = f"{_pick(rng, ('is', 'sits') if len(subject) == 1 else ('are', 'sit'))} {words}"
    caption = f"{first} {words} {second}"
    if thirds and not twins and rng.random() < 0.4:
        other, third = _pick(rng, thirds)
        same = all(t[0][key] == third[0][key] for key in attributes for t in (subject, target))
        also = "" if other == name else _pick(rng, RELATIONS[other]) + " "
        if not same:
            caption = f"{caption} and {also}{_phrase(third, attributes, rng)}"
    return caption


def _places(objects: list, attributes: tuple, rng: np.random.Generator, verbs: bool) -> str | None:
    """One or two objects with the part of the picture they are in; None where no part is plain."""
    said = []
    for thing in _shuffled(objects, rng)[:2]:
        parts = [place for place in PLACES if in_place(place, thing, margin=0.15)]
        corners = [place for place in parts if " " in place]
        if parts:
            place = _pick(rng, PLACES[_pick(rng, corners or parts)])
            verb = _pick(rng, ("", "", "is ")) if verbs and len(objects) == 1 else ""
            said.append(f"{_phrase([thing], attributes, rng)} {verb}{place}")
    return " and ".join(said) or None


def _background(facts: dict, rng: np.random.Generator, full: bool = False) -> str:
    """ "on a striped background", "against a plain grey background"."""
    pattern, tone = facts["background"]["pattern"], facts["background"]["tone"]
    words = f"{pattern} {tone}" if full else _pick(rng, (pattern, pattern, tone))
    return f"{_pick(rng, ('on', 'on', 'against'))} a {words} background"


def _phrase(group: list, attributes: tuple, rng: np.random.Generator, determiner: str = "a") -> str:
    """A noun phrase for objects that are equal in `attributes`: "two small red circles"."""
    thing, plural = group[0], len(group) > 1
    words = []
    if "size" in attributes:
        words.append(_usually_first(rng, SIZES[thing["size"]]))
    if "colour" in attributes:
        words.append(thing["colour"])
    nouns = SHAPES[thing["shape"]] if "shape" in attributes else ANY_SHAPE
    words.append(_usually_first(rng, nouns)[plural])
    if plural:
        determiner = NUMBERS[len(group)]
    elif determiner == "a":
        determiner = article(words[0])
    return " ".join([determiner, *words])


def _list(
    groups: list[list], attributes: tuple, rng: np.random.Generator, determiner: str = "a"
) -> str:
    phrases = [_phrase(group, attributes, rng, determiner) for group in groups]
    joiner = _pick(rng, (" and ", " and ", " with ")) if len(phrases) > 1 else ""
    return joiner.join([phrases[0], " and ".join(phrases[1:])])


def _groups(objects: list, attributes: tuple, rng: np.random.Generator) -> list[list]:
    """Objects that are equal in `attributes` together; the groups in random order."""
    groups: dict[tuple, list] = {}
    for thing in objects:
        groups.setdefault(tuple(thing[key] for key in attributes), []).append(thing)
    return _shuffled(list(groups.values()), rng)


def _shuffled(items: list, rng: np.random.Generator) -> list:
    return [items[number] for number in rng.permutation(len(items))]


def _pick(rng: np.random.Generator, items):
    # Not rng.choice: it is many times slower for short sequences and would turn tuples into arrays.
    return items[int(rng.random() * len(items))]


def _usually_first(rng: np.random.Generator, items):
    return items[0] if rng.random() < 0.75 else _pick(rng, items)
