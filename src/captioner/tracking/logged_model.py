"""The model in MLflow: the bundle with the code that serves it, registered as `captioner`.

A run keeps one logged model for each state of the served code. The tag `captioner.code` of a model
and of its run holds that code's digest; of the run it is set last, so that a killed `track` is
repeated.
"""

import hashlib
import io
import json
import tempfile
import warnings
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.tracking.served import ENTRY, code_digest, copy_served
from captioner.tracking.store import PACKAGES

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature

MODEL = "captioner"  # a run's model is runs:/RUN_ID/captioner
CODE = "captioner.code"  # tag with the digest of the served code


def log_model(client: "MlflowClient", run: "Run", bundle: Path) -> bool:
    """Make sure that the run's newest registered model serves the bundle with the present code.

    What a killed call has left is used where it is whole, and deleted where it is not.

    Returns:
        Whether anything was missing.
    """
    run_id, code = run.info.run_id, _digest()
    if run.data.tags.get(CODE) == code:
        return False
    model_id = None
    for model in models_of(client, run):
        if model.tags.get(CODE) == code:
            if model.status == "READY" and model_id is None:
                model_id = model.model_id
            else:
                client.delete_logged_model(model.model_id)
    model_id = model_id or _log(run_id, bundle, code)
    _register(client, run_id, model_id, code)
    client.set_tag(run_id, CODE, code)
    return True


def models_of(client: "MlflowClient", run: "Run") -> list["LoggedModel"]:
    """All models logged in a run, the newest first, also those that were not finished."""
    models, token = [], None
    while True:
        page = client.search_logged_models([run.info.experiment_id], page_token=token)
        models += [model for model in page if model.source_run_id == run.info.run_id]
        token = page.token
        if not token:
            return models


def delete(client: "MlflowClient", run: "Run") -> None:
    """Delete a run and the models logged in it, and where they were registered."""
    for version in client.search_model_versions(f"run_id = '{run.info.run_id}'"):
        client.delete_model_version(version.name, version.version)
    for model in models_of(client, run):
        client.delete_logged_model(model.model_id)
    client.delete_run(run.info.run_id)


def _digest() -> str:
    """One sha256 of the served code and of what a request and its answer look like."""
    signature = json.dumps(_signature().to_dict(), sort_keys=True)
    return hashlib.sha256((code_digest() + signature).encode()).hexdigest()


def _register(client: "MlflowClient", run_id: str, model_id: str, code: str) -> None:
    """A new version of the registered model, unless the run's newest one is this already."""
    from mlflow import MlflowException

    source = f"models:/{model_id}"
    versions = client.search_model_versions(f"name = '{MODEL}'")
    versions = [version for version in versions if version.run_id == run_id]
    if versions and max(versions, key=lambda v: int(v.version)).source == source:
        return
    with suppress(MlflowException):  # it is there already
        client.create_registered_model(MODEL)
    client.create_model_version(MODEL, source, run_id, tags={CODE: code}, model_id=model_id)


def _log(run_id: str, bundle: Path, code: str) -> str:
    """Log the bundle as a pyfunc model with the code that it runs, without pickle; its id."""
    import mlflow.pyfunc
    from mlflow.models import Model

    class Unserved(Model):
        """Not served once as it is logged, which would load TensorFlow each time: a test does."""

        def get_serving_input(self, path: str) -> None:
            return None

    with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="captioner-") as folder:
        warnings.filterwarnings("ignore", message=".*input example")
        package = copy_served(Path(folder))
        logged = Unserved.log(
            artifact_path=None,
            name=MODEL,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            python_model=str(package / ENTRY),
            artifacts={"bundle": bundle.as_uri()},
            code_paths=[str(package)],
            signature=_signature(),
            input_example=(_example(), {"number": 3}),
            tags={CODE: code},
            # Named here, else MLflow loads the model in a new process to see what it imports.
            pip_requirements=[
                f"{name}=={metadata.version(name)}" for name in ("mlflow", *PACKAGES)
            ],
        )
    return logged.model_id


def _signature() -> "ModelSignature":
    """What `pyfunc.py` takes and gives."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, DataType, Object, Property

    alternative = [Property("caption", DataType.string), Property("log_probability", "double")]
    outputs = [
        ColSpec(DataType.string, "caption"),
        ColSpec(DataType.double, "log_probability"),
        ColSpec(Array(Object(alternative)), "alternatives"),
        ColSpec(Array(DataType.double), "embedding"),
    ]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("number", DataType.long, 1)]),
    )


def _example() -> "pd.DataFrame":
    """A picture of a red circle, as a request holds it."""
    import pandas as pd
    from PIL import Image, ImageDraw

    picture, stream = Image.new("RGB", (96, 96), "white"), io.BytesIO()
    ImageDraw.Draw(picture).ellipse((20, 24, 68, 72), "red")
    picture.save(stream, "PNG")
    return pd.DataFrame({"image": [stream.getvalue()]})
