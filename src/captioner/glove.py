"""GloVe word vectors: read from the published archive, trained on the captions, or drawn at random.

Training follows Pennington, Socher and Manning 2014 (GloVe: Global Vectors for Word Representation,
sections 3 and 4.2) and their program glove.c: word vectors w and context vectors w~ with biases are
fitted by weighted least squares to the logarithm of how often two words meet, with AdaGrad, one
pair of words at a time.
"""

import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from captioner import CaptionerError
from captioner.text import PAD, SPECIALS, UNK, Vocabulary

LEARNING_RATE = 0.05  # of AdaGrad, as in the paper
# Pairs that meet this often have full weight. The paper's 100 is for billions of words; its
# authors' demo on a small corpus takes 10, which suits captions better, too.
X_MAX = 10
ALPHA = 0.75  # how the weight falls below that
LONGEST_LINE = 1 << 16  # bytes; a line of 300 numbers has 3,000
BLOCK = 1 << 20  # bytes unpacked at a time
# Of vectors drawn at random: the published ones of length 50 spread so over Flickr8k's words.
SPREAD = 0.6


def read_glove(archive: Path | str, size: int, words: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the vectors of `words` from the member `glove.6B.{size}d.txt` of an archive.

    The member is read as a stream, never unpacked to a file, and only the wanted vectors are kept:
    the published one has 400,000 lines. Where a word is there twice, the first vector counts.

    Args:
        archive: glove.6B.zip (https://nlp.stanford.edu/projects/glove/) or a zip laid out like it.
        size: length of the vectors.
        words: what to look for; words that the archive lacks are lacking in the answer.

    Returns:
        word -> (size,) float32.

    Raises:
        CaptionerError: no such archive or member, a damaged archive, a line that is not a word and
            `size` finite numbers.
    """
    member = f"glove.6B.{size}d.txt"
    try:
        with zipfile.ZipFile(archive) as zipped:
            if member not in zipped.namelist():
                names = ", ".join(sorted(zipped.namelist())[:10]) or "nothing"
                raise CaptionerError(
                    f"{archive}: has no {member}, it has: {names}; set "
                    "glove.dimensions to one of these"
                )
            unpacked = zipped.getinfo(member).file_size
            bar = tqdm(total=unpacked, unit="B", unit_scale=True, desc=member, disable=None)
            with bar, zipped.open(member) as stream, io.BufferedReader(stream, BLOCK) as lines:
                return _read_lines(lines, size, set(words), f"{archive}: {member}", bar.update)
    except FileNotFoundError:
        raise CaptionerError(f"{archive}: no such file; dvc repro download fetches it") from None
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,  # encrypted
        NotImplementedError,  # a compression that Python does not know
    ) as error:
        raise CaptionerError(
            f"{archive}: cannot be unpacked ({error}); download the archive again"
        ) from None


def _read_lines(
    lines: io.BufferedReader,
    size: int,
    words: set[str],
    name: str,
    progress: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """The vectors of `words`; every line is checked, only theirs are turned into numbers."""
    wanted = {word.encode(): word for word in words}
    vectors: dict[str, np.ndarray] = {}
    number = 0
    while line := lines.readline(LONGEST_LINE):
        number += 1
        progress(len(line))
        word, _, numbers = line.rstrip(b"\r\n").partition(b" ")
        vector = None
        if word and numbers.count(b" ") == size - 1:
            if word not in wanted or wanted[word] in vectors:
                continue
            vector = _parse(numbers)
        if vector is None:
            raise CaptionerError(
                f"{name}, line {number}: a word and {size} numbers are expected, there is "
                f"{line[:40]!r}; download the archive again"
            )
        vectors[wanted[word]] = vector
    return vectors


def _parse(numbers: bytes) -> np.ndarray | None:
    """Numbers with blanks between them as float32; None if one is no finite number."""
    try:
        vector = np.array([float(number) for number in numbers.split(b" ")])
    except ValueError:
        return None
    # Compared before the conversion, which would turn 1e39 into infinity.
    finite = np.abs(vector) <= np.finfo(np.float32).max
    return vector.astype(np.float32) if finite.all() else None


def word_matrix(words: Sequence[str], vectors: Mapping[str, np.ndarray], seed: int) -> np.ndarray:
    """One vector for each word of a vocabulary.

    A word without a vector gets one drawn from a normal distribution with the mean and spread that
    each dimension has over the found words, so that it looks like any other word to the model.
    <pad> is zeros.

    Args:
        words: the vocabulary's words in the order of their ids.
        vectors: word -> (size,).
        seed: of the draws.

    Returns:
        (words, size) float32.

    Raises:
        CaptionerError: none of the words has a vector.
    """
    found = [i for i, word in enumerate(words) if word in vectors and i != PAD]
    if not found:
        raise CaptionerError(
            f"glove.source: none of the {len(words)} words has a vector there; for captions in "
            "another language write train (vectors from the captions) or none (random vectors)"
        )
    known = np.stack([vectors[words[i]] for i in found]).astype(np.float64)
    generator = np.random.default_rng(seed)
    matrix = generator.normal(known.mean(axis=0), known.std(axis=0), (len(words), known.shape[1]))
    matrix[found] = known
    matrix[PAD] = 0
    return matrix.astype(np.float32)


def random_matrix(words: Sequence[str], size: int, seed: int) -> np.ndarray:
    """One vector for each word, drawn as `word_matrix` draws the missing ones; <pad> is zeros.

    Returns:
        (words, size) float32, with mean 0 and standard deviation `SPREAD`.
    """
    matrix = np.random.default_rng(seed).normal(0, SPREAD, (len(words), size))
    matrix[PAD] = 0
    return matrix.astype(np.float32)


@dataclass(frozen=True)
class Coverage:
    """How much of a vocabulary has a vector; specials apart.

    Attributes:
        types: share of the words.
        tokens: share of the words as often as the training captions hold them.
        missing: (word, count) of every word without a vector, most frequent first.
    """

    types: float
    tokens: float
    missing: list[tuple[str, int]]


def coverage(vocabulary: Vocabulary, vectors: Mapping[str, np.ndarray]) -> Coverage:
    """Which of the vocabulary's words have a vector."""
    entries = list(zip(vocabulary.words, vocabulary.counts, strict=True))[len(SPECIALS) :]
    missing = [(word, count) for word, count in entries if word not in vectors]
    tokens = sum(count for _, count in entries)
    return Coverage(
        types=1 - len(missing) / len(entries),
        tokens=1 - sum(count for _, count in missing) / tokens,
        missing=missing,
    )


def neighbours(
    word: str, matrix: np.ndarray, words: Sequence[str], top: int
) -> list[tuple[str, float]]:
    """The `top` words whose vectors point most nearly the same way as that of `word`.

    Returns:
        (neighbour, cosine), nearest first; neither specials nor the word itself.
    """
    unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit[words.index(word)]
    order = np.argsort(-cosines, kind="stable")
    order = [i for i in order if i >= len(SPECIALS) and words[i] != word]
    return [(words[i], float(cosines[i])) for i in order[:top]]


def cooccurrences(
    captions: np.ndarray, vocabulary_size: int, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often words stand near each other: a pair d words apart counts 1/d.

    Args:
        captions: (captions, length) word ids; <unk> is a word here, the other specials are none.
        vocabulary_size: one more than the greatest possible id.
        window: greatest distance, in words.

    Returns:
        rows, columns (pairs,) int64 and weights (pairs,) float64: the nonzero cells of the
        symmetric co-occurrence matrix, ordered by row and column.

    Source: Pennington et al. 2014, section 4.2.
    """
    captions = captions.astype(np.int64)
    codes, weights = [], []
    for distance in range(1, min(window, captions.shape[1] - 1) + 1):
        left, right = captions[:, :-distance], captions[:, distance:]
        both = (left >= UNK) & (right >= UNK)
        left, right = left[both], right[both]
        # Counted for each distance first: whole numbers, and far fewer of them to put together.
        pairs, counts = np.unique(
            np.concatenate([left * vocabulary_size + right, right * vocabulary_size + left]),
            return_counts=True,
        )
        codes.append(pairs)
        weights.append(counts / distance)
    if not codes:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    pairs, position = np.unique(np.concatenate(codes), return_inverse=True)
    totals = np.bincount(position, weights=np.concatenate(weights))
    return pairs // vocabulary_size, pairs % vocabulary_size, totals


def disjoint_batches(
    rows: np.ndarray, columns: np.ndarray, vocabulary_size: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Share out pairs into batches in which no row and no column stands twice.

    These are the broken diagonals of the co-occurrence matrix with its rows and columns shuffled.
    Pairs of a batch have no parameter in common, so updating them at once is the same as one after
    the other: plain array assignment does exactly what the loop of glove.c does.

    Yields:
        indices of pairs, each pair once over all batches.
    """
    shuffled_rows = generator.permutation(vocabulary_size)[rows]
    shuffled_columns = generator.permutation(vocabulary_size)[columns]
    diagonals = (shuffled_columns - shuffled_rows) % vocabulary_size
    order = np.argsort(diagonals, kind="stable")
    starts = np.flatnonzero(np.diff(diagonals[order])) + 1
    yield from np.split(order, starts)


def loss_and_gradients(
    word: np.ndarray, context: np.ndarray, log_x: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted squared error f(X) (w . w~ + b + b~ - log X)^2 / 2 of each pair, and its gradients.

    Args:
        word, context: (pairs, size + 1), vectors with their biases in the last column.
        log_x, weight: (pairs,), log X and f(X).

    Returns:
        losses (pairs,), gradients by word and by context (pairs, size + 1).

    Source: Pennington et al. 2014, equation 8; halved as in glove.c.
    """
    product = np.einsum("pd,pd->p", word[:, :-1], context[:, :-1])
    error = product + word[:, -1] + context[:, -1] - log_x
    slope = weight * error
    by_word, by_context = slope[:, None] * context, slope[:, None] * word
    by_word[:, -1] = by_context[:, -1] = slope
    return 0.5 * slope * error, by_word, by_context


def train_glove(
    captions: np.ndarray, words: Sequence[str], size: int, window: int, epochs: int, seed: int
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Train GloVe vectors on encoded captions.

    Args:
        captions: (captions, length) word ids.
        words: the vocabulary's words in the order of their ids.
        size: length of the vectors.
        window: words on each side that count as context.
        epochs: passes over all pairs of words.
        seed: of the first values and of the order of the pairs.

    Returns:
        word -> (size,) float32, w + w~ of every word that met another, and the mean loss of each
        epoch (each pair's before its update).

    Raises:
        CaptionerError: no two words ever stand in one caption.
    """
    rows, columns, weights = cooccurrences(captions, len(words), window)
    if not len(rows):
        raise CaptionerError(
            "glove.source: train needs captions of two words or more; write none (random vectors), "
            "or tokenize.split_characters: true for Chinese and Japanese captions"
        )
    log_x, weight = np.log(weights), np.minimum(1, (weights / X_MAX) ** ALPHA)
    generator = np.random.default_rng(seed)
    shape = (2, len(words), size + 1)  # word and context parameters; the bias comes last
    word, context = generator.uniform(-0.5, 0.5, shape) / size
    # Biases begin where they fit the mean of log X; else, on a small vocabulary, every vector grows
    # a large part that all words share and hardly anything that tells them apart.
    word[:, -1] = context[:, -1] = np.average(log_x, weights=weight) / 2
    word_squares, context_squares = np.ones(shape)  # of AdaGrad, begun at 1 as in glove.c
    losses = []
    for _ in tqdm(range(epochs), desc="glove", unit="epoch", disable=None):
        total = 0.0
        for batch in disjoint_batches(rows, columns, len(words), generator):
            i, j = rows[batch], columns[batch]
            loss, by_word, by_context = loss_and_gradients(
                word[i], context[j], log_x[batch], weight[batch]
            )
            word[i] -= LEARNING_RATE * by_word / np.sqrt(word_squares[i])
            context[j] -= LEARNING_RATE * by_context / np.sqrt(context_squares[j])
            word_squares[i] += by_word**2
            context_squares[j] += by_context**2
            total += float(loss.sum())
        losses.append(total / len(rows))
    vectors = (word + context)[:, :-1].astype(np.float32)
    return {words[i]: vectors[i] for i in np.unique(rows)}, losses
