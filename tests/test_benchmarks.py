"""benchmarks/: each runs to its end at a small size; nothing depends on how long that takes."""

import os
import subprocess
import sys

from tests.conftest import ROOT, needs_meteor


@needs_meteor
def test_metrics_beside_the_coco_reference(tmp_path):
    """It compares the scores itself: exit code 1 where they differ by more than 1e-9."""
    captions = tmp_path / "captions.csv"
    people = ["A dog runs .", "the dog is running", "a brown dog", "dogs run", "a dog", "one dog"]
    lines = [f"{number}.jpg,{caption} {number}" for number in range(40) for caption in people]
    captions.write_text("\n".join(["image,caption", *lines]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "metrics.py", captions, "--repeats", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "40 pictures x 5 references" in done.stdout and "times as fast" in done.stdout
