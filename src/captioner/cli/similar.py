"""`captioner similar`: pictures like this one, and why."""

import argparse

from captioner.cli import finding
from captioner.cli.terminal import complain

EXAMPLES = f"""\
examples:
  captioner similar scene-04500.png             pictures of the collection like one of its own
  captioner similar holiday.jpg --top 5         like a file of yours: loads the model first
  captioner similar holiday.jpg --blend 1       by looks alone; 0 is by meaning alone
  captioner similar shoe.jpg --filter gender=Women --filter colour=Red
  captioner similar holiday.jpg --json          with both cosines, shared words and copies

Each line: score, picture, its caption, and why, between tabs. The score is the blend of two
cosines, each counted in standard deviations above the collection's mean: how alike the pictures
look to the CNN, and how alike they mean in the space that pictures share with sentences. A picture
is never recommended for itself, and copies of one picture come once.

{finding.EXIT_CODES}
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    similar = commands.add_parser(
        "similar",
        help="find pictures like a picture, and say why",
        description="Find the pictures of a collection that are most like a picture.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    similar.add_argument("picture", metavar="PICTURE", help="a file, or an id of the collection")
    finding.add_list(similar)
    similar.add_argument(
        "--blend",
        type=_share,
        default=None,
        metavar="B",
        help="weight of looks, 0 to 1; the rest is meaning (default: 0.3)",
    )
    finding.add_filter(similar)
    finding.add_index(similar)
    finding.add_bundle(similar)
    similar.set_defaults(run=run)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not a number from 0 to 1")
    return value


def run(options: argparse.Namespace) -> int:
    """Find what `options` names; returns the exit code."""
    filters = finding.filters_of(options)
    from captioner import approximate, collection, recommend

    opened = collection.open_collection(options.index)
    recommend.allowed(opened, filters)  # before TensorFlow's seconds
    index = approximate.open_index(opened, complain)
    query = finding.query_picture(options, opened)
    blend = recommend.BLEND if options.blend is None else options.blend
    results = recommend.similar(opened, query, options.top, blend, filters, index)
    finding.print_results(results, options.json)
    return 0
