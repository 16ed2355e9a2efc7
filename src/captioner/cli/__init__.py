"""The command line: one module a command. `captioner --help` imports nothing heavy.

A command's module has `add_parser(commands)`, which adds its arguments and names the function that
runs it (`set_defaults(run=...)`); that function takes the parsed options and returns the exit code.
What it needs beyond the standard library it imports when it runs.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from captioner import CaptionerError, __version__
from captioner.cli import (
    app,
    bundle,
    caption,
    check_data,
    compare,
    export,
    index,
    score,
    search,
    sentences,
    similar,
    words,
)
from captioner.cli.terminal import complain, silence
from captioner.files import failure

COMMANDS = (
    caption,
    app,
    similar,
    search,
    sentences,
    words,
    index,
    export,
    bundle,
    score,
    compare,
    check_data,
)  # in the order of the help

EXAMPLES = """\
examples:
  captioner caption dog.jpg                     write a caption for a picture
  captioner caption dog.jpg -n 5                five different ones, with their log-probabilities
  captioner caption holidays/ --json            for a folder and all below it, as JSON
  captioner app                                 the same and more as a page in the browser
  captioner similar dog.jpg                     pictures like this one, and why
  captioner search "a red circle"               pictures for a sentence
  captioner sentences dog.jpg                   people's sentences for a picture
  captioner words circle                        words like a word
  captioner index add holidays/ --index mine    a collection of your own to search in
  captioner export --format word2vec --what words --output words.txt
                                                vectors for gensim, pandas, TensorBoard
  captioner bundle export --savedmodel served/1 the model for TensorFlow Serving
  captioner score --references refs.json --hypotheses captions.json
                                                BLEU, ROUGE-L and CIDEr-D of anybody's captions
  captioner compare HEAD~1 HEAD                 is a commit's model better, how surely, and where
  captioner check-data --dataset table          look your own pictures over before training

`captioner COMMAND --help` says what a command takes, with examples.

exit codes: 0 all done; 1 done in part, what was left out is named on stderr; 2 nothing was done:
a wrong argument or a file that cannot be used (named on stderr); check-data: 1 warnings, 2 errors
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    if sys.stderr is None:  # `captioner ... 2>&-`
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (until exit)
    if sys.stdout is None:  # `captioner ... >&-`
        complain("standard output is closed; send it to a file, or to /dev/null")
        return 2
    code, line, leaving = 2, None, None
    try:
        code = _run(arguments)
    except CaptionerError as error:
        line = str(error)
    except BrokenPipeError:  # `captioner ... | head`
        code = 1
    except KeyboardInterrupt:
        code = 130  # what shells give a program that was stopped by Ctrl-C
    except SystemExit as error:  # argparse: --help, or a wrong argument
        leaving = error
    except Exception as error:
        line = failure(error)
        if line is None:
            raise
        if isinstance(error, OSError) and error.filename is None:  # outputs are named by now
            line = f"standard output or a temporary file: {line.removeprefix('cannot write: ')}"
    try:
        sys.stdout.flush()  # at exit Python would do it, and could only complain
    except OSError as error:
        silence(sys.stdout)
        broken = isinstance(error, BrokenPipeError)
        code, leaving = 1 if broken else 2, None
        line = line if broken else f"standard output: {error.strerror}"
    if leaving is not None:
        raise leaving
    if line is not None:
        complain(line)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="captioner",
        description="Caption and find pictures with what `dvc repro` trained; score captions; "
        "check data.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"captioner {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    return options.run(options)
