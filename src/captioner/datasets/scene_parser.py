"""Read captions of drawn scenes: from words to what they state, or to where understanding ended.

The inverse of the grammar in `scene_captions`, written by hand as recursive descent. It is strict,
since it reads what a language model made: a wrong article, a missing noun, numbers that do not
agree or words left over at the end mean that the caption is not understood.

    caption    = [opening] clause [background] ["and nothing else"]
               | scenery "with" clause ["and nothing else"]
    clause     = list [[verb] place | [verb] relation target {"and" relation target}]
               | mention "including" list
    list       = mention [place] {("and" | "with") mention [place]}
    target     = "it" | list
    mention    = determiner [size] [colour] noun
    background = ("on" | "against") scenery
    scenery    = "a" [pattern] [tone] "background"
"""

from dataclasses import replace

from captioner.datasets import scene_words as lexicon
from captioner.datasets.scene_words import Mention, ParsedCaption


def parse(caption: str) -> ParsedCaption:
    """Read a caption; never raises. Commas and a last full stop are ignored."""
    words = _Words(caption.lower().replace(",", " ").rstrip(" .").split())
    try:
        parsed = _caption(words)
        if words.at < len(words.words):
            raise _NotUnderstood
    except _NotUnderstood:
        # A caption that breaks off in the middle has no word left: name the last one.
        at = min(words.at, len(words.words) - 1)
        return ParsedCaption(not_understood=tuple(words.words[max(at, 0) :]) or ("",))
    return parsed


class _NotUnderstood(Exception):
    """The words do not go on as the grammar allows."""


class _Words:
    """The words of a caption and how far they have been read."""

    def __init__(self, words: list[str]):
        self.words = words
        self.at = 0

    def take(self, phrases: dict):
        """Read the longest of the phrases that comes next and return its meaning, or None."""
        for length in (5, 4, 3, 2, 1):
            phrase = " ".join(self.words[self.at : self.at + length])
            if phrase in phrases and self.at + length <= len(self.words):
                self.at += length
                return phrases[phrase]
        return None

    def need(self, phrases: dict):
        """As `take`, but one of the phrases has to come."""
        meaning = self.take(phrases)
        if meaning is None:
            raise _NotUnderstood
        return meaning

    def comes(self, phrases: dict) -> bool:
        """Whether one of the phrases comes next; reads nothing."""
        at = self.at
        found = self.take(phrases) is not None
        self.at = at
        return found


def _phrases(meanings: dict) -> dict[str, str]:
    """{meaning: (phrase, ...)} turned round."""
    return {phrase: meaning for meaning, phrases in meanings.items() for phrase in phrases}


_OPENINGS = {"there is": "is", "there are": "are", "a picture of": "", "this picture shows": ""}
_DETERMINERS = {  # words -> (count, exact)
    "a": (1, False),
    "an": (1, False),
    "another": (1, False),
    "one": (1, True),
    "only one": (1, True),
    "a single": (1, True),
    "two": (2, True),
    "three": (3, True),
}
_SIZES = _phrases(lexicon.SIZES)
_COLOURS, _PATTERNS, _TONES = (
    {word: word for word in words} for words in (lexicon.COLOURS, lexicon.PATTERNS, lexicon.TONES)
)
_NOUNS = {  # word -> (shape or None, whether it is a plural)
    word: (shape, bool(plural))
    for shape, nouns in (*lexicon.SHAPES.items(), (None, lexicon.ANY_SHAPE))
    for pair in nouns
    for plural, word in enumerate(pair)
}
_PLACES = _phrases(lexicon.PLACES)
_RELATIONS = _phrases(lexicon.RELATIONS)
_MORE_RELATIONS = {f"and {phrase}": relation for phrase, relation in _RELATIONS.items()}
_NOTHING_ELSE = {"and nothing else": True}


