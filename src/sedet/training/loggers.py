"""The rows of metrics.csv to TensorBoard, Weights & Biases or MLflow as well, where asked for (``--loggers``).

Nothing leaves the machine unless the environment says so: Weights & Biases runs offline (``wandb sync`` sends it later)
unless WANDB_MODE says otherwise, MLflow writes into the run folder unless MLFLOW_TRACKING_URI names a server.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sedet.errors import ConfigError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
"""What brings each logger; the module has the logger's name. Of MLflow the client does, without its server."""


class Logger(Protocol):
    """Takes the rows of a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Losses and scores at an update."""

    def close(self) -> None:
        """Everything is written."""


def check_loggers(names: Sequence[str]) -> None:
    """Before anything is written.

    Raises:
        ConfigError: a logger's package is not installed.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"--loggers {name}: its package is missing. pip install {PACKAGES[name]}") from error


def open_loggers(names: Sequence[str], out: Path, settings: Mapping[str, Any], first: int = 0) -> list[Logger]:
    """The loggers of a run.

    Args:
        settings: the run's, with dotted names.
        first: the update a resumed run goes on from.
    """
    kinds: dict[str, Callable[[Path, Mapping[str, Any], int], Logger]] = {
        "tensorboard": TensorBoard,
        "wandb": WandB,
        "mlflow": MLflow,
    }
    return [kinds[name](out, settings, first) for name in dict.fromkeys(names)]


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """What can be drawn: no nan (a class without objects has no AP)."""
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}


class TensorBoard:
    """Event files in RUN/tensorboard."""

    def __init__(self, out: Path, settings: Mapping[str, Any], first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what an interrupted run wrote after its checkpoint is trained, and told, again
        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=first + 1 if first else None)
        self.writer.add_text("settings", "\n".join(f"    {k}: {v}" for k, v in settings.items()), first)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in finite(values).items():
            group, _, rest = key.partition("_")
            self.writer.add_scalar(f"{group}/{rest}", value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of the project ``sedet`` in RUN/wandb."""

    def __init__(self, out: Path, settings: Mapping[str, Any], first: int) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "sedet"),
            name=out.name,
            dir=str(out),
            mode=mode,
            config=dict(settings),
            settings=wandb.Settings(silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(finite(values), step=step)

    def close(self) -> None:
        self.run.finish()


class MLflow:
    """A run of the experiment ``sedet``, in RUN/mlflow or at MLFLOW_TRACKING_URI."""

    def __init__(self, out: Path, settings: Mapping[str, Any], first: int) -> None:
        from mlflow.tracking import MlflowClient

        place = os.environ.get("MLFLOW_TRACKING_URI")
        if place is None:
            # MLflow asks this of whoever writes to a folder and not to a server
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = MlflowClient(tracking_uri=place or (out / "mlflow").resolve().as_uri())
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "sedet")
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known is not None else self.client.create_experiment(name)
        self.run = self.client.create_run(experiment, run_name=out.name).info.run_id
        for key, value in settings.items():
            self.client.log_param(self.run, key, str(value)[:500])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in finite(values).items():
            self.client.log_metric(self.run, key, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.run)
