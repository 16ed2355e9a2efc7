"""decoding.py: what small models say best, worked out by teacher forcing of all captions."""

import functools
from dataclasses import replace
from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf

from captioner.beam_search import beam_search
from captioner.decoding import Decoder
from captioner.generation import IMPOSSIBLE
from captioner.graph import graph_function
from captioner.model import CaptionModel, ModelConfig
from captioner.packing import SIGNATURE, pack
from captioner.text import END, PAD, START, UNK
from tests.test_beam_search import caption_of, repeats

CONFIG = ModelConfig(vocabulary=8, word_size=5, cells=4, channels=6, units=8, heads=2)


def build_model(seed: int = 6, vocabulary: int = 8, **favoured: float) -> CaptionModel:
    """A random model with some special words made likely or unlikely."""
    keras.utils.set_random_seed(seed)
    vectors = np.random.default_rng(3).normal(size=(vocabulary, 5))
    model = CaptionModel(replace(CONFIG, vocabulary=vocabulary), vectors)
    # Else all captions are about equally likely, and the same ones for all pictures.
    strong = (model.reader_words, model.reader_recurrent, model.speaker_inputs)
    strong = (*strong, model.speaker_recurrent, model.output_projection)
    for layer in (*strong, model.cell_projection, model.initial_state):
        layer.kernel.assign(layer.kernel * 3)
    model.vocabulary_logits.kernel.assign(model.vocabulary_logits.kernel * 6)
    bias = np.zeros(vocabulary, np.float32)
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


@functools.cache
def teacher_forcing(model):
    """log P of each next word of packed captions, compiled once for all of them."""
    features = tf.TensorSpec((None, CONFIG.cells, CONFIG.channels), tf.float16)

    @graph_function(input_signature=[features, SIGNATURE])
    def read(features, captions):
        return tf.nn.log_softmax(model.logits(features, captions))

    return read


def by_word(model, picture: np.ndarray, captions) -> np.ndarray:
    """log P of each word of a picture's captions and of <end>, then 0: (captions, words + 1)."""
    tokens = np.zeros((1, len(captions), max(map(len, captions)) + 2), np.int64)
    for row, caption in zip(tokens[0], captions, strict=True):
        row[: len(caption) + 2] = START, *caption, END
    packed = pack(tokens)
    values = teacher_forcing(model)(picture[None], packed).numpy()
    values = values[range(len(values)), packed.targets]
    found = np.zeros((len(captions), len(packed.counts)))
    for step, said in enumerate(np.split(values, np.cumsum(packed.counts)[:-1])):
        found[packed.captions[: len(said)], step] = said
    return found


def teacher_forced(model, picture: np.ndarray, captions) -> np.ndarray:
    """log P of each caption, <end> included."""
    return by_word(model, picture, captions).sum(1)


def best_of(captions, totals: np.ndarray, length_penalty: float) -> int:
    lengths = np.array([len(caption) + 1 for caption in captions])
    return int((totals / lengths**length_penalty).argmax())


EVERYTHING = [c for n in (1, 2, 3) for c in product(range(4, 8), repeat=n)]


def test_decoder_finds_the_best_of_all_captions(model, features):
    words, totals = Decoder(model, len(EVERYTHING), 3, 0.7, batch_size=7)(features)
    chosen = set()
    for picture in range(7):
        expected = teacher_forced(model, features[picture], EVERYTHING)
        best = best_of(EVERYTHING, expected, 0.7)
        assert caption_of(words[picture]) == EVERYTHING[best]
        assert totals[picture] == pytest.approx(expected[best], abs=1e-4)
        chosen.add(best)
    assert len(chosen) > 2  # the pictures decide


def test_decoder_never_says_a_phrase_twice(model, features):
    allowed = [
        caption
        for caption in EVERYTHING
        if not any(repeats(caption[: n + 1], 1) for n in range(len(caption)))
    ]
    words, totals = Decoder(model, len(EVERYTHING), 3, 0.0, 7, no_repeat=1)(features)
    for picture in range(7):
        expected = teacher_forced(model, features[picture], allowed)
        best = best_of(allowed, expected, 0.0)
        assert caption_of(words[picture]) == allowed[best]
        assert totals[picture] == pytest.approx(expected[best], abs=1e-4)


