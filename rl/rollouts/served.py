"""Engines behind HTTP: one or several vLLM servers, which every rank asks for the answers to its own prompts.

Weights travel as a file that the servers can read, or over NCCL. A server that was away is asked again. One
that lost its weights in between gets them anew from the file; only the rank that notices takes part.
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

from safetensors.torch import save_file

from ...envs.http.client import LIMIT, Client, NoReplyError
from ..distributed.processes import distributed_state, on_all_or_none
from ..sampling import Sampling
from .access import KEY, KEY_FILE
from .base import Answer, Request, RolloutError, Weights, fault, sampling_options
from .exchange import held, make_folder, private_file, sweep, unswept, weights_file

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

GENERATE = "/inference/v1/generate"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds
# Requests that are under way at once, for each server.
_AT_ONCE = 64
# Bytes of a token in an answer, with its log-probability.
_TOKEN = 1024


class _AwayError(Exception):
    """A server did not answer, or not as it should; it may be asked again."""


class ServedEngine:
    """Rollout servers of a run.

    Args:
        servers: Addresses of the servers, ``http://host:port``.
        exchange: Folder that trainer and servers share, for weights; None over NCCL.
        patience: Seconds that a server may be away, or answer wrongly.
        timeout: Seconds that one answer may take.
        dtype: Dtype of the servers' arithmetic.
        key: Key of the servers.
        nccl_port: First of the ports over which weights travel, one for each server; None for files.

    Raises:
        RolloutError: a server is not there, or not one of ours; or others may write to the exchange folder.
    """

    def __init__(
        self,
        servers: Sequence[str],
        exchange: Path | None,
        *,
        patience: float,
        timeout: float,
        dtype: str,
        key: str,
        nccl_port: int | None = None,
    ) -> None:
        self.dtype = dtype
        self._servers = tuple(address.rstrip("/") for address in servers)
        self._exchange, self._patience, self._timeout = exchange, patience, timeout
        self._state = distributed_state()
        self._version: str | None = None
        # The file of that version, and what holds it.
        self._file: Path | None = None
        self._holding: int | None = None
        self._exchanging = {address: threading.Lock() for address in self._servers}
        on_all_or_none(self._open_exchange, RolloutError)
        threads = _AT_ONCE * len(self._servers)
        self._clients = {
            address: Client(address, token=key, timeout=timeout, deadline=timeout, connections=threads)
            for address in self._servers
        }
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rollout")
        for address in self._servers:
            self._patiently(partial(self._held, address), f"{address} is there")
        self._nccl: list[Any] = []
        if nccl_port is not None and self._state.is_main_process:
            ports = range(nccl_port, nccl_port + len(self._servers))
            self._nccl = [self._joined(*server, key) for server in zip(self._servers, ports, strict=True)]

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
            # All are asked together: each server reads the file by itself.
            list(self._pool.map(self._confirm, self._servers))
        self._state.wait_for_everyone()

    def _open_exchange(self) -> None:
        if self._exchange is not None and self._state.is_main_process:
            make_folder(self._exchange)
            sweep(self._exchange)

    def _write(self, version: str, weights: Weights) -> None:
        """Write the file in the main process; the others only take part in gathering it."""
        assert self._exchange is not None
        target = weights_file(self._exchange, version)
        whole, holding = {}, None
        for name, tensor in weights():
            if self._state.is_main_process:
                # A copy: a gathered parameter is gone with the next one.
                whole[name] = tensor.detach().to("cpu", copy=True).contiguous()
        if self._state.is_main_process:
            make_folder(self._exchange)
            partial = target.with_suffix(".partial")
            with unswept(self._exchange):
                private_file(partial)
                try:
                    save_file(whole, partial, metadata={"version": version})
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
                holding = held(partial)
                partial.rename(target)
        self._state.wait_for_everyone()
        self._take_away()
        self._file, self._holding = target, holding

    def _take_away(self) -> None:
        """Delete the file of the version that was handed over last, in the process that wrote it."""
        if self._file is not None and self._holding is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._holding)
            self._holding = None

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
            self._ask(address, "POST", "/update_weights", {"update_info": {"version": version}})
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
        return str(self._ask(address, "GET", "/weight_info").get("weight_version"))

    def _joined(self, address: str, port: int, key: str) -> Any:
        """Client of TRL that streams weights over NCCL."""
        from .nccl import Sender

        client = Sender(address, key, port, self._timeout)
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
                limit=LIMIT + request.answers * sampling.max_tokens * _TOKEN,
            )
            answers = _answers_of(found, address)
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
        for client in self._clients.values():
            client.close()
        self._take_away()

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
        self,
        address: str,
        method: Literal["GET", "POST"],
        path: str,
        body: dict[str, Any] | None = None,
        *,
        limit: int = LIMIT,
    ) -> dict[str, Any]:
        """A server's answer.

        Raises:
            RolloutError: the server refuses, which waiting would not change.
        """
        client = self._clients[address]
        try:
            found = client.get(path) if method == "GET" else client.post(body or {}, path, limit=limit)
        except NoReplyError as error:
            raise _AwayError(f"{address} gave no answer ({error})") from error
        if found.status == 401:
            raise RolloutError(
                f"rollout server {address} refuses the key: set {KEY} to what it was started with, or "
                f"let both have the {KEY_FILE} of one run folder"
            )
        if found.status == 404:
            raise RolloutError(
                f"rollout server {address} knows no {path}: it was not started by `recrl serve`, or by "
                "another "
                "version of vLLM"
            )
        said = " ".join(found.beginning(300).split())
        if found.status >= 500 or found.status in (408, 409, 429):
            raise _AwayError(f"{address}{path} failed ({found.status}): {said}")
        if not found.ok:
            raise RolloutError(f"rollout server {address}{path} refuses ({found.status}): {said}")
        try:
            return dict(found.json())
        except (ValueError, TypeError) as error:
            raise _AwayError(f"{address}{path} answered no JSON") from error


def _answers_of(found: dict[str, Any], address: str) -> list[Answer]:
    try:
        return [_answer(choice) for choice in sorted(found["choices"], key=lambda choice: choice["index"])]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _AwayError(f"{address} answered in another form ({type(error).__name__}: {error})") from error


def _answer(choice: dict[str, Any]) -> Answer:
    content = (choice.get("logprobs") or {}).get("content") or ()
    tokens = tuple(choice.get("token_ids") or ())
    if not all(type(token) is int for token in tokens):
        raise ValueError("a token is no number")
    if tuple(entry["token_id"] for entry in content) != tokens:
        raise _AwayError("log-probabilities belong to other tokens")
    return Answer(
        tokens,
        tuple(float("nan") if entry["logprob"] is None else float(entry["logprob"]) for entry in content),
        tuple(span["version"] for span in choice.get("weight_versions") or ()),
    )
