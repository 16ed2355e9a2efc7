"""`captioner words`: words like a word."""

import argparse
import json

from captioner.cli import finding
from captioner.cli.terminal import printable

EXAMPLES = f"""\
examples:
  captioner words circle                        the words that training left nearest to it
  captioner words dog --top 3 --json

Each line: cosine, word, how often the training captions hold it, between tabs. Needs no model.

{finding.EXIT_CODES}
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    words = commands.add_parser(
        "words",
        help="find words like a word",
        description="Find the words of the training captions that are most like a word.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument("word", metavar="WORD", help="in lower case, as captions are read")
    finding.add_list(words)
    finding.add_index(words)
    words.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Find what `options` names; returns the exit code."""
    from captioner import collection, recommend

    opened = collection.open_collection(options.index)
    found = recommend.neighbours(opened, options.word, options.top)
    if options.json:
        keys = ("word", "cosine", "count")
        rows = [dict(zip(keys, row, strict=True)) for row in found]
        print(json.dumps(rows, indent=2))
        return 0
    for word, cosine, count in found:
        print(f"{cosine:.3f}\t{printable(word)}\t{count}")
    return 0
