"""tokenize: captions -> vocabulary, rows of word ids, word vectors, and what the vectors cover."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)

from pathlib import Path

import numpy as np
import pandas as pd

from captioner.files import atomic_file, checked_folder, write_json
from captioner.glove import (
    coverage,
    neighbours,
    random_matrix,
    read_glove,
    train_glove,
    word_matrix,
)
from captioner.text import Vocabulary, encode_tokens, token_statistics
from captioner.words import words_of

REPORTS = Path("reports/tokenize")
FILES = ("*.json", "*.npy")


def main() -> None:
    params = read_params()
    captions = pd.read_parquet("data/captions.parquet")
    split = params.tokenize.split_characters
    tokens = [words_of(caption, split) for caption in captions["caption"]]
    training = np.flatnonzero(captions["split"] == "train")

    vocabulary = Vocabulary.build([tokens[i] for i in training], params.tokenize.min_count, split)
    encoded = encode_tokens(tokens, vocabulary, params.tokenize.max_length)
    metrics = token_statistics(tokens, captions["split"], vocabulary, params.tokenize.max_length)

    glove, vectors = params.glove, {}
    if glove.source == "file":
        vectors = read_glove("data/raw/glove.6B.zip", glove.dimensions, vocabulary.words)
    elif glove.source == "train":
        vectors, losses = train_glove(
            encoded[training],
            vocabulary.words,
            glove.dimensions,
            glove.window,
            glove.epochs,
            params.seed,
        )
        metrics["glove_loss"] = losses[-1]
    if glove.source == "none":
        matrix = random_matrix(vocabulary.words, glove.dimensions, params.seed)
    else:
        matrix = word_matrix(vocabulary.words, vectors, params.seed)
    covered = coverage(vocabulary, vectors)
    metrics |= {"coverage_types": covered.types, "coverage_tokens": covered.tokens}

    with checked_folder("data/tokens", FILES) as folder:
        vocabulary.save(folder / "vocabulary.json")
        np.save(folder / "captions.npy", encoded)
        np.save(folder / "pictures.npy", captions["picture"].to_numpy(np.int32))
        np.save(folder / "word_vectors.npy", matrix)
        np.save(folder / "in_glove.npy", np.array([word in vectors for word in vocabulary.words]))

    write_json(REPORTS / "metrics.json", metrics)
    write_table(REPORTS / "missing_words.csv", covered.missing[:50], ["word", "count"])
    near = [  # of words drawn at random there are none that mean anything
        (word, neighbour, round(cosine, 3))
        for word in vocabulary.content_words(12 if vectors else 0)
        for neighbour, cosine in neighbours(word, matrix, vocabulary.words, top=5)
    ]
    write_table(REPORTS / "neighbours.csv", near, ["word", "neighbour", "cosine"])


def write_table(path: Path, rows: list[tuple], columns: list[str]) -> None:
    """Write CSV; words that a spreadsheet would take for a formula get a ' in front."""
    table = pd.DataFrame(rows, columns=columns)
    for column in table.columns.intersection(["word", "neighbour"]):
        table[column] = table[column].str.replace(r"^(?=[=+\-@\x00-\x1f])", "'", regex=True)
    with atomic_file(path) as temporary:
        table.to_csv(temporary, index=False)


if __name__ == "__main__":
    run_stage("tokenize", main)
