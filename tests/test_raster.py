"""One picture file into one square RGB picture: colours, orientation, policies, bad files."""

import io
import struct
import warnings
import zlib
from dataclasses import astuple
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from captioner import CaptionerError
from captioner.raster import PictureError, decode, perceptual_hashes, prepare, silence_decoders

MAX = 10_000_000


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(data: bytes, size: int = 8, fit: str = "squash", quality: int = 100) -> np.ndarray:
    """What comes out at the far end: (size, size, 3), as int so that differences are signed."""
    return decode(prepare(data, size, fit, quality, MAX).jpeg).astype(int)


def picture(seed: int, width: int, height: int) -> Image.Image:
    """Smooth random colours: JPEG keeps them nearly exactly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def close(one: np.ndarray, other: np.ndarray | list, tolerance: int) -> bool:
    other = np.asarray(other, int)
    return one.shape == other.shape and int(np.abs(one - other).max()) <= tolerance


# --- colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP", "JPEG"])
def test_every_format_gives_its_colours(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.new("RGB", (8, 8), (200, 30, 90)), kind, **options)
    assert close(pixels(data), np.full((8, 8, 3), (200, 30, 90)), 4)


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("1", (8, 8), 0), (0, 0, 0)),
        # half-transparent red over white: 0.5 * 255 + 0.5 * 255, 0.5 * 0 + 0.5 * 255
        (Image.new("RGBA", (8, 8), (255, 0, 0, 128)), (255, 127, 127)),
        (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new("LA", (8, 8), (100, 255)), (100, 100, 100)),
        (Image.new("LA", (8, 8), (100, 0)), (255, 255, 255)),
    ],
    ids=["grey", "white", "black", "half", "clear", "grey with alpha", "clear grey"],
)
def test_modes_become_rgb(image, colour):
    assert close(pixels(encode(image)), np.full((8, 8, 3), colour), 2)


def test_palette_with_and_without_transparency():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 250, 120, 10])
    assert close(pixels(encode(image)), np.full((8, 8, 3), (250, 120, 10)), 3)
    assert close(pixels(encode(image, transparency=1)), np.full((8, 8, 3), 255), 0)
    assert close(pixels(encode(image, "GIF", transparency=1)), np.full((8, 8, 3), 255), 0)


def test_transparent_colour_of_an_rgb_png():
    image = Image.new("RGB", (8, 8), (9, 9, 9))
    assert close(pixels(encode(image, transparency=(9, 9, 9))), np.full((8, 8, 3), 255), 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    grey = np.repeat(np.array([0, 257, 12850, 32896, 51400, 65535], np.uint16), 8)
    image = Image.fromarray(np.tile(grey, (48, 1)))
    assert image.mode == "I;16"
    row = pixels(encode(image, kind), 48)[24]
    assert close(row[4::8], np.repeat([[0], [1], [50], [128], [200], [255]], 3, axis=1), 2)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_sixteen_bits_of_colour():
    """Pillow writes no such PNG, so it is put together by hand: 8 x 8, colour type 2, depth 16."""
    rows = (b"\0" + struct.pack(">3H", 65535, 257 * 100, 0) * 8) * 8
    header = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    assert close(pixels(data), np.full((8, 8, 3), (255, 100, 0)), 2)


def test_cmyk():
    # no ink is white; full cyan and yellow is green
    image = Image.new("CMYK", (16, 8), (0, 0, 0, 0))
    image.paste((255, 0, 255, 0), (8, 0, 16, 8))
    for kind in ("JPEG", "TIFF"):
        out = pixels(encode(image, kind), 16)
        assert close(out[4, 2], [255, 255, 255], 4), kind
        assert close(out[4, 13], [0, 255, 0], 6), kind


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_grey_is_refused_with_the_reason(mode):
    with pytest.raises(PictureError, match="32-bit grey"):
        prepare(encode(Image.new(mode, (8, 8)), "TIFF"), 8, "squash", 90, MAX)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert close(pixels(data), np.full((8, 8, 3), (255, 0, 0)), 3)


# --- orientation -------------------------------------------------------------------------------

# Exif 2.32: which edge of the scene the stored first row and first column show
UPRIGHT = np.array([[1, 2, 3], [4, 5, 6]])
STORED = {
    1: UPRIGHT,
    2: [[3, 2, 1], [6, 5, 4]],  # row: top, column: right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[3, 6], [2, 5], [1, 4]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[4, 1], [5, 2], [6, 3]],  # left, bottom
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation, kind):
    grey = (np.asarray(STORED[orientation]) * 40).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    data = encode(Image.fromarray(grey).convert("RGB"), kind, exif=exif, **options)
    prepared = prepare(data, 48, "squash", 100, MAX)
    assert (prepared.original_width, prepared.original_height) == (48, 32)
    cells = decode(prepared.jpeg).astype(int)[12::24, 8::16, 0]  # the middle of each cell
    assert close(cells, UPRIGHT * 40, 6)


def test_damaged_exif_is_no_reason_to_lose_a_picture():
    data = encode(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0XX*\0\xff\xff\xff\xff")
    assert close(pixels(data), np.full((8, 8, 3), (254, 0, 0)), 3)


def test_metadata_is_not_carried_over():
    exif = Image.Exif()
    exif[0x010E] = "secret place"
    data = encode(picture(1, 20, 20), "JPEG", exif=exif, comment=b"secret note")
    assert data.count(b"secret") == 2
    assert b"secret" not in prepare(data, 20, "squash", 90, MAX).jpeg


# --- resize policies ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(1, 70),
    fit=st.sampled_from(["squash", "crop", "pad"]),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P", "1", "CMYK", "LA", "I;16"]),
)
def test_output_is_always_square_rgb(width, height, size, fit, mode):
    data = encode(Image.new(mode, (width, height)), "TIFF" if mode == "CMYK" else "PNG")
    prepared = prepare(data, size, fit, 90, MAX)
    assert astuple(prepared)[1:-1] == (size, size, width, height)
    assert (prepared.thumbnail.shape, prepared.thumbnail.dtype) == ((32, 32, 3), np.uint8)
    assert decode(prepared.jpeg).shape == (size, size, 3)
    with Image.open(io.BytesIO(prepared.jpeg)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (size, size))
        assert image.layer[0][1:3] == image.layer[1][1:3] == (1, 1)  # 4:4:4


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 200), height=st.integers(1, 200), size=st.integers(16, 64))
def test_pad_keeps_the_aspect_ratio_in_the_middle(width, height, size):
    bright = pixels(encode(Image.new("RGB", (width, height), "white")), size, "pad")[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    inner_height, inner_width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert bright.sum() == inner_height * inner_width  # one full rectangle
    assert max(inner_height, inner_width) == size
    assert abs(inner_width - size * width / max(width, height)) <= 1
    assert abs(inner_height - size * height / max(width, height)) <= 1
    assert abs(rows[0] - (size - 1 - rows[-1])) <= 1  # equal bars on both sides
    assert abs(columns[0] - (size - 1 - columns[-1])) <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_crop_takes_the_middle(turned):
    thirds = np.repeat(np.array([0, 128, 255], np.uint8), 64)  # 192 wide, 64 high
    grey = np.tile(thirds, (64, 1))
    data = encode(Image.fromarray(grey.T if turned else grey))
    out = pixels(data, 32, "crop")
    assert close(out[1:-1, 1:-1], np.full((30, 30, 3), 128), 3)
    assert close(out, np.full((32, 32, 3), 128), 10)  # the filter reaches a pixel beyond the edge


@settings(max_examples=40, deadline=None)
@given(margin=st.integers(0, 60), size=st.integers(8, 40), seed=st.integers(0, 99))
def test_crop_is_symmetrical(margin, size, seed):
    """A mirrored picture gives the mirrored crop: the square sits exactly in the middle."""
    image = picture(seed, 50 + margin, 50)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = pixels(encode(image), size, "crop"), pixels(encode(mirrored), size, "crop")
    assert close(one[:, ::-1], other, 12)


def test_squash_shows_everything():
    halves = np.repeat(np.array([0, 255], np.uint8), 100)
    out = pixels(encode(Image.fromarray(np.tile(halves, (20, 1)))), 32)
    assert close(out[:, :14], np.zeros((32, 14, 3)), 6)
    assert close(out[:, 18:], np.full((32, 14, 3), 255), 6)


def test_no_resize_at_the_right_size():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    for fit in ("squash", "crop", "pad"):
        jpeg = prepare(encode(image), 64, fit, 92, MAX).jpeg
        assert jpeg == encode(image, "JPEG", quality=92, subsampling=0)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_reduction_is_antialiased(fit):
    """A fine chequerboard becomes grey; without antialiasing it becomes black, white or stripes."""
    board = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    assert close(pixels(encode(Image.fromarray(board)), 32, fit), np.full((32, 32, 3), 127), 4)


def test_partial_decoding_of_a_large_jpeg_changes_next_to_nothing():
    data = encode(picture(3, 1200, 900), "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        whole = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), int)
    out = pixels(data, 64)
    assert np.sqrt(((out - whole) ** 2).mean()) < 1.0
    prepared = prepare(data, 64, "squash", 92, MAX)
    assert (prepared.original_width, prepared.original_height) == (1200, 900)


def test_quality_and_policy_are_obeyed():
    data = encode(picture(2, 90, 60))
    assert len(prepare(data, 64, "squash", 95, MAX).jpeg) > len(
        prepare(data, 64, "squash", 10, MAX).jpeg
    )
    with pytest.raises(ValueError, match="fit: 'stretch'"):
        prepare(data, 64, "stretch", 95, MAX)


# --- perceptual hash ---------------------------------------------------------------------------


def test_thumbnail_is_the_whole_upright_picture_whatever_the_fit():
    """Left half red, right half blue, stored lying on its side (orientation 6 turns it upright)."""
    lying = np.zeros((160, 64, 3), np.uint8)
    lying[80:, :, 0] = lying[:80, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.fromarray(lying).transpose(Image.Transpose.FLIP_TOP_BOTTOM), exif=exif)
    upright = np.zeros((32, 32, 3), int)
    upright[:, :16, 2] = upright[:, 16:, 0] = 255
    for fit in ("squash", "crop", "pad"):
        thumbnail = prepare(data, 20, fit, 90, MAX).thumbnail.astype(int)
        shown = thumbnail if thumbnail[0, 0, 2] > 127 else thumbnail[:, ::-1]
        assert close(shown[:, :14], upright[:, :14], 1) and close(shown[:, 18:], upright[:, 18:], 1)


def hash_of(pixels: np.ndarray) -> tuple[int, list[int]]:
    """The pattern as an integer of 256 bits, the 16 colours as 48 numbers."""
    (text,) = perceptual_hashes(pixels[None])
    return int(text[:64], 16), list(bytes.fromhex(text[64:]))


def test_pattern_is_the_bits_of_the_cosine_transform_above_the_median():
    """By the definition, with sums over all pixels; red, green and blue are equal here."""
    grey = np.random.default_rng(4).integers(0, 256, (32, 32))
    angles = np.pi * (2 * np.arange(32) + 1) / 64
    coefficients = [
        (grey * np.cos(u * angles)[:, None] * np.cos(v * angles)).sum()
        for u in range(1, 17)
        for v in range(1, 17)
    ]
    bits = "".join(str(int(c > np.median(coefficients))) for c in coefficients)
    pattern, _ = hash_of(np.repeat(grey[..., None], 3, 2).astype(np.uint8))
    assert pattern == int(bits, 2)


def test_colours_are_the_means_of_sixteen_fields():
    fields = np.random.default_rng(6).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    pixels = fields.repeat(8, 0).repeat(8, 1)
    assert hash_of(pixels)[1] == fields.ravel().tolist()
    pixels[::2, :, 0] = 0
    halves = (fields[..., 0].astype(int) + 1) // 2  # a half is rounded up
    assert hash_of(pixels)[1][::3] == halves.ravel().tolist()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (1, 99, 203)])
def test_one_colour_has_no_pattern(colour):
    assert hash_of(np.full((32, 32, 3), colour, np.uint8)) == (0, list(colour) * 16)


def test_many_pictures_at_once_are_as_one_by_one():
    pixels = np.random.default_rng(8).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    single = [perceptual_hashes(picture[None])[0] for picture in pixels]
    assert perceptual_hashes(pixels) == single
    assert len(set(single)) == 5 and {len(text) for text in single} == {160}


def photograph(seed: int) -> Image.Image:
    """Random colours whose contrast falls with the frequency, as that of photographs does."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize((224, 224))
        for cells in (3, 6, 12, 24, 48)
    ]
    weights = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    return Image.fromarray(np.tensordot(weights, np.array(layers), 1).astype(np.uint8))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), side=st.integers(120, 400), quality=st.integers(80, 95))
