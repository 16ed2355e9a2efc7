"""How fast are the scores? BLEU, ROUGE-L and CIDEr-D beside the COCO reference, in one run.

Both get the same raw captions of 1,000 pictures, five references each: tokenizing and scoring, all
in one pass, in turns, and they must agree to 1e-9. The reference, pycocoevalcap, starts its Java
tokenizer twice in each pass: that is how it works. Then the scorer that training uses: 32 x 5
sampled captions as word numbers against a prepared training split, on one core.

    pip install -c constraints.txt -e ".[benchmark]"     (and a Java runtime)
    python benchmarks/metrics.py                         captions of drawn scenes
    python benchmarks/metrics.py Flickr8k.token.txt      or of a file that `captioner score` reads
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from captioner import CaptionerError
from captioner.caption_files import read_references
from captioner.datasets.scene_captions import captions as scene_captions
from captioner.datasets.scene_drawing import sample_facts
from captioner.metrics import BLEU, caption_scores
from captioner.metrics.cider import CiderD
from captioner.metrics.ngrams import ReferenceNGrams
from captioner.metrics.tokenizer import tokenize

PICTURES, REFERENCES, SAMPLES = 1000, 5, 5
BATCH = 32  # pictures of a self-critical training step


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "captions",
        nargs="?",
        type=Path,
        help="what people said, in any file that `captioner score` reads",
    )
    parser.add_argument("--repeats", type=int, default=7, help="passes of each (default: 7)")
    options = parser.parse_args()
    try:
        from pycocoevalcap.bleu.bleu import Bleu  # noqa: F401  (the peer is asked for first)
    except ImportError:
        print('benchmark: the peer is missing: pip install -c constraints.txt -e ".[benchmark]"')
        return 2
    try:
        references, hypotheses = corpus(options.captions)
    except CaptionerError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 2

    passes = {"captioner": ours, "pycocoevalcap": theirs}
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for run in passes.values():  # warm: imports, the tokenizer's compiled pattern, disk cache
        run(references[:10], hypotheses[:10])
    for _ in range(options.repeats):
        found = {}
        for name, run in passes.items():
            took, found[name] = timed(lambda run=run: run(references, hypotheses))
            seconds[name].append(took)
        apart = max(abs(found["captioner"][m] - found["pycocoevalcap"][m]) for m in found[name])
        if apart > 1e-9:
            print(f"benchmark: the scores differ by {apart}", file=sys.stderr)
            return 1
    print(f"{len(references)} pictures x {REFERENCES} references, tokenized and scored, seconds")
    print(f"{'':16}{'min':>8}{'median':>8}{'max':>8}")
    for name, values in seconds.items():
        print(f"{name:16}" + row(values))
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"{'times as fast':16}" + row(ratios) + f"     (scores agree to {apart:.0e})")

    milliseconds = [1000 * took for took in training_rewards(references, hypotheses)]
    print(f"\nCIDEr-D of {BATCH} x {SAMPLES} captions, prepared references, one core, milliseconds")
    print(f"{'captioner':16}" + row(milliseconds))
    return 0


def corpus(path: Path | None) -> tuple[list[list[str]], list[str]]:
    """Raw captions: references of each picture, and a caption of somebody else as hypothesis."""
    if path is None:
        rng = np.random.default_rng(0)
        groups = []
        for _ in range(PICTURES):
            facts = sample_facts(rng)
            groups.append([*scene_captions(facts, rng), scene_captions(facts, rng)[-1]])
    else:
        groups = [group for group in read_references(path).values() if len(group) >= REFERENCES]
        groups = groups[:PICTURES]
        # With no caption to spare, the next picture's first one is scored.
        following = [*groups[1:], *groups[:1]]
        groups = [
            group if len(group) > REFERENCES else [*group, other[0]]
            for group, other in zip(groups, following, strict=True)
        ]
    return [group[:REFERENCES] for group in groups], [group[REFERENCES] for group in groups]


def ours(references: list[list[str]], hypotheses: list[str]) -> dict[str, float]:
    return caption_scores(references, hypotheses).corpus


def theirs(references: list[list[str]], hypotheses: list[str]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    with silence():
        known = tokenizer.tokenize(
            {i: [{"caption": caption} for caption in g] for i, g in enumerate(references)}
        )
        said = tokenizer.tokenize({i: [{"caption": one}] for i, one in enumerate(hypotheses)})
        bleu = Bleu(4).compute_score(known, said)[0]
        rouge, cider = (measure.compute_score(known, said)[0] for measure in (Rouge(), Cider()))
    return {**dict(zip(BLEU, bleu, strict=True)), "rouge_l": rouge, "cider_d": cider}


@contextlib.contextmanager
def silence():
    """Neither Python's words nor Java's on the terminal."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(io.StringIO()):
        terminal = os.dup(2)
        os.dup2(nothing.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def training_rewards(references: list[list[str]], hypotheses: list[str]) -> list[float]:
    """Seconds of each of 100 reward computations, as a self-critical training does them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    ids: dict[str, int] = {}

    def numbers(caption: str) -> list[int]:
        return [ids.setdefault(word, len(ids)) for word in tokenize(caption)]

    scorer = CiderD(ReferenceNGrams([list(map(numbers, group)) for group in references]))
    said = list(map(numbers, hypotheses))
    rng = np.random.default_rng(0)
    seconds = []
    for _ in range(100):
        pictures = np.repeat(rng.choice(len(references), BATCH), SAMPLES)
        sampled = [said[i] for i in rng.integers(0, len(said), len(pictures))]
        seconds.append(timed(lambda s=sampled, p=pictures: scorer.score(s, p))[0])
    return seconds


def timed(run: Callable) -> tuple[float, object]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def row(values: list[float]) -> str:
    return "".join(f"{f(values):8.2f}" for f in (min, statistics.median, max))


if __name__ == "__main__":
    sys.exit(main())
