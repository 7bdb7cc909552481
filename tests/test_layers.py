"""Attention, linear layers and activations against their float64 twins."""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_close, assert_same_for_any_thread_count, draw

from diffusionad import _core
from diffusionad.reference import layers as reference

pytestmark = pytest.mark.usefixtures("every_level")

# N, heads, D, H, W: one position; odd channel counts, one to five panels; positions around the
# pair of panels of queries, 32, and the 256 keys that are summed at once.
ATTENTION_SHAPES = [
    (1, 1, 8, 1, 1),
    (2, 4, 8, 3, 5),
    (1, 3, 5, 8, 16),
    (2, 1, 17, 13, 5),
    (1, 2, 64, 11, 12),
    (1, 2, 16, 4, 8),
    (1, 1, 33, 3, 11),
    (1, 1, 65, 19, 27),
    (3, 1, 1, 16, 16),
]
COUNTS = [1, 3, 4, 15, 16, 17, 63, 16385]


@pytest.mark.parametrize(("n", "heads", "d", "h", "w"), ATTENTION_SHAPES)
def test_attention(n: int, heads: int, d: int, h: int, w: int) -> None:
    qkv, dy = draw(n, heads * 3 * d, h, w), draw(n, heads * d, h, w, seed=1)
    assert_close(_core.attention(qkv, heads), reference.attention(qkv, heads))
    assert_close(
        _core.attention_backward(dy, qkv, heads), reference.attention_backward(dy, qkv, heads)
    )


def test_attention_survives_large_scores() -> None:
    qkv = 30.0 * draw(1, 24, 4, 5)
    assert_close(_core.attention(qkv, 1), reference.attention(qkv, 1), 1e-4)


def test_attention_keeps_its_promises() -> None:
    qkv, dy = draw(3, 48, 9, 10), draw(3, 16, 9, 10)
    assert_same_for_any_thread_count(_core.attention, qkv, 2)
    assert_same_for_any_thread_count(_core.attention_backward, dy, qkv, 2)
    alone = [_core.attention(qkv[i : i + 1], 2) for i in range(3)]
    np.testing.assert_array_equal(_core.attention(qkv, 2), np.concatenate(alone))
    huge = (2**64 + 2) // 3  # times 3 it is 2 again
    for heads in (huge, 2**63 - 1):
        with pytest.raises(ValueError, match=r"multiple of 3 \* heads"):
            _core.attention(draw(1, 12, 2, 2), heads)
    with pytest.raises(ValueError, match=r"multiple of 3 \* heads, got heads = 5"):
        _core.attention(qkv, 5)
    with pytest.raises(ValueError, match="heads"):
        _core.attention(qkv, 0)
    with pytest.raises(ValueError, match="dy: expected shape"):
        _core.attention_backward(dy[:, :8], qkv, 2)


@pytest.mark.parametrize(
    ("n", "c", "o"), [(1, 1, 1), (2, 3, 65), (5, 33, 70), (16, 130, 64), (3, 100, 2)]
)
def test_linear(n: int, c: int, o: int) -> None:
    x, w, b, dy = draw(n, c), draw(o, c, seed=1), draw(o, seed=2), draw(n, o, seed=3)
    assert_close(_core.linear(x, w, b), reference.linear(x, w, b))
    assert_close(_core.linear(x, w), reference.linear(x, w))
    assert_close(_core.linear_backward(dy, x, w), reference.linear_backward(dy, x, w))


def test_linear_keeps_its_promises() -> None:
    x, w, b = draw(7, 129), draw(150, 129, seed=1), draw(150)
    assert_same_for_any_thread_count(_core.linear, x, w, b)
    assert_same_for_any_thread_count(_core.linear_backward, draw(7, 150), x, w)
    alone = [_core.linear(x[i : i + 1], w, b) for i in range(7)]
    np.testing.assert_array_equal(_core.linear(x, w, b), np.concatenate(alone))
    np.testing.assert_array_equal(_core.linear(x, w.T.copy().T, b), _core.linear(x, w, b))
    with pytest.raises(ValueError, match="weight: expected shape"):
        _core.linear(x, w[:, 1:])
    with pytest.raises(ValueError, match="bias: expected shape"):
        _core.linear(x, w, b[1:])


@pytest.mark.parametrize("dim", [2, 32, 130])
def test_time_embedding(dim: int) -> None:
    t = np.array([0.0, 1.0, 199.0, 999.0], np.float32)
    assert_close(_core.time_embedding(t, dim), reference.time_embedding(t, dim), 1e-7)


