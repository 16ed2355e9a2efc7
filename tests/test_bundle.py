"""bundle.py: the same captions after a round trip, equal bytes, and bundles that lie."""

import hashlib
import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

from captioner import CaptionerError, bundle, files
from captioner.cnn import build_cnn
from captioner.consensus import Consensus, Told, told_of
from captioner.decoding import Decoder
from captioner.files import digest
from captioner.joint_embedding import JointConfig, JointEncoder, JointModel
from captioner.model import CaptionModel, ModelConfig
from captioner.raster import PictureError
from captioner.text import END, PAD, SPECIALS, START, Vocabulary

WORDS = ["a", "red", "blue", "circle", "star", "and", "two", "three"]
VOCABULARY = Vocabulary((*SPECIALS, *WORDS), tuple(range(12)))
PREPARATION = bundle.Preparation(size=32, fit="squash", jpeg_quality=92, max_pixels=10**6)
DECODING = bundle.Decoding(
    beam_width=2, max_length=6, length_penalty=0.7, no_repeat=2, word_evidence=0.5, consensus=0.0
)


def picture(seed: int, size: tuple[int, int] = (50, 40), kind: str = "PNG") -> bytes:
    """Random patches: pictures that a random CNN tells apart."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(stream, kind)
    return stream.getvalue()


def joint_model(encoder: keras.Model) -> JointModel:
    keras.utils.set_random_seed(4)
    config = JointConfig(
        len(VOCABULARY), 4, 16, encoder.output_shape[-1], size=8, known=2, references=3
    )
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(len(VOCABULARY), 4))
    model = JointModel(config, vectors, np.arange(2) + len(SPECIALS))
    # The random CNN's features are small.
    model.seen_words.kernel.assign(rng.normal(size=model.seen_words.kernel.shape) * 8)
    return model


def decoder(models, encoder: keras.Model, batch_size: int) -> Decoder:
    """As a bundle decodes."""
    seen = joint_model(encoder).evidence
    return Decoder(models, **vars(DECODING), batch_size=batch_size, seen=seen)


def parts(attention: str, seed: int = 5) -> tuple[keras.Model, CaptionModel]:
    """A CNN and an LSTM with random weights that say different things of different pictures."""
    keras.utils.set_random_seed(3)
    encoder = build_cnn(32)
    rng = np.random.default_rng(seed)
    cells = 16 if attention == "grid" else 1
    channels = encoder.output_shape[-1]
    config = ModelConfig(len(VOCABULARY), 4, cells, channels, units=8, heads=2)
    model = CaptionModel(config, rng.normal(size=(len(VOCABULARY), 4)).astype(np.float32))
    reader = ("initial_state", "reader_words", "reader_recurrent")
    speaker = ("speaker_inputs", "speaker_recurrent", "output_projection", "vocabulary_logits")
    for name in (*reader, *speaker):
        kernel = getattr(model, name).kernel
        kernel.assign(rng.normal(size=kernel.shape))
    # An untrained CNN sees nearly the same everywhere: its mean is taken away, the rest magnified.
    pixels = np.stack([np.array(Image.open(io.BytesIO(picture(i, (32, 32))))) for i in range(9)])
    mean = encoder(pixels.astype(np.float32)).numpy().mean(axis=(0, 1, 2))
    kernel = rng.normal(size=model.cell_projection.kernel.shape).astype(np.float32) * 10
    model.cell_projection.kernel.assign(kernel)
    model.cell_projection.bias.assign(-mean @ kernel)
    return encoder, model


def write(folder: Path, attention: str = "grid", seeds: tuple[int, ...] = (5,)) -> Path:
    """A bundle of the captioners of some seeds."""
    (encoder, *_), models = zip(*(parts(attention, seed) for seed in seeds), strict=True)
    settings = (VOCABULARY, attention, PREPARATION, DECODING)
    bundle.save(folder, encoder, "cnn", models, joint_model(encoder), *settings)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("bundle") / "grid")


@pytest.fixture(scope="module")
def captioner(saved) -> bundle.Captioner:
    return bundle.load(saved, batch_size=4)


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(file: Path, **changes: object) -> None:
    """Change top-level keys of a JSON file of a bundle; Ellipsis takes one away.

    The checksums are those of the changed file, as someone writes them who means harm.
    """
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    seal(next(folder for folder in file.parents if (folder / "bundle.json").exists()))


def seal(folder: Path, **more: str) -> None:
    """Write the checksums of a changed bundle, and of `more` files than there are."""
    note = folder / "bundle.json"
    paths = [path for path in folder.rglob("*") if path.is_file() and path != note]
    content = json.loads(note.read_text())
    content["files"] = more | {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }
    content.pop("checksum")
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    note.write_text(json.dumps(content | {"checksum": checksum}))


def test_captions_are_the_same_before_and_after(captioner):
    pictures = [picture(seed) for seed in range(7)]
    settings = (VOCABULARY, "grid", PREPARATION, DECODING, 4, "0" * 64)
    encoder, model = parts("grid")
    before = bundle.Captioner(encoder, [model], joint_model(encoder), *settings).caption(pictures)
    assert captioner.caption(pictures) == before
    assert len({caption.text for caption in before}) > 2  # else nothing was compared
    for caption in before:
        assert 1 <= len(caption.text.split()) <= 6 and set(caption.text.split()) <= set(WORDS)
        assert caption.log_probability < 0


def test_vectors_of_pictures_are_those_of_the_pipeline(captioner):
    pictures = [captioner.prepare(picture(seed)) for seed in range(7)]
    captions, meaning, looks = captioner.describe(pictures)
    assert captions == captioner.caption_prepared(pictures)
    encoder, _ = parts("grid")
    grid = encoder(np.stack(pictures).astype(np.float32)).numpy().reshape(7, 16, -1)
    expected = JointEncoder(joint_model(encoder)).pictures(grid.astype(np.float16))
    said, _ = captioner.sentence_vectors([caption.text for caption in captions])
    expected += said  # both of length one
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(meaning, expected, atol=1e-5)
    mean = grid.mean(1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(looks, mean, atol=2e-3)
    for vectors in (meaning, looks):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_vectors_of_sentences_leave_unknown_words_out(captioner):
    sentences = ["A red  circle!", "a purple red circle", "purple", "", "circle red a"]
    vectors, unknown = captioner.sentence_vectors(sentences)
    assert vectors.shape == (5, 14) and vectors.dtype == np.float32
    assert unknown == [[], ["purple"], ["purple"], [], []]
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not vectors[2:4].any()
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)
    assert vectors[0] @ vectors[4] < 0.9999  # the order counts


def test_the_fingerprint_is_of_what_the_vectors_depend_on(saved, captioner, tmp_path):
    assert captioner.fingerprint == json.loads((saved / "bundle.json").read_text())["fingerprint"]
    other = bundle.load(write(tmp_path / "speaks_otherwise", seeds=(6,)))
    assert other.fingerprint == captioner.fingerprint
    encoder, model = parts("grid")
    joint = joint_model(encoder)
    joint.picture_projection.bias.assign(joint.picture_projection.bias + 1)
    finer = PREPARATION.__class__(**vars(PREPARATION) | {"jpeg_quality": 93})
    for number, (embedding, preparation) in enumerate(
        [(joint, PREPARATION), (joint_model(encoder), finer)]
    ):
        settings = (VOCABULARY, "grid", preparation, DECODING)
        folder = tmp_path / str(number)
        found = bundle.save(folder, encoder, "cnn", [model], embedding, *settings)
        assert found != captioner.fingerprint == bundle.load(saved).fingerprint
        assert bundle.load(folder).fingerprint == found


def test_a_batch_equals_one_by_one(saved, captioner):
    pictures = [picture(seed) for seed in range(5)]
    together = captioner.caption(pictures)
    alone = bundle.load(saved, batch_size=1)
    for data, caption in zip(pictures, together, strict=True):
        (single,) = alone.caption([data])
        assert single.text == caption.text
        assert single.log_probability == pytest.approx(caption.log_probability, abs=1e-2)
    assert captioner.caption([]) == []


def test_pictures_of_every_kind_are_prepared_alike(captioner):
    assert captioner.prepare(picture(1)).shape == (32, 32, 3)
    assert captioner.prepare(picture(1)).dtype == np.uint8
    webp = captioner.prepare(picture(1, (32, 32), "TIFF"))
    np.testing.assert_array_equal(webp, captioner.prepare(picture(1, (32, 32), "BMP")))
    with pytest.raises(PictureError, match="undecodable"):
        captioner.prepare(b"no picture")
    with pytest.raises(PictureError, match="too large"):
        captioner.prepare(picture(1, (1001, 1000)))


def test_pooled_attention_takes_the_mean_of_the_grid(tmp_path):
    pooled = bundle.load(write(tmp_path / "pooled", "pooled"), batch_size=4)
    pictures = [picture(seed) for seed in range(4)]
    captions = pooled.caption(pictures)
    assert len({caption.text for caption in captions}) > 1
    # By hand: the mean over the cells of the encoder's output, through the model alone.
    encoder, model = parts("pooled")
    pixels = np.stack([pooled.prepare(data) for data in pictures]).astype(np.float32)
    grid = encoder(pixels).numpy().astype(np.float16)
    means = grid.reshape(4, 16, -1).astype(np.float32).mean(1, keepdims=True)
    words, _ = decoder(model, encoder, 4)(means.astype(np.float16))
    assert [caption.text for caption in captions] == [VOCABULARY.decode(row) for row in words]


def test_another_beam_width(saved, captioner):
    pictures = [picture(seed) for seed in range(24)]
    wide = bundle.load(saved, beam_width=20, batch_size=4)
    penalised = [
        (
            a.log_probability / (len(a.text.split()) + 1) ** 0.7,
            b.log_probability / (len(b.text.split()) + 1) ** 0.7,
        )
        for a, b in zip(captioner.caption(pictures), wide.caption(pictures), strict=True)
    ]
    # A wider beam is no guarantee for each, but finds better captions by and large.
    assert sum(b for _, b in penalised) > sum(a for a, _ in penalised)


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("bundle") / "several", seeds=(5, 6, 7))


def test_search_of_pixels_is_what_captions_are_made_of(captioner, tmp_path):
    pixels = [captioner.prepare(picture(seed)) for seed in range(3)]
    for one in (captioner, bundle.load(write(tmp_path / "pooled", "pooled"), batch_size=4)):
        words, totals = one.search(np.stack(pixels))
        captions = one.caption_prepared(pixels)
        assert [VOCABULARY.decode(row) for row in words.numpy()] == [c.text for c in captions]
        np.testing.assert_allclose(totals, [c.log_probability for c in captions], rtol=1e-5)


def test_where_the_models_look(captioner, tmp_path):
    pixels = captioner.prepare(picture(2))
    (caption,) = captioner.caption_prepared([pixels])
    words, weights = captioner.looked_at(pixels, caption.text)
    assert words == caption.text.split() and captioner.has_attention
    assert weights.shape == (len(words), 4, 4)
    np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-5)
    # What is read decides where to look next: an unknown word is read as one.
    _, other = captioner.looked_at(pixels, "zebra " + caption.text)
    np.testing.assert_allclose(other[0], weights[0], rtol=1e-5)
    assert not np.allclose(other[1], weights[min(1, len(words) - 1)], rtol=1e-3)
    assert captioner.looked_at(pixels, " ")[1] is None
    pooled = bundle.load(write(tmp_path / "pooled", "pooled"), batch_size=1)
    assert pooled.looked_at(pixels, "red star") == (["red", "star"], None)
    assert not pooled.has_attention


def test_several_captioners_speak_together(several):
    """As `decoding.Decoder` with the same models and features; no single model decides."""
    captioner = bundle.load(several, batch_size=4)
    pictures = [picture(seed) for seed in range(6)]
    found = captioner.caption(pictures)
    encoder, _ = parts("grid")
    models = [parts("grid", seed)[1] for seed in (5, 6, 7)]
    pixels = np.stack([captioner.prepare(data) for data in pictures]).astype(np.float32)
    features = encoder(pixels).numpy().astype(np.float16).reshape(6, 16, -1)
    words, totals = decoder(models, encoder, 6)(features)
    assert [caption.text for caption in found] == [VOCABULARY.decode(row) for row in words]
    probabilities = [caption.log_probability for caption in found]
    np.testing.assert_allclose(probabilities, totals, atol=1e-2)
    for model in models:
        alone, _ = decoder(model, encoder, 6)(features)
        assert (alone != words).any()


def test_a_bundle_listens_to_evidence(saved, copy):
    """What its joint embedding sees changes what it says."""
    content = json.loads((copy / "bundle.json").read_text())
    edit(copy / "bundle.json", decoding=content["decoding"] | {"word_evidence": 0.0})
    pictures = [picture(seed) for seed in range(6)]
    heard, deaf = (bundle.load(path, batch_size=6).caption(pictures) for path in (saved, copy))
    assert [one.text for one in heard] != [one.text for one in deaf]


@pytest.fixture(scope="module")
def agreed(tmp_path_factory) -> Path:
    """A bundle that chooses by consensus."""
    encoder, model = parts("grid")
    joint, rng = joint_model(encoder), np.random.default_rng(9)
    pooled = rng.normal(size=(12, 1, encoder.output_shape[-1])).astype(np.float16) / 10
    tokens = np.full((12, 2, 8), PAD)
    tokens[..., :6] = [START, *[0] * 4, END]
    tokens[..., 1:5] = rng.integers(len(SPECIALS), len(VOCABULARY), (12, 2, 4))
    folder = tmp_path_factory.mktemp("bundle") / "agreed"
    decoding = replace(DECODING, consensus=20.0)
    told = told_of(joint.likelier, pooled, tokens)
    bundle.save(
        folder, encoder, "cnn", [model], joint, VOCABULARY, "grid", PREPARATION, decoding, told
    )
    return folder


def test_a_bundle_chooses_by_consensus(agreed):
    captioner = bundle.load(agreed, batch_size=6)
    pictures = [picture(seed) for seed in range(6)]
    found = captioner.caption(pictures)
    encoder, model = parts("grid")
    joint = joint_model(encoder)
    told = Told(*(np.load(agreed / "told" / f"{name}.npy") for name in ("places", "tokens")))
    settings = vars(DECODING) | {"consensus": 20.0, "batch_size": 6, "seen": joint.evidence}
    decode = Decoder(model, **settings, agreement=Consensus(joint.likelier, told))
    pixels = np.stack([captioner.prepare(data) for data in pictures]).astype(np.float32)
    words, _ = decode(encoder(pixels).numpy().astype(np.float16).reshape(6, 16, -1))
    assert [caption.text for caption in found] == [VOCABULARY.decode(row) for row in words]
    alone = decoder(model, encoder, 6)(
        encoder(pixels).numpy().astype(np.float16).reshape(6, 16, -1)
    )
    assert (alone[0] != words).any()
    prepared = [captioner.prepare(data) for data in pictures]
    assert [one[0].text for one in captioner.diverse(prepared, 3)] == [one.text for one in found]


@pytest.mark.parametrize(
    "name, array",
    [
        ("places", np.zeros((12, 3), np.float16)),
        ("places", np.zeros((11, 2), np.float16)),
        ("places", np.zeros((12, 2), np.float32)),
        ("places", np.full((12, 2), np.nan, np.float16)),
        ("tokens", np.full((12, 2, 8), 99, np.uint16)),
        ("tokens", np.zeros((12, 8), np.uint16)),
        ("tokens", np.zeros((0, 2, 8), np.uint16)),
        ("tokens", np.array([{}], object)),
        ("tokens", None),
    ],
)
def test_what_others_say_is_checked(agreed, tmp_path, name, array):
    copy = Path(shutil.copytree(agreed, tmp_path / "copy"))
    file = copy / "told" / f"{name}.npy"
    file.unlink() if array is None else np.save(file, array, allow_pickle=True)
    seal(copy)
    refused(copy)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_of_several_captioners_is_checked(several, tmp_path, part):
    for name, changes in (("vocabulary", 11), ("units", 10**6)):
        copy = Path(shutil.copytree(several, tmp_path / name))
        edit(copy / "captioner" / str(part) / "config.json", **{name: changes})
        refused(copy)
    shutil.rmtree(copy / "captioner" / str(part))
    assert "is missing" in refused(copy)
    seal(copy)
    assert "is missing" in refused(copy)


def test_different_captions(captioner):
    """Those of the decoder as text, best first; the best one of all is among them."""
    pictures = [captioner.prepare(picture(seed)) for seed in range(5)]
    best = captioner.caption_prepared(pictures)
    for found in (captioner.diverse(pictures, 2), captioner.sampled(pictures, 2, 0, 1.0)):
        assert len(found) == 5
        for captions in found:
            assert len({caption.text for caption in captions}) == len(captions) == 2
            scores = [c.log_probability / (len(c.text.split()) + 1) ** 0.7 for c in captions]
            assert scores == sorted(scores, reverse=True)
    for one, captions in zip(best, captioner.diverse(pictures, 2), strict=True):
        assert one.text in [caption.text for caption in captions]
    sampled = captioner.sampled(pictures, 2, 0, 1.0)
    assert sampled == captioner.sampled(pictures, 2, 0, 1.0)
    assert sampled != captioner.sampled(pictures, 2, 1, 1.0)
    assert all(len(captions) == 1 for captions in captioner.sampled(pictures, 2, 0, 1e-6))
    assert captioner.diverse([], 2) == captioner.sampled([], 2, 0, 1.0) == []


def test_no_value_of_an_option_compiles_a_graph_of_its_own(saved, monkeypatch):
    """A hundred values of each option; only the number of searched captions has graphs, 20."""
    captioner = bundle.load(saved, batch_size=4)
    pictures = [captioner.prepare(picture(seed)) for seed in range(5)]
    traces, look = [], CaptionModel.look

    def counted(self, features, *rest):
        traces.append(features.shape)
        return look(self, features, *rest)

    monkeypatch.setattr(CaptionModel, "look", counted)
    few = pictures[:1]
    for count in range(1, 6):
        captioner.caption_prepared(pictures[:count])
    assert len(traces) == 1  # whatever the number of pictures
    for value in range(1, 101):
        captioner.diverse(few, 2, value, value / 20)
    captioner.diverse(pictures, 2, 7, 0.31)
    assert len(traces) == 2
    for value in range(1, 101):
        captioner.sampled(few, 1 + value % 20, value**4, value / 101)
    captioner.sampled(pictures, 2, 2**62, 0.77)
    assert len(traces) == 3
    for number in range(1, 6):
        captioner.sampled(few, number, 0, 1.0)
    assert len(traces) == 4  # none left out
    for number in range(1, 7):
        captioner.looked_at(pictures[0], " ".join(["red"] * number))
    assert len(traces) == 5


@pytest.mark.parametrize(
    ("how", "options", "reason"),
    [
        ("diverse", {"number": 21}, "number: 21, expected a whole number from 1 to 20"),
        ("diverse", {"number": 0}, "number: 0"),
        ("diverse", {"number": 2.0}, "number: 2.0"),
        ("diverse", {"number": True}, "number: True"),
        ("diverse", {"number": 2, "beam_width": 101}, "beam_width: 101, expected a whole number"),
        ("diverse", {"number": 2, "beam_width": 0}, "beam_width: 0"),
        ("diverse", {"number": 2, "length_penalty": np.nan}, "length_penalty: nan"),
        ("diverse", {"number": 2, "length_penalty": -1}, "length_penalty: -1, expected a number"),
        ("sampled", {"number": 10**9, "seed": 0, "top_p": 1.0}, "number: 1000000000"),
        ("sampled", {"number": 2, "seed": 2**63, "top_p": 1.0}, "seed: 9223372036854775808"),
        ("sampled", {"number": 2, "seed": 0.5, "top_p": 1.0}, "seed: 0.5"),
        ("sampled", {"number": 2, "seed": 0, "top_p": 1.1}, "top_p: 1.1, expected a number from"),
        ("sampled", {"number": 2, "seed": 0, "top_p": "1"}, "top_p: '1'"),
    ],
)
def test_options_out_of_bounds_are_refused(captioner, how, options, reason):
    with pytest.raises(CaptionerError, match=re.escape(reason)):
        getattr(captioner, how)([np.zeros((32, 32, 3), np.uint8)], **options)


@pytest.mark.parametrize("width", [0, 101, 2.0, True])
def test_a_beam_width_out_of_bounds_is_refused(saved, width):
    with pytest.raises(CaptionerError, match=f"^beam_width: {width}, expected a number from 1"):
        bundle.load(saved, beam_width=width)


def test_saved_twice_is_equal_to_the_byte(saved, tmp_path):
    assert digest(write(tmp_path / "again")) == digest(saved)
    assert digest(write(tmp_path / "again")) == digest(saved)  # replaces the first
    assert sorted(path.name for path in saved.iterdir()) == [
        "bundle.json",
        "captioner",
        "encoder",
        "joint",
        "vocabulary.json",
    ]


def refused(folder: Path) -> str:
    """The line that a bundle is refused with; it names the folder."""
    with pytest.raises(CaptionerError) as caught:
        bundle.load(folder)
    line = str(caught.value)
    assert str(folder) in line and "\n" not in line and len(line) < 600
    return line


def test_no_bundle(tmp_path):
    assert "no bundle here; make one with `dvc repro`" in refused(tmp_path)
    assert "no bundle here" in refused(tmp_path / "none")


def test_captions_of_split_characters_have_no_blanks(tmp_path):
    words = ("一", "只", "黑", "狗", "在", "跑", "dog", "红")
    vocabulary = Vocabulary((*SPECIALS, *words), tuple(range(12)), split_characters=True)
    encoder, model = parts("grid")
    settings = ("grid", PREPARATION, DECODING)
    joint = joint_model(encoder)
    bundle.save(tmp_path / "zh", encoder, "cnn", [model], joint, vocabulary, *settings)
    captions = bundle.load(tmp_path / "zh").caption([picture(seed) for seed in range(6)])
    english = bundle.Captioner(encoder, [model], joint, VOCABULARY, *settings, 16, "0" * 64)
    translated = dict(zip(WORDS, words, strict=True))
    for chinese, one in zip(captions, english.caption([picture(s) for s in range(6)]), strict=True):
        line = " ".join(translated[word] for word in one.text.split())
        assert chinese.text == re.sub("(?<=[^a-z]) (?=[^a-z])", "", line)
    assert any(len(caption.text) > 1 and " " not in caption.text for caption in captions)


def test_another_format(copy):
    edit(copy / "bundle.json", format=bundle.FORMAT + 1)
    formats = f"bundle of format {bundle.FORMAT + 1}, expected {bundle.FORMAT}; export it again"
    assert formats in refused(copy)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '"text"',
        "null",
        "{}",
        f'{{"format": {bundle.FORMAT}}}',
        "\xff",
        "[" * 9999,
    ],
)
def test_damaged_settings(copy, text):
    (copy / "bundle.json").write_bytes(text.encode("latin-1"))
    assert "damaged bundle" in refused(copy)


GOOD = {
    "attention": "grid",
    "captioners": 1,
    "decoding": vars(DECODING),
    "preparation": vars(PREPARATION),
}


@pytest.mark.parametrize(
    ("section", "key", "value", "reason"),
    [
        ("preparation", "size", "32", "size: '32', expected a number from 28 to 1024"),
        ("preparation", "size", 10**9, "size: 1000000000, expected a number from 28 to 1024"),
        ("preparation", "size", True, "size: True, expected"),
        ("preparation", "size", 64, "its parts do not fit together"),
        ("preparation", "fit", "../../etc/passwd", "fit: '../../etc/passwd', expected squash or"),
        ("preparation", "fit", ["squash"], "fit: ['squash'], expected squash or"),
        ("preparation", "jpeg_quality", 101, "jpeg_quality: 101, expected"),
        ("preparation", "max_pixels", -1, "max_pixels: -1, expected"),
        ("preparation", "max_pixels", 1e3, "max_pixels: 1000.0, expected"),
        ("preparation", "weights", "/tmp", "unexpected keyword argument 'weights'"),
        ("preparation", "fit", ..., "missing 1 required positional argument: 'fit'"),
        ("decoding", "beam_width", 0, "beam_width: 0, expected a number from 1 to 100"),
        ("decoding", "beam_width", 10**400, "beam_width: 1000"),
        ("decoding", "max_length", None, "max_length: None, expected"),
        ("decoding", "length_penalty", float("nan"), "length_penalty: nan, expected"),
        ("decoding", "length_penalty", "x" * 9999, "length_penalty: 'xxx"),
        ("decoding", "no_repeat", 11, "no_repeat: 11, expected a number from 0 to 10"),
        ("decoding", "no_repeat", ..., "missing 1 required positional argument: 'no_repeat'"),
        (None, "captioners", 0, "captioners: 0, expected a number from 1 to 16"),
        (None, "captioners", 10**9, "captioners: 1000000000, expected a number from 1 to 16"),
        (None, "captioners", "../..", "captioners: '../..', expected a number"),
        (None, "captioners", ..., "'captioners'"),
        (None, "attention", "../grid", "attention: '../grid', expected grid or pooled"),
        (None, "attention", {"a": 1}, "attention: {'a': 1}, expected grid or pooled"),
        (None, "attention", "pooled", "its parts do not fit together"),
        (None, "attention", ..., "'attention'"),
        (None, "preparation", [32], "must be a mapping"),
        (None, "decoding", None, "must be a mapping"),
    ],
)
def test_hostile_settings(copy, section, key, value, reason):
    if section is None:
        edit(copy / "bundle.json", **{key: value})
    else:
        values = GOOD[section] | {key: value}
        edit(copy / "bundle.json", **{section: {k: v for k, v in values.items() if v is not ...}})
    line = refused(copy)
    assert "damaged bundle (" in line and reason in line


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("encoder/config.json", {"backbone": "../../encoder"}),
        ("encoder/config.json", {"backbone": ["cnn"]}),
        ("encoder/config.json", {"backbone": ...}),
        ("encoder/config.json", {"backbone": "vgg16"}),
        ("encoder/config.json", {"size": "32"}),
        ("encoder/config.json", {"size": -32}),
        ("encoder/config.json", {"size": 10**9}),
        ("encoder/config.json", {"size": 10**30}),
        ("encoder/config.json", {"size": None}),
        ("captioner/0/config.json", {"vocabulary": 10**12}),
        ("captioner/0/config.json", {"units": 10**6}),
        ("captioner/0/config.json", {"units": 9}),
        ("captioner/0/config.json", {"heads": 3}),
        ("captioner/0/config.json", {"heads": 0}),
        ("captioner/0/config.json", {"word_size": "4"}),
        ("captioner/0/config.json", {"cells": 17}),
        ("captioner/0/config.json", {"cells": ...}),
        ("captioner/0/config.json", {"units": ...}),
        ("captioner/0/config.json", {"path": "/etc"}),
        ("vocabulary.json", {"words": [*SPECIALS, "a"], "counts": [0] * 5}),
        ("vocabulary.json", {"split_characters": "no"}),
        ("vocabulary.json", {"split_characters": ...}),
        ("vocabulary.json", {"words": [*SPECIALS, "\x1b[31m"], "counts": [0] * 5}),
    ],
)
@pytest.mark.filterwarnings("ignore:Skipping nested container")  # the weights of another backbone
def test_parts_that_lie(copy, file, changes):
    edit(copy / file, **changes)
    refused(copy)


FILES = [
    "vocabulary.json",
    "encoder/config.json",
    "encoder/weights.weights.h5",
    "captioner/0/config.json",
    "captioner/0/weights.weights.h5",
    "joint/config.json",
    "joint/weights.weights.h5",
]


@pytest.mark.parametrize("file", FILES)
def test_missing_and_damaged_files(copy, file):
    content = (copy / file).read_bytes()
    (copy / file).unlink()
    assert f"'{file}' is missing" in refused(copy)
    seal(copy)
    refused(copy)
    for damaged in (b"", content[: len(content) // 2], b"x" * 100):
        (copy / file).write_bytes(damaged)
        seal(copy)
        refused(copy)


def flip(file: Path, place: float) -> None:
    """Flip one bit, at a share of the file's length."""
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << 6
    file.write_bytes(content)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.77, 1.0])
