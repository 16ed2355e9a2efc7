"""metrics/retrieval.py: by hand, against loops, ties, blocks and intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captioner import CaptionerError
from captioner.metrics import retrieval
from captioner.metrics.retrieval import ranks, retrieval_metrics

# With the three axes as pictures, a caption's vector is what it scores with each of them.
AXES = np.eye(3)


def test_ranks_by_hand():
    captions = np.array(
        [[0.9, 0.1, 0.0], [0.2, 0.8, 0.3], [0.1, 0.7, 0.2], [0.5, 0.6, 0.7], [0.3, 0.4, 0.9]]
    )
    owners = np.array([0, 0, 1, 1, 2])
    of_pictures, of_captions = ranks(AXES, captions, owners)
    # Picture 1 hears its best caption say 0.7, after 0.8 of a caption of picture 0.
    assert of_pictures.tolist() == [1, 2, 1]
    # Caption 1 fits picture 0 worst of all; caption 3 fits picture 2 better than its own.
    assert of_captions.tolist() == [1, 3, 1, 2, 1]


def test_equals_share_their_places():
    """Vectors that are all the same find nothing but by chance."""
    pictures, captions = np.ones((5, 2)), np.ones((10, 2))
    of_pictures, of_captions = ranks(pictures, captions, np.arange(10) % 5)
    assert of_pictures.tolist() == [1 + 8 / 2] * 5
    assert of_captions.tolist() == [1 + 4 / 2] * 10


@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(0, 12), st.integers(1, 4))
def test_as_loops_say(seed, pictures, more, size):
    """Small whole numbers: many ties, exact sums."""
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.r_[np.arange(pictures), rng.integers(0, pictures, more)])
    picture = rng.integers(-2, 3, (pictures, size)).astype(np.float32)
    caption = rng.integers(-2, 3, (len(owners), size)).astype(np.float32)

    def rank(own, others):
        return 1 + sum(other > own for other in others) + sum(o == own for o in others) / 2

    of_pictures, of_captions = ranks(picture, caption, owners)
    for row in range(pictures):
        scores = caption @ picture[row]
        assert of_pictures[row] == rank(scores[owners == row].max(), scores[owners != row])
    for row, owner in enumerate(owners):
        scores = picture @ caption[row]
        assert of_captions[row] == rank(scores[owner], np.delete(scores, owner))


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(20, 4)), rng.normal(size=(50, 4)), np.arange(50) % 20
    whole = ranks(*vectors)
    monkeypatch.setattr(retrieval, "BLOCK", 7)
    for part, expected in zip(ranks(*vectors), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_metrics_by_hand():
    rng = np.random.default_rng(0)
    place = np.r_[rng.permutation(10), 10:40]  # ten pictures have each other's captions
    captions = np.repeat(np.eye(40)[place], 2, axis=0)
    owners = np.repeat(np.arange(40), 2)
    found = retrieval_metrics(np.eye(40), captions, owners, seed=1, samples=500)
    right = captions.argmax(1) == owners
    assert found["picture_r1"] == right.mean()
    assert found["text_r1"] == right.reshape(40, 2).any(1).mean()
    assert found["picture_r1_low"] < found["picture_r1"] < found["picture_r1_high"] < 1
    assert found["text_median_rank"] == found["picture_median_rank"] == 1
    ends = [f"r{k}{end}" for k in (1, 5, 10) for end in ("", "_low", "_high")]
    names = ("median_rank", *ends)
    assert set(found) == {f"{what}_{name}" for what in ("text", "picture") for name in names}


def test_a_picture_without_captions_is_refused():
    with pytest.raises(CaptionerError, match="1 of 3 pictures have no caption"):
        ranks(AXES, AXES[:2], np.array([0, 2]))
