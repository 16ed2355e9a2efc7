"""One folder that captions pictures: CNN, LSTM, vocabulary, preprocessing and decoding settings.

The command line, the served model and every app load this folder and nothing else, so that a
picture is prepared, encoded and decoded exactly as in training and evaluation.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from captioner import CaptionerError
from captioner.decoding import Decoder
from captioner.encoder import grid_function, load_encoder, save_encoder
from captioner.files import atomic_folder, read_json, write_json
from captioner.model import CaptionModel, load_captioner, save_captioner
from captioner.raster import decode, prepare
from captioner.text import Vocabulary

FORMAT = 1  # raised when a bundle of the old kind can no longer be read


@dataclass(frozen=True)
class Preparation:
    """How pictures were made ready for training; see `raster.prepare`."""

    size: int
    fit: str
    jpeg_quality: int
    max_pixels: int


@dataclass(frozen=True)
class Decoding:
    """How captions are searched for; see `decoding.beam_search`."""

    beam_width: int
    max_length: int
    length_penalty: float


@dataclass(frozen=True)
class Caption:
    """A caption and the natural logarithm of its probability."""

    text: str
    log_probability: float


def save(
    folder: Path | str,
    encoder,
    backbone: str,
    model: CaptionModel,
    vocabulary: Vocabulary,
    attention: str,
    preparation: Preparation,
    decoding: Decoding,
) -> None:
    """Write a bundle, whole or not at all.

    Args:
        folder: replaced if it is there.
        encoder, backbone: from `encoder.build_encoder`, and its name.
        model, vocabulary: the captioning model and its words.
        attention: "grid", or "pooled" if the model takes the mean over the cells.
        preparation, decoding: settings.
    """
    with atomic_folder(folder) as new:
        for name in ("encoder", "captioner"):
            (new / name).mkdir()
        save_encoder(encoder, backbone, preparation.size, new / "encoder")
        save_captioner(model, new / "captioner")
        vocabulary.save(new / "vocabulary.json")
        settings = {
            "format": FORMAT,
            "attention": attention,
            "preparation": asdict(preparation),
            "decoding": asdict(decoding),
        }
        write_json(new / "bundle.json", settings)


class Captioner:
    """Captions for encoded pictures (JPEG, PNG ...)."""

    def __init__(
        self,
        encoder,
        model: CaptionModel,
        vocabulary: Vocabulary,
        attention: str,
        preparation: Preparation,
        decoding: Decoding,
        batch_size: int,
    ):
        self.vocabulary, self.preparation, self.batch_size = vocabulary, preparation, batch_size
        self._pooled = attention == "pooled"
        self._grid = grid_function(encoder, batch_size)
        self._decode = Decoder(model, **asdict(decoding), batch_size=batch_size)

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

    def caption_prepared(self, pictures: Sequence[np.ndarray]) -> list[Caption]:
        """Caption pictures from `prepare`."""
        captions = []
        for start in range(0, len(pictures), self.batch_size):
            features = self._grid(np.stack(pictures[start : start + self.batch_size]))
            if self._pooled:
                features = features.mean(axis=1, keepdims=True, dtype=np.float32).astype(np.float16)
            words, log_probabilities = self._decode(features)
            captions += [
                Caption(self.vocabulary.decode(row), float(log_probability))
                for row, log_probability in zip(words, log_probabilities, strict=True)
            ]
        return captions


def load(folder: Path | str, beam_width: int | None = None, batch_size: int = 16) -> Captioner:
    """Load a bundle.

    Args:
        folder: written by `save`.
        beam_width: another beam width than the bundle's own.
        batch_size: pictures that are captioned at once.

    Raises:
        CaptionerError: there is no bundle, or it is damaged or of another format.
    """
    folder = Path(folder)
    try:
        settings = read_json(folder / "bundle.json")
        if settings["format"] != FORMAT:
            raise CaptionerError(
                f"{folder}: bundle of format {settings['format']}, expected {FORMAT}; "
                "export it again with `dvc repro export`"
            )
        preparation = Preparation(**settings["preparation"])
        decoding = Decoding(**settings["decoding"])
        attention = settings["attention"]
    except FileNotFoundError:
        raise CaptionerError(
            f"{folder}: no bundle here; make one with `dvc repro`, or name another with --bundle"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CaptionerError(f"{folder}/bundle.json: damaged ({reason})") from None
    if beam_width is not None:
        decoding = Decoding(beam_width, decoding.max_length, decoding.length_penalty)
    encoder, _ = load_encoder(folder / "encoder")
    model = load_captioner(folder / "captioner")
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    return Captioner(encoder, model, vocabulary, attention, preparation, decoding, batch_size)
