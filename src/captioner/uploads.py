"""Files that strangers send over the network: looked at before they are decoded.

The limits are tighter than those of the pipeline, whose files somebody has chosen: a server decodes
what anybody sends. `raster.prepare` does the rest.
"""

import io
import warnings

from PIL import Image

from captioner.raster import FORMATS, PictureError, refuse_webp

BYTES = 20_000_000  # of a file
PIXELS = 16_000_000  # decoded; a JPEG is decoded at a part of its size, and has a limit of its own
JPEG_PIXELS = 50_000_000


def check_upload(data: bytes) -> None:
    """Refuse what would cost too much to decode, or is not one picture.

    Args:
        data: the file.

    Raises:
        PictureError: why, in plain words.
    """
    if not data:
        raise PictureError("no picture", "the file is empty")
    if len(data) > BYTES:
        raise PictureError("picture too large", f"a file may have {BYTES // 10**6} MB")
    refuse_webp(data, PIXELS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                limit = JPEG_PIXELS if image.format in ("JPEG", "MPO") else PIXELS
                moves = image.format in ("GIF", "PNG", "WEBP")  # pages and previews do not
                if moves and width * height <= limit and getattr(image, "is_animated", False):
                    raise PictureError("no single picture", "an animation; send one frame of it")
    except PictureError:
        raise
    except Image.DecompressionBombError:
        raise PictureError(
            "picture too large", f"more than {JPEG_PIXELS // 10**6} million pixels"
        ) from None
    except Exception:  # whatever a reader raises on what is no picture
        raise PictureError(
            "no picture", f"expected {', '.join(FORMATS)}; this file is none, or damaged"
        ) from None
    if width * height > limit:
        raise PictureError(
            "picture too large",
            f"{width} x {height} pixels; up to {limit // 10**6} million are taken"
            + ("" if limit == JPEG_PIXELS else f", in a JPEG {JPEG_PIXELS // 10**6} million"),
        )
