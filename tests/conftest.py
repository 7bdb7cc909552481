"""Fixtures shared by the tests of the C core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diffusionad import _core


@pytest.fixture(params=_core.simd_levels())
def every_level(request: pytest.FixtureRequest) -> Iterator[None]:
    """The test runs once at every SIMD level that this processor has."""
    level, threads = _core.simd_level(), _core.get_num_threads()
    _core.set_simd_level(request.param)
    yield
    _core.set_simd_level(level)
    _core.set_num_threads(threads)
