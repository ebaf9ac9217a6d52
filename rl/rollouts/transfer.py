"""Weight transfer engine inside vLLM's workers, by which an engine takes over weights of the policy.

vLLM finds it by the entry point ``recrl`` of the group ``vllm.general_plugins`` (:func:`register`), in every
process of its own. It serves an engine in the trainer's process, which hands tensors over, and a server,
which reads a file of its exchange folder.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from .exchange import exchanged_file

BACKEND = "recrl"
"""Name of the transfer, for ``--weight-transfer-config``."""


@dataclass
class Start(WeightTransferInitInfo):
    """Start of a transfer, for which nothing has to be agreed upon."""


@dataclass
class Update(WeightTransferUpdateInfo):
    """A part of the weights, or all of them.

    Attributes:
        tensors: Names and tensors, in the trainer's own process.
        version: Version of a safetensors file in the exchange folder, which every worker can read.
    """

    tensors: Any = None
    version: str | None = None


class WeightTransfer(WeightTransferEngine[Start, Update]):
    """Loads weights under the names of a checkpoint, as vLLM loaded the first ones."""

    init_info_cls = Start
    update_info_cls = Update

    def init_transfer_engine(self, init_info: Start) -> None:
        pass

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: Update) -> None:
        model: Any = self.model
        if update_info.version is not None:
            model.load_weights(_of_file(exchanged_file(update_info.version)))
            return
        tensors = update_info.tensors
        # Over HTTP only a version can come.
        if not isinstance(tensors, list) or not all(isinstance(tensor, Tensor) for _, tensor in tensors):
            raise ValueError("an update names the version of its weights")
        model.load_weights(tensors)

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            # Linear layers multiply with packed copies of their weights. A head that is tied to the
            # embeddings is not reloaded itself, and would keep its old copy.
            layer: Any
            for layer in self.model.modules():
                if hasattr(layer, "cpu_linear") and layer.weight.numel():
                    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)

    def shutdown(self) -> None:
        pass


def _of_file(path: Path) -> Iterable[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            yield name, file.get_tensor(name)


def register() -> None:
    """Make the transfer known to vLLM; called by vLLM in every process."""
    with suppress(ValueError):  # it is already
        WeightTransferEngineFactory.register_engine(BACKEND, __name__, WeightTransfer.__name__)
