"""Read any data set by its source."""

from collections.abc import Iterator
from pathlib import Path

from captioner.datasets import Picture, Rejected, flickr, karpathy, mnist, scenes, table
from captioner.sections import Source


def read(source: Source, raw: Path, seed: int) -> Iterator[Picture | Rejected]:
    """Yield all of train, of val, of test.

    Args:
        source: the section `download` of the data set.
        raw: folder of what the stage download put there; `table` reads the files that it names.
        seed: of captions and splits that are drawn.

    Raises:
        CaptionerError: a file is missing, damaged or not what it should be.
    """
    if source.source == "mnist":
        return mnist.read(raw, source.val, seed)
    if source.source == "flickr30k":
        return karpathy.read_flickr30k(raw, source.captions)
    if source.source == "table":
        settings = source.model_dump(exclude={"source", "captions", "pictures", "label"})
        return table.read(Path(source.captions), Path(source.pictures), **settings, seed=seed)
    readers = {"scenes": scenes.read, "flickr8k": flickr.read, "coco": karpathy.read_coco}
    return readers[source.source](raw)
