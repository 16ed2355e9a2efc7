"""glove.py: reading the archive, filling gaps, coverage, and training against slow references."""

import zipfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.glove import (
    ALPHA,
    LEARNING_RATE,
    SPREAD,
    X_MAX,
    cooccurrences,
    coverage,
    disjoint_batches,
    loss_and_gradients,
    neighbours,
    random_matrix,
    read_glove,
    train_glove,
    word_matrix,
)
from captioner.text import END, PAD, SPECIALS, START, UNK, Vocabulary, encode_tokens

LINES = b"the 1 2 3\ndog -0.5 1e-2 7\n, 0 0 0\ncaf\xc3\xa9 4 5 6\n"


@pytest.fixture
def archive(tmp_path):
    """Write an archive with the given lines as vectors of length 3."""

    def write(lines: bytes = LINES, member: str = "glove.6B.3d.txt"):
        path = tmp_path / "glove.6B.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("readme.txt", "x")
            zipped.writestr(member, lines)
        return path

    return write


def test_only_wanted_words_are_read(archive):
    vectors = read_glove(archive(), 3, ["dog", "café", "unicorn"])
    assert set(vectors) == {"dog", "café"}
    assert vectors["dog"].dtype == np.float32
    assert np.array_equal(vectors["dog"], np.float32([-0.5, 0.01, 7]))
    assert np.array_equal(vectors["café"], [4, 5, 6])


def test_first_of_two_vectors_counts_and_windows_line_ends_are_read(archive):
    vectors = read_glove(archive(b"dog 1 2 3\r\ndog 4 5 6\r\ncat 7 8 9"), 3, ["dog", "cat"])
    assert np.array_equal(vectors["dog"], [1, 2, 3])
    assert np.array_equal(vectors["cat"], [7, 8, 9])


MALFORMED = {
    "too short": b"cat 1 2",  # as after a broken download
    "too long": b"cat 1 2 3 4",
    "no number": b"cat 1 2 x",
    "not a number": b"cat 1 2 nan",
    "too large": b"cat 1 2 1e39",  # infinite as float32
    "two blanks": b"cat 1  3",
    "no word": b" 1 2 3",
    "empty": b"",
    "tabs": b"cat\t1\t2\t3",
    "unwanted word": b"cow 1 2",
    "endless": b"cat " * 100_000,
    "no text": b"\x00\xff",
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=MALFORMED)
def test_malformed_line_is_named(archive, line):
    with pytest.raises(CaptionerError, match=r"zip: glove\.6B\.3d\.txt, line 5: ") as caught:
        read_glove(archive(LINES + line + b"\n"), 3, ["dog", "cat"])
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


def test_missing_size_names_what_is_there(archive):
    with pytest.raises(CaptionerError, match=r"no glove\.6B\.50d\.txt, it has: glove\.6B\.3d\.txt"):
        read_glove(archive(), 50, ["dog"])


