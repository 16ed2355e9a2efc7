"""decoding.py: beam search against exhaustive and greedy search written in plain numpy."""

from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.decoding import IMPOSSIBLE, Decoder, beam_search
from captioner.model import CaptionModel, ModelConfig
from captioner.text import END, PAD, START, UNK

VOCABULARY, LONGEST = 7, 3  # three words beside the special ones
HISTORIES = VOCABULARY ** (LONGEST + 1)
EVERY_CAPTION = [
    caption
    for length in range(1, LONGEST + 1)
    for caption in product(range(UNK + 1, VOCABULARY), repeat=length)
]


def random_table(seed: int, pictures: int) -> np.ndarray:
    """log P(next word | all words so far) of a toy model: (pictures, HISTORIES, VOCABULARY)."""
    logits = np.random.default_rng(seed).normal(0, 2, (pictures, HISTORIES, VOCABULARY))
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def log_probability(table: np.ndarray, words) -> float:
    """Of a caption with its <end>, word by word; a history is a number in base VOCABULARY."""
    total, history = 0.0, 0
    for last, word in zip((START, *words), (*words, END), strict=True):
        history = history * VOCABULARY + last
        total += table[history, word]
    return total


def search(table: np.ndarray, beam_width: int, length_penalty: float, max_length: int = LONGEST):
    """Beam search with the toy model; the words so far are the state."""
    pictures = len(table)

    def step(words, history):
        history = history * VOCABULARY + words
        return tf.gather(table, history, batch_dims=1), history

    history = tf.zeros((pictures, beam_width), tf.int32)
    found = beam_search(step, history, pictures, beam_width, max_length, length_penalty)
    return [part.numpy() for part in found]


def caption_of(row) -> tuple[int, ...]:
    return tuple(int(word) for word in row if word != PAD)


seeds, penalties = st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 1.0])


@settings(deadline=None, max_examples=15)
@given(seeds, penalties)
def test_full_beam_is_exhaustive_search(seed, penalty):
    [table] = random_table(seed, 1)
    totals = [log_probability(table, caption) for caption in EVERY_CAPTION]
    expected = [
        total / (len(caption) + 1) ** penalty
        for total, caption in zip(totals, EVERY_CAPTION, strict=True)
    ]
    beam = len(EVERY_CAPTION) + 5
    words, found, scores = (part[0] for part in search(table[None], beam, penalty))
    order = np.argsort(expected)[::-1]
    assert [caption_of(row) for row in words[:-5]] == [EVERY_CAPTION[i] for i in order]
    np.testing.assert_allclose(scores[:-5], np.array(expected)[order], rtol=1e-5)
    np.testing.assert_allclose(found[:-5], np.array(totals)[order], rtol=1e-5)
    # There are no more captions than there are.
    assert (scores[-5:] == IMPOSSIBLE).all()
    assert not words[-5:].any()


@settings(deadline=None, max_examples=15)
@given(seeds, st.integers(1, 6), penalties)
def test_hypotheses_are_captions_with_their_probabilities_best_first(seed, beam, penalty):
    table = random_table(seed, 4)
    words, totals, scores = search(table, beam, penalty)
    for picture in range(4):
        captions = [caption_of(row) for row in words[picture]]
        assert set(captions) <= set(EVERY_CAPTION)
        assert len(set(captions)) == beam
        expected = [log_probability(table[picture], caption) for caption in captions]
        np.testing.assert_allclose(totals[picture], expected, rtol=1e-5)
        lengths = np.array([len(caption) + 1 for caption in captions])
        np.testing.assert_allclose(scores[picture], expected / lengths**penalty, rtol=1e-5)
        assert (np.diff(scores[picture]) <= 0).all()
        # Nothing but padding after the last word.
        assert all(tuple(row[: len(c)]) == c for row, c in zip(words[picture], captions, strict=1))


@settings(deadline=None, max_examples=15)
@given(seeds, st.integers(1, 6), penalties)
def test_pictures_of_a_batch_do_not_see_each_other(seed, beam, penalty):
    table = random_table(seed, 3)
    together = search(table, beam, penalty)
    for picture in range(3):
        alone = search(table[picture : picture + 1], beam, penalty)
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[picture])


@settings(deadline=None, max_examples=15)
@given(seeds, penalties)
def test_beam_of_one_is_greedy(seed, penalty):
    [table] = random_table(seed, 1)
    history, greedy = START, []
    while len(greedy) < LONGEST:
        allowed = [END] * bool(greedy) + list(range(UNK + 1, VOCABULARY))
        word = max(allowed, key=lambda word: table[history, word])
        if word == END:
            break
        greedy.append(word)
        history = history * VOCABULARY + word
    words, totals, _ = search(table[None], 1, penalty)
    assert caption_of(words[0, 0]) == tuple(greedy)
    assert totals[0, 0] == pytest.approx(log_probability(table, greedy), rel=1e-5)