SEEN = np.random.default_rng(8).uniform(0, 3, (6, 8)).astype(np.float32) * ([0] * 4 + [1] * 4)


def seen(features: tf.Tensor) -> tf.Tensor:
    """Evidence (pictures, 8) from the mean of a picture's cells."""
    return tf.nn.relu(tf.reduce_mean(tf.cast(features, tf.float32), 1) @ np.float32(SEEN))


def gained(picture: np.ndarray, captions, weight: float) -> np.ndarray:
    evidence = weight * seen(tf.constant(picture[None])).numpy()[0]
    return np.array([evidence[list(set(caption))].sum() for caption in captions])


def test_decoder_listens_to_evidence(model, features):
    options = {"word_evidence": 0.6, "seen": seen}
    decode = Decoder(model, len(EVERYTHING), 3, 0.7, batch_size=7, **options)
    words, totals = decode(features)
    alone, _ = Decoder(model, len(EVERYTHING), 3, 0.7, batch_size=7)(features)
    assert (words != alone).any()
    found = decode.diverse(features, 3)
    for picture in range(7):
        expected = teacher_forced(model, features[picture], EVERYTHING)
        worth = expected + gained(features[picture], EVERYTHING, 0.6)
        best = best_of(EVERYTHING, worth, 0.7)
        assert caption_of(words[picture]) == EVERYTHING[best] == found[picture][0].words
        assert totals[picture] == pytest.approx(expected[best], abs=1e-4)
    without = Decoder(model, len(EVERYTHING), 3, 0.7, batch_size=7, seen=seen)
    np.testing.assert_array_equal(without(features)[0], alone)


def test_several_captions_come_in_the_order_of_the_search(model, features):
    """With evidence, searched ones and drawn ones alike."""
    decode = Decoder(model, 3, 5, 0.7, batch_size=3, word_evidence=0.6, seen=seen)
    for found in (decode.diverse(features, 4), decode.sampled(features, 4, seed=1, top_p=1.0)):
        moved = 0
        for picture, captions in zip(features, found, strict=True):
            words = [one.words for one in captions]
            totals = teacher_forced(model, picture, words)
            np.testing.assert_allclose([one.log_probability for one in captions], totals, atol=1e-4)
            lengths = np.array([len(caption) + 1 for caption in words])
            scores = (totals + gained(picture, words, 0.6)) / lengths**0.7
            assert (np.diff(scores) <= 1e-4).all()
            moved += (np.diff(totals / lengths**0.7) > 1e-4).any()
        assert moved  # probability alone would order them otherwise


def agreement(features, words: np.ndarray) -> np.ndarray:
    """Likes word 6 in pictures of even brightness, word 4 in others."""
    even = (np.asarray(features).astype(np.float32).sum((1, 2)) * 100).astype(int) % 2 == 0
    return (words == np.where(even, 6, 4)[:, None, None]).sum(-1).astype(float)


def test_decoder_chooses_what_others_agree_with(model, features):
    """Of all captions, since the beam holds all of them."""
    options = {"word_evidence": 0.6, "seen": seen, "consensus": 0.5, "agreement": agreement}
    decode = Decoder(model, len(EVERYTHING), 3, 0.7, batch_size=4, **options)
    words, totals = decode(features)
    alone = Decoder(model, len(EVERYTHING), 3, 0.7, 4, word_evidence=0.6, seen=seen)(features)
    assert (words != alone[0]).any()
    for found, expected in zip(decode(features, alone=True), alone, strict=True):
        np.testing.assert_array_equal(found, expected)
    lengths = np.array([len(caption) + 1 for caption in EVERYTHING])
    padded = np.array([np.pad(caption, (0, 3 - len(caption))) for caption in EVERYTHING])
    for picture in range(7):
        expected = teacher_forced(model, features[picture], EVERYTHING)
        worth = (expected + gained(features[picture], EVERYTHING, 0.6)) / lengths**0.7
        worth += 0.5 * agreement(features[picture, None], padded[None])[0]
        assert caption_of(words[picture]) == EVERYTHING[int(worth.argmax())]
        assert totals[picture] == pytest.approx(expected[worth.argmax()], abs=1e-4)