def test_archive_that_is_none(tmp_path, archive):
    with pytest.raises(CaptionerError, match="no such file"):
        read_glove(tmp_path / "absent.zip", 3, ["dog"])
    path = archive(LINES * 1000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # a download that broke off
    with pytest.raises(CaptionerError, match=r"glove\.6B\.zip: cannot be unpacked"):
        read_glove(path, 3, ["dog"])
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF  # inside the packed lines: checksum or packing is wrong
    path.write_bytes(damaged)
    with pytest.raises(CaptionerError, match=r"glove\.6B\.zip: "):
        read_glove(path, 3, ["dog"])


def test_published_vectors(shared):
    path = shared / "data/glove/glove.6B.zip"
    if not path.is_file():
        pytest.skip("no glove.6B.zip in ../shared")
    vectors = read_glove(path, 50, ["a", "dog", "cat", "guitar"])
    assert vectors["a"][:3] == pytest.approx([0.21705, 0.46515, -0.46757])
    words = [*SPECIALS, *vectors]
    near = neighbours("dog", word_matrix(words, vectors, seed=1), words, top=3)
    assert near[0] == ("cat", pytest.approx(0.92, abs=0.01))  # GloVe's well-known nearest pair


def test_matrix_keeps_found_vectors_and_draws_the_others():
    generator = np.random.default_rng(0)
    mean, spread = np.array([5.0, -3.0]), np.array([0.5, 2.0])
    vectors = {f"w{i}": generator.normal(mean, spread) for i in range(2000)}
    words = ["<pad>", *(f"w{i}" for i in range(4000))]
    matrix = word_matrix(words, vectors, seed=3)
    assert matrix.shape == (4001, 2) and matrix.dtype == np.float32
    assert not matrix[0].any()
    assert np.array_equal(matrix[18], vectors["w17"].astype(np.float32))
    drawn = matrix[2001:]
    assert drawn.mean(axis=0) == pytest.approx(mean, abs=0.2)
    assert drawn.std(axis=0) == pytest.approx(spread, rel=0.1)
    assert len(np.unique(drawn[:, 0])) > 1900  # each word its own
    assert np.array_equal(matrix, word_matrix(words, vectors, seed=3))
    assert not np.array_equal(matrix, word_matrix(words, vectors, seed=4))


def test_padding_stays_zero_even_if_the_file_has_a_vector():
    matrix = word_matrix(["<pad>", "a"], {"<pad>": np.ones(2), "a": np.ones(2)}, seed=1)
    assert np.array_equal(matrix, [[0, 0], [1, 1]])


def test_no_vector_at_all_is_an_error():
    with pytest.raises(CaptionerError, match=r"glove\.source: none of the 2 words.* write train"):
        word_matrix(["<pad>", "a"], {"b": np.ones(2)}, seed=1)


def test_random_vectors_are_the_draws_of_missing_words():
    words = ["<pad>", *(f"w{i}" for i in range(3000))]
    matrix = random_matrix(words, 4, seed=3)
    assert matrix.shape == (3001, 4) and matrix.dtype == np.float32
    assert not matrix[0].any()
    assert matrix[1:].mean(axis=0) == pytest.approx([0] * 4, abs=0.05)
    assert matrix[1:].std(axis=0) == pytest.approx([SPREAD] * 4, rel=0.05)
    known = {"w0": np.full(4, SPREAD), "w1": np.full(4, -SPREAD)}  # of the same mean and spread
    np.testing.assert_allclose(word_matrix(words, known, 3)[3:], matrix[3:], rtol=1e-6)


def test_coverage_by_hand():
    vocabulary = Vocabulary.build([["a", "a", "a", "dog", "dog", "zebra", "ox"]], min_count=1)
    covered = coverage(vocabulary, {"a": np.ones(2), "ox": np.ones(2), "other": np.ones(2)})
    assert covered.types == 1 / 2
    assert covered.tokens == pytest.approx(4 / 7)
    assert covered.missing == [("dog", 2), ("zebra", 1)]


def test_neighbours_by_hand():
    words = [*SPECIALS, "east", "west", "north", "north-east", "nowhere"]
    matrix = np.zeros((9, 2))
    matrix[3:8] = [[9, 0], [2, 0], [-1, 0], [0, 3], [1, 1]]
    near = neighbours("east", matrix, words, top=3)
    assert [word for word, _ in near] == ["north-east", "north", "nowhere"]
    assert near[0][1] == pytest.approx(np.sqrt(0.5))


def test_cooccurrences_by_hand():
    a, b, c = 4, 5, 6
    captions = np.array([[START, a, b, c, END, PAD], [START, b, a, END, PAD, PAD]], np.uint16)
    rows, columns, weights = cooccurrences(captions, 7, window=2)
    assert dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), weights, strict=True)) == {
        (a, b): 2.0,  # beside each other in both captions
        (a, c): 0.5,
        (b, a): 2.0,
        (b, c): 1.0,
        (c, a): 0.5,
        (c, b): 1.0,
    }
    rows, columns, weights = cooccurrences(captions, 7, window=1)
    assert len(rows) == 4 and (a, c) not in set(zip(rows, columns, strict=True))


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=7), min_size=1, max_size=6),
    st.integers(1, 9),
)
def test_cooccurrences_against_plain_loops(captions, window):
    vocabulary = Vocabulary.build([list("abc")], min_count=1)  # d becomes <unk>
    expected = Counter()
    for caption in captions:
        for i, first in enumerate(caption):
            for j, second in enumerate(caption):
                if 0 < abs(i - j) <= window:
                    key = vocabulary.ids.get(first, UNK), vocabulary.ids.get(second, UNK)
                    expected[key] += 1 / abs(i - j)
    encoded = encode_tokens(captions, vocabulary, 7)
    rows, columns, weights = cooccurrences(encoded, len(vocabulary), window)
    found = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), weights, strict=True))
    assert found == pytest.approx(dict(expected))
    assert list(found) == sorted(expected)


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6))), st.integers(0, 9))
def test_batches_hold_every_pair_once_and_no_word_twice(pairs, seed):
    pairs = sorted(pairs)
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    batches = list(disjoint_batches(rows, columns, 7, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(pairs)))
    for batch in batches:
        assert len(set(rows[batch])) == len(set(columns[batch])) == len(batch)


def test_gradients_against_numerical_differences():
    generator = np.random.default_rng(0)
    word, context = generator.normal(size=(2, 5, 4))
    log_x, weight = generator.normal(size=5), generator.uniform(size=5)
    _, by_word, by_context = loss_and_gradients(word, context, log_x, weight)
    step = 1e-6
    for parameters, gradient in ((word, by_word), (context, by_context)):
        for index in np.ndindex(parameters.shape):
            kept = parameters[index]
            parameters[index] = kept + step
            above = loss_and_gradients(word, context, log_x, weight)[0].sum()
            parameters[index] = kept - step
            below = loss_and_gradients(word, context, log_x, weight)[0].sum()
            parameters[index] = kept
            assert gradient[index] == pytest.approx((above - below) / (2 * step), abs=1e-6)


