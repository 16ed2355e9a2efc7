"""Pictures like this one, pictures for a sentence, sentences for a picture, words like a word.

All are nearest neighbours by the cosine, by exact matrix products. Two pictures can be alike in how
they look (CNN features) and in what they mean (the joint space); their cosines spread differently,
so both are standardised over the collection before they are blended.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from captioner import CaptionerError
from captioner.collection import Collection
from captioner.leaks import nearest_lookalikes
from captioner.text import FUNCTION_WORDS, SPECIALS
from captioner.words import words_of

BLEND = 0.5  # of looks; the rest is meaning


@dataclass(frozen=True)
class Query:
    """A picture to find others for; vectors of length one.

    Attributes:
        meaning, looks: (size,) and (channels,).
        caption: what is said of it.
        image_id, sha256, perceptual_hash: "" where they are not known.
    """

    meaning: np.ndarray
    looks: np.ndarray
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
    row = int(rows[0])
    known = collection.pictures.loc[row, ["caption", "image_id", "sha256", "perceptual_hash"]]
    return Query(
        collection.vector(collection.meaning, row),
        collection.vector(collection.looks, row),
        **known.to_dict(),
    )


def similar(
    collection: Collection,
    query: Query,
    top: int,
    blend: float = BLEND,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> list[Result]:
    """The pictures most like a picture: not itself, and of equal ones the first.

    Args:
        top: how many, at most.
        blend: weight of looks, 0 to 1; the rest is that of meaning.
        filters: column -> values that are allowed, see `allowed`.

    Raises:
        CaptionerError: see `allowed`.
    """
    keep = allowed(collection, filters or {})
    looks = collection.cosines(collection.looks, query.looks)
    means = collection.cosines(collection.meaning, query.meaning)
    scores = blend * _standard(looks) + (1 - blend) * _standard(means)
    found = _folded(collection, scores, keep, top, query)
    words = content_words(query.caption)
    return [_result(collection, row, scores, looks, means, words, copies) for row, copies in found]


def search(
    collection: Collection,
    vector: np.ndarray,
    sentence: str,
    top: int,
    filters: Mapping[str, Sequence[str]] | None = None,
) -> list[Result]:
    """The pictures that fit a sentence best; of equal ones the first.

    Args:
        vector: (size,) of the sentence, of length one.
        sentence: for the reasons.
        top, filters: as for `similar`.
    """
    keep = allowed(collection, filters or {})
    means = collection.cosines(collection.meaning, vector)
    found = _folded(collection, means, keep, top, None)
    words = content_words(sentence)
    return [_result(collection, row, means, None, means, words, copies) for row, copies in found]


def sentences(
    collection: Collection, meaning: np.ndarray, top: int
) -> list[tuple[str, float, str]]:
    """People's captions that fit a picture best: caption, cosine and the picture it was written
    for; what is said twice is there once.
    """
    table, vectors = collection.extra("captions")
    scores = vectors @ meaning
    found: dict[str, tuple[str, float, str]] = {}
    for row in np.argsort(-scores, kind="stable"):
        caption, image_id = table["caption"].iat[row], table["image_id"].iat[row]
        found.setdefault(caption, (caption, float(scores[row]), image_id))
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


def content_words(caption: str) -> list[str]:
    """The words of a caption that mean things, each once, in its order."""
    said = words_of(caption, split_characters=False)
    return [
        word for word in dict.fromkeys(said) if word not in FUNCTION_WORDS and word[0].isalnum()
    ]


def _standard(cosines: np.ndarray) -> np.ndarray:
    """Less their mean, over their standard deviation."""
    return (cosines - cosines.mean()) / max(float(cosines.std()), 1e-6) if len(cosines) else cosines


def _folded(
    collection: Collection, scores: np.ndarray, keep: np.ndarray, top: int, query: Query | None
) -> list[tuple[int, list[str]]]:
    """The best rows, each with the ids of those that look the same and would have come soon."""
    table = collection.pictures
    image_ids, sums = table["image_id"].tolist(), table["sha256"].tolist()
    hashes = table["perceptual_hash"].tolist()
    candidates, most = np.flatnonzero(keep), 4 * top + 16
    while True:
        best = candidates
        if most < len(candidates):  # no full sort of a large collection
            best = candidates[np.argpartition(-scores[candidates], most - 1)[:most]]
        found: list[tuple[int, list[str]]] = []
        known: dict[str, int] = {}
        for row in best[np.lexsort((best, -scores[best]))]:
            if query is not None and _same(query, image_ids[row], sums[row], hashes[row]):
                continue
            twin = known.get(sums[row], -1)
            if twin < 0 and found:
                (twin,) = nearest_lookalikes([hashes[row]], [hashes[other] for other, _ in found])
            if twin >= 0:
                found[twin][1].append(image_ids[row])
            elif len(found) < top:
                known[sums[row]] = len(found)
                found.append((int(row), []))
        if len(found) == top or most >= len(candidates):
            return found
        most *= 4  # the best ones are nearly all copies of each other


def _same(query: Query, image_id: str, sha256: str, perceptual_hash: str) -> bool:
    if query.image_id == image_id or query.sha256 == sha256:
        return True
    known = query.perceptual_hash
    return bool(known) and nearest_lookalikes([known], [perceptual_hash])[0] >= 0


def _result(collection, row: int, scores, looks, means, words: list[str], copies) -> Result:
    caption = collection.pictures["caption"].iat[row]
    said = set(content_words(caption))
    return Result(
        collection.pictures["image_id"].iat[row],
        caption,
        float(scores[row]),
        None if looks is None else float(looks[row]),
        float(means[row]),
        [word for word in words if word in said],
        copies,
    )
