"""The bundle as an MLflow model, for `mlflow models serve`, batch scoring and model registries.

MLflow runs this file itself ("models from code") when a logged model is loaded; `tracking/` hands
it over by path, and nothing imports it. It turns requests into bytes; the rest is `bundle.py`'s.
"""

import base64
import binascii
import numbers

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from captioner import CaptionerError
from captioner.uploads import check_upload

COLUMNS = ("caption", "log_probability", "alternatives", "embedding")


class CaptionerModel(PythonModel):
    """Captions and vectors of pictures that come in the request; paths are never opened."""

    def load_context(self, context) -> None:
        from captioner import bundle
        from captioner.serving import MicroBatcher

        self.captioner = bundle.load(context.artifacts["bundle"])
        # Requests that a server handles at the same time go through the model together.
        self.batches = MicroBatcher(self._answer, self.captioner.batch_size, queue=10_000)

    def predict(self, context, model_input: pd.DataFrame, params=None) -> pd.DataFrame:
        """Caption each row.

        Args:
            model_input: column `image`: encoded pictures (JPEG, PNG ...), as bytes or in Base64.
            params: `number`: of different captions for each picture, 1 to 20 (1).

        Returns:
            caption and log_probability, the best; alternatives, a list of both for each, best
            first; embedding, the picture's place in the space that it shares with sentences.

        Raises:
            CaptionerError: a row is neither; or no picture; or there is no such number.
        """
        number = (params or {}).get("number", 1)
        if not isinstance(number, numbers.Integral) or not 1 <= number <= 20:
            raise CaptionerError(f"number: {number!r:.60}, expected 1 to 20")
        pixels = []
        for row, value in enumerate(model_input["image"]):
            try:
                data = _decode(value)
                check_upload(data)
                pixels.append(self.captioner.prepare(data))
            except CaptionerError as error:
                raise CaptionerError(f"image, row {row}: {error}") from None
        asked = [self.batches.submit(picture, number) for picture in pixels]
        return pd.DataFrame([future.result() for future in asked], columns=COLUMNS)

    def _answer(self, number: int, pixels: list) -> list[dict]:
        captions, meaning, _ = self.captioner.describe(pixels)
        several = [[caption] for caption in captions]
        if number > 1:
            several = self.captioner.diverse(pixels, number)
        rows = [
            [{"caption": c.text, "log_probability": c.log_probability} for c in captions]
            for captions in several
        ]
        return [
            row[0] | {"alternatives": row, "embedding": vector.tolist()}
            for row, vector in zip(rows, meaning, strict=True)
        ]


def _decode(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            pass
    raise CaptionerError("expected a picture's bytes, as they are or in Base64")


set_model(CaptionerModel())
