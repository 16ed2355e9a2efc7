"""Pixels of the collection's pictures, small, and the map of all of them.

The collection holds vectors and names. The pictures lie in the pipeline's shards (data/images), or
are files that `captioner index` was given; only what the collection names is ever opened, and only
re-encoded pixels leave here, so that no file can be read by way of a picture.
"""

import io
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from captioner import CaptionerError
from captioner.collection import Collection
from captioner.raster import PictureError, decode, prepare
from captioner.space import principal_plane

SIDE, MAX_PIXELS = 224, 50_000_000  # of a picture that is shown; of its file
THUMBNAIL, COLUMNS = 48, 40  # of a picture on the map, in pixels; of its sheet of thumbnails
SHOWN = 1600  # pictures on the map, at most


class Pictures:
    """Pictures of a collection by their row, as JPEG.

    Args:
        collection: whose pictures.
        shards: the folder of part-*.parquet where the pipeline keeps pictures; may be missing.
    """

    def __init__(self, collection: Collection, shards: Path):
        self._collection = collection
        self._ids = collection.pictures["image_id"].tolist()
        self._files = [pq.ParquetFile(path) for path in sorted(shards.glob("part-*.parquet"))]
        self._places: dict[str, tuple[int, int, int]] = {}  # shard, row group, row in it
        self._reading = threading.Lock()
        for number, file in enumerate(self._files):
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, ["image_id"]).column(0).to_pylist()
                for row, image_id in enumerate(ids):
                    self._places.setdefault(image_id, (number, group, row))
        self.jpeg = lru_cache(maxsize=2000)(self._jpeg)
        self.map = lru_cache(maxsize=1)(self._map)

    def __len__(self) -> int:
        return len(self._ids)

    def _jpeg(self, row: int) -> bytes | None:
        """A picture as JPEG; None if it cannot be found or read any more."""
        image_id = self._ids[row]
        if image_id in self._places:
            number, group, place = self._places[image_id]
            with self._reading:  # a ParquetFile is one thread's at a time
                table = self._files[number].read_row_group(group, ["jpeg"])
            return table.column(0)[place].as_py()
        try:
            data = Path(image_id).read_bytes()
            return prepare(data, SIDE, "pad", 90, MAX_PIXELS).jpeg
        except (OSError, PictureError, ValueError):
            return None

    def _map(self) -> tuple[dict, bytes]:
        """The two main directions of the space, and a sheet of thumbnails.

        Returns:
            side of a thumbnail and columns of the sheet in pixels and thumbnails, `rows` of the
            collection, their places `x` and `y` from 0 to 1, and `captions`; the sheet as JPEG.

        Raises:
            CaptionerError: there are fewer than three pictures.
        """
        if len(self) < 3:
            raise CaptionerError("a map takes three pictures or more")
        rows = np.unique(np.linspace(0, len(self) - 1, SHOWN).round().astype(int))
        vectors = self._collection.some(self._collection.meaning, rows)
        mean, plane, _ = principal_plane(vectors)
        places = (vectors - mean) @ plane
        low, high = np.quantile(places, [0.005, 0.995], axis=0)
        places = ((places - low) / np.maximum(high - low, 1e-6)).clip(0, 1).round(4)
        lines = -(-len(rows) // COLUMNS)
        sheet = Image.new("RGB", (COLUMNS * THUMBNAIL, lines * THUMBNAIL), "gray")
        for number, row in enumerate(rows.tolist()):
            if jpeg := self._jpeg(row):
                small = Image.fromarray(decode(jpeg)).resize((THUMBNAIL, THUMBNAIL))
                line, column = divmod(number, COLUMNS)
                sheet.paste(small, (column * THUMBNAIL, line * THUMBNAIL))
        stream = io.BytesIO()
        sheet.save(stream, "JPEG", quality=85)
        points = {
            "side": THUMBNAIL,
            "columns": COLUMNS,
            "rows": rows.tolist(),
            "x": places[:, 0].tolist(),
            "y": (1 - places[:, 1]).tolist(),
            "captions": self._collection.pictures["caption"].iloc[rows].tolist(),
        }
        return points, stream.getvalue()
