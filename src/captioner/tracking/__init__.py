"""The logbook: one MLflow run for one state of the pipeline (Zaharia et al. 2018, MLflow).

`store` finds the store and opens runs in it; the trainer logs every epoch in its run, `live`; at
the end of the pipeline `record` makes that run complete. Importing mlflow takes seconds, so it
happens inside functions, and nowhere else but in `pyfunc.py`, the wrapper that MLflow itself loads.
"""

from captioner.tracking.live import TrainingRun, flatten
from captioner.tracking.record import Tracked, fetch_predictions, fingerprint, run_of_bundle, track
from captioner.tracking.store import connect

__all__ = [
    "Tracked",
    "TrainingRun",
    "connect",
    "fetch_predictions",
    "fingerprint",
    "flatten",
    "run_of_bundle",
    "track",
]
