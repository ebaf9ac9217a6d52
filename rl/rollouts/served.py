"""Engines behind HTTP: one or several vLLM servers, which every rank asks for the answers to its own prompts.

Weights travel as a file that the servers can read, or over NCCL. A server that was away is asked again, and
one that lost its weights in between gets them anew from the file: no rank but the one that notices has a part
in it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count, repeat
from pathlib import Path
from typing import Any, Literal, TypeVar

from requests import RequestException, Session
from requests.adapters import HTTPAdapter
from safetensors.torch import save_file

from ..branches import Sampling
from ..processes import distributed_state
from .access import KEY
from .base import Answer, Request, RolloutError, Weights, fault, sampling_options

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

GENERATE = "/inference/v1/generate"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds
# Requests that are under way at once, for each server.
_AT_ONCE = 64


class _AwayError(Exception):
    """A server did not answer, or not as it should; it may be asked again."""


class ServedEngine:
    """Rollout servers of a run.

    Args:
        servers: Their addresses, ``http://host:port``.
        exchange: Folder that trainer and servers share, for weights; None over NCCL.
        patience: Seconds that a server may be away, or answer wrongly.
        timeout: Seconds that one answer may take.
        dtype: Of the servers' arithmetic.
        nccl_port: First of the ports over which weights travel, one for each server; None for files.

    Raises:
        RolloutError: a server is not there, or not one of ours.
    """

    def __init__(
        self,
        servers: Sequence[str],
        exchange: Path | None,
        *,
        patience: float,
        timeout: float,
        dtype: str,
        nccl_port: int | None = None,
    ) -> None:
        self.dtype = dtype
        self._servers = tuple(address.rstrip("/") for address in servers)
        self._exchange, self._patience, self._timeout = exchange, patience, timeout
        self._state = distributed_state()
        self._version: str | None = None
        self._file: Path | None = None
        self._exchanging = {address: threading.Lock() for address in self._servers}
        self._session = Session()
        self._session.mount("http://", HTTPAdapter(pool_maxsize=_AT_ONCE * len(self._servers)))
        if key := os.environ.get(KEY):
            self._session.headers["Authorization"] = f"Bearer {key}"
        self._pool = ThreadPoolExecutor(_AT_ONCE * len(self._servers), thread_name_prefix="rollout")
        for address in self._servers:
            self._patiently(partial(self._held, address), f"{address} is there")
        self._nccl: list[Any] = []
        if nccl_port is not None and self._state.is_main_process:
            self._nccl = [self._joined(address, nccl_port + i) for i, address in enumerate(self._servers)]

    # Weights

    def update(self, version: str, weights: Weights) -> None:
        if self._exchange is not None:
            self._write(version, weights)
        elif self._state.is_main_process:
            self._broadcast(version, weights)
        else:
            for _ in self._servers:
                for _ in weights():
                    pass
        self._version = version
        if self._state.is_main_process:
            # Together: each server reads the file by itself.
            list(self._pool.map(self._confirm, self._servers))
        self._state.wait_for_everyone()

    def _write(self, version: str, weights: Weights) -> None:
        """The main process writes the file; the others only take part in gathering it."""
        assert self._exchange is not None
        target = self._exchange / f"weights-{version}.safetensors"
        whole = {}
        for name, tensor in weights():
            if self._state.is_main_process:
                # A copy: a gathered parameter is gone with the next one.
                whole[name] = tensor.detach().to("cpu", copy=True).contiguous()
        if self._state.is_main_process:
            self._exchange.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            save_file(whole, partial, metadata={"version": version})
            partial.rename(target)
        self._state.wait_for_everyone()
        if self._file is not None and self._state.is_main_process:
            self._file.unlink(missing_ok=True)
        self._file = target

    def _confirm(self, address: str) -> None:
        """Return once a server holds the current version."""
        self._patiently(lambda: self._bring(address), f"{address} holds weights {self._version!r}")

    def _bring(self, address: str) -> None:
        """Hand the current version to a server that holds another."""
        version = self._version
        with self._exchanging[address]:
            if version is not None and self._held(address) != version:
                self._exchange_weights(address, version)

    def _exchange_weights(self, address: str, version: str) -> None:
        if self._file is None:
            raise RolloutError(
                f"rollout server {address} was restarted and holds other weights; over NCCL it cannot "
                "join again. "
                "Resume the run, or set rollout.transfer=files, which survives this"
            )
        # Answers that nobody waits for any more must not see the weights change.
        self._ask(address, "POST", "/pause?mode=abort")
        try:
            self._ask(address, "POST", "/start_weight_update")
            self._ask(address, "POST", "/update_weights", {"update_info": {"path": str(self._file)}})
            self._ask(address, "POST", "/finish_weight_update", {"weight_version": version})
            if not self._ask(address, "POST", "/reset_prefix_cache").get("success"):
                raise _AwayError(f"{address} did not empty its prefix cache")
        finally:
            self._ask(address, "POST", "/resume")
        held = self._held(address)
        if held != version:
            raise _AwayError(f"{address} holds weights {held!r}, not {version!r}")

    def _held(self, address: str) -> str:
        """Version of a server's weights."""
        return str(self._ask(address, "GET", "/weight_info")["weight_version"])

    def _joined(self, address: str, port: int) -> Any:
        """TRL's client, which streams weights over NCCL."""
        from trl.generation.vllm_client import VLLMClient

        client = VLLMClient(base_url=address, group_port=port, connection_timeout=self._patience)
        client.session.headers.update(self._session.headers)
        client.init_communicator(device=self._state.device)
        return client

    def _broadcast(self, version: str, weights: Weights) -> None:
        for address, client in zip(self._servers, self._nccl, strict=True):
            about = [(name, str(x.dtype).removeprefix("torch."), list(x.shape)) for name, x in weights()]
            client.update_named_params(about, weights())
            client.reset_prefix_cache()
            self._ask(address, "POST", "/update_weight_version", {"new_version": version})

    # Answers

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[list[Answer]]:
        first = self._state.process_index  # ranks start at different servers
        return self._pool.map(self._answers, count(first), requests, repeat(sampling))

    def _answers(self, number: int, request: Request, sampling: Sampling) -> list[Answer]:
        tries = count(number)

        def attempt() -> list[Answer]:
            address = self._servers[next(tries) % len(self._servers)]
            self._bring(address)
            found = self._ask(
                address,
                "POST",
                GENERATE,
                {"token_ids": list(request.prompt), "sampling_params": sampling_options(sampling, request)},
            )
            answers = [
                _answer(choice) for choice in sorted(found["choices"], key=lambda choice: choice["index"])
            ]
            if len(answers) != request.answers:
                raise _AwayError(f"{address} gave {len(answers)} of {request.answers} answers")
            for answer in answers:
                if why := fault(answer, sampling):
                    raise _AwayError(f"{address}: {why}")
                if self._version is not None and answer.versions != (self._version,):
                    raise _AwayError(
                        f"{address} answered with weights {answer.versions}, not {self._version!r}"
                    )
            return answers

        return self._patiently(attempt, f"a prompt of {len(request.prompt)} tokens is answered")

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._session.close()
        if self._file is not None and self._state.is_main_process:
            self._file.unlink(missing_ok=True)

    # Asking

    def _patiently(self, attempt: Callable[[], _T], aim: str) -> _T:
        """The first result of ``attempt`` that is no failure, within the patience."""
        until, pause = time.monotonic() + self._patience, _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except _AwayError as error:
                if time.monotonic() + pause > until:
                    raise RolloutError(
                        f"gave up waiting until {aim}, after {self._patience:g} s (rollout.patience): "
                        f"{error}. Start "
                        "the server with `recrl serve`, and go on with --resume"
                    ) from error
                logger.warning("rollouts: %s; asking again in %.1f s", error, pause)
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _ask(
        self, address: str, method: Literal["GET", "POST"], path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A server's answer.

        Raises:
            RolloutError: it refuses, which waiting would not change.
        """
        try:
            found = self._session.request(method, address + path, json=body, timeout=(5.0, self._timeout))
        except RequestException as error:
            raise _AwayError(f"{address} is not there ({type(error).__name__})") from error
        if found.status_code == 401:
            raise RolloutError(
                f"rollout server {address} refuses the key: set {KEY} to what it was started with"
            )
        if found.status_code == 404:
            raise RolloutError(
                f"rollout server {address} knows no {path}: it was not started by `recrl serve`, or by "
                "another "
                "version of vLLM"
            )
        if found.status_code >= 500 or found.status_code in (408, 409, 429):
            raise _AwayError(f"{address}{path} failed ({found.status_code}): {found.text[:300]}")
        if not found.ok:
            raise RolloutError(
                f"rollout server {address}{path} refuses ({found.status_code}): {found.text[:300]}"
            )
        try:
            return dict(found.json())
        except ValueError as error:
            raise _AwayError(f"{address}{path} answered no JSON") from error


def _answer(choice: dict[str, Any]) -> Answer:
    content = (choice.get("logprobs") or {}).get("content") or ()
    tokens = tuple(choice.get("token_ids") or ())
    if tuple(entry["token_id"] for entry in content) != tokens:
        raise _AwayError("log-probabilities belong to other tokens")
    return Answer(
        tokens,
        tuple(float("nan") if entry["logprob"] is None else entry["logprob"] for entry in content),
        tuple(span["version"] for span in choice.get("weight_versions") or ()),
    )
