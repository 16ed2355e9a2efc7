import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# How often a page had to be fetched from the system while a thread takes, fills and frees 200 MB.
FAULTS = """
import resource, sys, threading
{first}
import numpy as np

def fill():
    np.ones(200 << 18).sum()

faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults(first: str) -> int:
    code = FAULTS.format(first=first)
    # An allocator that this machine puts in the place of the C library's is not what is asked.
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    environment.pop("LD_PRELOAD", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="this C library has no mallopt: nothing to set",
)
@pytest.mark.parametrize("program", ["stages", "captioner"])
def test_large_blocks_stay_with_the_process(program):
    first = {
        "stages": "import stages; stages.read_params()",
        "captioner": "from captioner.allocator import keep_large_blocks; keep_large_blocks()",
    }
    assert faults("") > 10 * faults(first[program])
