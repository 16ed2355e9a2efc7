"""The published files of each data set: names, addresses, checksums.

Apart from the modules that read them, so that a change of those downloads nothing again.
"""

from captioner.fetch import RemoteFile
from captioner.sections import Source

# Its publisher's own address; the checksum is the one that Keras pins.
MNIST = RemoteFile(
    "mnist.npz",
    ("https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",),
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)

_FLICKR8K = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k/"
# No SHA-256 is published for either; the CRC-32 that a zip keeps of each member is verified.
FLICKR8K_PICTURES = RemoteFile("Flickr8k_Dataset.zip", (_FLICKR8K + "Flickr8k_Dataset.zip",))
FLICKR8K_TEXTS = RemoteFile("Flickr8k_text.zip", (_FLICKR8K + "Flickr8k_text.zip",))

FLICKR30K_JSON, COCO_JSON = "dataset_flickr30k.json", "dataset_coco.json"
FLICKR30K_TOKENS = "results_20130124.token"

# None of these addresses could be tried here, and no SHA-256 is published for any of the files. The
# pictures of Flickr30k are given out by a form (https://forms.illinois.edu/sec/229675, linked from
# the page below); addresses of copies go round, but its publisher wants to be asked.
_KARPATHY = ("https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip",)
_DENOTATION = "https://shannon.cs.illinois.edu/DenotationGraph/"
_COCO = "http://images.cocodataset.org/zips/"  # its https has another host's certificate
FLICKR30K_PICTURES_FILE = RemoteFile(
    "flickr30k-images.tar.gz",
    (),
    page=_DENOTATION,
    other_names=("flickr30k-images.tar", "flickr30k-images.zip"),
)
FLICKR30K_JSON_FILE = RemoteFile("caption_datasets.zip", _KARPATHY, other_names=(FLICKR30K_JSON,))
FLICKR30K_TOKENS_FILE = RemoteFile(
    "flickr30k.tar.gz",
    (_DENOTATION + "data/flickr30k.tar.gz",),
    page=_DENOTATION,
    other_names=(FLICKR30K_TOKENS,),
)
COCO_PICTURES_FILES = {
    folder: RemoteFile(f"{folder}.zip", (f"{_COCO}{folder}.zip",))
    for folder in ("train2014", "val2014")
}
COCO_JSON_FILE = RemoteFile("caption_datasets.zip", _KARPATHY, other_names=(COCO_JSON,))

# Pennington, Socher and Manning (2014), public domain; 400,000 words, 50 to 300 dimensions.
GLOVE = RemoteFile(
    "glove.6B.zip",
    ("https://nlp.stanford.edu/data/glove.6B.zip",),
    "617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
)

# By source; nothing where the data set is drawn or your own.
FILES: dict[str, tuple[RemoteFile, ...]] = {
    "scenes": (),
    "mnist": (MNIST,),
    "flickr8k": (FLICKR8K_PICTURES, FLICKR8K_TEXTS),
    "flickr30k": (FLICKR30K_PICTURES_FILE, FLICKR30K_JSON_FILE),
    "coco": (*COCO_PICTURES_FILES.values(), COCO_JSON_FILE),
    "table": (),
}


def wanted_files(source: Source, published_glove: bool) -> list[RemoteFile]:
    """What is to be downloaded for a data set, with the published word vectors or without."""
    files = list(FILES[source.source])
    if source.source == "flickr30k" and source.captions == "tokens":
        files.append(FLICKR30K_TOKENS_FILE)
    return [*files, GLOVE] if published_glove else files
