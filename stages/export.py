"""export: the bundle, and the collection of all pictures, captions and words as vectors."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from captioner import bundle, collection, embeddings
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.encoder import load_encoder
from captioner.examples import read_features
from captioner.files import atomic_folder, write_json
from captioner.images import read_pictures
from captioner.joint_embedding import JointEncoder, load_joint
from captioner.model import load_captioners
from captioner.raster import decode
from captioner.text import Vocabulary

COLUMNS = ["image_id", "split", "sha256", "perceptual_hash"]
LANCZOS = Image.Resampling.LANCZOS
PREPARATION = {"fit", "jpeg_quality", "max_pixels"}
DECODING = set(bundle.Decoding.__annotations__)


def main() -> None:
    params = read_params()
    make_deterministic(params.seed)
    encoder, _ = load_encoder("models/encoder")
    models = load_captioners("models/captioner")
    joint = load_joint("models/joint")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    decoding = bundle.Decoding(**params.evaluate.model_dump(include=DECODING))
    preparation = params.preprocess.model_dump(include=PREPARATION)
    model = bundle.save(
        "models/bundle",
        encoder,
        params.encoder.backbone,
        models,
        joint,
        vocabulary,
        params.train.attention,
        bundle.Preparation(size=params.preprocess.side, **preparation),
        decoding,
    )

    captions = pd.read_parquet("data/captions.parquet")
    index = read_pictures("data/images", [*COLUMNS, "facts"])
    facts = embeddings.fact_columns(index.pop("facts"), [*index.columns, "caption", "vector"])
    encode = JointEncoder(joint)
    meaning = encode.pictures(read_features("data/features", "grid"))
    looks = embeddings.unit_vectors(np.load("data/features/pooled.npy", mmap_mode="r"))
    of_captions = encode.sentences(np.load("data/tokens/captions.npy"))
    in_glove = np.load("data/tokens/in_glove.npy")
    words = embeddings.unit_vectors(joint.words.embeddings.numpy())
    decode = Decoder(models, **vars(decoding), batch_size=params.evaluate.batch_size)
    said, _ = decode(read_features("data/features", params.train.attention), progress=True)
    index.insert(2, "caption", [vocabulary.decode(row) for row in said])

    shown = embeddings.projected_rows(len(index), params.export.sprite_size)
    first = captions[captions["caption_id"] == 0].set_index("picture")["caption"]
    known = pd.DataFrame({name: column.to_pandas() for name, column in facts.items()})
    metadata = index[["image_id", "split", "caption"]].assign(written=first).join(known).loc[shown]
    with atomic_folder("data/embeddings") as folder:
        part = collection.write_part(folder, dict(index) | facts, meaning, looks)
        columns = dict(captions[["image_id", "caption"]])
        embeddings.write_vectors(folder, "captions", columns, of_captions)
        columns = {"word": vocabulary.words, "count": vocabulary.counts, "in_glove": in_glove}
        embeddings.write_vectors(folder, "words", columns, words)
        dimensions = {"meaning": meaning.shape[1], "looks": looks.shape[1], "words": words.shape[1]}
        collection.write_manifest(folder, model, dimensions, [{"folder": "."} | part])
        (folder / "projector").mkdir()
        pictures = thumbnails(shown, params.export.sprite_size)
        embeddings.write_projector(
            folder / "projector", meaning[shown], metadata, pictures, words, vocabulary
        )
    sizes = {"pictures": len(index), "captions": len(captions), "words": len(vocabulary)}
    metrics = sizes | {f"{name}_size": size for name, size in dimensions.items()}
    write_json(Path("reports/export/metrics.json"), metrics | {"projected": len(shown)})


def thumbnails(rows: np.ndarray, side: int) -> list[np.ndarray]:
    """Small copies of some pictures, each (side, side, 3) uint8."""
    jpegs = read_pictures("data/images", ["jpeg"])["jpeg"]
    return [
        np.asarray(Image.fromarray(decode(jpegs[row])).resize((side, side), LANCZOS))
        for row in rows
    ]


if __name__ == "__main__":
    run_stage("export", main)
