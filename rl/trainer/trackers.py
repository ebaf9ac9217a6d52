"""``train.report_to``: trackers to which transformers sends what every step logs."""

import importlib.util
import os
from collections.abc import Sequence

from ...envs.settings import shown

NONE = "none"

TRACKERS = {
    "azure_ml": ("azureml", "azureml-core"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub mlflow"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "kubeflow": ("", ""),  # a server that the environment names
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
"""Names that transformers knows: the module of each, and the packages to install."""

_KUBEFLOW = "KUBEFLOW_TRAINER_SERVER_URL"


def check_names(names: Sequence[str]) -> None:
    """Refuse trackers that transformers does not know.

    Raises:
        ValueError: an unknown name, or ``none`` beside others.
    """
    for name in names:
        if name not in (*TRACKERS, NONE):
            raise ValueError(f"knows no tracker {shown(name)}; give some of {', '.join(TRACKERS)}, or none")
    if NONE in names and len(names) > 1:
        raise ValueError(f"names {NONE} beside others; leave one of them out")


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers that cannot work here.

    Raises:
        ModuleNotFoundError: the package of one is not installed.
        ValueError: ``kubeflow`` without its server.
    """
    for name in names:
        module, packages = TRACKERS.get(name, ("", ""))
        if name == "kubeflow" and _KUBEFLOW not in os.environ:
            raise ValueError(
                f"train.report_to={name}: {_KUBEFLOW} does not name its server; leave {name} out, or set the "
                "variable"
            )
        if module and importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(
                f"train.report_to={name} needs a package that is not installed: pip install {packages}; or "
                "leave it out"
            )
