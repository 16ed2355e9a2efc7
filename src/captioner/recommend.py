"""Pictures like this one, pictures for a sentence, sentences for a picture, words like a word.

All are nearest neighbours by the cosine, by exact matrix products; of very many pictures only of
those that an index proposes, see `approximate`. Two pictures can be alike in how they look (CNN
features) and in what they mean (the joint space); their cosines spread differently, so both are
standardised over the collection before they are blended.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from captioner import CaptionerError
from captioner.approximate import Approximate
from captioner.collection import SPACES, Collection
from captioner.leaks import nearest_lookalikes
from captioner.text import FUNCTION_WORDS, SPECIALS
from captioner.words import words_of

BLEND = 0.3  # of looks; the rest is meaning


@dataclass(frozen=True)
class Query:
    """A picture to find others for, or a sentence; vectors of length one.

    Attributes:
        meaning: (size,).
        looks: (channels,), or None for a sentence.
        caption: what is said of the picture, or the sentence.
        image_id, sha256, perceptual_hash: "" where they are not known.
    """

    meaning: np.ndarray
    looks: np.ndarray | None
    caption: str
    image_id: str = ""
    sha256: str = ""
    perceptual_hash: str = ""


@dataclass(frozen=True)
class Result:
    """A picture that was found, and why.

    Attributes:
        image_id, caption: of the picture.
        score: what it was ranked by.
        looks_alike: cosine of the CNN features; None where a sentence was the query.
        means_alike: cosine in the joint space.
        shared: content words that both captions, or the sentence and the caption, have.
        copies: ids of pictures further down the list that look the same.
    """

    image_id: str
    caption: str
    score: float
    looks_alike: float | None
    means_alike: float
    shared: list[str]
    copies: list[str] = field(default_factory=list)


def query_of(collection: Collection, image_id: str) -> Query:
    """A picture of the collection as a query.

    Raises:
        CaptionerError: it is not there.
    """
    rows = np.flatnonzero(collection.pictures["image_id"] == image_id)
    if not len(rows):
        raise CaptionerError(f"{image_id}: neither a file nor a picture of {collection.folder}")
    known = collection.pictures.loc[rows[0], ["caption", "image_id", "sha256", "perceptual_hash"]]
    return Query(
        *(collection.some(getattr(collection, space), rows[:1])[0] for space in SPACES),
        **known.to_dict(),
    )


def similar(
    collection: Collection,
    query: Query,
    top: int,
    blend: float = BLEND,
    filters: Mapping[str, Sequence[str]] | None = None,
    index: Approximate | None = None,
) -> list[Result]:
    """The pictures most like a picture: not itself, and of equal ones the first.

    Args:
        top: how many, at most.
        blend: weight of looks, 0 to 1; the rest is that of meaning.
        filters: column -> values that are allowed, see `allowed`; with them all pictures are
            compared.
        index: proposes what is compared.

    Raises:
        CaptionerError: see `allowed`.
    """
    weights = {"meaning": 1 - blend, "looks": blend}
    return _nearest(collection, query, weights, top, filters or {}, index)


def search(
    collection: Collection,
    vector: np.ndarray,
    sentence: str,
    top: int,
    filters: Mapping[str, Sequence[str]] | None = None,
    index: Approximate | None = None,
) -> list[Result]:
    """The pictures that fit a sentence best; of equal ones the first.

    Args:
        vector: (size,) of the sentence, of length one.
        sentence: for the reasons.
        top, filters, index: as for `similar`.
    """
    query = Query(vector, None, sentence)
    return _nearest(collection, query, {"meaning": 1.0}, top, filters or {}, index)


def sentences(
    collection: Collection, meaning: np.ndarray, top: int
) -> list[tuple[str, float, str]]:
    """People's captions that fit a picture best: caption, cosine and the picture it was written
    for; what is said twice is there once.
    """
    table, vectors = collection.extra("captions")
    captions, image_ids = table["caption"].tolist(), table["image_id"].tolist()
    scores = vectors @ meaning
    found: dict[str, tuple[str, float, str]] = {}
    for row in np.argsort(-scores, kind="stable"):
        caption = captions[row]
        found.setdefault(caption, (caption, float(scores[row]), image_ids[row]))
        if len(found) == top:
            break
    return list(found.values())


def neighbours(collection: Collection, word: str, top: int) -> list[tuple[str, float, int]]:
    """The words most like a word: word, cosine, how often training captions hold it.

    Raises:
        CaptionerError: the word is not known; the nearest spellings are named.
    """
    table, vectors = collection.extra("words")
    words = table["word"].tolist()
    if word not in words:
        near = difflib.get_close_matches(word, words, 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise CaptionerError(f"{word!r:.60} is no word of the training captions{hint}")
    scores = vectors @ vectors[words.index(word)]
    counts = table["count"].tolist()
    found = [
        (words[row], float(scores[row]), counts[row])
        for row in np.argsort(-scores, kind="stable")
        if words[row] != word and words[row] not in SPECIALS
    ]
    return found[:top]


def allowed(collection: Collection, filters: Mapping[str, Sequence[str]]) -> np.ndarray:
    """(pictures,) bool: which pictures have one of the values in each of the columns.

    Raises:
        CaptionerError: no such column, or a value that no picture has.
    """
    table = collection.pictures
    keep = np.ones(len(table), bool)
    for column, values in filters.items():
        if column not in table:
            names = [c for c in table.columns if c not in ("caption", "sha256", "perceptual_hash")]
            raise CaptionerError(f"--filter {column:.60}: no such column; {', '.join(names)}")
        texts = table[column].astype(str)
        for value in values:
            if not (texts == value).any():
                some = ", ".join(sorted(set(texts))[:8])
                raise CaptionerError(
                    f"--filter {column}={value:.60}: no picture has it; there are {some:.200} ..."
                )
        keep &= texts.isin(list(values)).to_numpy()
    return keep


def content_words(caption: str, split_characters: bool) -> list[str]:
    """The words of a caption that mean things, each once, in its order; see `words.words_of`."""
    said = words_of(caption, split_characters)
    return [
        word for word in dict.fromkeys(said) if word not in FUNCTION_WORDS and word[0].isalnum()
    ]


def _nearest(
    collection: Collection,
    query: Query,
    weights: Mapping[str, float],
    top: int,
    filters: Mapping[str, Sequence[str]],
    index: Approximate | None,
) -> list[Result]:
    """The best of what the index proposes, if that is enough, or else of all pictures."""
    vectors = {space: getattr(query, space) for space in weights}
    if index is not None and not filters:
        counting = {space: vectors[space] for space in weights if weights[space]}
        rows = _proposed(collection, index, counting)
        near = {s: collection.some(getattr(collection, s), rows) @ vectors[s] for s in weights}
        spreads = {space: index.spread(space, vectors[space]) for space in weights}
        scores = _blended(near, weights, spreads)
        found = _folded(collection, query, rows, scores, near, top)
        if len(found) == top:
            return found
    near = {s: collection.cosines(getattr(collection, s), vectors[s]) for s in weights}
    spreads = {s: (near[s].mean(), near[s].std()) if len(near[s]) else (0, 0) for s in weights}
    scores = _blended(near, weights, spreads)
    rows = np.flatnonzero(allowed(collection, filters))
    near = {space: cosines[rows] for space, cosines in near.items()}
    return _folded(collection, query, rows, scores[rows], near, top)


def _proposed(
    collection: Collection, index: Approximate, vectors: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Rows of `pictures`, rising: those that an index proposes, and those it does not know."""
    there = collection.there
    rows = index.candidates(vectors)
    rows = np.concatenate([rows[there[rows]], index.rows + np.flatnonzero(there[index.rows :])])
    return (np.cumsum(there) - 1)[rows]


