"""The bundle as an MLflow model, for `mlflow models serve`, batch scoring and model registries.

MLflow runs this file itself ("models from code") when a logged model is loaded; `tracking/` hands
it over by path, and nothing imports it. It turns requests into bytes; the rest is `bundle.py`'s.
"""

import base64
import binascii

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from captioner import CaptionerError


class CaptionerModel(PythonModel):
    """Captions for pictures that come in the request; paths are never opened."""

    def load_context(self, context) -> None:
        from captioner import bundle

        self.captioner = bundle.load(context.artifacts["bundle"])

    def predict(self, context, model_input: pd.DataFrame, params=None) -> list[str]:
        """Return one caption for each row.

        Args:
            model_input: column `image`: encoded pictures (JPEG, PNG ...), as bytes or in Base64.

        Raises:
            CaptionerError: a row is neither; or no picture.
        """
        pictures = [_decode(value, row) for row, value in enumerate(model_input["image"])]
        return [caption.text for caption in self.captioner.caption(pictures)]


def _decode(value: object, row: int) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            pass
    raise CaptionerError(f"image, row {row}: expected a picture's bytes, as they are or in Base64")


set_model(CaptionerModel())
