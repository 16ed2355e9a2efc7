"""validation.py: the scores of greedy captions, and the loss, with the weights of the moment."""

from itertools import pairwise

import numpy as np
import pytest

from captioner import validation
from captioner.cross_entropy import features_signature
from captioner.determinism import make_deterministic
from captioner.examples import Examples
from captioner.graph import graph_function
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.model import CaptionModel, ModelConfig
from captioner.packing import SIGNATURE, pack
from captioner.text import END, PAD, SPECIALS, START, UNK, Vocabulary
from captioner.validation import validator

WORDS = ("a", "red", "blue", "circle", "star")
REFERENCES = [["a red circle", "a circle"], ["a blue star", "red star"], ["a star", "a red star"]]
# As numbers; the third picture has one caption here, and rarer words in it.
TOKENS = np.array(
    [
        [[START, 4, 5, 7, END, PAD], [START, 4, 7, END, PAD, PAD]],
        [[START, 4, 6, 8, END, PAD], [START, 5, 8, END, PAD, PAD]],
        [[START, UNK, UNK, 6, 8, END], [PAD] * 6],
    ],
    np.uint16,
)


def greedy(said, features, length):
    """The likeliest next word again and again, by teacher forcing: no step in common."""
    words = []
    while len(words) < length:
        logits = said(features[None], pack(np.array([[[START, *words, END]]]))).numpy()[-1]
        logits[: len(SPECIALS)] = [-np.inf, -np.inf, logits[END] if words else -np.inf, -np.inf]
        if logits.argmax() == END:
            break
        words.append(int(logits.argmax()))
    return words


def loss_of_a_word(model, features) -> float:
    """Single steps, picture by picture and caption by caption."""
    losses = []
    for picture, captions in zip(features, TOKENS, strict=True):
        for caption in captions:
            memory, state = model.look(picture[None])
            for word, target in pairwise(caption):
                said, state = model.next_word(memory, state, np.array([[word]], np.int32))
                if target != PAD:
                    losses.append(-float(said[0, 0, int(target)]))
    assert len(losses) == 19
    return np.mean(losses)


def test_validator_scores_its_rows_with_the_weights_of_the_moment(monkeypatch):
    monkeypatch.setattr(validation, "BATCH", 2)  # so that the last batch is small
    make_deterministic(4)
    vocabulary = Vocabulary((*SPECIALS, *WORDS), (0, 3, 3, 0, 9, 8, 7, 6, 5))
    rng = np.random.default_rng(4)
    model = CaptionModel(
        ModelConfig(len(vocabulary), 6, cells=2, channels=3, units=8, heads=2),
        rng.normal(size=(len(vocabulary), 6)),
    )
    said = graph_function(
        lambda features, captions: model.logits(features, captions),
        input_signature=[features_signature(model), SIGNATURE],
    )
    features = rng.normal(size=(5, 2, 3)).astype(np.float16)  # rows 1 to 3 are the split's
    examples = Examples(features, np.array([1, 2, 3]), np.array(list("bcd")), TOKENS)
    score = validator(model, vocabulary, examples, REFERENCES)
    tokens = [[reference.split() for reference in picture] for picture in REFERENCES]
    scorer = CiderD(ReferenceNGrams(tokens))

    seen = set()
    for scale in (1.0, 8.0, -8.0):
        kernel = model.vocabulary_logits.kernel
        kernel.assign(kernel * scale)
        captions = [
            [vocabulary.words[word] for word in greedy(said, features[row], 4)]
            for row in examples.rows
        ]
        seen.add(str(captions))
        different = {str(caption) for caption in captions}
        assert score() == {
            "val_loss": pytest.approx(loss_of_a_word(model, features[1:4]), rel=1e-5),
            "val_cider_d": pytest.approx(scorer.score(captions).mean(), abs=1e-9),
            "val_distinct": pytest.approx(len(different) / 3),
            "val_words": len(set().union(*captions)),
        }
    assert len(seen) > 1  # else the weights of the moment were not put to the test

    # The same words as Chinese characters, written without blanks, have the same scores.
    chinese = str.maketrans(dict(zip("一红蓝圆星", WORDS, strict=True)))
    split = Vocabulary((*SPECIALS, *"一红蓝圆星"), vocabulary.counts, split_characters=True)
    translated = [
        ["".join("一红蓝圆星"[WORDS.index(word)] for word in one.split()) for one in picture]
        for picture in REFERENCES
    ]
    assert translated[0][0].translate(chinese) == "aredcircle"
    assert validator(model, split, examples, translated)() == score()