def test_hash_survives_jpeg_and_another_size(seed, side, quality):
    image = photograph(seed)
    copy = image.resize((side, side), Image.Resampling.BICUBIC)
    files = [encode(image), encode(copy, "JPEG", quality=quality), encode(photograph(seed + 1))]
    one, other, third = (hash_of(prepare(data, 64, "crop", 92, MAX).thumbnail) for data in files)
    assert (one[0] ^ other[0]).bit_count() <= 24  # 4 as a rule, 18 at most among 1,500
    assert max(abs(a - b) for a, b in zip(one[1], other[1], strict=True)) <= 5
    assert (one[0] ^ third[0]).bit_count() > 80


# --- what is refused ---------------------------------------------------------------------------


def test_too_many_pixels_are_refused_before_decoding():
    image = encode(Image.new("L", (40, 30)))
    assert prepare(image, 8, "squash", 90, 1200).original_width == 40
    with pytest.raises(PictureError, match="picture too large: 40 x 30 pixels, allowed are 1199"):
        prepare(image, 8, "squash", 90, 1199)
    # only a header that claims 20,000 x 20,000 pixels: the size is refused, not the missing data
    header = b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">2I5B", 20000, 20000, 8, 2, 0, 0, 0)
    )
    with pytest.raises(PictureError, match="picture too large"):
        prepare(header + _chunk(b"IDAT", b""), 8, "squash", 90, 10**12)


