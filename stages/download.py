"""Stage download: the data set's files into data/raw, as they are published or drawn."""

from stages import check_room, read_params, run_stage  # isort: skip  (puts src on the path)

import logging
from pathlib import Path

from captioner.datasets import scenes
from captioner.datasets.published import wanted_files
from captioner.fetch import fetch_all
from captioner.files import write_json

RAW = Path("data/raw")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = read_params()
    check_room(params)
    source = params.download
    RAW.mkdir(parents=True, exist_ok=True)
    paths = []
    if source.source == "scenes":
        counts = {"train": source.train, "val": source.val, "test": source.test}
        paths.append(RAW / "scenes.zip")
        scenes.draw_archive(paths[-1], counts, source.side, params.seed)
    paths += fetch_all(wanted_files(source, params.glove.source == "file"), RAW)
    sizes = [path.stat().st_size for path in paths]
    write_json("reports/download/metrics.json", {"files": len(sizes), "bytes": sum(sizes)})


if __name__ == "__main__":
    run_stage("download", main)
