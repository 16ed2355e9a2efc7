import numpy as np
import pytest

from captioner.determinism import make_deterministic
from captioner.examples import Examples
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.model import CaptionModel, ModelConfig
from captioner.text import END, SPECIALS, START, Vocabulary
from captioner.validation import validator

WORDS = ("a", "red", "blue", "circle", "star")
REFERENCES = [["a red circle", "a circle"], ["a blue star", "red star"], ["a star", "a red star"]]


def greedy(model, features, length):
    """The likeliest next word again and again, by teacher forcing: no step in common."""
    words = []
    while len(words) < length:
        tokens = np.array([[[START, *words, END]]], np.int32)
        logits = model.logits(features[None], tokens)[0].numpy()[-1]
        logits[: len(SPECIALS)] = [-np.inf, -np.inf, logits[END] if words else -np.inf, -np.inf]
        if logits.argmax() == END:
            break
        words.append(int(logits.argmax()))
    return words


def test_validator_scores_greedy_captions_of_its_rows_with_the_weights_of_the_moment():
    make_deterministic(4)
    vocabulary = Vocabulary((*SPECIALS, *WORDS), (0, 3, 3, 0, 9, 8, 7, 6, 5))
    rng = np.random.default_rng(4)
    model = CaptionModel(
        ModelConfig(len(vocabulary), 6, cells=2, channels=3, units=8, attention_units=4),
        rng.normal(size=(len(vocabulary), 6)),
    )
    features = rng.normal(size=(5, 2, 3)).astype(np.float16)  # rows 1 to 3 are the split's
    examples = Examples(features, np.array([1, 2, 3]), np.full((3, 2, 6), START))
    score = validator(model, vocabulary, examples, REFERENCES)
    tokens = [[reference.split() for reference in picture] for picture in REFERENCES]
    scorer = CiderD(ReferenceNGrams(tokens))

    seen = set()
    for scale in (1.0, 8.0, -8.0):
        kernel = model.vocabulary_logits.kernel
        kernel.assign(kernel * scale)
        captions = [
            [vocabulary.words[word] for word in greedy(model, features[row], 4)]
            for row in examples.rows
        ]
        seen.add(str(captions))
        assert score() == {"val_cider_d": pytest.approx(scorer.score(captions).mean(), abs=1e-9)}
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
