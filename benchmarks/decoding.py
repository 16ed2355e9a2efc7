"""How fast are captions found? Beside PyTorch and a tutorial's way, in one run.

The model has random weights, but for a clock that makes <end> likely after about --words words.
Pictures' features are random too. Each finds captions, greedily and with a beam:

    captioner   `captioner.decoding`: a compiled search of all pictures of a batch
    torch       the same model, weights and search, eager, in batches of the same size; it drops
                pictures that are done, too. Its captions must be the same word by word, and their
                log-probabilities agree to 1e-3
    tutorial    a "merge" model in Keras (an LSTM reads the words so far, padded to the 34 words of
                Flickr8k's longest captions, the picture's vector is added, a softmax says the next
                word) and one `model.predict` for each word; with a beam, one for each hypothesis.
                Two captions are timed, as long as those of the others, and the rate is theirs

    pip install -c constraints.txt -e ".[benchmark]"     for torch; without it its lines are missing
    python benchmarks/decoding.py                        a model of Flickr8k's sizes
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from captioner.allocator import keep_large_blocks
from captioner.text import END, PAD, START, UNK

HEADS, WORD_SIZE, LENGTH_PENALTY = 8, 200, 0.7
TUTORIAL_LENGTH = 34
SHARPNESS = 30.0  # random weights hardly prefer any word; equal ones would be a matter of rounding
SUMMARY = (min, statistics.median, max)
Decode = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def main() -> int:
    keep_large_blocks()  # as the stages do; it counts for the peers too
    options = arguments()
    # Read when TensorFlow starts.
    os.environ |= {"TF_NUM_INTRAOP_THREADS": str(options.threads), "TF_NUM_INTEROP_THREADS": "1"}
    from captioner import quiet_tensorflow  # noqa: F401
    from captioner.decoding import Decoder

    try:
        import torch  # noqa: F401
    except ImportError:
        print('no PyTorch to compare with: pip install -c constraints.txt -e ".[benchmark]"')
        peers = {}
    else:
        peers = {"torch": torch_way}

    shape = (options.pictures, options.cells, options.channels)
    features = np.maximum(np.random.default_rng(1).normal(size=shape), 0).astype(np.float16)
    longest = 2 * options.words
    predict = tutorial(options)
    print(
        f"{options.pictures:,} pictures of {options.cells} x {options.channels}, "
        f"{options.vocabulary:,} words, {options.units} units, threads: {options.threads}"
    )
    print(f"{'captions a second':18}{'min':>8}{'median':>8}{'max':>8}   captioner is faster")
    for beam in (1, options.beam):
        model = random_model(options, features[:32], beam)
        decoders = {"captioner": Decoder(model, beam, longest, LENGTH_PENALTY, options.batch)}
        decoders |= {name: way(model, beam, longest, options) for name, way in peers.items()}
        rates: dict[str, list[float]] = {name: [] for name in decoders}
        for decode in decoders.values():  # warm
            decode(features[: options.batch])
        for _ in range(options.repeats):
            found = {}
            for name, decode in decoders.items():
                took, found[name] = timed(lambda decode=decode: decode(features))
                rates[name].append(len(features) / took)
        for name in peers:
            if complaint := differences(found["captioner"], found[name]):
                print(f"benchmark: {name}: {complaint}", file=sys.stderr)
                return 1
        words = float((found["captioner"][0] != PAD).sum(1).mean())
        rates["tutorial"] = [1 / took for took in predict(beam, round(words))]
        print(f"{'greedy' if beam == 1 else f'beam {beam}'}, {words:.1f} words a caption")
        for name, values in rates.items():
            times = statistics.median(rates["captioner"]) / statistics.median(values)
            faster = "" if name == "captioner" else f"{times:10,.1f} times"
            print(f"  {name:16}" + "".join(f"{f(values):8.1f}" for f in SUMMARY) + faster)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, what in (
        ("pictures", 512, "pictures to caption"),
        ("batch", 512, "pictures a batch"),
        ("beam", 5, "hypotheses a step of the wider search"),
        ("words", 10, "words of a caption, about; none has more than twice as many"),
        ("vocabulary", 2926, "words known"),
        ("cells", 49, "cells of a picture's grid"),
        ("channels", 1280, "channels of a cell"),
        ("units", 512, "size of the LSTMs' states"),
        ("repeats", 5, "passes of each"),
        ("threads", 1, "threads of each"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    return parser.parse_args()


def random_model(options: argparse.Namespace, features: np.ndarray, beam: int):
    """A model whose captions of some pictures have about `options.words` words."""
    import keras

    from captioner.decoding import Decoder
    from captioner.model import PROJECTED_WORD, CaptionModel, ModelConfig

    keras.utils.set_random_seed(0)
    units = options.units
    sizes = (options.vocabulary, WORD_SIZE, options.cells, options.channels, units, HEADS)
    vectors = np.random.default_rng(0).normal(size=(options.vocabulary, WORD_SIZE))
    model = CaptionModel(ModelConfig(*sizes), vectors)
    logits = model.vocabulary_logits
    logits.kernel.assign(logits.kernel * SHARPNESS)
    # People's captions hardly differ in length; random ones may go on for ever. So the first unit
    # of the second LSTM counts the words, and nothing else makes <end> likely.
    gates = np.arange(4) * units  # input, forget, output: open; candidate: the step of the clock
    put(model.speaker_inputs.kernel, np.s_[:, gates], 0)
    put(model.speaker_recurrent.kernel, np.s_[:, gates], 0)
    put(model.speaker_inputs.bias, gates, (9, 9, 9, 1 / options.words))
    put(model.output_projection.kernel, np.s_[:, 0], np.eye(2 * units + PROJECTED_WORD)[0])
    put(logits.kernel, np.s_[:, END], np.eye(units)[0] * 2 * SHARPNESS)
    decode = Decoder(model, beam, 2 * options.words, LENGTH_PENALTY, len(features))
    least, most = -100.0, 100.0
    for _ in range(12):  # the likelier <end>, the shorter captions are
        middle = (least + most) / 2
        logits.bias.assign(np.eye(options.vocabulary)[END] * middle)
        longer = (decode(features)[0] != PAD).sum(1).mean() > options.words
        least, most = (middle, most) if longer else (least, middle)
    return model


def put(weight, where, values) -> None:
    """Change a part of a weight."""
    array = weight.numpy().copy()
    array[where] = values
    weight.assign(array)


def torch_way(model, beam: int, longest: int, options: argparse.Namespace) -> Decode:
    """The model and the search of `captioner.beam_search` in PyTorch."""
    import torch
    from torch.nn.functional import linear

    torch.set_num_threads(options.threads)
    units, heads = options.units, HEADS
    weights = {
        weight.path.removeprefix("captioner/"): torch.from_numpy(weight.numpy().T.copy())
        for weight in model.weights
    }
    impossible = -1e9

    def dense(name, x):
        return linear(x, weights[f"{name}/kernel"], weights.get(f"{name}/bias"))

    def split(x):  # (pictures, n, units) to (pictures, heads, n, units / heads)
        return x.view(len(x), -1, heads, units // heads).transpose(1, 2)

    def look(features):
        cells = torch.relu(dense("cell_projection", features.float()))
        mean = cells.mean(1)
        h, c = torch.tanh(dense("initial_state", mean))[:, None].chunk(2, -1)
        cells = cells + weights["cell_positions/embeddings"].T
        memory = (split(cells), split(dense("keys", cells)), dense("reader_picture", mean)[:, None])
        return memory, (h, c, torch.zeros_like(h), torch.zeros_like(h))

    def cell(gates, c):
        i, f, o, g = gates.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    embeddings = weights["words/embeddings"].T.contiguous()

    def next_word(memory, state, words):
        cells, keys, picture = memory
        reader_h, reader_c, speaker_h, speaker_c = state
        words = dense("word_projection", embeddings[words])
        gates = dense("reader_words", words) + picture + dense("reader_recurrent", reader_h)
        reader_h, reader_c = cell(gates, reader_c)
        query = split(dense("query", reader_h))
        scores = query @ keys.transpose(-1, -2) / (units // heads) ** 0.5
        context = (torch.softmax(scores, -1) @ cells).transpose(1, 2).reshape(reader_h.shape)
        gates = dense("speaker_inputs", torch.cat([context, reader_h], -1))
        speaker_h, speaker_c = cell(gates + dense("speaker_recurrent", speaker_h), speaker_c)
        said = torch.tanh(dense("output_projection", torch.cat([speaker_h, context, words], -1)))
        logits = dense("vocabulary_logits", said)
        return torch.log_softmax(logits, -1), (reader_h, reader_c, speaker_h, speaker_c)

    def take(x, parent):
        return x.gather(
            1, parent.view(*parent.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
        )

    @torch.no_grad()
    def search(features):
        memory, state = look(features)
        number = len(features)
        best_words = torch.full((number, longest), PAD)
        best, best_score = torch.full((2, number), impossible)
        rows = torch.arange(number)
        words = torch.full((number, 1, longest), PAD)
        alive = torch.zeros(number, 1)
        ended = torch.zeros(number, 1, dtype=torch.long)
        last = torch.full((number, 1), START)
        for t in range(longest + 1):
            log_probabilities, state = next_word(memory, state, last)
            log_probabilities[..., [PAD, START, UNK]] = impossible
            if t == 0:
                log_probabilities[..., END] = impossible
            if t == longest:
                log_probabilities[..., UNK:] = impossible
            total = (alive[..., None] + log_probabilities).flatten(1)
            total, place = total.topk(beam)
            total[torch.arange(beam) >= beam - ended] = impossible
            vocabulary = log_probabilities.shape[-1]
            parent, last = place // vocabulary, place % vocabulary
            words = take(words, parent)
            end = (last == END) & (total > impossible / 2)
            score = torch.where(end, total / (t + 1) ** LENGTH_PENALTY, impossible)
            score, which = score.max(1)
            better = score > best_score[rows]
            found, which = rows[better], which[better]
            best_score[found] = score[better]
            best[found] = total[better, which]
            best_words[found] = words[better, which]
            ended += end.sum(1, keepdim=True)
            if t == longest:
                break
            words[:, :, t] = last
            alive = torch.where(last == END, impossible, total)
            hope = alive.max(1).values
            open_ = (hope > impossible / 2) & (
                hope / (longest + 1) ** LENGTH_PENALTY > best_score[rows]
            )
            state = [take(x, parent) for x in state]
            if open_.float().mean() < 7 / 8:
                rows, words, alive, ended, last = (
                    x[open_] for x in (rows, words, alive, ended, last)
                )
                memory, state = [x[open_] for x in memory], [x[open_] for x in state]
            if len(rows) == 0:
                break
        return best_words, best

    def decode(features):
        batches = torch.from_numpy(features).split(options.batch)
        found = [search(batch) for batch in batches]
        return tuple(torch.cat(parts).numpy() for parts in zip(*found, strict=True))

    return decode


def tutorial(options: argparse.Namespace) -> Callable[[int, int], list[float]]:
    """Seconds that each of two captions takes where every word is asked for by itself."""
    import keras
    from keras import layers

    picture, caption = keras.Input((options.channels,)), keras.Input((TUTORIAL_LENGTH,))
    shown = layers.Dense(256, "relu")(layers.Dropout(0.5)(picture))
    embedded = layers.Embedding(options.vocabulary, 256, mask_zero=True)(caption)
    heard = layers.LSTM(256)(layers.Dropout(0.5)(embedded))
    merged = layers.Dense(256, "relu")(layers.add([shown, heard]))
    model = keras.Model([picture, caption], layers.Dense(options.vocabulary, "softmax")(merged))
    vector = np.zeros((1, options.channels), np.float32)

    def caption_once(beam: int, words: int) -> None:
        said = [START]
        for position in range(words + 1):
            for _ in range(beam if position else 1):  # all hypotheses start with one
                prefix = keras.utils.pad_sequences([said], TUTORIAL_LENGTH)
                probabilities = model.predict([vector, prefix], verbose=0)
            said.append(int(probabilities.argmax()))

    def seconds(beam: int, words: int) -> list[float]:
        caption_once(1, 1)  # warm
        return [timed(lambda: caption_once(beam, words))[0] for _ in range(2)]

    return seconds


def differences(ours, theirs) -> str:
    """What is wrong if two decoders do not find the same captions; at best nothing."""
    (words, totals), (their_words, their_totals) = ours, theirs
    other = (words != their_words).any(1)
    if other.any():
        return f"{other.sum()} of {len(other)} captions differ"
    apart = np.abs(totals - their_totals).max()
    return f"log-probabilities differ by {apart}" if not apart <= 1e-3 else ""


def timed(run: Callable) -> tuple[float, object]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    sys.exit(main())