def test_a_flipped_bit_in_any_file_is_named(agreed, tmp_path, place):
    copy = Path(shutil.copytree(agreed, tmp_path / "copy"))
    names = [*FILES, "told/places.npy", "told/tokens.npy"]
    assert sorted(json.loads((copy / "bundle.json").read_text())["files"]) == sorted(names)
    for file in names:
        good = (copy / file).read_bytes()
        flip(copy / file, place)
        assert f"'{file}' is not as it was written" in refused(copy)
        (copy / file).write_bytes(good)
    flip(copy / "bundle.json", place)
    refused(copy)


@pytest.mark.parametrize("key", ["decoding", "preparation", "files", "fingerprint", "captioners"])
def test_changed_settings_are_named(saved, copy, key):
    content = json.loads((copy / "bundle.json").read_text())
    text = (copy / "bundle.json").read_text()
    value = content[key]
    changed = {**value, "more": 1} if isinstance(value, dict) else value * 2
    (copy / "bundle.json").write_text(json.dumps(content | {key: changed}))
    assert "bundle.json is not as it was written" in refused(copy)
    (copy / "bundle.json").write_text(text)
    bundle.load(copy)


def test_parts_of_another_bundle_are_noticed(several, saved, tmp_path):
    """They would fit: the same sizes, other weights."""
    copy = Path(shutil.copytree(several, tmp_path / "copy"))
    for source, place in (("captioner/0", "captioner/1"), ("captioner/2", "captioner/0")):
        shutil.copytree(several / source, copy / place, dirs_exist_ok=True)
        assert f"'{place}/weights.weights.h5' is not as it was written" in refused(copy)
        shutil.copytree(several / place, copy / place, dirs_exist_ok=True)
    shutil.copyfile(saved / "bundle.json", copy / "bundle.json")
    assert "is not listed in bundle.json" in refused(copy)


