"""Mutated images, through `raster.prepare`; some of them through `captioner caption`.

Every format that is read, in its usual variants, drawn by the program itself.
"""

import functools
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.reliability import commands
from benchmarks.reliability.cases import Log, Outcome, Wrong
from benchmarks.reliability.mutations import mutate
from captioner.datasets.scene_drawing import draw, sample_facts
from captioner.raster import PictureError, decode, perceptual_hashes, prepare

MAX_PIXELS = 50_000_000  # as in params.yaml
FOLDER = 50  # images a call of `captioner caption`
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif"}


@functools.cache
def seeds() -> list[tuple[str, bytes]]:
    """Format and bytes of sound images."""
    rng = np.random.default_rng(1)
    found = []

    def add(kind: str, image: Image.Image, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append((kind, stream.getvalue()))

    scenes = [draw(sample_facts(rng), int(side), rng) for side in rng.integers(24, 160, 24)]
    frames = [scenes[0].resize((40, 40)), scenes[1].resize((40, 40))]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a drawn scene"
    more = {"save_all": True, "append_images": frames[1:]}
    add("JPEG", scenes[0], quality=90)
    add("JPEG", scenes[1], progressive=True)
    add("JPEG", scenes[2].convert("L"))
    add("JPEG", scenes[3].convert("CMYK"))
    add("JPEG", scenes[4], exif=exif, comment=b"drawn", dpi=(72, 72))
    add("PNG", scenes[5])
    add("PNG", scenes[6].convert("P"), transparency=3)
    add("PNG", scenes[7].convert("RGBA"), exif=exif)
    add("PNG", scenes[8].convert("1"))
    add("PNG", scenes[9].convert("LA"))
    add("PNG", Image.fromarray(rng.integers(0, 2**16, (30, 30)).astype(np.uint16)))
    add("PNG", frames[0], **more)
    add("WEBP", scenes[10])
    add("WEBP", scenes[11], lossless=True, exif=exif)
    add("WEBP", frames[0].convert("RGBA"), **more)
    add("GIF", scenes[12])
    add("GIF", frames[0], duration=50, **more)
    add("TIFF", scenes[13])
    for number, compression in enumerate(("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")):
        add("TIFF", scenes[14 + number], compression=compression)
    add("TIFF", scenes[18].convert("1"), compression="group4")
    add("TIFF", Image.fromarray(rng.integers(0, 2**16, (30, 30)).astype(np.uint16)))
    add("TIFF", frames[0], **more)
    add("BMP", scenes[19])
    add("BMP", scenes[20].convert("P"))
    return found


def hostile(rng: np.random.Generator) -> tuple[str, bytes, str]:
    """A suffix, bytes and what was done; one in a hundred is sound but large."""
    if rng.integers(100) == 0:
        side = int(rng.choice([5000, 7000, 7100, 13_000]))
        stream, mode = io.BytesIO(), str(rng.choice(["L", "P", "1"]))
        kind = str(rng.choice(["PNG", "GIF", "TIFF"]))
        options = {"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}
        Image.new(mode, (side, side)).save(stream, kind, **options)
        return SUFFIXES[kind], stream.getvalue(), f"{kind} of {side} x {side}"
    kind, data = seeds()[rng.integers(len(seeds()))]
    data, faults = mutate(data, rng, [other for _, other in seeds()])
    return SUFFIXES.get(kind, ".bmp"), data, f"{kind} {faults}"


def case(rng: np.random.Generator, number: int, folder: Path) -> str:
    """One image through `prepare`: a square JPEG or a PictureError."""
    suffix, data, what = hostile(rng)
    (folder / f"image{suffix}").write_bytes(data)
    size, fit = int(rng.choice([32, 64, 224])), str(rng.choice(["squash", "crop", "pad"]))
    try:
        prepared = prepare(data, size, fit, 92, MAX_PIXELS)
    except PictureError as error:
        if "\n" in str(error):
            raise Wrong(f"a message of several lines: {error!r}") from None
        return f"{what}: refused"
    if decode(prepared.jpeg).shape != (size, size, 3):
        raise Wrong(f"{what}: no picture of {size} x {size}")
    if prepared.original_width * prepared.original_height > MAX_PIXELS:
        raise Wrong(f"{what}: more than {MAX_PIXELS} pixels")
    perceptual_hashes(prepared.thumbnail[None])
    return f"{what}: read"


def caption(log: Log, case: int, seed: int, bundle: Path, scratch: Path) -> None:
    """One call of `captioner caption` for a folder of hostile images and a sound one."""
    rng = np.random.default_rng([seed, case, *b"caption"])
    folder = commands.fresh(scratch / "images")
    for number in range(FOLDER):
        suffix, data, _ = hostile(rng)
        (folder / f"{number:03d}{suffix}").write_bytes(data)
    (folder / "sound.png").write_bytes(seeds()[5][1])
    command = [sys.executable, "-m", "captioner.cli", "caption", str(folder), "--bundle", bundle]
    ran = commands.run(command, scratch)
    what = f"captioner caption, {FOLDER} hostile images"
    verdict, detail = commands.judge(ran)
    said = [line for line in ran.err.splitlines() if not line.startswith("captioner: ")]
    if verdict == "ok" and "sound.png\t" not in ran.out:
        verdict, detail = "wrong", f"no caption of the sound image: {ran.err[-500:]}"
    elif verdict == "ok" and said:
        verdict, detail = "wrong", f"{len(said)} lines on stderr of libraries: {said[0][:200]}"
    log.add(Outcome("caption", case, what, verdict, detail, ran.seconds, ran.peak), folder)