@pytest.mark.parametrize("dim", [0, 3, -2])
def test_time_embedding_refuses(dim: int) -> None:
    with pytest.raises(ValueError, match="dim: expected an even number"):
        _core.time_embedding(np.zeros(1, np.float32), dim)


@pytest.mark.parametrize("count", COUNTS)
def test_activations(count: int) -> None:
    x, dy = 4.0 * draw(count), draw(count, seed=1)
    for name in ("silu", "relu", "sigmoid"):
        y = getattr(_core, name)(x)
        assert_close(y, getattr(reference, name)(x))
        at = x if name == "silu" else y
        backward = f"{name}_backward"
        assert_close(getattr(_core, backward)(dy, at), getattr(reference, backward)(dy, at))
    np.testing.assert_array_equal(_core.add(x, dy), x + dy)


def test_activations_at_the_ends() -> None:
    x = np.array([-200.0, -100.0, -20.0, 0.0, 20.0, 100.0, 200.0, np.nan], np.float32)
    for name in ("silu", "relu", "sigmoid"):
        actual, expected = getattr(_core, name)(x), getattr(reference, name)(x)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-35)
    np.testing.assert_allclose(
        _core.silu_backward(np.ones_like(x), x),
        reference.silu_backward(np.ones_like(x), x),
        rtol=1e-6,
        atol=1e-35,
    )


def test_exponential_is_accurate() -> None:
    x = np.linspace(-80.0, 80.0, 100_003, dtype=np.float32)
    np.testing.assert_allclose(_core.sigmoid(x), reference.sigmoid(x), rtol=4e-7)
    np.testing.assert_allclose(_core.silu(x), reference.silu(x), rtol=4e-7)
    boundaries = np.arange(-1280, 1281, dtype=np.float32) * np.float32(np.log(2.0) / 32.0)
    near = np.concatenate([np.nextafter(boundaries, side) for side in (-np.inf, np.inf)])
    np.testing.assert_allclose(_core.sigmoid(near), reference.sigmoid(near), rtol=4e-7)


def test_silu_of_huge_numbers() -> None:
    huge = np.array([1e30, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(_core.silu(huge), huge)
    assert abs(_core.silu(np.float32([-1e30]))[0]) < 1e-7


def test_activations_keep_their_promises() -> None:
    x, dy = draw(3, 7, 2000), draw(3, 7, 2000, seed=1)
    assert_same_for_any_thread_count(_core.silu, x)
    assert_same_for_any_thread_count(_core.silu_backward, dy, x)
    np.testing.assert_array_equal(_core.silu(x[:, ::2]), _core.silu(x)[:, ::2])
    assert _core.relu(np.array(-1.0, np.float32)).shape == ()
    with pytest.raises(ValueError, match="x: expected shape"):
        _core.silu_backward(dy, x[:2])
    with pytest.raises(TypeError, match="x: expected dtype float32, got float64"):
        _core.relu(x.astype(np.float64))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout(p: float) -> None:
    x = draw(100_001) + 10.0
    y = _core.dropout(x, p, 7)
    kept = y != 0.0
    assert abs(kept.mean() - (1.0 - p)) < 5.0 * np.sqrt(p * (1.0 - p) / x.size) + 1e-12
    if p < 1.0:
        np.testing.assert_allclose(y[kept], x[kept] / (1.0 - p), rtol=1e-6)


def test_dropout_draws() -> None:
    ones = np.ones(70_000, np.float32)
    first, second = _core.dropout(ones, 0.5, 1), _core.dropout(ones, 0.5, 2)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.02
    np.testing.assert_array_equal(_core.dropout(ones[:1001], 0.5, 1), first[:1001])
    assert_same_for_any_thread_count(_core.dropout, ones, 0.5, 1)
    here = _core.simd_level()
    _core.set_simd_level("baseline")
    np.testing.assert_array_equal(_core.dropout(ones, 0.5, 1), first, err_msg=here)
    with pytest.raises(ValueError, match="p: expected a probability"):
        _core.dropout(ones, 1.5, 1)
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=rf"^seed: .* got {seed}$"):
            _core.dropout(ones, 0.5, seed)
    with pytest.raises(TypeError, match=r"^seed: expected an int"):
        _core.dropout(ones, 0.5, 0.5)  # type: ignore[arg-type]
    assert _core.dropout(ones, 0.5, np.uint64(1)).tobytes() == first.tobytes()
