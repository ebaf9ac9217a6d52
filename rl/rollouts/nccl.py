"""Weights from the trainer to a rollout server between GPUs: TRL's client, behind this project's own HTTP."""

import importlib
from typing import Any
from urllib.parse import urlsplit

import torch
from trl.generation import vllm_client

from ...envs.http.client import Client, NoReplyError
from .base import RolloutError

# A run imports TRL without vLLM, and this module of it would then be for a vLLM that is not there.
importlib.reload(vllm_client)


class Sender(vllm_client.VLLMClient):
    """Streams weights over NCCL to one server that is there.

    TRL would ask for more than a server of ours answers, and without its key: only the way that tensors
    travel is TRL's.

    Args:
        address: Address of the server.
        key: Key of the server.
        port: Port over which the weights travel.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, address: str, key: str, port: int, timeout: float) -> None:
        self.base_url, self.host, self.group_port = address, urlsplit(address).hostname, port
        self.communicator: Any = None
        self._updating_weights = False
        self._client = Client(address, token=key, timeout=timeout, deadline=timeout)

    def get_server_info(self) -> dict[str, Any]:
        """Facts that TRL looks at before it begins: the server takes weights, as one of ours does."""
        return {"weight_transfer_config": {"backend": "nccl"}}

    def init_communicator(self, device: torch.device | str | int = 0) -> None:
        """Join the server's workers.

        Raises:
            RolloutError: there is no GPU.
        """
        if torch.device(device).type != "cuda":
            raise RolloutError(
                f"rollout.transfer=nccl needs a GPU, the training is on {device}; set rollout.transfer=files"
            )
        super().init_communicator(device)

    def _get(self, url: str, **_: Any) -> Any:
        return self._asked("GET", url, None)

    def _post(self, url: str, json: Any = None, **_: Any) -> Any:
        return self._asked("POST", url, json)

    def _asked(self, method: str, url: str, content: Any) -> Any:
        path = url.removeprefix(self.base_url)
        try:
            found = self._client.get(path) if method == "GET" else self._client.post(content or {}, path)
            if not found.ok:
                raise RolloutError(f"rollout server {url} refuses ({found.status}): {found.beginning(300)!r}")
            return found.json()
        except (NoReplyError, ValueError) as error:
            raise RolloutError(f"rollout server {url} does not take the weights: {error}") from error
