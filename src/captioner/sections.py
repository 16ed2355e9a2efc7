"""What params.yaml may hold: each section, and each source of a data set, as a pydantic model."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]

Backbone = Literal[
    "cnn",
    "course_cnn",
    "mobilenet_v2",
    "resnet50",
    "inception_v3",
    "efficientnet_v2_b0",
    "vgg16",
    "convnext_tiny",
]
# Below these sides a backbone's last feature map is empty (Keras refuses to build it).
SMALLEST_SIZE = {"course_cnn": 28, "inception_v3": 75}
# Above this one the flat layer of the course's network would have a million weights a class.
LARGEST_SIZE = {"course_cnn": 64}


class Section(BaseModel):
    """Strict: no unknown keys, no silent conversion ("3" is no number, true is no count).

    No key may be called `size` or `nfiles`: DVC leaves those out of its run cache's key, wherever
    they stand, and would restore the outputs of another value (dvc/stage/cache.py).
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ScenesSource(Section):
    source: Literal["scenes"]
    train: Count
    val: Count
    test: Count
    side: Annotated[int, Field(ge=32, le=512)]

    label: ClassVar[None] = None


class MnistSource(Section):
    source: Literal["mnist"]
    val: Count

    label: ClassVar[str] = "digit"


class FlickrSource(Section):
    source: Literal["flickr8k"]

    label: ClassVar[None] = None


class Flickr30kSource(Section):
    source: Literal["flickr30k"]
    captions: Literal["karpathy", "tokens"]

    label: ClassVar[None] = None


class CocoSource(Section):
    source: Literal["coco"]

    label: ClassVar[None] = None


class TableSource(Section):
    source: Literal["table"]
    captions: Text
    pictures: Text
    picture_column: Text
    caption_column: Text
    split_column: Text | None
    group_column: Text | None
    label: Text | None
    val: Share
    test: Share


Source = ScenesSource | MnistSource | FlickrSource | Flickr30kSource | CocoSource | TableSource
# `label` is the fact about a picture that a classifier can learn; None where there is no such.
SOURCES = {
    "scenes": ScenesSource,
    "mnist": MnistSource,
    "flickr8k": FlickrSource,
    "flickr30k": Flickr30kSource,
    "coco": CocoSource,
    "table": TableSource,
}


class Preprocess(Section):
    side: Annotated[int, Field(ge=28, le=1024)]
    fit: Literal["squash", "crop", "pad"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    max_pixels: Count
    max_rejected: Share
    allow_leaks: bool


class Encoder(Section):
    backbone: Backbone
    labels: Count
    epochs: Natural
    batch_size: Count
    learning_rate: Rate


class Features(Section):
    batch_size: Count
    mirrored: bool


class Tokenize(Section):
    min_count: Count
    max_length: Annotated[int, Field(ge=1, le=100)]
    split_characters: bool


class Glove(Section):
    source: Literal["file", "train", "none"]
    dimensions: Literal[50, 100, 200, 300]
    window: Count
    epochs: Count


class Train(Section):
    attention: Literal["grid", "pooled"]
    units: Annotated[int, Field(ge=1, le=4096)]
    heads: Annotated[int, Field(ge=1, le=64)]
    dropout: Share
    label_smoothing: Share
    pictures_per_batch: Count
    learning_rate: Rate
    schedule: Literal["cosine", "plateau"]
    clip_norm: Annotated[float, Field(gt=0)]
    epochs: Count
    patience: Count
    ema: Share
    self_critical_epochs: Natural
    self_critical_rate: Rate
    self_critical_samples: Annotated[int, Field(ge=2, le=100)]
    members: Annotated[list[Natural], Field(min_length=1, max_length=16)]


class Joint(Section):
    width: Annotated[int, Field(ge=4, le=4096, multiple_of=4)]
    dropout: Share
    pictures_per_batch: Annotated[int, Field(ge=2)]
    learning_rate: Rate
    epochs: Count


class Evaluate(Section):
    beam_width: Annotated[int, Field(ge=1, le=100)]
    length_penalty: Annotated[float, Field(ge=0, le=5)]
    no_repeat: Annotated[int, Field(ge=0, le=10)]
    word_evidence: Annotated[float, Field(ge=0, le=5)]
    consensus: Annotated[float, Field(ge=0, le=100)]
    max_length: Annotated[int, Field(ge=1, le=100)]
    batch_size: Count
    gallery: Annotated[int, Field(ge=1, le=100)]
    samples: Annotated[int, Field(ge=100, le=100000)]
    java_metrics: Literal[False, True, "meteor", "spice"]

    @property
    def java_measures(self) -> tuple[str, ...]:
        """The measures that `java_metrics` asks for."""
        return {False: (), True: ("meteor", "spice")}.get(self.java_metrics, (self.java_metrics,))


class Export(Section):
    sprite_size: Annotated[int, Field(ge=8, le=256)]


SECTIONS: dict[str, type[Section]] = {
    "preprocess": Preprocess,
    "encoder": Encoder,
    "features": Features,
    "tokenize": Tokenize,
    "glove": Glove,
    "train": Train,
    "joint": Joint,
    "evaluate": Evaluate,
    "export": Export,
}


class Params(Section):
    """All params with `auto` resolved for the chosen data set."""

    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    download: Annotated[Source, Field(discriminator="source")]
    preprocess: Preprocess
    encoder: Encoder
    features: Features
    tokenize: Tokenize
    glove: Glove
    train: Train
    joint: Joint
    evaluate: Evaluate
    export: Export
