"""The grammar of scenes: five different captions in plain words, as varied as people's."""

from collections import Counter

import numpy as np
import pytest

from captioner.datasets import scene_words
from captioner.datasets.scene_captions import captions
from captioner.datasets.scene_drawing import sample_facts


def thing(x: float, y: float, extent: float = 0.2) -> dict:
    return {"x": x, "y": y, "extent": extent}


@pytest.fixture(scope="module")
def written() -> list[tuple[dict, tuple[str, ...]]]:
    """800 scenes with their captions."""
    found = []
    for number in range(800):
        rng = np.random.default_rng([9, number])
        facts = sample_facts(rng)
        found.append((facts, captions(facts, rng)))
    return found


def test_five_distinct_captions_of_plain_words(written):
    for _, five in written:
        assert len(set(five)) == len(five) == 5
        for caption in five:
            assert 2 <= len(caption.split()) <= 20
            assert caption == " ".join(caption.split()) == caption.lower()
            assert caption.replace(" ", "").isalpha()


def test_vocabulary_and_lengths_are_those_of_people(written):
    texts = [caption for _, five in written for caption in five]
    words = Counter(word for text in texts for word in text.split())
    assert 60 <= len(words) <= 90
    assert min(words.values()) >= 2
    assert 6 <= np.mean([len(text.split()) for text in texts]) <= 11
    # The longest of five is well over twice as long as the shortest: they are no paraphrases.
    lengths = [sorted(len(caption.split()) for caption in five) for _, five in written]
    assert np.mean([length[-1] / length[0] for length in lengths]) > 2.5


def test_every_way_of_speaking_occurs(written):
    texts = [f" {caption} " for _, five in written for caption in five]
    tables = (*scene_words.RELATIONS.values(), *scene_words.PLACES.values())
    phrases = [phrase for synonyms in tables for phrase in synonyms]
    phrases += [" two ", " three ", " one ", "another", " it ", "and nothing else", "including"]
    phrases += [f" a {pattern} " for pattern in scene_words.PATTERNS]
    assert [phrase for phrase in phrases if not any(phrase in text for text in texts)] == []


def test_the_same_state_gives_the_same_captions():
    facts = sample_facts(np.random.default_rng(3))
    first, second, other = (captions(facts, np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first == second != other


@pytest.mark.parametrize(
    ("relation", "a", "b", "expected"),
    [
        ("left", thing(0.2, 0.5), thing(0.8, 0.5), True),
        ("left", thing(0.8, 0.5), thing(0.2, 0.5), False),
        ("right", thing(0.8, 0.5), thing(0.2, 0.5), True),
        ("left", thing(0.45, 0.2), thing(0.5, 0.8), False),  # 0.05 is too little to say
        ("above", thing(0.5, 0.2), thing(0.5, 0.8), True),  # y grows downwards
        ("below", thing(0.5, 0.2), thing(0.5, 0.8), False),
        ("on", thing(0.5, 0.4), thing(0.5, 0.7, 0.4), True),  # 0.7 - 0.4 = (0.2 + 0.4) / 2
        ("on", thing(0.5, 0.35), thing(0.5, 0.7, 0.4), False),  # floats 0.05 above it
        ("on", thing(0.8, 0.4), thing(0.5, 0.7, 0.4), False),  # beyond its edge at 0.7
        ("beside", thing(0.3, 0.5), thing(0.6, 0.55), True),  # 0.1 between the boxes
        ("beside", thing(0.1, 0.5), thing(0.9, 0.5), False),  # too far
        ("beside", thing(0.3, 0.3), thing(0.6, 0.7), False),  # not level
        ("beside", thing(0.5, 0.4), thing(0.5, 0.6), False),  # one above the other
    ],
)
def test_relations(relation, a, b, expected):
    assert scene_words.related(relation, a, b) is expected
    if not expected:  # what does not hold is never plain to see
        assert not scene_words.clear(relation, a, b)


def test_only_the_dominant_direction_is_clear():
    a, b = thing(0.2, 0.2), thing(0.8, 0.5)  # 0.6 to the right, 0.3 down
    assert scene_words.related("above", a, b)
    assert not scene_words.clear("above", a, b)
    assert scene_words.clear("left", a, b)


@pytest.mark.parametrize(
    ("place", "x", "y", "expected"),
    [
        ("left", 0.3, 0.9, True),
        ("left", 0.48, 0.5, False),
        ("top left", 0.2, 0.2, True),
        ("top left", 0.2, 0.8, False),
        ("bottom right", 0.8, 0.8, True),
        ("middle", 0.55, 0.6, True),
        ("middle", 0.55, 0.9, False),
    ],
)
def test_places(place, x, y, expected):
    assert scene_words.in_place(place, thing(x, y)) is expected


def test_articles():
    assert [scene_words.article(word) for word in ("red", "orange", "object")] == ["a", "an", "an"]