@pytest.mark.parametrize("weight", ["word_evidence", "consensus"])
def test_a_weight_of_nothing_is_refused(model, weight):
    with pytest.raises(ValueError, match="needs"):
        Decoder(model, 2, 5, 0.7, batch_size=3, **{weight: 1.0})


def test_several_captions_with_agreement(model, features):
    options = {"word_evidence": 0.6, "seen": seen, "consensus": 0.5, "agreement": agreement}
    decode = Decoder(model, 4, 5, 0.7, batch_size=3, **options)
    best, totals = decode(features)
    for number in (1, 3, 6):
        found = decode.diverse(features, number)
        assert all(len({one.words for one in captions}) == number for captions in found)
        if number <= 4:  # what is found with as wide a beam in as many groups
            assert [captions[0].words for captions in found] == [caption_of(row) for row in best]
            np.testing.assert_allclose([c[0].log_probability for c in found], totals, atol=1e-4)


def test_greedy_decoder_takes_the_likeliest_next_word(model, features):
    words, totals = Decoder(model, 1, 5, 0.7, batch_size=7)(features)
    assert len({caption_of(row) for row in words}) > 2
    for picture in range(7):
        greedy: list[int] = []
        while len(greedy) < 5:
            # The word that stands in the place of the next one has no say in its own logits.
            packed = pack(np.array([[[START, *greedy, UNK]]]))
            last = teacher_forcing(model)(features[picture, None], packed).numpy()[-1]
            last[[PAD, START, UNK]] = -np.inf
            if not greedy:
                last[END] = -np.inf
            word = int(last.argmax())
            if word == END:
                break
            greedy.append(word)
        assert caption_of(words[picture]) == tuple(greedy)
        [expected] = teacher_forced(model, features[picture], [greedy])
        assert totals[picture] == pytest.approx(expected, abs=1e-4)


def test_decoder_log_probability_is_the_teacher_forced_one(model, features):
    words, totals = Decoder(model, 3, 6, 0.7, batch_size=7)(features)
    for picture in range(7):
        [expected] = teacher_forced(model, features[picture], [caption_of(words[picture])])
        assert totals[picture] == pytest.approx(expected, abs=1e-4)


def test_batches_of_a_memory_map(model, features, tmp_path):
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


@pytest.fixture(scope="module")
def models(model) -> list[CaptionModel]:
    return [model, build_model(seed=9), build_model(seed=2, end=1.0)]


def test_an_ensemble_finds_what_its_models_together_find_best(models, features):
    """The probability of a caption is the product of its words' mean probabilities."""
    words, totals = Decoder(models, len(EVERYTHING), 3, 0.7, batch_size=7)(features)
    alone = [Decoder(model, len(EVERYTHING), 3, 0.7, batch_size=7)(features)[0] for model in models]
    for picture in range(7):
        each = [np.exp(by_word(model, features[picture], EVERYTHING)) for model in models]
        expected = np.log(np.mean(each, 0)).sum(1)
        best = best_of(EVERYTHING, expected, 0.7)
        assert caption_of(words[picture]) == EVERYTHING[best]
        assert totals[picture] == pytest.approx(expected[best], abs=1e-4)
    assert all((words != theirs).any() for theirs in alone)  # no single one decides


@pytest.mark.usefixtures("eager")
def test_an_ensemble_of_equals_is_one_of_them(model, features):
    words, totals = Decoder([model] * 3, 2, 5, 0.7, batch_size=7)(features)
    expected, alone = Decoder([model], 2, 5, 0.7, batch_size=7)(features)
    np.testing.assert_array_equal(words, expected)
    np.testing.assert_allclose(totals, alone, atol=1e-4)


def score(found, length_penalty: float = 0.7) -> float:
    return found.log_probability / (len(found.words) + 1) ** length_penalty


