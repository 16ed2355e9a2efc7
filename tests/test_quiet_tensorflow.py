"""quiet_tensorflow.py: what Keras looks for in vain is there for others afterwards."""

import subprocess
import sys

PROGRAM = """
import sys
import captioner.quiet_tensorflow
loaded = [name for name in ("sklearn", "matplotlib") if name in sys.modules]
assert not loaded, loaded
import matplotlib.pyplot, sklearn, tensorflow
assert sklearn.__version__ and matplotlib.__version__
print("all there")
"""


def test_nothing_is_missing_afterwards():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "all there\n", "")