@settings(deadline=None, max_examples=15)
@given(seeds, st.integers(1, 6), penalties)
def test_a_hypothesis_that_ends_gives_its_place_up(seed, beam, penalty):
    """The same search with lists: of all continuations only as many go on as places are left."""
    [table] = random_table(seed, 1)
    alive, done = [(0.0, ())], []
    for position in range(LONGEST + 1):
        grown = []
        for total, words in alive:
            history = 0
            for word in (START, *words):
                history = history * VOCABULARY + word
            if position:
                grown.append((total + table[history, END], words, True))
            if position < LONGEST:
                for word in range(UNK + 1, VOCABULARY):
                    grown.append((total + table[history, word], (*words, word), False))
        grown = sorted(grown, reverse=True)[: beam - len(done)]
        done += [(total / (len(words) + 1) ** penalty, words) for total, words, end in grown if end]
        alive = [(total, words) for total, words, end in grown if not end]
    words, _, scores = search(table[None], beam, penalty)
    done.sort(reverse=True)
    assert [caption_of(row) for row in words[0]] == [caption for _, caption in done]
    np.testing.assert_allclose(scores[0], [score for score, _ in done], rtol=1e-5)


def test_wider_beam_finds_better_captions():
    """No law for every single picture, but one on average; the full beam beats every other."""
    table = random_table(0, 300)
    best = np.array([search(table, beam, 0.7)[2][:, 0] for beam in (1, 2, 4, 39)])
    assert (np.diff(best.mean(1)) > 0).all()
    assert (best[-1] >= best - 1e-5).all()


def test_beam_keeps_what_pays_later():
    """Word 4 looks best (0.6), but all that follows it is bad: 0.6 * 0.1 against 0.3 * 0.9."""
    table = np.full((HISTORIES, VOCABULARY), 1e-6)
    table[START, [4, 5, 6]] = 0.6, 0.3, 0.1
    table[START * VOCABULARY + 4] = 0.1
    table[START * VOCABULARY + 5, [4, END]] = 0.1, 0.9
    table = np.log(table).astype(np.float32)[None]
    assert caption_of(search(table, 1, 0.0)[0][0, 0])[0] == 4
    words, totals, _ = search(table, 2, 0.0)
    assert caption_of(words[0, 0]) == (5,)
    assert totals[0, 0] == pytest.approx(np.log(0.27), rel=1e-5)


def test_length_penalty_favours_the_longer():
    """P(4) = 0.5 and P(5 5 5) = 0.4: the short one wins a sum, the long one the mean a word."""
    table = np.full((HISTORIES, VOCABULARY), 1e-6)
    table[START, [4, 5]] = 0.5, 0.4
    history = START
    table[history * VOCABULARY + 4, END] = 1.0
    for word in (5, 5, END):
        history = history * VOCABULARY + 5
        table[history, word] = 1.0
    table = np.log(table).astype(np.float32)[None]
    for penalty, expected in ((0.0, (4,)), (1.0, (5, 5, 5))):
        words, _, scores = search(table, 3, penalty)
        assert caption_of(words[0, 0]) == expected
    assert scores[0, 0] == pytest.approx(np.log(0.4) / 4, rel=1e-5)


CONFIG = ModelConfig(vocabulary=8, word_size=5, cells=4, channels=6, units=8, attention_units=5)


def build_model(**favoured: float) -> CaptionModel:
    """A random model with some special words made likely or unlikely."""
    keras.utils.set_random_seed(6)
    model = CaptionModel(CONFIG, np.random.default_rng(3).normal(size=(8, 5)))
    # Else all captions are about equally likely, and the same ones for all pictures.
    strong = (model.lstm_words, model.lstm_recurrent, model.output_projection)
    for layer in (*strong, model.cell_projection, model.initial_state):
        layer.kernel.assign(layer.kernel * 3)
    model.vocabulary_logits.kernel.assign(model.vocabulary_logits.kernel * 6)
    bias = np.zeros(8, np.float32)
    for name, value in favoured.items():
        bias[{"pad": PAD, "start": START, "end": END, "unk": UNK}[name]] = value
    model.vocabulary_logits.bias.assign(bias)
    return model


@pytest.fixture(scope="module")
def model() -> CaptionModel:
    return build_model()


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(4).normal(0, 3, (7, 4, 6)).astype(np.float16)


