"""One folder that captions and finds pictures: CNN, LSTMs, joint embedding, vocabulary, settings.

The command line, the served model and every app load this folder and nothing else, so that a
picture is prepared, encoded and decoded exactly as in training and evaluation. bundle.json lists
every file with its sha256, so that damage, and parts of another bundle, are noticed; who means harm
can write new sums, so that sizes and values are checked as well before they cost memory.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import tensorflow as tf

from captioner import CaptionerError
from captioner.consensus import MOST, MOST_TOKENS, Consensus, Told
from captioner.decoding import Decoder, Found
from captioner.embeddings import meaning_vectors, unit_vectors
from captioner.encoder import encoded, grid_function, load_encoder, save_encoder
from captioner.files import atomic_folder, digest, read_json, read_verified, write_checksums
from captioner.graph import graph_function
from captioner.joint_embedding import HEADS, JointEncoder, JointModel, load_joint, save_joint
from captioner.model import CaptionModel, load_captioner, save_captioner
from captioner.raster import Fit, decode, prepare
from captioner.text import UNK, Vocabulary, encode_tokens

FORMAT = 8  # raised when a bundle of the old kind can no longer be read
MOST_BYTES = 2**32  # of all files
FILES = (
    "bundle.json",
    "vocabulary.json",
    *(f"{part}/config.json" for part in ("encoder", "joint", "captioner/*")),
    *(f"{part}/weights.weights.h5" for part in ("encoder", "joint", "captioner/*")),
    "told/*.npy",
)

# What a bundle may hold, as params.py allows it: bundles are passed on, and damaged on the way.
CHOICES = {"fit": get_args(Fit), "attention": ("grid", "pooled")}
LIMITS = {
    "size": (28, 1024),
    "jpeg_quality": (1, 100),
    "max_pixels": (1, 2**63),
    "beam_width": (1, 100),
    "max_length": (1, 100),
    "length_penalty": (0, 5),
    "no_repeat": (0, 10),
    "word_evidence": (0, 5),
    "consensus": (0, 100),
    "captioners": (1, 16),
    "word_size": (1, 4096),
    "units": (1, 4096),
    "heads": (1, 4096),
    "known": (1, 4096),
    "references": (1, 10_000),
}
WEIGHTS = ("length_penalty", "word_evidence", "consensus")  # of these, no whole numbers


@dataclass(frozen=True)
class Preparation:
    """How pictures were made ready for training; see `raster.prepare`."""

    size: int
    fit: str
    jpeg_quality: int
    max_pixels: int


@dataclass(frozen=True)
class Decoding:
    """How captions are searched for; see `beam_search.beam_search`."""

    beam_width: int
    max_length: int
    length_penalty: float
    no_repeat: int
    word_evidence: float
    consensus: float


@dataclass(frozen=True)
class Caption:
    """A caption and the natural logarithm of its probability."""

    text: str
    log_probability: float


def save(
    folder: Path | str,
    encoder,
    backbone: str,
    models: Sequence[CaptionModel],
    joint: JointModel,
    vocabulary: Vocabulary,
    attention: str,
    preparation: Preparation,
    decoding: Decoding,
    told: Told | None = None,
) -> str:
    """Write a bundle, whole or not at all.

    Args:
        folder: takes the place of an older bundle, and of nothing else.
        encoder, backbone: from `encoder.build_encoder`, and its name.
        models: the captioning models, 1 to 16 that speak together.
        joint, vocabulary: the joint embedding, and the words of all models.
        attention: "grid", or "pooled" if the models take the mean over the cells.
        preparation, decoding: settings.
        told: training pictures and their captions, needed if captions are chosen by consensus.

    Returns:
        the fingerprint of all that a picture's or a sentence's vectors depend on.
    """
    with atomic_folder(folder, FILES, ("bundle.json", b'"fingerprint"')) as new:
        (new / "encoder").mkdir()
        save_encoder(encoder, backbone, preparation.size, new / "encoder")
        for number, model in enumerate(models):
            part = new / "captioner" / str(number)
            part.mkdir(parents=True)
            save_captioner(model, part)
        (new / "joint").mkdir()
        save_joint(joint, new / "joint")
        if told is not None:
            (new / "told").mkdir()
            for name, array in vars(told).items():
                np.save(new / "told" / f"{name}.npy", array)
        vocabulary.save(new / "vocabulary.json")
        weights = digest(new / "encoder", new / "joint", new / "vocabulary.json")
        fingerprint = hashlib.sha256(f"{weights} {preparation}".encode()).hexdigest()
        settings = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "attention": attention,
            "captioners": len(models),
            "preparation": asdict(preparation),
            "decoding": asdict(decoding),
        }
        write_checksums(new / "bundle.json", settings)
    return fingerprint


class Captioner:
    """Captions and vectors of encoded pictures (JPEG, PNG ...), and vectors of sentences.

    Attributes:
        fingerprint: see `save`; vectors of another fingerprint must not be compared.
        dimensions: lengths of the vectors of `meaning` and `looks`, see `describe`.
        vocabulary, preparation, decoding, batch_size: as loaded.
        parts: the models that `search` asks, first the CNN.
        has_attention: whether the models look at places of a picture, see `looked_at`.
    """

    def __init__(
        self,
        encoder,
        models: Sequence[CaptionModel],
        joint: JointModel,
        vocabulary: Vocabulary,
        attention: str,
        preparation: Preparation,
        decoding: Decoding,
        batch_size: int,
        fingerprint: str,
        told: Told | None = None,
    ):
        self.vocabulary, self.preparation, self.batch_size = vocabulary, preparation, batch_size
        self.parts = (encoder, *models, *([joint] if decoding.word_evidence else []))
        self.decoding, self.has_attention = decoding, attention == "grid"
        self.fingerprint, self._joint = fingerprint, JointEncoder(joint)
        self.dimensions = {"meaning": joint.config.dimensions, "looks": joint.config.channels}
        self._longest = decoding.max_length
        # Compiled for each size of a batch when first used: one picture need not pay for many.
        sizes = sorted({min(size, batch_size) for size in (1, 4, 16, batch_size)})
        self._grid_of = {size: grid_function(encoder, size) for size in sizes}
        self._shape = encoder.output_shape[1:3]

        config = models[0].config
        features = tf.TensorSpec((None, config.cells, config.channels), tf.float16)

        @graph_function(input_signature=[features, tf.TensorSpec((None, None), tf.int32)])
        def looked_at(features, words):
            return tf.add_n([model.looked_at(features, words) for model in models]) / len(models)

        self._looked_at = looked_at
        self._decode = Decoder(
            models,
            **asdict(decoding),
            batch_size=batch_size,
            seen=joint.evidence,
            agreement=told and Consensus(joint.likelier, told),
        )

    def caption(self, pictures: Sequence[bytes]) -> list[Caption]:
        """Caption any number of pictures, `batch_size` at a time.

        Raises:
            PictureError: one of them cannot be read; use `prepare` first to find out which.
        """
        return self.caption_prepared([self.prepare(data) for data in pictures])

    def prepare(self, data: bytes) -> np.ndarray:
        """An encoded picture as (size, size, 3) uint8, just as training saw its pictures.

        Raises:
            PictureError: it is broken, too large or no picture.
        """
        return decode(prepare(data, **asdict(self.preparation)).jpeg)

    def search(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """From pictures to the likeliest words, consensus left out; for use inside a `tf.function`.

        Args:
            pixels: (pictures, size, size, 3) uint8.

        Returns:
            words (pictures, max_length) int32, padded, and log-probabilities (pictures,).
        """
        grid = encoded(self.parts[0], pixels)
        if not self.has_attention:
            grid = tf.cast(tf.reduce_mean(tf.cast(grid, tf.float32), 1, keepdims=True), tf.float16)
        return self._decode.search(grid)

    def caption_prepared(self, pictures: Sequence[np.ndarray]) -> list[Caption]:
        """Caption pictures from `prepare`."""
        captions = []
        for features in self._features(pictures):
            for words, log_probability in zip(*self._decode(features), strict=True):
                captions.append(self._caption(words, log_probability))
        return captions

    def diverse(
        self,
        pictures: Sequence[np.ndarray],
        number: int,
        beam_width: int | None = None,
        length_penalty: float | None = None,
    ) -> list[list[Caption]]:
        """Different captions of each picture from `prepare`, best first; see `Decoder.diverse`."""
        settings = (number, beam_width, length_penalty)
        return self._captions(
            self._decode.diverse(batch, *settings) for batch in self._features(pictures)
        )

    def sampled(
        self, pictures: Sequence[np.ndarray], number: int, seed: int, top_p: float
    ) -> list[list[Caption]]:
        """Different captions of each picture from `prepare`, best first; see `Decoder.sampled`."""
        batches = self._features(pictures)
        return self._captions(self._decode.sampled(batch, number, seed, top_p) for batch in batches)

    def looked_at(self, picture: np.ndarray, caption: str) -> tuple[list[str], np.ndarray | None]:
        """Where the models look as they say each word of a caption, on average.

        Args:
            picture: from `prepare`; caption: what they say of it, or what somebody else does.

        Returns:
            the words, and for each of them (rows, columns) weights that sum to 1, (words, rows,
            columns) float32; None where the models see the picture as a whole.
        """
        words = self.vocabulary.words_of(caption)[: self._longest]
        if not self.has_attention or not words:
            return words, None
        ids = [[self.vocabulary.ids.get(word, UNK) for word in words]]
        seen = self._looked_at(next(self._features([picture])), tf.constant(ids, tf.int32))
        return words, seen[0].numpy().reshape(len(words), *self._shape)

    def describe(
        self, pictures: Sequence[np.ndarray]
    ) -> tuple[list[Caption], np.ndarray, np.ndarray]:
        """Captions, and vectors of length one, of pictures from `prepare`.

        Returns:
            captions; meaning (pictures, size): the places of the pictures and their captions in the
            space that they share with sentences, see `embeddings.meaning_vectors`; looks
            (pictures, channels): the means of their grids of CNN features.
        """
        captions, places, looks = [], [], []
        for grid in self._grids(pictures):  # once through the CNN
            mean = _mean(grid)
            for words, log_probability in zip(
                *self._decode(grid if self.has_attention else mean), strict=True
            ):
                captions.append(self._caption(words, log_probability))
            places.append(self._joint.pictures(grid))
            looks.append(mean[:, 0])
        said, _ = self.sentence_vectors([caption.text for caption in captions])
        meaning = meaning_vectors(np.concatenate(places), said, np.arange(len(said)))
        return captions, meaning, unit_vectors(np.concatenate(looks))

    def sentence_vectors(self, sentences: Sequence[str]) -> tuple[np.ndarray, list[list[str]]]:
        """Vectors of length one of sentences, in the space that they share with pictures.

        Returns:
            (sentences, size), zeros where no word is known; and of each sentence the words that
            are not known and were left out.
        """
        words = [self.vocabulary.words_of(sentence) for sentence in sentences]
        known = [[one for one in said if one in self.vocabulary.ids] for said in words]
        unknown = [[one for one in said if one not in self.vocabulary.ids] for said in words]
        return self._joint.sentences(encode_tokens(known, self.vocabulary, self._longest)), unknown

    def _grids(self, pictures: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """(pictures, cells, channels) float16, batch by batch."""
        for start in range(0, len(pictures), self.batch_size):
            batch = np.stack(pictures[start : start + self.batch_size])
            size = next(size for size in self._grid_of if size >= len(batch))
            yield self._grid_of[size](batch)

    def _features(self, pictures: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """What the captioning models look at, (pictures, cells, channels) float16."""
        for grid in self._grids(pictures):
            yield grid if self.has_attention else _mean(grid)

    def _captions(self, batches: Iterable[list[list[Found]]]) -> list[list[Caption]]:
        return [[self._caption(*one) for one in found] for batch in batches for found in batch]

    def _caption(self, words: Iterable[int], log_probability: float) -> Caption:
        return Caption(self.vocabulary.decode(words), float(log_probability))


def _mean(grid: np.ndarray) -> np.ndarray:
    """(pictures, cells, channels) to (pictures, 1, channels) float16."""
    return grid.mean(axis=1, keepdims=True, dtype=np.float32).astype(np.float16)


def load(folder: Path | str, beam_width: int | None = None, batch_size: int = 16) -> Captioner:
    """Load a bundle.

    Args:
        folder: written by `save`.
        beam_width: another beam width than the bundle's own, from 1 to 100.
        batch_size: pictures that are captioned at once.

    Raises:
        CaptionerError: there is no bundle, or it is damaged or of another format.
    """
    folder = Path(folder)
    if beam_width is not None:
        try:
            _check({"beam_width": beam_width})
        except ValueError as error:
            raise CaptionerError(str(error)) from None
    try:
        settings = read_json(folder / "bundle.json")
        if settings["format"] != FORMAT:
            raise CaptionerError(
                f"{folder}: bundle of format {settings['format']!r:.60}, expected {FORMAT}; "
                "export it again with `dvc repro export`"
            )
        settings = read_verified(folder / "bundle.json", MOST_BYTES)
        preparation = Preparation(**settings["preparation"])
        decoding = Decoding(**settings["decoding"])
        attention, number = settings["attention"], settings["captioners"]
        fingerprint = settings["fingerprint"]
        if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{64}", fingerprint):
            raise ValueError(f"fingerprint: {fingerprint!r:.80}, expected 64 hex digits")
        shared = {"attention": attention, "captioners": number}
        _check(vars(preparation) | vars(decoding) | shared)
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        encoder, size = load_encoder(folder / "encoder")
        _, rows, columns, channels = encoder.output_shape
        expected = {
            "vocabulary": len(vocabulary),
            "cells": 1 if attention == "pooled" else rows * columns,
            "channels": channels,
        }
        if size != preparation.size:
            raise ValueError("its parts do not fit together")
        captioners = [folder / "captioner" / str(part) for part in range(number)]
        # Before a model is built: wrong sizes would ask for any amount of memory.
        for part in captioners:
            _check_config(read_json(part / "config.json"), expected)
        config = read_json(folder / "joint" / "config.json")
        # Its size is that of an LSTM's state, as `units` is of the captioners'.
        _check_config(
            {"units" if name == "size" else name: value for name, value in config.items()},
            expected | {"cells": rows * columns},
        )
        if config["size"] % HEADS:
            raise ValueError("its parts do not fit together")
        told = None
        if decoding.consensus:
            told = _read_told(folder / "told", config["known"], len(vocabulary))
    except FileNotFoundError as error:
        if Path(error.filename).name != "bundle.json":
            raise CaptionerError(
                f"{folder}: damaged bundle ({error.filename} is missing)"
            ) from None
        raise CaptionerError(
            f"{folder}: no bundle here; make one with `dvc repro`, or name another with --bundle"
        ) from None
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        MemoryError,  # Python's parser, of a header of brackets in brackets
        RecursionError,
        EOFError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(f"{folder}: damaged bundle ({reason})") from None
    if beam_width is not None:
        decoding = replace(decoding, beam_width=beam_width)
    models = [load_captioner(part) for part in captioners]
    joint = load_joint(folder / "joint")
    settings = (attention, preparation, decoding, batch_size, fingerprint, told)
    return Captioner(encoder, models, joint, vocabulary, *settings)


def _check_config(config: dict[str, object], expected: dict[str, int]) -> None:
    """ValueError for sizes of a model that do not fit the other parts, or are out of `LIMITS`."""
    if {name: config[name] for name in expected} != expected:
        raise ValueError("its parts do not fit together")
    _check({name: value for name, value in config.items() if name not in expected})


def _read_told(folder: Path, known: int, vocabulary: int) -> Told:
    """ValueError for arrays that do not fit the other parts."""
    arrays = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r")  # no zip, no pickle
        for name in ("places", "tokens")
    }
    told = Told(**arrays)
    count = len(told.places)
    if (
        (told.places.dtype, told.tokens.dtype) != (np.float16, np.uint16)
        or told.places.shape != (count, known)
        or told.tokens.ndim != 3
        or not 0 < len(told.tokens) == count <= MOST
        or told.tokens.size > MOST_TOKENS
        or told.tokens.max(initial=0) >= vocabulary
        or not np.isfinite(told.places).all()
    ):
        raise ValueError("its parts do not fit together")
    return told


def _check(settings: dict[str, object]) -> None:
    """ValueError for a value that is none of `CHOICES` or out of `LIMITS`."""
    for name, value in settings.items():
        if name in CHOICES:
            if value not in CHOICES[name]:
                raise ValueError(f"{name}: {value!r:.60}, expected {' or '.join(CHOICES[name])}")
            continue
        least, most = LIMITS[name]
        kinds = (int, float) if name in WEIGHTS else (int,)
        if type(value) not in kinds or not least <= value <= most:
            raise ValueError(f"{name}: {value!r:.60}, expected a number from {least} to {most}")