def test_the_list_of_files_is_exact(saved, copy, tmp_path):
    (copy / "encoder" / "more.txt").touch()
    assert "'encoder/more.txt' is not listed in bundle.json; remove it" in refused(copy)
    (copy / "encoder" / "more.txt").unlink()
    os.mkfifo(copy / "joint" / "pipe")
    assert "'joint/pipe' is neither a file nor a folder" in refused(copy)
    (copy / "joint" / "pipe").unlink()
    file = copy / "vocabulary.json"
    for target in ("/dev/zero", copy, tmp_path / "none"):
        file.unlink()
        file.symlink_to(target)
        assert "'vocabulary.json' is neither a file nor a folder" in refused(copy)
    # A link to the file itself is what DVC and model hubs make of a cache.
    file.unlink()
    file.symlink_to(saved / "vocabulary.json")
    bundle.load(copy)
    file.unlink()
    file.symlink_to(saved / "encoder" / "config.json")
    assert "'vocabulary.json' is not as it was written" in refused(copy)
    shutil.rmtree(copy / "joint")
    (copy / "joint").symlink_to(saved / "joint")
    assert "'joint' is neither a file nor a folder" in refused(copy)


@pytest.mark.parametrize(
    "name", ["../saved.json", "/etc/passwd", "", "joint//config.json", "\n\x1b"]
)
def test_odd_names_are_missing(copy, name):
    seal(copy, **{name: "0" * 64})
    assert f"{name!r} is missing" in refused(copy)


