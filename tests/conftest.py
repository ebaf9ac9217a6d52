"""Shared fixtures: the real panel, built once a session, and a small catalogue."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import HTTPServer
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # threads of several workers would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A start of vLLM takes half as long when a server computes in the process of its engine, as on one GPU,
# where another would import vLLM once more; and when nothing is compiled, which a few tokens do not pay for.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# And so does any start for which garbage is looked for less often.
if (quicker := str(Path(__file__).parent / "support" / "processes")) not in os.environ.get("PYTHONPATH", ""):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [quicker, os.environ.get("PYTHONPATH")]))

from recrl.envs.catalog import Catalog
from recrl.envs.data.prepared import Data, prepare
from recrl.envs.data.settings import DataConfig
from recrl.envs.tags.ranker import TagRanker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that workers end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection() -> None:
    gc.disable()  # until all tests are imported: it would look through the same modules again and again


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of prepared data, of all workers: one prepares under a lock what the others read."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return tmp_path_factory.getbasetemp().parent / "cache"
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def panel_task(cache: Path) -> Data:
    """The Complete Journey panel, category track."""
    return prepare(DataConfig(cache=cache))


@pytest.fixture(scope="session")
def ranker(panel_task: Data) -> TagRanker:
    """The model of counts of that panel, which takes seconds to fit."""
    return TagRanker(panel_task)


@pytest.fixture
def groceries() -> Catalog:
    return Catalog(
        ("milk", "bread", "cheese", "cheeses", "soft drinks", "7 grain bread"),
        aliases={"SFT DRINKS": "soft drinks"},
        equivalents=[("cheese", "cheeses")],
    )


@pytest.fixture
def serve() -> Iterator[Callable[[HTTPServer], HTTPServer]]:
    """Runs servers, each in a thread, until the test ends."""
    with ExitStack() as ending:

        def start(server: HTTPServer) -> HTTPServer:
            ending.enter_context(server)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            ending.callback(thread.join)
            ending.callback(server.shutdown)
            return server

        yield start
