"""Stage preprocess: every picture decoded once, made square and stored; captions in a table."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)

import logging
from pathlib import Path

from tqdm import tqdm

from captioner.datasets import catalog
from captioner.files import write_json
from captioner.images import read_pictures, write_shards, write_table
from captioner.intake import check_intake, contact_sheet, with_words, write_rejected
from captioner.leaks import COLUMNS, check_leaks, draw_leaks, find_leaks, summary, write_leaks

RAW = Path("data/raw")
IMAGES = Path("data/images")
REPORT = Path("reports/preprocess")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = read_params()
    options = params.preprocess
    pictures = catalog.read(params.download, RAW, params.seed)
    pictures = with_words(pictures, params.tokenize.split_characters)
    captions, rejected, counts = write_shards(
        tqdm(pictures, desc="preprocess", unit=" pictures", disable=None),
        IMAGES,
        size=options.side,
        fit=options.fit,
        jpeg_quality=options.jpeg_quality,
        max_pixels=options.max_pixels,
    )
    write_rejected(REPORT / "rejected.csv", rejected)
    check_intake(counts, rejected, options.max_rejected)
    leaks, leaked = find_leaks(read_pictures(IMAGES, COLUMNS), captions)
    write_leaks(REPORT / "leaks.csv", leaks)
    draw_leaks(IMAGES, leaks, REPORT / "leaks.png")
    print(summary(leaked, captions))
    check_leaks(leaks, options.allow_leaks)
    write_table(captions, "data/captions.parquet")
    contact_sheet(IMAGES, captions, REPORT / "contact_sheet.png")
    write_json(REPORT / "metrics.json", counts | leaked)


if __name__ == "__main__":
    run_stage("preprocess", main)
