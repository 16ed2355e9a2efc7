"""features: what the CNN sees in all pictures, memory-mappable; see `extract_features`."""

from stages import check_room, read_params, run_stage  # isort: skip  (puts src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from captioner.determinism import make_deterministic
from captioner.encoder import extract_features, load_encoder, load_words
from captioner.files import checked_folder, verify, write_json
from captioner.images import batches, read_pictures, write_table

FILES = ("*.npy", "*.json", "index.parquet")  # as `extract_features` writes them


def main() -> None:
    params = read_params()
    check_room(params)  # again: another backbone may write far larger grids
    make_deterministic(params.seed)
    verify("models/encoder")
    encoder, _ = load_encoder("models/encoder")
    head, _ = load_words("models/encoder", encoder)
    index = read_pictures("data/images", ["image_id", "split"])
    size = params.features.batch_size
    steps = -(-len(index) // size)
    train = np.flatnonzero(index["split"] == "train")
    mirrored = train if params.features.mirrored else None
    with checked_folder("data/features", FILES) as folder:
        pictures = tqdm(
            batches("data/images", size), "features", total=steps, unit="batch", disable=None
        )
        cells, channels = extract_features(
            encoder, pictures, len(index), size, folder, mirrored=mirrored, head=head
        )
        table = pa.Table.from_pandas(index, preserve_index=False).replace_schema_metadata()
        write_table(table, folder / "index.parquet")
    metrics = {"pictures": len(index), "cells": cells, "channels": channels}
    write_json(Path("reports/features/metrics.json"), metrics)


if __name__ == "__main__":
    run_stage("features", main)
