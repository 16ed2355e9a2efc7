"""How good a model in training is at what it is for: writing captions freely, word by word.

The loss of the validation split, with the right words given, says little about that; training keeps
the epoch whose greedy captions have the best CIDEr-D. Beside it stand the share of different
captions and the number of words in use, which shrink when a model takes to safe phrases.
"""

from collections.abc import Callable, Sequence

import numpy as np

from captioner.cross_entropy import features_signature, smoothed_cross_entropy
from captioner.decoding import Decoder
from captioner.examples import Examples
from captioner.graph import graph_function
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.model import CaptionModel
from captioner.packing import SIGNATURE, pack
from captioner.text import Vocabulary

BATCH = 64  # pictures


def validator(
    model: CaptionModel,
    vocabulary: Vocabulary,
    examples: Examples,
    references: Sequence[Sequence[str]],
) -> Callable[[], dict[str, float]]:
    """Scores of a model in training on the validation split.

    Args:
        model: its weights of the moment count at each call.
        vocabulary: its words.
        examples: the validation split.
        references: its captions, in the order of `examples.rows`.

    Returns:
        a function that gives `val_loss` (cross-entropy a word, in nats), and of the greedy captions
        `val_cider_d`, `val_distinct` (share) and `val_words` (how many different ones).
    """
    tokens = [[vocabulary.words_of(caption) for caption in picture] for picture in references]
    scorer = CiderD(ReferenceNGrams(tokens))
    longest = examples.tokens.shape[-1] - 2
    decode = Decoder(model, beam_width=1, max_length=longest, length_penalty=0.0, batch_size=BATCH)

    @graph_function(input_signature=[features_signature(model), SIGNATURE])
    def plain_loss(features, captions):
        _, plain = smoothed_cross_entropy(model.logits(features, captions), captions.targets, 0.0)
        return plain

    def score() -> dict[str, float]:
        # The rows of a split lie together: a slice of the memory map, no copy.
        first, last = examples.rows[0], examples.rows[-1] + 1
        words, _ = decode(examples.features[first:last])
        captions = [vocabulary.words_at(row) for row in words]
        total, count = 0.0, 0
        for start in range(0, len(examples.rows), BATCH):
            chosen = np.arange(start, min(start + BATCH, len(examples.rows)))
            packed = pack(examples.tokens[chosen])
            total += float(plain_loss(examples.load(chosen), packed))
            count += len(packed.targets)
        return {
            "val_loss": total / count,
            "val_cider_d": float(scorer.score(captions).mean()),
            "val_distinct": len(set(map(tuple, captions))) / len(captions),
            "val_words": len({word for caption in captions for word in caption}),
        }

    return score