def _caption(words: _Words) -> ParsedCaption:
    opening = words.take(_OPENINGS)
    background = _scenery(words) if opening is None else None
    if background:
        words.need({"with": True})
    several = words.comes({"two": True, "three": True})
    if (opening == "is" and several) or (opening == "are" and not several):
        raise _NotUnderstood
    mentions, relations, including = _clause(words, verbs=opening is None and background is None)
    return ParsedCaption(
        mentions=tuple(mentions),
        relations=tuple(relations),
        including=including,
        background=background or _background(words),
        nothing_else=bool(words.take(_NOTHING_ELSE)),
    )


def _clause(words: _Words, verbs: bool) -> tuple[list, list, Mention | None]:
    mentions = _list(words, joiners=("with", "and"))
    if len(mentions) == 1 and mentions[0].count > 1 and words.take({"including": True}):
        return _list(words, joiners=("and",)), [], mentions[0]
    verb = words.take(lexicon.VERBS) if verbs else None
    if verb is not None and verb != (sum(mention.count for mention in mentions) > 1):
        raise _NotUnderstood  # "two circles is", "a circle are"
    if verb is not None and _place(words, mentions):
        return mentions, [], None
    subjects = range(len(mentions))
    relations = []
    start = words.at  # "on a striped background" is no relation, "on a box" is one
    relation = None if _background(words) else words.take(_RELATIONS)
    if relation is None:
        words.at = start
    if verb is not None and relation is None:
        raise _NotUnderstood
    while relation is not None:
        if words.take({"it": True}):  # "a box with a star on it"
            if relations or len(subjects) < 2 or mentions[0].count > 1:
                raise _NotUnderstood
            return mentions, [(relation, subject, 0) for subject in subjects[1:]], None
        targets = _list(words, joiners=("and",), earlier=mentions)
        numbers = range(len(mentions), len(mentions) + len(targets))
        relations += [(relation, subject, target) for subject in subjects for target in numbers]
        mentions += targets
        relation = words.take(_MORE_RELATIONS)
    return mentions, relations, None


def _list(words: _Words, joiners: tuple[str, ...], earlier: list[Mention] | None = None) -> list:
    """Mentions joined by "and"; where `joiners` allows it, the first two by "with"."""
    earlier = earlier or []
    mentions = [_mention(words, earlier)]
    _place(words, mentions)
    while not words.comes(_MORE_RELATIONS) and not words.comes(_NOTHING_ELSE):
        allowed = joiners if len(mentions) == 1 else ("and",)
        if not words.take(dict.fromkeys(allowed, True)):
            break
        mentions.append(_mention(words, earlier + mentions))
        _place(words, mentions)
    return mentions


def _mention(words: _Words, earlier: list[Mention]) -> Mention:
    start = words.at
    count, exact = words.need(_DETERMINERS)
    determiner = " ".join(words.words[start : words.at])
    following = "".join(words.words[words.at : words.at + 1])
    if determiner in ("a", "an") and following and lexicon.article(following) != determiner:
        raise _NotUnderstood
    size, colour = words.take(_SIZES), words.take(_COLOURS)
    shape, plural = words.need(_NOUNS)
    if plural != (count > 1):
        raise _NotUnderstood
    if determiner == "another" and all(mention.shape != shape for mention in earlier):
        raise _NotUnderstood  # another star needs a star before it
    return Mention(count, exact, size, colour, shape)


def _place(words: _Words, mentions: list[Mention]) -> bool:
    """Read a place; it holds for all mentions before it that have none of their own."""
    place = words.take(_PLACES)
    if place is None:
        return False
    mentions[:] = [replace(mention, place=mention.place or place) for mention in mentions]
    return True


def _background(words: _Words) -> tuple[str | None, str | None] | None:
    start = words.at
    if words.take({"on": True, "against": True}) and (scenery := _scenery(words)):
        return scenery
    words.at = start
    return None


def _scenery(words: _Words) -> tuple[str | None, str | None] | None:
    start = words.at
    if words.take({"a": True}):
        scenery = (words.take(_PATTERNS), words.take(_TONES))
        if any(scenery) and words.take({"background": True}):
            return scenery
    words.at = start
    return None
