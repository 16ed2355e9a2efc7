"""export: embeddings of pictures, captions and words, and the bundle that captions pictures."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from captioner import bundle, embeddings
from captioner.determinism import make_deterministic
from captioner.encoder import load_encoder
from captioner.files import atomic_folder, write_json
from captioner.images import read_pictures
from captioner.model import load_captioners
from captioner.raster import decode
from captioner.text import Vocabulary

PREPARATION = {"fit", "jpeg_quality", "max_pixels"}
DECODING = set(bundle.Decoding.__annotations__)


def main() -> None:
    params = read_params()
    make_deterministic(params.seed)
    encoder, _ = load_encoder("models/encoder")
    models = load_captioners("models/captioner")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    captions = pd.read_parquet("data/captions.parquet")
    index = read_pictures("data/images", ["image_id", "split", "facts"])
    facts = embeddings.fact_columns(index.pop("facts"), [*index.columns, "caption", "vector"])

    words = embeddings.unit_vectors(models[0].words.embeddings.numpy())
    of_captions = embeddings.caption_vectors(np.load("data/tokens/captions.npy"), words, vocabulary)
    of_pictures = embeddings.unit_vectors(np.load("data/features/pooled.npy", mmap_mode="r"))
    shown = embeddings.projected_rows(len(index), params.export.sprite_size)
    jpegs = read_pictures("data/images", ["jpeg"])["jpeg"]
    side = (params.export.sprite_size,) * 2
    thumbnails = [
        np.asarray(Image.fromarray(decode(jpegs[row])).resize(side, Image.Resampling.LANCZOS))
        for row in shown
    ]
    first = captions[captions["caption_id"] == 0].set_index("picture")["caption"]
    known = pd.DataFrame({name: column.to_pandas() for name, column in facts.items()})
    metadata = index.assign(caption=first).join(known).loc[shown]

    preparation = params.preprocess.model_dump(include=PREPARATION)
    with atomic_folder("data/embeddings") as folder:
        embeddings.write_vectors(folder, "pictures", dict(index) | facts, of_pictures)
        columns = dict(captions[["image_id", "caption"]])
        embeddings.write_vectors(folder, "captions", columns, of_captions)
        columns = {"word": vocabulary.words, "count": vocabulary.counts}
        embeddings.write_vectors(folder, "words", columns, words)
        projector = folder / "projector"
        projector.mkdir()
        embeddings.write_projector(
            projector, of_pictures[shown], metadata, thumbnails, words, vocabulary
        )
    bundle.save(
        "models/bundle",
        encoder,
        params.encoder.backbone,
        models,
        vocabulary,
        params.train.attention,
        bundle.Preparation(size=params.preprocess.side, **preparation),
        bundle.Decoding(**params.evaluate.model_dump(include=DECODING)),
    )
    sizes = {"pictures": len(index), "captions": len(captions), "words": len(vocabulary)}
    metrics = sizes | {"picture_size": of_pictures.shape[1], "word_size": words.shape[1]}
    write_json(Path("reports/export/metrics.json"), metrics | {"projected": len(shown)})


if __name__ == "__main__":
    run_stage("export", main)