def check_alternatives(model, features, found, number: int) -> None:
    """Different captions of words alone, best first, with the model's own log-probabilities."""
    assert len(found) == len(features)
    for picture, captions in zip(features, found, strict=True):
        words = [one.words for one in captions]
        assert len(words) == len(set(words)) == number
        assert all(words) and min(map(min, words)) > UNK
        scores = list(map(score, captions))
        assert scores == sorted(scores, reverse=True)
        expected = teacher_forced(model, picture, words)
        np.testing.assert_allclose([one.log_probability for one in captions], expected, atol=1e-4)


@pytest.mark.parametrize("number", [1, 3, 6])
def test_diverse_captions(model, features, number):
    decode = Decoder(model, 2, 5, 0.7, batch_size=3)
    found = decode.diverse(features, number)
    check_alternatives(model, features, found, number)
    # The first group searches as if it were alone, with a beam that is wide enough for all.
    best, _ = Decoder(model, max(2, number), 5, 0.7, batch_size=7)(features)
    for captions, row in zip(found, best, strict=True):
        assert caption_of(row) in [one.words for one in captions]


@pytest.fixture(scope="module")
def unsure() -> CaptionModel:
    """A model with many words in mind."""
    model = build_model(vocabulary=80)
    model.vocabulary_logits.kernel.assign(model.vocabulary_logits.kernel / 3)
    return model


def test_diverse_captions_are_more_diverse_than_a_beam(unsure, features):
    """Different words in the same place, over all places."""

    def different(captions) -> int:
        return sum(len(set(place)) for place in zip(*captions, strict=True))

    groups = Decoder(unsure, 4, 5, 0.7, batch_size=7).diverse(features, 4)
    looked = unsure.look(tf.constant(features))
    beams = beam_search(unsure.next_word, *looked, 4, 5, 0.7)[0].numpy()[:, 0]
    ours = [[np.pad(one.words, (0, 5 - len(one.words))) for one in captions] for captions in groups]
    assert sum(map(different, ours)) > sum(map(different, beams))


def test_as_many_diverse_captions_as_there_are(model, features):
    """Of one word there are four."""
    found = Decoder(model, 1, 1, 0.7, batch_size=7).diverse(features, 6)
    check_alternatives(model, features, found, 4)
    assert all({one.words for one in captions} == {(4,), (5,), (6,), (7,)} for captions in found)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_sampled_captions(unsure, features, top_p):
    decode = Decoder(unsure, 1, 5, 0.7, batch_size=3)
    found = decode.sampled(features, 4, seed=1, top_p=top_p)
    check_alternatives(unsure, features, found, 4)
    assert decode.sampled(features, 4, seed=1, top_p=top_p) == found
    assert decode.sampled(features, 4, seed=2, top_p=top_p) != found
    # Neither the pictures beside it nor the batch count.
    turned = decode.sampled(features[::-1], 4, seed=1, top_p=top_p)[::-1]
    assert [[one.words for one in c] for c in turned] == [[one.words for one in c] for c in found]


def test_a_nucleus_of_one_word_has_one_caption(model, features):
    decode = Decoder(model, 1, 5, 0.7, batch_size=7)
    found = decode.sampled(features, 3, seed=0, top_p=1e-6)
    greedy, totals = decode(features)
    assert [[one.words for one in captions] for captions in found] == [
        [caption_of(row)] for row in greedy
    ]
    np.testing.assert_allclose([one.log_probability for [one] in found], totals, atol=1e-4)


def test_sampling_goes_on_until_captions_differ(features):
    """The likeliest of four one-word captions takes most of the draws."""
    model = build_model(end=60.0)
    bias = model.vocabulary_logits.bias.numpy()
    bias[4:] = 3.0, 0.0, 0.0, 0.0
    model.vocabulary_logits.bias.assign(bias)
    model.vocabulary_logits.kernel.assign(model.vocabulary_logits.kernel * 0)
    found = Decoder(model, 1, 5, 0.7, batch_size=7).sampled(features, 2, seed=3, top_p=1.0)
    assert all(len(captions) == 2 and captions[0].words == (4,) for captions in found)
