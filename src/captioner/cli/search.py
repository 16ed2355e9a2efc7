"""`captioner search`: pictures for a sentence."""

import argparse

from captioner import CaptionerError
from captioner.cli import finding
from captioner.cli.terminal import complain

EXAMPLES = f"""\
examples:
  captioner search "a large red circle above a green star"
  captioner search "a dog in the snow" --top 5 --filter split=test
  captioner search "two dogs" --json

Each line: cosine, picture, its caption, and why, between tabs. Words that the model does not know
are left out, and named on stderr.

{finding.EXIT_CODES}
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    search = commands.add_parser(
        "search",
        help="find pictures for a sentence",
        description="Find the pictures of a collection that fit a sentence best.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    search.add_argument("sentence", metavar="SENTENCE", help="what is to be seen")
    finding.add_list(search)
    finding.add_filter(search)
    finding.add_index(search)
    finding.add_bundle(search)
    search.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Find what `options` names; returns the exit code."""
    filters = finding.filters_of(options)
    from captioner import approximate, collection, recommend

    opened = collection.open_collection(options.index)
    recommend.allowed(opened, filters)
    index = approximate.open_index(opened, complain)
    speaker = finding.load_bundle(options.bundle)
    finding.check_same_model(speaker, options.bundle, opened.model, options.index)
    (vector,), (unknown,) = speaker.sentence_vectors([options.sentence])
    if not vector.any():
        words = ", ".join(unknown) or "there is none"
        raise CaptionerError(f"none of these words is known: {words:.200}")
    if unknown:
        complain(f"not known, left out: {', '.join(unknown):.200}")
    results = recommend.search(opened, vector, options.sentence, options.top, filters, index)
    finding.print_results(results, options.json)
    return 0
