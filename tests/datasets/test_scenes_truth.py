"""The parser both ways: what the grammar says is true, and what is made false is found."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.datasets import scene_words
from captioner.datasets.scene_captions import captions
from captioner.datasets.scene_drawing import sample_facts
from captioner.datasets.scene_parser import parse
from captioner.datasets.scene_truth import holds, truthful
from captioner.datasets.scene_words import Mention


def thing(size: str, colour: str, shape: str, x: float, y: float, extent: float) -> dict:
    return {"size": size, "colour": colour, "shape": shape, "x": x, "y": y, "extent": extent}


# A blue star stands on a red square (0.7 - 0.4 / 2 - 0.2 / 2 = 0.4); a blue circle is far up left.
SCENE = {
    "objects": [
        thing("large", "red", "square", 0.6, 0.7, 0.4),
        thing("small", "blue", "star", 0.6, 0.4, 0.2),
        thing("small", "blue", "circle", 0.15, 0.2, 0.2),
    ],
    "background": {"pattern": "striped", "tone": "pale green"},
}
TWINS = {
    "objects": [
        thing("small", "red", "heart", 0.2, 0.2, 0.2),
        thing("small", "red", "heart", 0.8, 0.2, 0.2),
        thing("large", "orange", "heart", 0.5, 0.7, 0.4),
    ],
    "background": {"pattern": "plain", "tone": "grey"},
}


@pytest.mark.parametrize(
    "caption",
    [
        "a blue star",
        "a disc",
        "an object",
        "A big red box, and a star.",  # capitals and punctuation
        "a small blue star and a large red square",
        "a star with a circle and a box",
        "a blue star on a red square",
        "a star sits on top of a box",
        "a box with a star on it",
        "a square with a star and a circle above it",
        "a circle is to the left of a star and above a square",
        "a tiny disc left of a star and a square",
        "a star above a square",
        "a shape above another shape",
        "two blue shapes",
        "two blue shapes above a red square",
        "two blue shapes are above a red square",
        "three shapes including two blue shapes",
        "three shapes including a star and one square",
        "a single red square",
        "only one star",
        "a circle in the upper left corner",
        "a circle is in the top left corner on a striped background",
        "a circle at the top and a square at the bottom",
        "a star and a square on the right",
        "a blue star on a pale green background",
        "a blue star against a striped pale green background",
        "a striped background with a star on a box",
        "there is a blue star",
        "there are three objects on a striped background",
        "this picture shows a star",
        "a picture of two blue shapes and a red square and nothing else",
    ],
)
def test_true_captions(caption):
    assert truthful(caption, SCENE)


@pytest.mark.parametrize(
    "caption",
    [
        "a red star",  # the colour of something else
        "a large blue star",
        "a heart",
        "two stars",
        "one blue shape",  # there are two
        "two shapes",  # there are three
        "one star and two shapes",  # the same: numbers count in the whole scene
        "three blue shapes",
        "a single shape",
        "a star and a star",  # there is only one
        "a star and another star",
        "a red square on a blue star",
        "a blue circle on a red square",  # above, but not touching
        "a circle with a star on it",
        "a star right of a square",  # 0 apart
        "a star is to the left of a circle",
        "a circle left of a star and below a square",
        "a circle right of a star and a square",
        "a square and a star left of a circle",
        "two blue shapes below a red square",
        "two blue shapes on a red square",  # only one of them is
        "two shapes including a star",
        "three shapes including two stars",
        "three shapes including a heart",
        "a circle at the bottom",
        "a star and a circle on the right",  # the place is said of both
        "a circle in the lower left corner",
        "a star in the top right corner and a circle in the middle",
        "a blue star on a dotted background",
        "a blue star on a plain pale green background",
        "a striped grey background with a star",
        "a star and a square and nothing else",
        "a red square with a blue star and a blue circle and a heart",
    ],
)
def test_false_captions_are_understood_but_do_not_hold(caption):
    assert parse(caption).not_understood == ()
    assert not truthful(caption, SCENE)


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("", [""]),
        (".", [""]),
        ("star", ["star"]),
        ("blue star", ["blue", "star"]),
        ("a", ["a"]),
        ("a blue", ["blue"]),
        ("a blue blue star", ["blue", "star"]),
        ("a star star", ["star"]),
        ("a a star", ["a", "star"]),
        ("a star and", ["and"]),
        ("a star and a", ["a"]),
        ("a star a square", ["a", "square"]),
        ("a star on", ["on"]),
        ("a star on the", ["the"]),
        ("a star sits", ["sits"]),
        ("a star above", ["above"]),
        ("a blue house", ["house"]),
        ("a zebra", ["zebra"]),
        ("a <unk> star", ["<unk>", "star"]),
        ("a striped pale green background", None),  # no object
        ("a star on a background", None),  # a background of which nothing is said
        ("a star on a striped background on a striped background", None),
        ("a star on a striped", None),
        ("an star", None),
        ("a orange heart", None),
        ("two star", None),
        ("a stars", None),
        ("there are a star", None),
        ("there is two stars", None),
        ("there is a star is above a square", None),
        ("two blue shapes is above a square", None),
        ("a star are above a square", None),
        ("another star", None),
        ("a square above another star", None),
        ("a star on it", None),
        ("two stars with a heart on it", None),
        ("a star blue", None),
        ("a blue small star", None),
        ("a star of a square", None),
        ("a star left a square", None),
        ("a star with", None),
        ("a star including a square", None),
        ("nothing else", None),
        ("a star and nothing", None),
        ("a star and nothing else and a square", None),
        ("a star on a box and on it", None),
        ("four stars", None),
        ("2 stars", None),
    ],
)
def test_ungrammatical_captions_are_not_understood(caption, rest):
    parsed = parse(caption)
    assert parsed.not_understood
    if rest is not None:
        assert parsed.not_understood == tuple(rest)
    assert not holds(parsed, SCENE)
    assert not holds(parsed, TWINS)


def test_parsed_caption_says_what_is_stated():
    parsed = parse("two tiny red hearts above an orange box at the bottom on a plain background")
    assert parsed.mentions == (
        Mention(count=2, exact=True, size="small", colour="red", shape="heart"),
        Mention(colour="orange", shape="square", place="bottom"),
    )
    assert parsed.relations == (("above", 0, 1),)
    assert parsed.background == ("plain", None)
    assert not parsed.nothing_else


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red heart left of another heart", True),
        ("a red heart and a red heart and an orange heart", True),
        ("a red heart and a red heart and a red heart", False),
        ("two red hearts", True),
        ("two hearts", False),
        ("three hearts", True),
        ("two red hearts above an orange heart", True),
        ("a red heart left of an orange heart", True),  # the left one is
        ("two red hearts left of an orange heart", False),  # the right one is not
        ("a red heart left of an orange heart and right of a red heart", False),
        ("a red heart right of an orange heart and right of another red heart", True),
        ("an orange heart below a heart and a heart", True),
        ("an orange heart above a heart", False),
    ],
)
def test_one_assignment_has_to_satisfy_everything(caption, expected):
    assert parse(caption).not_understood == ()
    assert truthful(caption, TWINS) is expected


@pytest.fixture(scope="module")
def written() -> list[tuple[dict, tuple[str, ...]]]:
    """2,000 scenes with their captions."""
    found = []
    for number in range(2000):
        rng = np.random.default_rng([11, number])
        facts = sample_facts(rng)
        found.append((facts, captions(facts, rng)))
    return found


def test_all_captions_of_the_grammar_are_truthful(written):
    lies = [(text, facts) for facts, five in written for text in five if not truthful(text, facts)]
    assert lies == []


def test_captions_of_other_scenes_are_rarely_truthful(written):
    others = [facts for facts, _ in written[1:]]
    kinds = zip(*(five for _, five in written), strict=True)
    shares = [
        np.mean([truthful(text, facts) for text, facts in zip(texts[:-1], others, strict=True)])
        for texts in kinds
    ]
    assert shares[0] < 0.15  # the short ones: "a star"
    assert shares[4] < 0.005  # the long ones
    assert np.mean(shares) < 0.06


def swapped(caption: str, at: int, word: str) -> str:
    """The caption with another word there, and the article before it put right."""
    words = caption.split()
    words[at] = word
    if at and words[at - 1] in ("a", "an"):
        words[at - 1] = "an" if word[0] in "aeiou" else "a"
    return " ".join(words)


NOUN_OF = {
    word: (shape, plural)
    for shape, nouns in scene_words.SHAPES.items()
    for pair in nouns
    for plural, word in enumerate(pair)
}
OTHER_SIZE = {"small": "big", "little": "large", "tiny": "large", "large": "small", "big": "tiny"}
OPPOSITE = {"above": "below", "over": "under", "below": "above", "under": "over"} | {
    "left": "right",
    "right": "left",
    "top": "bottom",
    "bottom": "top",
}


def corruptions(caption: str, facts: dict):
    """(kind, caption with one fact changed into something false).

    That it is false follows from the list of objects alone: a colour or shape which none of them
    has, the other size where all have the same, an exact number made wrong, a direction turned
    round where the two objects have nothing in common, a side of the picture for a lone object.
    """
    objects, background = facts["objects"], facts["background"]
    has = {key: {thing[key] for thing in objects} for key in ("size", "colour", "shape")}
    absent = [colour for colour in scene_words.COLOURS if colour not in has["colour"]]
    missing = [shape for shape in scene_words.SHAPES if shape not in has["shape"]]
    unlike = len(objects) == 2 and all(len(values) == 2 for values in has.values())
    words = caption.split()
    generic = any(word in ("shape", "object", "shapes", "objects") for word in words)
    for at, word in enumerate(words):
        if word in scene_words.COLOURS and words[at - 1] != "pale":
            yield "colour", swapped(caption, at, absent[at % len(absent)])
        if word in NOUN_OF:
            shape = missing[at % len(missing)]
            yield "shape", swapped(caption, at, scene_words.SHAPES[shape][0][NOUN_OF[word][1]])
        if word in OTHER_SIZE and len(has["size"]) == 1:
            yield "size", swapped(caption, at, OTHER_SIZE[word])
        if word in ("two", "three"):
            yield "count", swapped(caption, at, "two" if word == "three" else "three")
        if word in scene_words.PATTERNS:
            yield "pattern", swapped(caption, at, "plain" if word != "plain" else "dotted")
        if word in ("grey", "beige"):
            yield "tone", swapped(caption, at, "beige" if background["tone"] == "grey" else "grey")
        directed = word in OPPOSITE and caption.count(" top of ") == 0
        if directed and (len(objects) == 1 or (unlike and not generic and " and " not in caption)):
            yield "direction", swapped(caption, at, OPPOSITE[word])


def test_one_changed_fact_makes_a_caption_untruthful(written):
    tried = Counter()
    survivors = []
    for facts, five in written[:1000]:
        for caption in five:
            for kind, changed in corruptions(caption, facts):
                tried[kind] += 1
                # A changed "star and another star" may no longer be English; the rest has to be.
                garbled = parse(changed).not_understood and "another" not in caption
                if garbled or truthful(changed, facts):
                    survivors.append((kind, caption, changed))
    assert survivors == []
    assert len(tried) == 7
    assert min(tried.values()) > 150, tried


def test_a_word_lost_at_the_end_or_doubled_is_noticed(written):
    chance = random.Random(1)
    for _, five in written:
        for caption in five:
            words = caption.split()
            assert parse(" ".join(words[:-1])).not_understood
            at = chance.randrange(len(words))
            assert parse(" ".join([*words[:at], words[at], *words[at:]])).not_understood


def test_statements_agree_with_a_plain_evaluation():
    """Random statements of one form against nested loops written for just that form."""
    chance = random.Random(2)
    verdicts = Counter()
    for number in range(300):
        facts = sample_facts(np.random.default_rng([13, number]))
        objects = facts["objects"]
        for _ in range(20):
            first, second = chance.choice(objects), chance.choice(objects)
            colour = chance.choice([first["colour"], chance.choice(scene_words.COLOURS)])
            shape = chance.choice([second["shape"], chance.choice(list(scene_words.SHAPES))])
            word, axis, sign = chance.choice(
                [("left of", "x", 1), ("right of", "x", -1), ("above", "y", 1), ("under", "y", -1)]
            )
            article = "an" if colour == "orange" else "a"
            caption = f"{article} {colour} {first['shape']} {word} a {shape}"
            expected = any(
                a is not b
                and (a["colour"], a["shape"], b["shape"]) == (colour, first["shape"], shape)
                and sign * (b[axis] - a[axis]) >= 0.1
                for a in objects
                for b in objects
            )
            assert truthful(caption, facts) is expected, (caption, facts)
            verdicts[expected] += 1
    assert min(verdicts[True], verdicts[False]) > 500


WORDS = [*NOUN_OF, *OTHER_SIZE, *OPPOSITE, *scene_words.COLOURS, "a", "an", "one", "two", "three"]
WORDS += ["on", "with", "and", "it", "is", "another", "there", "background", "striped", "of", "the"]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)))
def test_the_parser_answers_whatever_comes(caption):
    parsed = parse(caption)
    assert holds(parsed, SCENE) is truthful(caption, SCENE)
    assert bool(parsed.mentions) is not bool(parsed.not_understood)
