"""How good a model in training is at what it is for: writing captions freely, word by word.

The loss of the validation split, with the right words given, says little about that; training keeps
the epoch whose greedy captions have the best CIDEr-D.
"""

from collections.abc import Callable, Sequence

from captioner.decoding import Decoder
from captioner.examples import Examples
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.model import CaptionModel
from captioner.text import Vocabulary


def validator(
    model: CaptionModel,
    vocabulary: Vocabulary,
    examples: Examples,
    references: Sequence[Sequence[str]],
) -> Callable[[], dict[str, float]]:
    """Free-running scores of a model in training: greedy captions, `val_cider_d`.

    Args:
        model: its weights of the moment count at each call.
        vocabulary: its words.
        examples: the validation split.
        references: its captions, in the order of `examples.rows`.
    """
    tokens = [[vocabulary.words_of(caption) for caption in picture] for picture in references]
    scorer = CiderD(ReferenceNGrams(tokens))
    longest = examples.tokens.shape[-1] - 2
    decode = Decoder(model, beam_width=1, max_length=longest, length_penalty=0.0, batch_size=64)

    def score() -> dict[str, float]:
        # The rows of a split lie together: a slice of the memory map, no copy.
        first, last = examples.rows[0], examples.rows[-1] + 1
        words, _ = decode(examples.features[first:last])
        captions = [vocabulary.words_at(row) for row in words]
        return {"val_cider_d": float(scorer.score(captions).mean())}

    return score