@pytest.mark.parametrize("data", [b"", b"plain text", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"])
def test_other_files_are_refused(data):
    with pytest.raises(PictureError, match="picture undecodable: none of JPEG, PNG") as caught:
        prepare(data, 8, "squash", 90, MAX)
    assert caught.value.reason == "picture undecodable"
    assert isinstance(caught.value, CaptionerError)


def test_formats_outside_the_list_are_refused():
    with pytest.raises(PictureError, match="none of"):
        prepare(encode(Image.new("RGB", (8, 8)), "PPM"), 8, "squash", 90, MAX)


SAMPLES = {
    kind: encode(picture(5, 40, 30), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_half_a_file_is_refused(kind):
    data = SAMPLES[kind]
    with pytest.raises(PictureError, match="picture undecodable"):
        prepare(data[: len(data) // 2], 8, "squash", 90, MAX)


def webp(width: int, height: int, kind: str) -> bytes:
    """A sound WebP of 16 x 16 pixels whose header says another size."""
    extended = {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"} if kind == "VP8X" else {}
    data = bytearray(encode(picture(1, 16, 16), "WEBP", lossless=kind == "VP8L", **extended))
    assert data[12:16] == kind.ljust(4).encode()
    if kind == "VP8X":
        data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == "VP8L":
        data[21:25] = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    else:
        data[26:30] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize("kind", ["VP8", "VP8L", "VP8X"])
def test_webp_is_refused_before_memory_is_taken_for_it(kind, monkeypatch):
    """Pillow takes it as it opens one: 3 GB for a few hundred bytes."""
    assert close(pixels(webp(16, 16, kind)), pixels(encode(picture(1, 16, 16))), 40)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(PictureError, match="picture too large: 16000 x 15000 pixels, allowed are"):
        prepare(webp(16000, 15000, kind), 8, "squash", 90, MAX)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow also warns of damage
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_truncated_or_changed_anywhere_never_crashes(data):
    """A picture or a PictureError, whatever the bytes."""
    damaged = bytearray(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))])
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    try:
        prepared = prepare(bytes(damaged), 8, "squash", 90, MAX)
    except PictureError as error:
        assert error.reason in ("picture undecodable", "picture too large")
        assert "\n" not in str(error)
    else:
        assert decode(prepared.jpeg).shape == (8, 8, 3)


def test_every_truncation_of_a_jpeg():
    whole = pixels(SAMPLES["JPEG"])
    outcomes = []
    for length in range(len(SAMPLES["JPEG"])):
        try:
            outcomes.append(close(pixels(SAMPLES["JPEG"][:length]), whole, 0))
        except PictureError:
            outcomes.append(None)
    assert False not in outcomes  # refused, or (only the end marker gone) the same picture
    assert outcomes[: len(outcomes) - 2] == [None] * (len(outcomes) - 2)


@pytest.mark.parametrize(("deep", "grey"), [(25_700, 100), (25_828, 100), (25_829, 101)])
def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(deep, grey):
    """65535 is 255, so a step of eight bits is 257 of sixteen: 100.498 and 100.502 here."""
    image = Image.fromarray(np.full((8, 8), deep, np.uint16))
    assert close(pixels(encode(image)), np.full((8, 8, 3), grey), 0)


def test_half_of_the_hashed_frequencies_are_above_the_median():
    """256 bits in the first 64 digits; noise has no two equal frequencies."""
    noise = np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    hashes = perceptual_hashes(noise)
    assert [int(one[:64], 16).bit_count() for one in hashes] == [128] * 5


@pytest.mark.parametrize("kind", ["VP8", "VP8X"])
def test_webp_that_ends_with_its_size_is_refused_by_it(kind):
    """30 bytes: all that is needed to know the size, and nothing behind it."""
    with pytest.raises(PictureError, match="picture too large: 16000 x 15000 pixels"):
        prepare(webp(16000, 15000, kind)[:30], 8, "squash", 90, MAX)


def test_decoders_write_nothing_to_stderr(capfd):
    """libtiff writes to the descriptor from C, Pillow through `warnings`."""
    prepared = partial(prepare, size=32, fit="squash", jpeg_quality=90, max_pixels=10**6)
    tiff = bytearray(encode(picture(1, 64, 64), "TIFF", compression="tiff_adobe_deflate"))
    strip = Image.open(io.BytesIO(tiff)).tag_v2[273][0]  # StripOffsets
    tiff[strip + 20 : strip + 40] = bytes(20)
    exif = Image.Exif()
    exif[0x010E] = "x" * 50
    jpeg = encode(picture(1, 32, 32), "JPEG", exif=exif.tobytes()[:-30])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_decoders.cache_clear()  # what it set before was put back by pytest
        with pytest.raises(PictureError, match="picture undecodable"):
            prepared(bytes(tiff))
        assert prepared(jpeg).original_width == 32
        with pytest.raises(PictureError, match="picture too large: 10000 x 10000"):
            prepared(encode(Image.new("1", (10_000, 10_000))))  # to Pillow perhaps a bomb
    assert caught == [] and capfd.readouterr() == ("", "")