@pytest.fixture
def eager():
    """A few batches are done sooner without compiling the search."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def teacher_forced(model, picture: np.ndarray, words) -> np.ndarray:
    """log P of the words and of <end> after them: (words + 1,)."""
    tokens = np.array([[[START, *words, END]]], np.int32)
    logits, targets = model.logits(picture[None], tokens)
    return tf.gather(tf.nn.log_softmax(logits), targets, batch_dims=1).numpy()


@pytest.mark.usefixtures("eager")
def test_decoder_finds_the_best_of_all_captions(model, features):
    everything = [c for n in (1, 2, 3) for c in product(range(4, 8), repeat=n)]
    decode = Decoder(model, len(everything), 3, 0.7, batch_size=7)
    words, totals = decode(features)
    by_length = [[c for c in everything if len(c) == n] for n in (1, 2, 3)]
    chosen = set()
    for picture in range(7):
        best_score, best = -np.inf, None
        for captions in by_length:  # teacher forcing takes all captions of a picture at once
            tokens = np.array([[[START, *c, END] for c in captions]], np.int32)
            logits, targets = model.logits(features[picture : picture + 1], tokens)
            found = tf.gather(tf.nn.log_softmax(logits), targets, batch_dims=1).numpy()
            found = found.reshape(len(captions), -1).sum(1)
            score = found.max() / (len(captions[0]) + 1) ** 0.7
            if score > best_score:
                best_score, best, total = score, captions[found.argmax()], found.max()
        assert caption_of(words[picture]) == best
        assert totals[picture] == pytest.approx(total, abs=1e-4)
        chosen.add(best)
    assert len(chosen) > 2  # the pictures decide


def test_greedy_decoder_takes_the_likeliest_next_word(model, features):
    words, totals = Decoder(model, 1, 5, 0.7, batch_size=7)(features)
    assert len({caption_of(row) for row in words}) > 2
    for picture in range(7):
        greedy: list[int] = []
        while len(greedy) < 5:
            # The word that stands in the place of the next one has no say in its own logits.
            tokens = np.array([[[START, *greedy, UNK]]], np.int32)
            last = model.logits(features[picture : picture + 1], tokens)[0][-1].numpy()
            last[[PAD, START, UNK]] = -np.inf
            if not greedy:
                last[END] = -np.inf
            word = int(last.argmax())
            if word == END:
                break
            greedy.append(word)
        assert caption_of(words[picture]) == tuple(greedy)
        expected = teacher_forced(model, features[picture], greedy).sum()
        assert totals[picture] == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("eager")
def test_decoder_log_probability_is_the_teacher_forced_one(model, features):
    words, totals = Decoder(model, 3, 6, 0.7, batch_size=7)(features)
    for picture in range(7):
        expected = teacher_forced(model, features[picture], caption_of(words[picture])).sum()
        assert totals[picture] == pytest.approx(expected, abs=1e-4)


def test_decoder_pads_the_last_batch_unseen(model, features, tmp_path):
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    words, totals = Decoder(model, 3, 5, 0.7, batch_size=4)(mapped)  # batches of 4 and 3
    assert words.shape == (7, 5)
    alone = Decoder(model, 3, 5, 0.7, batch_size=1)
    for picture in range(7):
        expected, total = alone(features[picture : picture + 1])
        np.testing.assert_array_equal(words[picture], expected[0])
        assert totals[picture] == pytest.approx(total[0], abs=1e-4)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize(
    ("favoured", "length"),
    [({"end": -60.0}, 5), ({"end": 60.0}, 1), ({"pad": 60.0, "start": 60.0, "unk": 60.0}, None)],
)
def test_there_is_always_a_caption_of_words_alone(features, beam, favoured, length):
    words, totals = Decoder(build_model(**favoured), beam, 5, 0.7, batch_size=7)(features)
    assert not np.isin(words, [START, END, UNK]).any()
    lengths = (words != PAD).sum(1)
    assert (lengths >= 1).all()
    assert (lengths <= 5).all()
    assert (totals > IMPOSSIBLE / 2).all()
    if length is not None:
        assert (lengths == length).all()


def test_decoder_follows_the_model_as_it_learns(features):
    """Training decodes with one Decoder after each epoch: new weights count at once."""
    model = build_model()
    decode = Decoder(model, 1, 4, 0.0, batch_size=7)
    before, _ = decode(features)
    model.vocabulary_logits.bias.assign([0, 0, -60, 0, 0, 0, 60, 0])
    after, _ = decode(features)
    assert (after == 6).all()
    assert not (before == 6).all()
