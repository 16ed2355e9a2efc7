"""Captions in JSON: COCO's annotations and results, Karpathy's data sets, plain objects, lines."""

from collections.abc import Iterator, Sequence

from captioner import CaptionerError
from captioner.caption_files.json_text import json_values
from captioner.caption_files.records import PICTURE_NAMES, Record, kind, listed, shown


def json_records(text: str, names: Sequence[str]) -> Iterator[Record]:
    for where, value in json_values(text):
        if where is None:
            yield from _document_records(value, names)
        else:
            yield _object_record(where, value, names)


def _document_records(document: object, names: Sequence[str]) -> Iterator[Record]:
    if isinstance(document, list):
        yield from _object_records("entry", document, names)
    elif not isinstance(document, dict):
        raise CaptionerError(f"holds {kind(document)} and no captions; is it the right file?")
    elif is_karpathy(document):
        for where, image, captions in karpathy_images(document):
            yield where, image.get("filename"), captions
    elif is_coco(document):
        yield from _object_records("annotation", coco_annotations(document), names)
    elif "image_id" in document and any(name in document for name in names):
        yield from _object_records("entry", [document], names)  # JSON lines of one line
    else:
        for number, (key, value) in enumerate(document.items(), start=1):
            yield f"entry {number}", key, value


def is_coco(document: dict) -> bool:
    return any(_of_objects(document.get(key)) for key in ("images", "annotations"))


def coco_annotations(document: dict) -> list:
    if "annotations" not in document:
        raise CaptionerError('has "images" but no "annotations"; is it a list of test images?')
    if not isinstance(document["annotations"], list):
        raise CaptionerError(f'"annotations" is {kind(document["annotations"])} and no list')
    return document["annotations"]


def is_karpathy(document: dict) -> bool:
    images = document.get("images")
    return _of_objects(images) and any("sentences" in image for image in images)


def karpathy_images(document: dict) -> Iterator[tuple[str, dict, list]]:
    """(where, the image, its captions as they stand there)."""
    for number, image in enumerate(document["images"], start=1):
        where = f"image {number}"
        sentences = image.get("sentences", [])
        if not _of_objects(sentences):
            raise CaptionerError(f'{where}: "sentences" is no list of objects with "raw"')
        yield where, image, [sentence.get("raw") for sentence in sentences]


def _of_objects(value: object) -> bool:
    """Whether it is COCO's list, and not the captions of a picture that is named "images"."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _object_records(what: str, values: list, names: Sequence[str]) -> Iterator[Record]:
    for number, value in enumerate(values, start=1):
        yield _object_record(f"{what} {number}", value, names)


def _object_record(where: str, value: object, names: Sequence[str]) -> Record:
    if not isinstance(value, dict):
        raise CaptionerError(
            f"{where}: {kind(value)}; expected an object with image_id and {names[0]}"
        )
    image_id = next((name for name in PICTURE_NAMES if name in value), None)
    if image_id is None:
        raise CaptionerError(
            f"{where}: the picture's id is missing: no image_id in {listed(value)}"
        )
    caption = next((name for name in names if name in value), None)
    if caption is None:
        raise CaptionerError(
            f"{where} (picture {shown(value[image_id])}): no {names[0]} in {listed(value)}"
        )
    return where, value[image_id], value[caption]
