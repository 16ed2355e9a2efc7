"""Stage download: the data set's files into data/raw, as they are published or drawn."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)

import logging
from pathlib import Path

from captioner.datasets import flickr, scenes
from captioner.fetch import RemoteFile, fetch_all
from captioner.files import write_json

RAW = Path("data/raw")
# Pennington, Socher and Manning (2014), public domain; 400,000 words, 50 to 300 dimensions.
GLOVE = RemoteFile(
    "glove.6B.zip",
    ("https://nlp.stanford.edu/data/glove.6B.zip",),
    "617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = read_params()
    source = params.download
    paths = []
    if source.source == "scenes":
        counts = {"train": source.train, "val": source.val, "test": source.test}
        paths.append(RAW / "scenes.zip")
        scenes.draw_archive(paths[-1], counts, source.size, params.seed)
    wanted = list(flickr.FILES) if source.source == "flickr8k" else []
    if params.glove.source == "file":
        wanted.append(GLOVE)
    paths += fetch_all(wanted, RAW)
    sizes = [path.stat().st_size for path in paths]
    write_json("reports/download/metrics.json", {"files": len(sizes), "bytes": sum(sizes)})


if __name__ == "__main__":
    run_stage("download", main)
