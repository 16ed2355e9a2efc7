"""`python -m captioner.cli`: the program where its script is not installed."""

import sys

from captioner.cli import main

if __name__ == "__main__":
    sys.exit(main())
