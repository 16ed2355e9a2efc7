"""A report of `captioner.inspection.inspect` as text for people: the lines of the terminal.

Names and captions in it come from strangers; who prints the lines makes them printable.
"""

from collections.abc import Iterator

from captioner.datasets import SPLITS
from captioner.sections import Preprocess, Tokenize

BAR = 40  # signs of the histogram's longest bar


def lines(report: dict, preprocess: Preprocess, tokenize: Tokenize) -> Iterator[str]:
    """What is there, what is odd about it, and at the end the verdict."""
    yield from _counts(report)
    if report["sizes"]:
        yield from _sizes(report, preprocess)
        yield from _copies(report)
    if any(report["captions"].values()):
        yield from _words(report, tokenize)
        yield from _characters(report["characters"])
    yield ""
    yield from (f"ERROR    {error}" for error in report["errors"])
    yield from (f"WARNING  {warning}" for warning in report["warnings"])
    if report["errors"]:
        yield "the pipeline would stop"
    elif report["warnings"]:
        yield "the pipeline would run; have a look at the warnings first"
    else:
        yield "nothing to worry about"


def _counts(report: dict) -> Iterator[str]:
    yield f"{'':<10}" + "".join(f"{split:>10}" for split in SPLITS)
    for kind in ("pictures", "captions"):
        yield f"{kind:<10}" + "".join(f"{report[kind][split]:>10,}" for split in SPLITS)
    each = report["captions_per_picture"]
    if each:
        yield f"captions a picture: {each['least']} to {each['most']}, mean {each['mean']:.2f}"
    for name, column in report["columns"].items():
        values = ", ".join(f"{value:.30} ({number:,})" for value, number in column["most_frequent"])
        more = ", ..." if column["values"] > len(column["most_frequent"]) else ""
        shown = f": {values}{more}" if values else ""
        yield f"column {name:.30}: {column['values']:,} values{shown}"
    numbers = [f"{report[f'rejected_{kind}']:,} {kind}" for kind in ("pictures", "captions")]
    yield f"rejected: {' and '.join(numbers)}"
    for reason, found in report["rejected"].items():
        yield f"  {reason}: {_named(found)}"


def _sizes(report: dict, preprocess: Preprocess) -> Iterator[str]:
    sizes = report["sizes"]
    shown = (f"{name} {' x '.join(map(str, sizes[name]))}" for name in ("smallest", "median"))
    yield ""
    yield f"sizes: {', '.join(shown)}, largest {' x '.join(map(str, sizes['largest']))} pixels"
    yield f"  smaller than {preprocess.side} pixels, enlarged: {_named(sizes['enlarged'])}"
    yield f"  enlarged more than twice: {_named(sizes['enlarged_twice'])}"
    yield f"  longer than 2:1 (preprocess.fit {preprocess.fit}): {_named(sizes['elongated'])}"
    formats = ", ".join(f"{kind} ({number:,})" for kind, number in report["formats"].items())
    yield f"formats: {formats}"


def _copies(report: dict) -> Iterator[str]:
    for name, kinds in (
        ("duplicates within a split", report["copies"]),
        ("leaks between splits", report["leaks"]["pairs"]),
    ):
        yield f"{name}: " + ", ".join(f"{number:,} {kind}" for kind, number in kinds.items())
    leaks = report["leaks"]
    yield (
        f"test captions that are training captions, too: {leaks['leaked_captions_test']:,} "
        f"({leaks['leaked_captions_test_share']:.1%})"
    )


def _words(report: dict, tokenize: Tokenize) -> Iterator[str]:
    words, captions = report["words"], sum(report["captions"].values())
    yield ""
    yield f"words a caption: mean {words['mean']:.1f}, longest {words['longest']:,}"
    most = max(number for *_, number in words["histogram"])
    for start, end, number in words["histogram"]:
        span = f"{start}+ (cut)" if end is None else f"{start}-{end}" if end > start else f"{start}"
        bar = "#" * -(-BAR * number // most)
        yield f"{span:>10} {number:>9,}  {bar}".rstrip()
    yield f"distinct captions: {words['distinct']:,} of {captions:,}; the most frequent:"
    for caption, number in words["most_frequent"]:
        yield f"  {number:>7,} ({number / captions:>5.1%})  {caption:.70}"
    vocabulary = report["vocabulary"]
    yield (
        f"vocabulary: {vocabulary['words']:,} words in the training captions, "
        f"{vocabulary['rare']:,} seen less than {tokenize.min_count} times (tokenize.min_count)"
    )
    shares = [
        f"{split} {vocabulary[name]:.2%}"
        for split in SPLITS
        if (name := f"unknown_tokens_{split}") in vocabulary
    ]
    if shares:
        yield f"  words that become <unk>: {', '.join(shares)}"
    yield f"word vectors: {_vectors(report['word_vectors'])}"


def _vectors(vectors: dict) -> str:
    if vectors["source"] == "train":
        return "trained on the training captions (glove.source: train)"
    if vectors["source"] == "none":
        return "drawn at random (glove.source: none)"
    if "archive" not in vectors:
        return "not looked up; no glove.6B.zip could be read (glove.source: file)"
    missing = ", ".join(f"{word:.30} ({number:,})" for word, number in vectors["missing"])
    return (
        f"{vectors['archive']} has {vectors['types']:.1%} of the words, which are "
        f"{vectors['tokens']:.1%} of the training text"
        + (f"; without one: {missing}" if missing else "")
    )


def _characters(found: dict) -> Iterator[str]:
    scripts = sorted(found["scripts"].items(), key=lambda item: (-item[1], item[0]))
    yield "letters: " + (", ".join(f"{name} ({number:,})" for name, number in scripts) or "none")
    if found["lost"]:
        lost = ", ".join(f"{character} ({number:,})" for character, number in found["lost"])
        yield f"characters that no word keeps: {lost}"
    for kind, odd in found["odd"].items():
        if odd["captions"]:
            yield f"{kind}: {odd['captions']:,} captions, for example {odd['example']!r:.80}"


def _named(found: dict) -> str:
    """A number of pictures, and the names of the first."""
    names = ", ".join(f"{name:.60}" for name in found["first"])
    more = ", ..." if found["number"] > len(found["first"]) else ""
    return f"{found['number']:,}" + (f" ({names}{more})" if names else "")