@pytest.mark.parametrize("weight", [5e37, -2e9, np.nan, np.inf])
@pytest.mark.parametrize("part", ["encoder", "captioner/0", "joint"])
def test_weights_that_no_network_has(copy, part, weight):
    with h5py.File(copy / part / "weights.weights.h5", "r+") as file:
        found = []
        file.visititems(lambda _, entry: found.append(entry) if hasattr(entry, "dtype") else None)
        next(one for one in found if one.dtype.kind == "f" and one.ndim)[..., -1:] = weight
    seal(copy)
    assert "which no weight is" in refused(copy)


def bomb(file: h5py.File, name: str, shape: tuple, **options) -> None:
    """A data set of other storage in the place of one."""
    del file[name]
    file.create_dataset(name, shape, "f4", **options)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file, name, shape: bomb(file, name, (10**6, 10**6), chunks=(9, 9)), "as Keras"),
        (lambda file, name, shape: bomb(file, name, (10**6, 10**6)), "as Keras"),
        (lambda file, name, shape: bomb(file, name, shape, compression="gzip"), "as Keras"),
        (
            lambda file, name, shape: bomb(file, name, shape, external=[("/etc/passwd", 0, 999)]),
            "as Keras",
        ),
        (lambda file, name, shape: file.__setitem__("more", h5py.SoftLink(name)), "more is a link"),
        (
            lambda file, name, shape: file.__setitem__("more", h5py.ExternalLink("a.h5", "b")),
            "more is a link",
        ),
        (lambda file, name, shape: file.__setitem__("layers/round", file), "round is a link"),
        (lambda file, name, shape: file.__setitem__("more", file[name]), "is a link"),
        (lambda file, name, shape: file.create_dataset("more", data=[1.0]), "values, expected"),
        (lambda file, name, shape: file.create_dataset("more", data=["a"]), "as Keras"),
    ],
)
def test_weights_files_that_lie(copy, spoil, reason):
    with h5py.File(copy / "captioner" / "0" / "weights.weights.h5", "r+") as file:
        name = "keys/vars/0"
        spoil(file, name, file[name].shape)
    seal(copy)
    assert reason in refused(copy)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("captioner/0", {"units": 4096}),
        ("captioner/0", {"word_size": 4096}),
        ("joint", {"size": 4096}),
        ("joint", {"word_size": 4000}),
        ("joint", {"known": 4096}),
        ("joint", {"known": 10**9}),
        ("joint", {"known": "2"}),
        ("joint", {"references": 10**9}),
        ("joint", {"references": 10_000}),
        ("joint", {"references": ...}),
        ("joint", {"more": 1}),
    ],
)
def test_sizes_ask_for_no_memory(copy, monkeypatch, part, changes):
    """What is allowed and does not fit the weights is refused before a model is built."""
    for model in (CaptionModel, JointModel):
        built = model.__init__

        def build(self, config, *rest, built=built):
            assert config.parameters < 20_000
            built(self, config, *rest)

        monkeypatch.setattr(model, "__init__", build)
    edit(copy / part / "config.json", **changes)
    refused(copy)


