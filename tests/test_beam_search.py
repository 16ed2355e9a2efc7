"""beam_search.py: against exhaustive, greedy and beam search written in plain Python."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.beam_search import beam_search
from captioner.generation import IMPOSSIBLE
from captioner.text import END, PAD, START, UNK

VOCABULARY, LONGEST = 7, 3  # three words beside the special ones
EVERY_CAPTION = [
    caption
    for length in range(1, LONGEST + 1)
    for caption in product(range(UNK + 1, VOCABULARY), repeat=length)
]


def random_table(seed: int, pictures: int, longest: int = LONGEST) -> np.ndarray:
    """log P(next word | all words so far) of a toy model: (pictures, histories, VOCABULARY)."""
    shape = (pictures, VOCABULARY ** (longest + 1), VOCABULARY)
    logits = np.random.default_rng(seed).normal(0, 2, shape)
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def history_of(words) -> int:
    """The row of the table: <start> and the words as a number in base VOCABULARY."""
    history = START
    for word in words:
        history = history * VOCABULARY + word
    return history


def log_probability(table: np.ndarray, words) -> float:
    """Of a caption with its <end>, word by word."""
    every = (*words, END)
    return sum(float(table[history_of(every[:n]), word]) for n, word in enumerate(every))


def step(memory, history, words):
    """The toy model; the words so far are its state."""
    history = history * VOCABULARY + words
    return tf.gather(memory, history, batch_dims=1), history


def search(table, beam_width: int, length_penalty: float, max_length: int = LONGEST, **options):
    history = tf.zeros((len(table), 1), tf.int32)
    settings = (beam_width, max_length, length_penalty)
    if "evidence" in options:
        options["evidence"] = tf.constant(options["evidence"])
    found = beam_search(step, tf.constant(table), history, *settings, **options)
    return [part.numpy() for part in found]


def one_group(*arguments, **options):
    """`search` without the axis of groups."""
    return [part[:, 0] for part in search(*arguments, **options)]


def caption_of(row) -> tuple[int, ...]:
    return tuple(int(word) for word in row if word != PAD)


def repeats(words, size: int) -> bool:
    """Whether the last n-gram of `size` stands somewhere before."""
    grams = [words[n : n + size] for n in range(len(words) - size + 1)]
    return size > 0 and len(grams) > 1 and grams[-1] in grams[:-1]


def random_evidence(seed: int, pictures: int) -> np.ndarray:
    """(pictures, VOCABULARY), a third of it 0, and 0 for special words."""
    rng = np.random.default_rng(seed + 1)
    evidence = rng.uniform(0, 4, (pictures, VOCABULARY)) * (
        rng.random((pictures, VOCABULARY)) < 2 / 3
    )
    evidence[:, : UNK + 1] = 0
    return evidence.astype(np.float32)


def plain_search(
    table, beam, penalty, longest, no_repeat=0, groups=1, diversity=0.0, evidence=None
):
    """Beam search of one picture with lists: for each group (score, words), best first."""
    evidence = np.zeros(VOCABULARY) if evidence is None else evidence
    alive, done = [[(0.0, ())] for _ in range(groups)], [[] for _ in range(groups)]
    for position in range(longest + 1):
        said = Counter()
        for group in range(groups):
            grown = []
            for total, words in alive[group]:
                for word in (END, *range(UNK + 1, VOCABULARY)):
                    if position == (0 if word == END else longest):
                        continue
                    if word != END and repeats((*words, word), no_repeat):
                        continue
                    sum_ = total + float(table[history_of(words), word])
                    sum_ += 0.0 if word in words else float(evidence[word])
                    grown.append((sum_ - diversity * said[word], sum_, words, word))
            kept = sorted(grown, reverse=True)[: beam - len(done[group])]
            said.update(word for *_, word in kept)
            score = (position + 1) ** penalty
            done[group] += [(total / score, words) for _, total, words, word in kept if word == END]
            alive[group] = [(total, (*words, w)) for _, total, words, w in kept if w != END]
    return [sorted(captions, reverse=True) for captions in done]


def assert_equal(found, expected):
    """Words and scores of each picture and group against `plain_search`."""
    words, _, scores = found
    for picture, groups in enumerate(expected):
        for group, captions in enumerate(groups):
            assert captions
            rows = words[picture, group, : len(captions)]
            assert list(map(caption_of, rows)) == [caption for _, caption in captions]
            best = scores[picture, group]
            np.testing.assert_allclose(
                best[: len(captions)], [s for s, _ in captions], rtol=1e-5, atol=1e-5
            )
            assert (best[len(captions) :] == IMPOSSIBLE).all()


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
    words, found, scores = (part[0] for part in one_group(table[None], beam, penalty))
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
    words, totals, scores = one_group(table, beam, penalty)
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


@settings(deadline=None, max_examples=5)
@given(seeds, st.integers(1, 6), penalties, st.integers(0, 3), st.integers(1, 3))
def test_pictures_of_a_batch_do_not_see_each_other(seed, beam, penalty, no_repeat, groups):
    """Although those that end first are dropped on the way."""
    table = random_table(seed, 9)
    options = {"no_repeat": no_repeat, "groups": groups, "diversity": 0.5}
    together = search(table, beam, penalty, **options)
    for picture in range(9):
        alone = search(table[picture : picture + 1], beam, penalty, **options)
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[picture])


@settings(deadline=None, max_examples=15)
@given(seeds, penalties)
def test_beam_of_one_is_greedy(seed, penalty):
    [table] = random_table(seed, 1)
    greedy: list[int] = []
    while len(greedy) < LONGEST:
        allowed = [END] * bool(greedy) + list(range(UNK + 1, VOCABULARY))
        word = max(allowed, key=lambda word: table[history_of(greedy), word])
        if word == END:
            break
        greedy.append(word)
    words, totals, _ = one_group(table[None], 1, penalty)
    assert caption_of(words[0, 0]) == tuple(greedy)
    assert totals[0, 0] == pytest.approx(log_probability(table, greedy), rel=1e-5)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 6), penalties, st.integers(0, 4))
def test_the_same_search_with_lists(seed, beam, penalty, no_repeat):
    """A hypothesis that ends gives its place up; no n-gram comes twice."""
    table = random_table(seed, 2, longest=5)
    expected = [plain_search(one, beam, penalty, 5, no_repeat) for one in table]
    assert_equal(search(table, beam, penalty, 5, no_repeat=no_repeat), expected)


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 4), st.integers(1, 4), st.sampled_from([0.0, 0.5, 3.0]))
def test_the_same_search_of_several_groups_with_lists(seed, beam, groups, diversity):
    table = random_table(seed, 2, longest=4)
    expected = [plain_search(one, beam, 0.7, 4, 2, groups, diversity) for one in table]
    found = search(table, beam, 0.7, 4, no_repeat=2, groups=groups, diversity=diversity)
    assert_equal(found, expected)
    for picture, one in enumerate(table):  # what chose a word is not what it is worth
        for caption, total in zip(found[0][picture, -1], found[1][picture, -1], strict=True):
            if total > IMPOSSIBLE / 2:
                real = log_probability(one, caption_of(caption))
                assert total == pytest.approx(real, rel=1e-4, abs=1e-4)


@settings(deadline=None, max_examples=15)
@given(seeds, st.integers(1, 6), penalties, st.integers(0, 4), st.integers(1, 3))
def test_the_same_search_with_evidence(seed, beam, penalty, no_repeat, groups):
    """It chooses, once for each word; what is reported of a caption is its probability."""
    table, evidence = random_table(seed, 3, longest=5), random_evidence(seed, 3)
    options = {"no_repeat": no_repeat, "groups": groups, "diversity": 0.5}
    expected = [
        plain_search(one, beam, penalty, 5, **options, evidence=own)
        for one, own in zip(table, evidence, strict=True)
    ]
    found = search(table, beam, penalty, 5, **options, evidence=evidence)
    assert_equal(found, expected)
    for picture, groups_of in enumerate(expected):
        for group, captions in enumerate(groups_of):
            totals = [log_probability(table[picture], caption) for _, caption in captions]
            np.testing.assert_allclose(
                found[1][picture, group, : len(captions)], totals, rtol=1e-4, atol=1e-4
            )


def test_evidence_by_hand():
    """Two words that are equally likely: the one that the picture shows, and only once."""
    table = np.full((VOCABULARY**4, VOCABULARY), 1e-6)
    for length in range(3):
        for words in product((4, 5), repeat=length):
            table[history_of(words), [4, 5]] = 0.6, 0.4
    table[history_of((4, 4)), END] = table[history_of((5, 4)), END] = 1.0
    table = np.log(table).astype(np.float32)[None]
    evidence = np.zeros((1, VOCABULARY), np.float32)
    assert caption_of(one_group(table, 1, 0.0)[0][0, 0]) == (4, 4)
    evidence[0, 5] = 0.5  # log 0.6 / 0.4 is 0.405
    words, totals, scores = one_group(table, 1, 0.0, evidence=evidence)
    assert caption_of(words[0, 0]) == (5, 4)
    assert totals[0, 0] == pytest.approx(np.log(0.4 * 0.6), abs=1e-4)
    assert scores[0, 0] == pytest.approx(np.log(0.4 * 0.6) + 0.5, abs=1e-4)


def test_groups_avoid_each_others_words():
    table = random_table(3, 50)
    words, *_ = search(table, 1, 0.0, groups=3, diversity=100.0)
    firsts = words[:, :, 0, 0]
    assert all(len(set(row)) == 3 for row in firsts)
    same, *_ = search(table, 1, 0.0, groups=3, diversity=0.0)
    assert (same == same[:, :1]).all()
    assert (words[:, :1] == same[:, :1]).all()  # the first one is free


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 6), penalties, st.integers(0, 2), st.booleans(), st.data())
def test_ending_early_loses_nothing(seed, beam, penalty, no_repeat, evident, data):
    """The wanted captions are what the search to the end finds."""
    wanted = data.draw(st.integers(1, beam))
    table = random_table(seed, 4, longest=4)
    options = {"no_repeat": no_repeat}
    if evident:
        options["evidence"] = random_evidence(seed, 4)
    early = one_group(table, beam, penalty, 4, wanted=wanted, **options)
    whole = one_group(table, beam, penalty, 4, **options)
    for ours, theirs in zip(early, whole, strict=True):
        np.testing.assert_array_equal(ours[:, :wanted], theirs[:, :wanted])


def test_it_ends_as_soon_as_nothing_better_can_come():
    """P(4 <end>) = 0.9; after 5 (0.1) words go on for ever, and are not followed."""
    table = np.full((VOCABULARY**6, VOCABULARY), 1e-9)
    table[START, [4, 5]] = 0.9, 0.1
    table[history_of([4]), END] = 1.0
    for length in range(1, 5):
        table[history_of([5] * length), 5] = 1.0
    table = tf.constant(np.log(table).astype(np.float32)[None])
    asked = []

    def counted(memory, history, words):
        asked.append(words.numpy().tolist())
        return step(memory, history, words)

    for wanted, steps in ((1, 2), (2, 5)):
        asked.clear()
        history = tf.zeros((1, 1), tf.int32)
        words, *_ = beam_search(counted, table, history, 2, 4, 0.0, wanted=wanted)
        assert len(asked) == steps and asked[0] == [[START]]
        assert caption_of(words[0, 0, 0].numpy()) == (4,)


def test_pictures_that_are_done_cost_nothing():
    """One of ten pictures has a caption of five words, the others of one."""
    table = np.full((10, VOCABULARY**6, VOCABULARY), 1e-9)
    table[:, START, 4] = 1.0
    table[:9, history_of([4]), END] = 1.0
    for length in range(1, 5):
        table[9, history_of([4] * length), 4] = 1.0
    table[9, history_of([4] * 5), END] = 1.0
    rows = []

    def counted(memory, history, words):
        rows.append(len(words))
        return step(memory, history, words)

    table = tf.constant(np.log(table).astype(np.float32))
    words, totals, _ = beam_search(counted, table, tf.zeros((10, 1), tf.int32), 1, 5, 0.0)
    assert rows == [10, 10, 1, 1, 1, 1]
    assert [caption_of(row) for row in words[:, 0, 0].numpy()] == [(4,)] * 9 + [(4,) * 5]
    np.testing.assert_allclose(totals[:, 0, 0], np.zeros(10), atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 4), st.integers(1, 3))
def test_no_phrase_is_said_twice_and_a_caption_always_comes(seed, beam, size):
    """Also where all words are used up: <end> is most unlikely, and three words are few."""
    table = random_table(seed, 3, longest=5)
    table[:, :, END] = -60.0
    words, totals, _ = one_group(table, beam, 0.0, 5, no_repeat=size)
    assert (totals[:, 0] > IMPOSSIBLE / 2).all()
    for row in words[:, 0]:
        caption = caption_of(row)
        assert caption and not any(repeats(caption[: n + 1], size) for n in range(len(caption)))
        if size == 1:
            assert sorted(caption) == [4, 5, 6]  # each once, then the end


def test_blocking_by_hand():
    """4 5 4 5 4 is likeliest, and 6 what is said where its next word is forbidden."""
    table = np.full((VOCABULARY**6, VOCABULARY), 1e-4)
    for length in range(6):
        for words in product((4, 5, 6), repeat=length):
            wish = 5 if words and words[-1] == 4 else 4
            table[history_of(words), [wish, 6]] = 0.8, 0.15
    table = np.log(table).astype(np.float32)[None]
    # The second 4 5 4 is a trigram said before, the second 4 5 a bigram; with all three words
    # said, a caption without repeats has to end.
    expected = {0: (4, 5, 4, 5, 4), 3: (4, 5, 4, 5, 6), 2: (4, 5, 4, 6, 4), 1: (4, 5, 6)}
    for size, caption in expected.items():
        words, *_ = one_group(table, 1, 0.0, 5, no_repeat=size)
        assert caption_of(words[0, 0]) == caption


def test_wider_beam_finds_better_captions():
    """No law for every single picture, but one on average; the full beam beats every other."""
    table = random_table(0, 300)
    best = np.array([one_group(table, beam, 0.7)[2][:, 0] for beam in (1, 2, 4, 39)])
    assert (np.diff(best.mean(1)) > 0).all()
    assert (best[-1] >= best - 1e-5).all()


def test_beam_keeps_what_pays_later():
    """Word 4 looks best (0.6), but all that follows it is bad: 0.6 * 0.1 against 0.3 * 0.9."""
    table = np.full((VOCABULARY**4, VOCABULARY), 1e-6)
    table[START, [4, 5, 6]] = 0.6, 0.3, 0.1
    table[START * VOCABULARY + 4] = 0.1
    table[START * VOCABULARY + 5, [4, END]] = 0.1, 0.9
    table = np.log(table).astype(np.float32)[None]
    assert caption_of(one_group(table, 1, 0.0)[0][0, 0])[0] == 4
    words, totals, _ = one_group(table, 2, 0.0)
    assert caption_of(words[0, 0]) == (5,)
    assert totals[0, 0] == pytest.approx(np.log(0.27), rel=1e-5)


def test_length_penalty_favours_the_longer():
    """P(4) = 0.5 and P(5 5 5) = 0.4: the short one wins a sum, the long one the mean a word."""
    table = np.full((VOCABULARY**4, VOCABULARY), 1e-6)
    table[START, [4, 5]] = 0.5, 0.4
    table[history_of([4]), END] = 1.0
    table[history_of([5]), 5] = table[history_of([5, 5]), 5] = 1.0
    table[history_of([5, 5, 5]), END] = 1.0
    table = np.log(table).astype(np.float32)[None]
    for penalty, expected in ((0.0, (4,)), (1.0, (5, 5, 5))):
        words, _, scores = one_group(table, 3, penalty)
        assert caption_of(words[0, 0]) == expected
    assert scores[0, 0] == pytest.approx(np.log(0.4) / 4, rel=1e-5)