def _blended(
    near: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    spreads: Mapping[str, tuple[float, float]],
) -> np.ndarray:
    """The cosines of a sentence; of a picture both, less their means, over their deviations."""
    if len(near) == 1:
        return near["meaning"]
    parts = [weights[s] * (near[s] - spreads[s][0]) / max(spreads[s][1], 1e-6) for s in near]
    return np.sum(parts, axis=0)


def _folded(
    collection: Collection,
    query: Query,
    rows: np.ndarray,
    scores: np.ndarray,
    near: Mapping[str, np.ndarray],
    top: int,
) -> list[Result]:
    """The best of some rows, each with those that look the same and would have come soon."""
    most = 4 * top + 16
    while True:
        best = np.arange(len(rows))
        if most < len(rows):  # no full sort of a large collection
            best = np.argpartition(-scores, most - 1)[:most]
        best = best[np.lexsort((best, -scores[best]))]
        found = _without_copies(collection.pictures.iloc[rows[best]], query, top)
        if len(found) == top or most >= len(rows):
            break
        most *= 4  # the best ones are nearly all copies of each other
    table = collection.pictures.iloc[rows[best]]
    image_ids, captions = table["image_id"].tolist(), table["caption"].tolist()
    words = content_words(query.caption, collection.split_characters)
    results = []
    for place, copies in found.items():
        said = set(content_words(captions[place], collection.split_characters))
        row = best[place]
        looks, means = near.get("looks"), near["meaning"]
        results.append(
            Result(
                image_ids[place],
                captions[place],
                float(scores[row]),
                None if looks is None else float(looks[row]),
                float(means[row]),
                [word for word in words if word in said],
                [image_ids[copy] for copy in copies],
            )
        )
    return results


def _without_copies(table: pd.DataFrame, query: Query, top: int) -> dict[int, list[int]]:
    """The first `top` rows of which none looks like the query or one before -> their copies."""
    sums, hashes = table["sha256"].tolist(), table["perceptual_hash"].tolist()
    itself = ((table["image_id"] == query.image_id) | (table["sha256"] == query.sha256)).to_numpy()
    if query.perceptual_hash:
        itself = itself | (nearest_lookalikes(hashes, [query.perceptual_hash]) >= 0)
    found: dict[int, list[int]] = {}
    first: dict[str, int] = {}
    rest = np.flatnonzero(~itself)
    for place in rest.tolist():
        if len(found) == top:
            break
        (twin,) = _twins([place], sums, hashes, found, first)
        if twin < 0:
            found[place] = []
            first[sums[place]] = place
        else:
            found[twin].append(place)
        rest = rest[1:]
    for place, twin in zip(rest.tolist(), _twins(rest, sums, hashes, found, first), strict=True):
        if twin >= 0:
            found[twin].append(place)
    return found


def _twins(places, sums, hashes, found, first) -> list[int]:
    """Which of what was found each place is a copy of, else -1."""
    others = list(found)
    nearest = nearest_lookalikes([hashes[place] for place in places], [hashes[o] for o in others])
    alike = [others[position] if position >= 0 else -1 for position in nearest]
    return [first.get(sums[place], twin) for place, twin in zip(places, alike, strict=True)]