def header(shape: str) -> bytes:
    """The .npy header of float16 of a shape, as it is written there."""
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("(99999999999, 2)"),
        header("(-1, 2)"),
        header("(12, 2)"),  # and nothing after it
        header("(" * 9000 + ")" * 9000),
        header("(" + "9" * 5000 + ", 2)"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"PK\x03\x04",
        b"",
    ],
)
def test_array_files_that_lie(agreed, tmp_path, content):
    copy = Path(shutil.copytree(agreed, tmp_path / "copy"))
    (copy / "told" / "places.npy").write_bytes(content)
    seal(copy)
    refused(copy)


@pytest.mark.parametrize("file", ["bundle.json", "vocabulary.json", "joint/config.json"])
def test_json_is_bounded(copy, monkeypatch, file):
    monkeypatch.setattr(files, "MOST_JSON", 5000)
    size = (copy / file).stat().st_size
    with (copy / file).open("a") as opened:
        opened.write(" " * (5001 - size))
    if file != "bundle.json":
        seal(copy)
    assert "has more than" in refused(copy)


def test_a_bundle_is_bounded(saved, monkeypatch):
    monkeypatch.setattr(bundle, "MOST_BYTES", 1000)
    assert "at most 1,000 are expected" in refused(saved)


def test_what_others_say_is_bounded(agreed, monkeypatch):
    monkeypatch.setattr(bundle, "MOST_TOKENS", 100)
    assert "its parts do not fit together" in refused(agreed)


def test_a_failing_save_leaves_the_old_bundle(copy):
    before = digest(copy)
    encoder, model = parts("grid")
    with pytest.raises(TypeError):
        joint = joint_model(encoder)
        bundle.save(copy, encoder, "cnn", [model], joint, VOCABULARY, "grid", PREPARATION, None)
    assert digest(copy) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
