"""A campaign of kills, hostile inputs, full disks and processes at once; see `__main__`.

    cases       outcome of a case, the log that --resume reads, the table
    workers     many cases in one process, with limits of time and memory
    commands    one command as a process, and what a person would complain of
    mutations   bytes with faults in them
    images, captions, archives    hostile files (and params.yaml), by seed and number
    requests    hostile requests to the web app, made by payloads
    kills       what is killed, when, and what has to be the same afterwards: by pipelines, indexes
    full        full disks, for everything in writers
    together    several processes at once

It runs on Linux: it reads /proc and sets limits of processes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# The code of this checkout, whatever is installed.
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
