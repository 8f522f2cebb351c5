"""The `backend` fixture: every test that takes it runs on every array library and execution mode.

By default all of NumPy, PyTorch, TensorFlow and JAX are asked for, and an absent one fails; the GPU
backends are skipped by name where there is no GPU. `--backends numpy,torch,cupy` asks for those,
and fails where one is absent.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

from qemu_swalp.training import restart_seeds
from tests.helpers.backends import BACKENDS, NEED_GPU, Backend, backend as make_backend, gpu_missing
from tests.helpers.registries import left_as_found

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # what JAX compiles is kept for the workers and subprocesses, which inherit the environment;
    # set here, since JAX reads it when a conftest below imports it
    COMPILED = tempfile.TemporaryDirectory(prefix="jax-compiled-")
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": COMPILED.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

STARTED = pytest.StashKey[float]()
"""When the tests began, on the clock `time.monotonic`."""

settings.register_profile("default", max_examples=200, deadline=None)
settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-vector",
        action="store_true",
        help="compiled backends too run every conformance vector",
    )
    parser.addoption(
        "--backends", default="", help=f"comma-separated, of {', '.join(BACKENDS)} (default: all)"
    )
    parser.addoption(
        "--seconds",
        type=float,
        default=math.inf,
        help="start no further test after so long; those left out are skipped (`tests --fast`)",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[STARTED] = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--seconds")
    if time.monotonic() - item.config.stash[STARTED] > limit:
        pytest.skip(f"left out: the {limit:g} seconds of --seconds are over")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        asked = [name for name in metafunc.config.getoption("--backends").split(",") if name]
        unknown = set(asked) - set(BACKENDS)
        if unknown:
            raise pytest.UsageError(
                f"--backends knows {', '.join(BACKENDS)}; got {', '.join(sorted(unknown))}"
            )
        metafunc.parametrize("backend", asked or list(BACKENDS), indirect=True, scope="session")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    name = request.param
    if (
        name in NEED_GPU
        and not request.config.getoption("--backends")
        and (reason := gpu_missing(name))
    ):
        pytest.skip(reason)
    made = make_backend(name)
    made.every_vector = request.config.getoption("--every-vector")
    return made


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    """Neither default seeds nor what is registered depends on the tests that ran before."""
    restart_seeds()
    with left_as_found():
        yield
