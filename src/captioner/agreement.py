"""Do recommendations agree with what is known of a picture? As in a shop: the same kind of thing.

For each test picture, of the pictures recommended for it from the whole collection, the share that
has the same value in a column of the data set's table (category, colour, ...). Beside the blend
stand what it is made of, and two others: pictures by lot, whose share follows from the counts, and
the captions that people wrote, compared by TF-IDF (Salton and Buckley 1988).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from captioner import recommend
from captioner.collection import Collection
from captioner.embeddings import unit_vectors
from captioner.text import SPECIALS

TOP = 5
QUERIES = 500  # at most, evenly spread over the test pictures
MOST_VALUES = 100  # of a column; names and numbers of things are no classes
BLOCK = 2048  # pictures compared by TF-IDF at once
SYSTEMS = {"looks": 1.0, "meaning": 0.0, "blend": recommend.BLEND}


def classes_of(facts: Mapping[str, Sequence[str | None]]) -> dict[str, np.ndarray]:
    """The columns that sort pictures into classes: two values at least, and not too many.

    Returns:
        column -> (pictures,) the number of its value, -1 where there is none.
    """
    found = {}
    for name, values in facts.items():
        numbers, names = pd.factorize(pd.Series(values, dtype=object))
        if 2 <= len(names) <= min(MOST_VALUES, len(numbers) // 2):
            found[name] = numbers
    return found


def agreement(
    collection: Collection,
    classes: Mapping[str, np.ndarray],
    tokens: np.ndarray,
    owners: np.ndarray,
    queries: np.ndarray,
) -> pd.DataFrame:
    """Shares of the `TOP` recommended pictures that have the same value as the query.

    Args:
        collection: all pictures.
        classes: as `classes_of` gives them, in the order of the collection's rows.
        tokens: (captions, length) what people wrote; owners: (captions,) the row of each.
        queries: rows of the collection.

    Returns:
        A row for each system (random, captions, looks, meaning, blend): `system`, and a mean over
        the queries for each column. Queries without a value do not count there, and a recommended
        picture without one is not the same.
    """
    if len(queries) > QUERIES:
        queries = queries[np.linspace(0, len(queries) - 1, QUERIES).astype(int)]
    rows_of = {image_id: row for row, image_id in enumerate(collection.pictures["image_id"])}
    found = {"captions": by_tf_idf(tokens, owners, len(rows_of), queries)}
    for system, blend in SYSTEMS.items():
        found[system] = []
        for row in queries:
            query = recommend.query_of(collection, collection.pictures["image_id"].iloc[row])
            results = recommend.similar(collection, query, TOP, blend)
            found[system].append([rows_of[result.image_id] for result in results])
    table: list[dict[str, object]] = [{"system": name} for name in ("random", *found)]
    for column, numbers in classes.items():
        known = numbers[queries] >= 0
        counts = np.bincount(numbers[numbers >= 0])
        others = counts[numbers[queries[known]]] - 1
        table[0][column] = float(np.mean(others / (len(numbers) - 1)))
        for line, recommended in zip(table[1:], found.values(), strict=True):
            shares = [
                np.mean(numbers[rows] == numbers[query])
                for query, rows in zip(queries, recommended, strict=True)
                if numbers[query] >= 0 and len(rows)
            ]
            line[column] = float(np.mean(shares))
    return pd.DataFrame(table)


def by_tf_idf(
    tokens: np.ndarray, owners: np.ndarray, pictures: int, queries: np.ndarray
) -> list[np.ndarray]:
    """The `TOP` other pictures whose captions are nearest to those of each query.

    All captions of a picture are one document; a word counts as often as it is there, times the
    logarithm of the number of documents over those that hold it.
    """
    words = int(tokens.max()) + 1
    place = np.repeat(owners.astype(np.int64), tokens.shape[1])
    pairs, counts = np.unique(place * words + tokens.reshape(-1), return_counts=True)
    document, word = pairs // words, pairs % words
    told = word >= len(SPECIALS)
    document, word, counts = document[told], word[told], counts[told]
    weights = np.log(pictures / np.maximum(np.bincount(word, minlength=words), 1))

    def vectors(rows: np.ndarray) -> np.ndarray:
        bags = np.zeros((len(rows), words), np.float32)
        for line, row in enumerate(rows):
            chosen = slice(*np.searchsorted(document, [row, row + 1]))
            bags[line, word[chosen]] = counts[chosen] * weights[word[chosen]]
        return unit_vectors(bags)

    asked = vectors(queries)
    scores = np.empty((len(queries), pictures), np.float32)
    for start in range(0, pictures, BLOCK):
        rows = np.arange(start, min(start + BLOCK, pictures))
        scores[:, rows] = asked @ vectors(rows).T
    scores[np.arange(len(queries)), queries] = -np.inf
    return list(np.argsort(-scores, axis=1, kind="stable")[:, : min(TOP, pictures - 1)])
