"""Is a caption true of a drawn scene? What the parser understood, checked against the facts.

Readings: "a red circle" is at least one, "one", "two" and "three" are exact, and there must be one
assignment of all mentions to different objects that makes everything true at once. A relation of
several objects ("two stars above a box and a disc") holds between all of them. What is not
understood is not truthful.
"""

from collections.abc import Iterator
from itertools import combinations

from captioner.datasets.scene_parser import parse
from captioner.datasets.scene_words import Mention, ParsedCaption, in_place, related


def truthful(caption: str, facts: dict) -> bool:
    """Whether the caption can be understood and all it states holds in the scene."""
    return holds(parse(caption), facts)


def holds(parsed: ParsedCaption, facts: dict) -> bool:
    """Whether all stated objects, colours, sizes, counts, places and relations are in the scene.

    So must be the background, where it is stated. A caption that was not understood, or that
    mentions no object, does not hold.
    """
    if parsed.not_understood or not parsed.mentions:
        return False
    objects = facts["objects"]
    pattern, tone = parsed.background or (None, None)
    if pattern not in (None, facts["background"]["pattern"]):
        return False
    if tone not in (None, facts["background"]["tone"]):
        return False
    if parsed.nothing_else and sum(mention.count for mention in parsed.mentions) != len(objects):
        return False
    counted = [mention for mention in (*parsed.mentions, parsed.including) if mention]
    if any(m.exact and sum(map(m.describes, objects)) != m.count for m in counted):
        return False
    if parsed.including:
        objects = [thing for thing in objects if parsed.including.describes(thing)]
    return any(
        all(
            related(relation, a, b)
            for relation, first, second in parsed.relations
            for a in chosen[first]
            for b in chosen[second]
        )
        for chosen in _assignments(parsed.mentions, objects)
    )


def _assignments(mentions: tuple[Mention, ...], objects: list[dict]) -> Iterator[tuple]:
    """Every way to give each mention its own objects, all of them different."""
    if not mentions:
        yield ()
        return
    mention = mentions[0]
    fitting = [
        thing
        for thing in objects
        if mention.describes(thing) and (mention.place is None or in_place(mention.place, thing))
    ]
    for group in combinations(fitting, mention.count):
        left = [thing for thing in objects if not any(thing is used for used in group)]
        for rest in _assignments(mentions[1:], left):
            yield (group, *rest)
