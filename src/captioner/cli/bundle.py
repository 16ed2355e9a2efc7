"""`captioner bundle`: the trained model for others' programs."""

import argparse
import os
from pathlib import Path

from captioner import CaptionerError
from captioner.cli import finding
from captioner.files import check_apart

EXAMPLES = """\
examples:
  captioner bundle export --savedmodel served/1     for TensorFlow Serving, or plain TensorFlow:

    import tensorflow as tf
    caption = tf.saved_model.load("served/1").signatures["serving_default"]
    caption(tf.constant([open("dog.jpg", "rb").read()]))["caption"]

It takes JPEG files and needs neither this package nor Keras. A caption differs from those of
`captioner caption` now and then by a word, since TensorFlow's JPEG decoder is another one.

exit codes: 0 written; 2 nothing was written: a wrong argument, no bundle (named on stderr)
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the program's."""
    bundle = commands.add_parser(
        "bundle",
        help="write the trained model as a TensorFlow SavedModel",
        description="Write the trained model in a form that others' programs load.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = bundle.add_subparsers(dest="action", required=True, metavar="ACTION")
    exporting = actions.add_parser("export", help="write it", epilog=EXAMPLES)
    exporting.formatter_class = argparse.RawDescriptionHelpFormatter
    exporting.add_argument(
        "--savedmodel", required=True, type=Path, metavar="DIR", help="the folder to write"
    )
    exporting.add_argument("--force", action="store_true", help="replace an older SavedModel")
    finding.add_bundle(exporting)
    exporting.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export; returns the exit code."""
    folder = options.savedmodel
    if os.path.lexists(folder) and not options.force:
        raise CaptionerError(f"{folder}: is there already; --force replaces it")
    check_apart(folder, options.bundle)
    speaker = finding.load_bundle(options.bundle)
    from captioner import saved_model

    saved_model.export(speaker, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{os.fspath(folder)}: {size / 1e6:.1f} MB, signature serving_default")
    return 0
