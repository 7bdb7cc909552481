"""Fixtures that the tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from diffusionad import _core


def pytest_configure() -> None:
    """Tests interrupt programs that they start; a job in the background passes on to them that
    it ignores interrupts, a handler it does not."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _restore_settings() -> Iterator[None]:
    """Tests, and the command line's --threads, may set the number of threads; tests the level."""
    level, threads = _core.simd_level(), _core.get_num_threads()
    yield
    _core.set_simd_level(level)
    _core.set_num_threads(threads)


@pytest.fixture(params=_core.simd_levels())
def every_level(_restore_settings: None, request: pytest.FixtureRequest) -> None:
    """The test runs once at every SIMD level that this processor has."""
    _core.set_simd_level(request.param)
