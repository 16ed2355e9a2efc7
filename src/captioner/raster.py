"""One picture file of any kind into one square RGB picture.

`prepare` decodes (first frame, never more pixels than allowed), turns the picture as its Exif
orientation says, brings it to RGB, makes it square and encodes it as JPEG; `decode` reads that
back. What cannot be decoded is a `PictureError` that says why: files come from strangers.
`perceptual_hashes` are what copies of a picture have in common. Sources: Exif 2.32, section
4.6.4 (Orientation); ITU-T T.81 (JPEG).
"""

import ctypes
import io
import logging
import struct
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import PIL._imaging
from PIL import Image

from captioner import CaptionerError

Fit = Literal["squash", "crop", "pad"]

# Raster formats whose readers are plain decoders; others (EPS, FITS, WMF ...) start programs or
# parse far more than pixels.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")

# How the stored pixels must be moved for each value of the Exif tag Orientation.
ORIENTATION = 0x0112
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
QUARTER_TURNS = {TRANSPOSES[orientation] for orientation in (5, 6, 7, 8)}  # swap width and height

# The perceptual hash: rows of the DCT for the frequencies 1 to 16 of 32 samples. Whole numbers, and
# so small that no sum leaves the 53 bits of a double: every machine gives the same bits.
THUMBNAIL, FREQUENCIES = 32, 16
DCT = np.rint(
    1024
    * np.cos(
        np.pi
        * np.outer(np.arange(1, FREQUENCIES + 1), 2 * np.arange(THUMBNAIL) + 1)
        / (2 * THUMBNAIL)
    )
)
LUMINANCE = np.array([299, 587, 114], np.float32)  # red, green, blue in thousandths (BT.601)
PATTERN_BYTES, COLOUR_BYTES = FREQUENCIES**2 // 8, 4 * 4 * 3


class PictureError(CaptionerError):
    """A picture that cannot be used: `reason` in a few words, `detail` as the decoder says it."""

    def __init__(self, reason: str, detail: str):
        self.reason = reason
        self.detail = " ".join(detail.split())
        super().__init__(f"{self.reason}: {self.detail}")


@dataclass(frozen=True)
class Prepared:
    """A square RGB picture as JPEG, its side in pixels, its size before (after orientation), and
    the whole picture squashed to (32, 32, 3) uint8, for `perceptual_hashes`."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    thumbnail: np.ndarray


def prepare(data: bytes, size: int, fit: Fit, jpeg_quality: int, max_pixels: int) -> Prepared:
    """Turn a picture file into a square RGB JPEG (4:4:4, no metadata).

    Args:
        data: a JPEG, PNG, WEBP, BMP, GIF or TIFF file; of an animation the first frame counts.
        size: side of the square in pixels. A picture that has this size already is not resized.
        fit: `squash` (aspect ratio lost), `crop` (the largest square in the middle) or `pad`
            (the whole picture between black bars).
        jpeg_quality: 1 to 100.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        PictureError: too large, truncated, damaged, or of no known format.
    """
    silence_decoders()
    try:
        refuse_webp(data, max_pixels)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse(*image.size, max_pixels)
            width, height = image.size
            # Of a large JPEG decode no more than needed: the inverse DCT gives 1/2, 1/4 or 1/8
            # of its size, here never less than twice the target, so that the resize still filters.
            image.draft(None, (2 * size, 2 * size))
            image.load()
            turn = TRANSPOSES.get(_orientation(image))
            rgb = _to_rgb(image)
    except PictureError:
        raise
    except Image.UnidentifiedImageError:
        raise PictureError(
            "picture undecodable", f"none of {', '.join(FORMATS)} ({len(data)} bytes)"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("picture too large", str(error)) from None
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        raise PictureError("picture undecodable", str(error) or type(error).__name__) from None
    if turn is not None:
        rgb = rgb.transpose(turn)
        if turn in QUARTER_TURNS:
            width, height = height, width
    jpeg = _encode(_fit(rgb, size, fit), jpeg_quality)
    # With a gap of 1 a photograph and its smaller copy differ by up to 18 bits of the hash, with
    # 1.5 by 10 at most; more costs only time.
    small = rgb.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=1.5)
    return Prepared(jpeg, size, size, width, height, np.asarray(small))


@cache
def silence_decoders() -> None:
    """Keep the decoders' complaints from stderr: what matters in them is the PictureError's detail.

    Pillow warns of damaged metadata through `warnings`. libtiff writes to file descriptor 2 by
    itself, unless it has no handlers; these are set once for all threads, where redirecting the
    descriptor around each picture would swallow what other threads write. Where libtiff is linked
    into Pillow statically (Windows), it has no such names to be found by, and goes on.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    libraries = ctypes.CDLL(PIL._imaging.__file__)  # loaded already; finds what it is linked with
    for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
        if (set_handler := getattr(libraries, name, None)) is not None:
            set_handler.argtypes, set_handler.restype = (ctypes.c_void_p,), ctypes.c_void_p
            set_handler(None)


