"""Everything that is asked of the model: by many threads, answered by one.

Pictures come from strangers: they are decoded with limits of pixels, bytes and of how many are
decoded at a time, and what is no picture is a `PictureError` in plain words.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from captioner import CaptionerError, recommend
from captioner.approximate import Approximate
from captioner.bundle import Caption, Captioner
from captioner.collection import Collection
from captioner.raster import decode, perceptual_hashes, prepare
from captioner.serving import MicroBatcher
from captioner.uploads import check_upload

DECODERS = 2  # pictures decoded at a time: a large one takes 250 MB on the way
REMEMBERED = 64  # prepared pictures: most are asked about more than once
BATCH = 32  # pictures a call of the model
ALTERNATIVES = 5  # different captions at most
BEAM = 10  # hypotheses at most
STEP = 0.05  # between values of the length penalty and of top-p


@dataclass(frozen=True)
class Wish:
    """How a picture is to be captioned.

    Attributes:
        number: of different captions, 1 to `ALTERNATIVES`.
        beam_width: hypotheses kept, 1 to `BEAM`; None as the bundle was evaluated.
        length_penalty: the larger, the longer the captions, 0 to 2; None likewise.
        top_p: draw at random from this share of the probability instead of searching, if not None;
            above 0, to 1.
        seed: of the draw, 0 to 2**31 - 1.

    Raises:
        ValueError: one of them is out of its range, or no number.
    """

    number: int = 1
    beam_width: int | None = None
    length_penalty: float | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "number": (1, ALTERNATIVES),
            "beam_width": (1, BEAM),
            "length_penalty": (0, 2),
            "top_p": (1e-9, 1),
            "seed": (0, 2**31 - 1),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:  # nor is NaN
                raise ValueError(f"{name}: {value}, expected a number from {least} to {most}")
        # Requests with equal settings share a batch, and some settings are compiled.
        for name, least in (("length_penalty", 0), ("top_p", STEP)):
            if (value := getattr(self, name)) is not None:
                rounded = max(least, round(round(value / STEP) * STEP, 6))
                object.__setattr__(self, name, rounded)


@dataclass(frozen=True)
class Seen:
    """A picture as the model sees it.

    Attributes:
        pixels: (size, size, 3) uint8.
        thumbnail: (32, 32, 3) uint8, see `raster.Prepared`.
        sha256: of the file.
    """

    pixels: np.ndarray
    thumbnail: np.ndarray
    sha256: str


class Engine:
    """The model, a collection to search in, and the thread that answers.

    Args:
        captioner: the model.
        collection: made by the same model; or None.
        index: of the collection, if it has one.
    """

    def __init__(
        self,
        captioner: Captioner,
        collection: Collection | None = None,
        index: Approximate | None = None,
    ):
        self.captioner, self.collection, self.index = captioner, collection, index
        ids = [] if collection is None else collection.pictures["image_id"].tolist()
        self._rows = {image_id: row for row, image_id in enumerate(ids)}
        self._decoding = threading.Semaphore(DECODERS)
        self._remembered: OrderedDict[str, Seen] = OrderedDict()
        self._lock = threading.Lock()
        self._batches = MicroBatcher(self._answer, min(BATCH, captioner.batch_size))

    def warm_up(self) -> None:
        """Compile what the first requests would wait for."""
        size = self.captioner.preparation.size
        blank = np.zeros((size, size, 3), np.uint8)
        for number in (1, 4, 16, self.captioner.batch_size):
            self._caption(Wish(), [blank] * number)
        self._caption(Wish(ALTERNATIVES), [blank])
        (caption, *_), _, _ = self.captioner.describe([blank])
        self.captioner.looked_at(blank, caption.text)

    def read(self, data: bytes) -> Seen:
        """A file from a stranger as the model sees it.

        Raises:
            PictureError: it is no picture, damaged, too large, or moves.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        with self._lock:
            if sha256 in self._remembered:
                self._remembered.move_to_end(sha256)
                return self._remembered[sha256]
        with self._decoding:
            check_upload(data)
            prepared = prepare(data, **vars(self.captioner.preparation))
            seen = Seen(decode(prepared.jpeg), prepared.thumbnail, sha256)
        with self._lock:
            self._remembered[sha256] = seen
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return seen

    def captions(self, pixels: np.ndarray, wish: Wish) -> "Future[list[Caption]]":
        """Different captions of a picture from `read`, best first.

        Raises:
            Busy: too many wait.
        """
        return self._batches.submit(pixels, ("caption", wish))

    def looked_at(
        self, pixels: np.ndarray, caption: str
    ) -> "Future[tuple[list[str], np.ndarray | None]]":
        """See `Captioner.looked_at`."""
        return self._batches.submit((pixels, caption), ("looked_at", None))

    def query(self, seen: Seen) -> recommend.Query:
        """A picture from `read` as a query."""
        (perceptual_hash,) = perceptual_hashes(seen.thumbnail[None])
        caption, meaning, looks = self._batches.submit(seen.pixels, ("describe", None)).result()
        return recommend.Query(
            meaning,
            looks,
            caption.text,
            sha256=seen.sha256,
            perceptual_hash=perceptual_hash,
        )

    def similar(self, query: recommend.Query, top: int, blend: float) -> list[recommend.Result]:
        """Pictures of the collection like another one; see `recommend.similar`."""
        return recommend.similar(self._there(), query, top, blend, index=self.index)

    def search(self, sentence: str, top: int) -> tuple[list[recommend.Result], list[str]]:
        """Pictures for a sentence, and its words that are not known; none if none is known."""
        collection = self._there()
        vector, unknown = self._batches.submit(sentence, ("sentence", None)).result()
        if not vector.any():
            return [], unknown
        return recommend.search(collection, vector, sentence, top, index=self.index), unknown

    def rows_of(self, image_ids: Sequence[str]) -> list[int]:
        """Where pictures stand in the collection."""
        return [self._rows[image_id] for image_id in image_ids]

    def close(self) -> None:
        """Answer what waits, then stop."""
        self._batches.close()

    def _there(self) -> Collection:
        if self.collection is None:
            raise CaptionerError("there is no collection to search in; `dvc repro` makes one")
        return self.collection

    def _answer(self, key: tuple, items: list) -> Sequence:
        what, wish = key
        if what == "caption":
            return self._caption(wish, items)
        if what == "describe":
            return list(zip(*self.captioner.describe(items), strict=True))
        if what == "sentence":
            return list(zip(*self.captioner.sentence_vectors(items), strict=True))
        return [self.captioner.looked_at(*item) for item in items]

    def _caption(self, wish: Wish, pixels: list[np.ndarray]) -> list[list[Caption]]:
        if wish.top_p is not None:
            return self.captioner.sampled(pixels, wish.number, wish.seed, wish.top_p)
        if wish.number == 1 and wish.beam_width is None and wish.length_penalty is None:
            return [[caption] for caption in self.captioner.caption_prepared(pixels)]
        return self.captioner.diverse(pixels, wish.number, wish.beam_width, wish.length_penalty)
