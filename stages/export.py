"""export: the bundle, and the collection of all pictures, captions and words as vectors."""

from stages import read_params, run_stage  # isort: skip  (puts this checkout's src on the path)
import captioner.quiet_tensorflow  # noqa: F401  # isort: skip

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from captioner import agreement, bundle, collection, embeddings, recommend, space
from captioner.consensus import Consensus, read_told
from captioner.decoding import Decoder
from captioner.determinism import make_deterministic
from captioner.encoder import load_encoder
from captioner.examples import read_features
from captioner.files import atomic_file, atomic_folder, verify, write_json
from captioner.images import read_pictures
from captioner.joint_embedding import JointEncoder, load_joint
from captioner.model import load_captioners
from captioner.raster import decode
from captioner.text import Vocabulary

REPORTS = Path("reports/export")
COLUMNS = ["image_id", "split", "sha256", "perceptual_hash"]
QUERIES = 5  # in the figure
PREPARATION = {"fit", "jpeg_quality", "max_pixels"}
DECODING = set(bundle.Decoding.__annotations__)


def main() -> None:
    params = read_params()
    verify("models/encoder", "models/captioner", "models/joint", "data/features", "data/tokens")
    make_deterministic(params.seed)
    encoder, _ = load_encoder("models/encoder")
    models = load_captioners("models/captioner")
    joint = load_joint("models/joint")
    vocabulary = Vocabulary.load("data/tokens/vocabulary.json")
    decoding = bundle.Decoding(**params.evaluate.model_dump(include=DECODING))
    preparation = params.preprocess.model_dump(include=PREPARATION)
    told = None
    if decoding.consensus:
        told = read_told(joint.likelier, "data/features", "data/tokens")
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
        told,
    )

    captions = pd.read_parquet("data/captions.parquet")
    index = read_pictures("data/images", [*COLUMNS, "facts"])
    facts = embeddings.fact_columns(index.pop("facts"), [*index.columns, "caption", "vector"])
    encode = JointEncoder(joint)
    of_pictures = encode.pictures(read_features("data/features", "grid"))
    looks = embeddings.unit_vectors(np.load("data/features/pooled.npy", mmap_mode="r"))
    of_captions = encode.sentences(np.load("data/tokens/captions.npy"))
    owners = captions["picture"].to_numpy()
    meaning = embeddings.meaning_vectors(of_pictures, of_captions, owners)
    in_glove = np.load("data/tokens/in_glove.npy")
    words = embeddings.unit_vectors(joint.words.embeddings.numpy())
    speak = Decoder(
        models,
        **vars(decoding),
        batch_size=params.evaluate.batch_size,
        seen=joint.evidence,
        agreement=told and Consensus(joint.likelier, told),
    )
    features = read_features("data/features", params.train.attention)
    said = captions_of(speak, features, index["split"].to_numpy())
    index.insert(2, "caption", [vocabulary.decode(row) for row in said])

    jpegs = read_pictures("data/images", ["jpeg"])["jpeg"]
    side = params.export.sprite_size

    def pixels_of(rows):
        return [decode(jpegs[row]) for row in rows]

    shown = embeddings.projected_rows(len(index), side)
    first = captions[captions["caption_id"] == 0].set_index("picture")["caption"]
    known = pd.DataFrame({name: column.to_pandas() for name, column in facts.items()})
    metadata = index[["image_id", "split", "caption"]].assign(written=first).join(known).loc[shown]
    with atomic_folder("data/embeddings", collection.FILES, collection.MARK) as folder:
        part = collection.write_part(folder, dict(index) | facts, meaning, looks)
        columns = dict(captions[["image_id", "caption"]])
        embeddings.write_vectors(folder, "captions", columns, of_captions)
        columns = {"word": vocabulary.words, "count": vocabulary.counts, "in_glove": in_glove}
        embeddings.write_vectors(folder, "words", columns, words)
        dimensions = {"meaning": meaning.shape[1], "looks": looks.shape[1], "words": words.shape[1]}
        parts, split = [{"folder": "."} | part], vocabulary.split_characters
        collection.write_manifest(folder, model, dimensions, parts, split)
        (folder / "projector").mkdir()
        small = [
            np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS))
            for pixels in pixels_of(shown)
        ]
        embeddings.write_projector(
            folder / "projector", meaning[shown], metadata, small, words, vocabulary
        )
    with atomic_file(REPORTS / "manifest.json") as path:  # for MLflow, which keeps the reports
        shutil.copyfile(Path("data/embeddings") / collection.MANIFEST, path)
    title = f"{params.dataset}: where pictures and sentences lie"
    space.draw_map(REPORTS / "space.png", of_pictures, of_captions, pixels_of, title)
    title = f"{params.dataset}: test pictures, and the ones most like them"
    space.draw_neighbours(REPORTS / "similar.png", neighbours(index, pixels_of), title)
    metrics = compare_recommendations(known, np.load("data/tokens/captions.npy"), owners)
    sizes = {"pictures": len(index), "captions": len(captions), "words": len(vocabulary)}
    metrics |= sizes | {f"{name}_size": size for name, size in dimensions.items()}
    write_json(REPORTS / "metrics.json", metrics | {"projected": len(shown)})


def captions_of(speak: Decoder, features: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """(pictures, max_length) words. A training picture is the one most like itself: there consensus
    would repeat what its own people say, and is left out.
    """
    said = []
    for split in dict.fromkeys(splits):  # the rows of a split lie together
        rows = np.flatnonzero(splits == split)
        here = features[rows[0] : rows[-1] + 1]
        said.append(speak(here, progress=True, alone=split == "train")[0])
    return np.concatenate(said)


def compare_recommendations(
    known: pd.DataFrame, tokens: np.ndarray, owners: np.ndarray
) -> dict[str, float]:
    """Where the pictures have columns that sort them: what recommendations agree in."""
    classes = agreement.classes_of(dict(known))
    opened = collection.open_collection("data/embeddings")
    queries = np.flatnonzero(opened.pictures["split"] == "test")
    if not classes or not len(queries):
        return {}
    table = agreement.agreement(opened, classes, tokens, owners, queries)
    with atomic_file(REPORTS / "agreement.csv") as path:
        table.to_csv(path, index=False)
    print("of five pictures recommended for a test picture, the share with the same value:")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    means = table.drop(columns="system").mean(axis=1)
    return {f"agreement_{name}": float(m) for name, m in zip(table["system"], means, strict=True)}


def neighbours(index: pd.DataFrame, pixels_of: space.Pictures) -> list[tuple]:
    """Some test pictures and what is most like each, as `space.draw_neighbours` takes them."""
    opened = collection.open_collection("data/embeddings")
    rows_of = {image_id: row for row, image_id in enumerate(index["image_id"])}
    test = np.flatnonzero(index["split"] == "test")
    found = []
    for row in test[np.linspace(0, len(test) - 1, QUERIES + 1).astype(int)[:-1]]:
        query = recommend.query_of(opened, index["image_id"].iloc[row])
        results = recommend.similar(opened, query, space.COLUMNS)
        pictures = pixels_of([row, *(rows_of[result.image_id] for result in results)])
        reasons = [f"looks {r.looks_alike:.2f}, means {r.means_alike:.2f}" for r in results]
        captions = [result.caption for result in results]
        others = list(zip(pictures[1:], captions, reasons, strict=True))
        found.append(((pictures[0], query.caption), others))
    return found


if __name__ == "__main__":
    run_stage("export", main)