def toy_corpus() -> tuple[np.ndarray, Vocabulary]:
    """4,000 captions like "a size3 colour0 shape7 relation1 a shape2", eight words of each kind."""
    generator = np.random.default_rng(0)

    def pick(kind: str, chance: float = 1) -> list[str]:
        return [f"{kind}{generator.integers(8)}"] if generator.random() < chance else []

    def thing() -> list[str]:
        return ["a", *pick("size", 0.5), *pick("colour", 0.9), *pick("shape")]

    captions = []
    for _ in range(4000):
        relation = pick("relation", 0.5)
        captions.append(thing() + (relation + thing() if relation else []))
    vocabulary = Vocabulary.build(captions, min_count=1)
    return encode_tokens(captions, vocabulary, 9), vocabulary


def test_words_used_alike_end_up_closest():
    captions, vocabulary = toy_corpus()
    vectors, losses = train_glove(captions, vocabulary.words, size=20, window=2, epochs=30, seed=1)
    assert set(vectors) == set(vocabulary.words[4:])
    assert losses[-1] < losses[0] / 10
    matrix = word_matrix(vocabulary.words, vectors, seed=1)
    words = [word for word in vocabulary.words[4:] if word != "a"]
    nearest = [neighbours(word, matrix, vocabulary.words, top=1)[0][0] for word in words]
    same_kind = [word[:-1] == other[:-1] for word, other in zip(words, nearest, strict=True)]
    assert sum(same_kind) >= 29  # of 32; by chance about 7


def test_training_is_deterministic_and_takes_its_seed():
    captions, vocabulary = toy_corpus()
    first, again, other = (
        train_glove(captions, vocabulary.words, size=4, window=3, epochs=2, seed=seed)[0]["colour1"]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_training_equals_one_pair_after_the_other():
    """glove.c written out: plain loops over pairs and dimensions, in the same order of pairs."""
    captions, vocabulary = toy_corpus()
    number, size, epochs, seed = len(vocabulary), 3, 2, 5
    vectors, losses = train_glove(captions, vocabulary.words, size, 4, epochs, seed)
    rows, columns, weights = cooccurrences(captions, number, 4)
    generator = np.random.default_rng(seed)
    w, c = (generator.uniform(-0.5, 0.5, (2, number, size + 1)) / size).tolist()
    full = [min(1.0, (x / X_MAX) ** ALPHA) for x in weights]
    mean = sum(f * np.log(x) for f, x in zip(full, weights, strict=True)) / sum(full)
    for parameters in (*w, *c):
        parameters[size] = mean / 2
    gw, gc = ([[1.0] * (size + 1) for _ in range(number)] for _ in range(2))
    for epoch in range(epochs):
        total = 0.0
        for pair in np.concatenate(list(disjoint_batches(rows, columns, number, generator))):
            i, j, x = rows[pair], columns[pair], weights[pair]
            error = sum(w[i][d] * c[j][d] for d in range(size)) + w[i][size] + c[j][size]
            error -= np.log(x)
            slope = full[pair] * error
            total += 0.5 * slope * error
            for d in range(size + 1):
                by_w, by_c = (slope * c[j][d], slope * w[i][d]) if d < size else (slope, slope)
                w[i][d] -= LEARNING_RATE * by_w / np.sqrt(gw[i][d])
                c[j][d] -= LEARNING_RATE * by_c / np.sqrt(gc[j][d])
                gw[i][d] += by_w**2
                gc[j][d] += by_c**2
        assert losses[epoch] == pytest.approx(total / len(rows))
    for i in np.unique(rows):
        expected = [w[i][d] + c[i][d] for d in range(size)]
        assert vectors[vocabulary.words[i]] == pytest.approx(expected, rel=1e-5)


def test_three_words_reach_the_exact_solution():
    """With as many dimensions as words every logarithm can be met exactly: the optimum is 0."""
    captions = [["a", "b", "c"]] * 9 + [["a", "b"]] * 5 + [["c", "b", "b", "a", "a"]] * 2
    vocabulary = Vocabulary.build(captions, min_count=1)
    encoded = encode_tokens(captions, vocabulary, 5)
    _, losses = train_glove(encoded, vocabulary.words, size=3, window=4, epochs=1500, seed=1)
    assert losses[-1] < 1e-6 < losses[0]


def test_captions_of_one_word_cannot_be_trained_on():
    encoded = np.array([[START, 4, END], [START, 5, END]], np.uint16)
    with pytest.raises(CaptionerError, match=r"glove\.source"):
        train_glove(encoded, [*SPECIALS, "a", "b"], size=2, window=8, epochs=1, seed=1)
