"""`captioner sentences`: what people wrote that fits a picture."""

import argparse
import json

from captioner.cli import finding
from captioner.cli.terminal import printable

EXAMPLES = f"""\
examples:
  captioner sentences scene-04500.png           for a picture of the collection
  captioner sentences holiday.jpg --top 3       for a file of yours: loads the model first

Each line: cosine, sentence, the picture it was written for, between tabs.

{finding.EXIT_CODES}
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    sentences = commands.add_parser(
        "sentences",
        help="find people's sentences for a picture",
        description="Find the captions that people wrote, of any picture, that fit a picture best.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sentences.add_argument("picture", metavar="PICTURE", help="a file, or an id of the collection")
    finding.add_list(sentences)
    finding.add_index(sentences)
    finding.add_bundle(sentences)
    sentences.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Find what `options` names; returns the exit code."""
    from captioner import collection, recommend

    opened = collection.open_collection(options.index)
    opened.extra("captions")  # before TensorFlow's seconds
    query = finding.query_picture(options, opened)
    found = recommend.sentences(opened, query.meaning, options.top)
    if options.json:
        keys = ("caption", "means_alike", "image_id")
        rows = [dict(zip(keys, row, strict=True)) for row in found]
        print(json.dumps(rows, indent=2))
        return 0
    for caption, cosine, image_id in found:
        print(f"{cosine:.3f}\t{printable(caption)}\t{printable(image_id)}")
    return 0