def refuse_webp(data: bytes, max_pixels: int) -> None:
    """PictureError for a WebP of too many pixels: Pillow takes memory for them as it opens one.

    Source: WebP Container Specification (RFC 9649, section 2), where the size stands.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return
    if data[12:16] == b"VP8X":
        sides = (int.from_bytes(data[place : place + 3], "little") + 1 for place in (24, 27))
    elif data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        sides = ((bits >> shift & 0x3FFF) + 1 for shift in (0, 14))
    else:
        sides = (int.from_bytes(data[place : place + 2], "little") & 0x3FFF for place in (26, 28))
    _refuse(*sides, max_pixels)


def _refuse(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PictureError(
            "picture too large",
            f"{width} x {height} pixels, allowed are {max_pixels} in all (max_pixels)",
        )


def _orientation(image: Image.Image) -> int:
    """The Exif orientation, 1 where there is none or the Exif block is damaged."""
    try:
        return image.getexif().get(ORIENTATION, 1)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, EOFError, struct.error):
        return 1  # the pixels are good: metadata is no reason to lose a picture


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB from any mode: 16 bits scaled to 8 (not clipped), transparency laid over white."""
    if image.mode.startswith("I;16"):
        # 65535 / 255 = 257; as array, since Pillow's own conversion clips at 255
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise PictureError("picture undecodable", "32-bit grey values have no known white")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        paper.alpha_composite(image.convert("RGBA"))
        return paper.convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _fit(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """An RGB picture as `size` x `size` pixels."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if fit == "squash":
        return _resize(image, (size, size), (0, 0, width, height))
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return _resize(image, (size, size), (left, top, left + side, top + side))
    if fit == "pad":
        scale = size / max(width, height)
        inner = (max(1, round(width * scale)), max(1, round(height * scale)))
        square = Image.new("RGB", (size, size))
        corner = ((size - inner[0]) // 2, (size - inner[1]) // 2)
        square.paste(_resize(image, inner, (0, 0, width, height)), corner)
        return square
    raise ValueError(f"fit: {fit!r}: expected squash, crop or pad")


def _resize(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    # Pillow's filters widen with the reduction, so nothing aliases.
    # a gap of 3: a cheap box filter down to 3 times the target first, then the bicubic one;
    # Pillow's documentation calls the result nearly equal to the direct way
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _encode(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    # subsampling 0 is 4:4:4; the comment of the source file would otherwise be carried over
    image.save(stream, "JPEG", quality=quality, subsampling=0, comment=b"")
    return stream.getvalue()


def perceptual_hashes(thumbnails: np.ndarray) -> list[str]:
    """What re-encoding and resizing leave alone: the pattern and the colours of pictures.

    The pattern is one bit for each of the 16 x 16 lowest frequencies of the luminance (without the
    means of rows and columns), set where the coefficient is above the picture's median; the colours
    are the mean red, green and blue of 4 x 4 fields. The usual 64 bits are too few for drawn
    pictures (64 chance hits among 4,800 scenes, none with 256), and the pattern alone takes the
    same shoe in green and in black for one picture. Which hashes look the same says
    `captioner.leaks`. A picture of one colour has no bit set.

    Args:
        thumbnails: (n, 32, 32, 3) uint8, RGB, of whole pictures, as in `Prepared`. All at once,
            since for single ones numpy's calls cost ten times what they compute.

    Returns:
        For each picture 32 bytes of pattern and 48 bytes of colours, in hexadecimal.

    Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions (2010),
    section 3.2.1 (pHash); 256 bits as in Facebook's PDQ (2019).
    """
    luminance = (thumbnails.astype(np.float32) @ LUMINANCE).astype(np.float64)
    luminance -= np.rint(luminance.mean((1, 2), keepdims=True))
    pattern = (DCT @ luminance @ DCT.T).reshape(len(thumbnails), -1)
    middle = pattern.shape[1] // 2 - 1  # the lower of two, so that a tie sets no bit
    bits = np.packbits(pattern > np.partition(pattern, middle)[:, middle, None], axis=1)
    side = THUMBNAIL // 4
    strips = thumbnails.reshape(-1, side, THUMBNAIL * 3).sum(1, dtype=np.uint16)  # 4 a picture
    totals = strips.reshape(len(thumbnails), -1, side, 3).sum(2, dtype=np.uint16)
    colours = ((totals + side**2 // 2) // side**2).astype(np.uint8).reshape(len(thumbnails), -1)
    return [row.tobytes().hex() for row in np.hstack((bits, colours))]


def decode(jpeg: bytes) -> np.ndarray:
    """The pixels of a stored picture: (size, size, 3) uint8, RGB."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return np.array(image)
