"""The pickle machine: what it builds, and that nothing in a pickle is ever run."""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import random
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pickles as p
import pytest

from diffusionad import load_official, restricted_pickle
from diffusionad.errors import InputError
from diffusionad.restricted_pickle import MAX_STEPS, Refused

PLAIN: list[Any] = [
    None, True, False, 0, 255, 256, -1, 70_000, -(1 << 40), 1 << 200, 1.5, float("inf"),
    "", "größe", "x" * 300, b"", b"\x00bytes", b"b" * 300,
    [], (), {}, [1, [2, (3,)]], (1, 2), (1, 2, 3), (1, 2, 3, 4),
    {"a": {"b": [1.0, None]}, 3: ("c",)}, list(range(3000)), {str(i): i for i in range(3000)},
]  # fmt: skip


# ---- what it builds -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_are_read_as_python_reads_them(protocol: int) -> None:
    for value in PLAIN:
        if isinstance(value, bytes) and protocol == 2:
            continue  # a call of a codec there
        data = pickle.dumps([value, value], protocol=protocol)
        found = restricted_pickle.load(b"before" + data + b"after", 6)
        assert found.value == [value, value]
        assert type(found.value[0]) is type(value)
        assert found.end == 6 + len(data)


def test_the_dicts_of_checkpoints_become_plain() -> None:
    value = OrderedDict(a=1, b=OrderedDict())
    value._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    arguments = defaultdict(str, {"T": 1000})
    for protocol in (2, 4):
        found = restricted_pickle.load(pickle.dumps([value, arguments], protocol)).value
        assert found == [{"a": 1, "b": {}}, {"T": 1000}]
        assert [type(one) for one in found] == [dict, dict]
    pairs = p.sequence(p.sequence(p.text("a"), p.number(1)), p.row(p.text("b"), b"N"))
    made = p.whole(p.called("collections.OrderedDict", pairs))  # as Python 2 wrote it
    assert restricted_pickle.load(made).value == {"a": 1, "b": None}
    assert restricted_pickle.load(p.whole(b"U\x02ab")).value == "ab"


def test_tensors_are_described() -> None:
    made = p.whole(p.tensor("7", "Half", 12, (2, 3), (1, 2), 4))
    found = restricted_pickle.load(made)
    assert found.storages == {"7": restricted_pickle.Storage("7", "float16", 12)}
    tensor = found.value
    assert (tensor.offset, tensor.shape, tensor.strides) == (4, (2, 3), (1, 2))
    parameter = p.called(
        "torch._utils._rebuild_parameter",
        p.tensor("0", "Float", 1, ()), b"\x88", p.called("collections.OrderedDict"),
    )  # fmt: skip
    assert restricted_pickle.load(p.whole(parameter)).value.shape == ()


# ---- what it refuses ----------------------------------------------------------------------------


class Bomb:
    """Reduces to a call; unpickled by Python, it would leave the file `ran`."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


class Stateful:
    def __setstate__(self, state: str) -> None:
        Path(state).touch()


class New:
    def __new__(cls, ran: str) -> New:
        Path(ran).touch()
        return super().__new__(cls)


def by_reduce(function: Callable[..., Any], argument: str, protocol: int = 2) -> Any:
    return lambda ran: pickle.dumps(
        {"a": Bomb(function, (argument.format(ran=ran),))}, protocol=protocol
    )


def extension(ran: str) -> bytes:
    copyreg.add_extension("os", "system", 0xD1FF)
    try:
        return b"\x80\x02\x83\xff\xd1" + p.row(p.text(f"touch {ran}")) + b"R."
    finally:
        copyreg.remove_extension("os", "system", 0xD1FF)


BITING = {  # each with what Python's own reader needs for it to bite
    "os.system": by_reduce(os.system, "touch {ran}"),
    "os.system by its name on the stack": by_reduce(os.system, "touch {ran}", protocol=4),
    "eval": by_reduce(eval, "open({ran!r}, 'w').close()"),
    "exec": by_reduce(exec, "open({ran!r}, 'w').close()"),
    "a file opened": lambda ran: p.whole(p.called("io.open", p.text(ran), p.text("w"))),
    "INST": lambda ran: f"(S'touch {ran}'\nios\nsystem\n.".encode(),
    "OBJ": lambda ran: b"(" + p.named("os.system") + p.text(f"touch {ran}") + b"o.",
    "NEWOBJ": lambda ran: p.whole(
        p.named("test_restricted_pickle.New"), p.row(p.text(ran)), b"\x81"
    ),
    "NEWOBJ_EX": lambda ran: p.whole(
        p.named("test_restricted_pickle.New"), p.row(), p.mapping({"ran": p.text(ran)}),
        b"\x92", protocol=4,
    ),
    "BUILD with __setstate__": lambda ran: p.whole(
        p.called("test_restricted_pickle.Stateful"), p.text(ran), b"b"
    ),
    "a default factory": lambda ran: p.whole(
        p.named("functools.partial"), p.row(p.named("os.system"), p.text(f"touch {ran}")), b"R",
        p.row(), b"R",
    ),
    "getattr": lambda ran: p.whole(
        p.called("builtins.getattr", p.called("importlib.import_module", p.text("os")),
                 p.text("system")), p.row(p.text(f"touch {ran}")), b"R",
    ),
    "_reconstructor": lambda ran: p.whole(
        p.called("copyreg._reconstructor", p.named("test_restricted_pickle.Stateful"),
                 p.named("builtins.object"), b"N"), p.text(ran), b"b",
    ),
    "in a key": lambda ran: p.whole(
        b"}", p.called("os.system", p.text(f"touch {ran}")), b"Ns"
    ),
    "dropped again": lambda ran: p.whole(
        p.called("os.system", p.text(f"touch {ran}")), b"0}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BITING)
def test_a_malicious_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    payload = BITING[name](str(ran))
    # As the value of the newer format, and of the older one, and as one of its first pickles.
    files = [
        p.archive(tmp_path / "new.pt", payload, {}),
        p.legacy(tmp_path / "old.pt", payload, {}),
        tmp_path / "first.pt",
    ]
    files[2].write_bytes(payload if payload[:1] == b"\x80" else b"\x80\x02" + payload)
    for file in files:
        with pytest.raises(InputError) as caught:
            load_official(file)
        line = str(caught.value)
        assert line.startswith(f"{file}: ")
        assert "\n" not in line
        assert "nothing was run" in line
        assert not ran.exists()
    with contextlib.suppress(Exception):
        pickle.loads(payload)
    assert ran.exists()  # that it was worth refusing


DICT, ORDERED = "collections.defaultdict", "collections.OrderedDict"
REFUSED: dict[str, tuple[bytes, str]] = {
    "an extension code": (extension("/dev/null"), "EXT2"),
    "a persistent id in text": (b"\x80\x02Pstorage\n.", "PERSID"),
    "a buffer from outside": (p.whole(b"\x97", protocol=5), "NEXT_BUFFER"),
    "an unknown instruction": (p.whole(b"\xff"), "0xff"),
    "a dotted path": (
        p.whole(b"\x8c\x0ctorch._utils\x8c\x26_rebuild_tensor_v2.__globals__.popitem\x93"),
        "asks for torch._utils._rebuild_tensor_v2.__globals__.popitem",
    ),
    "a name that is none": (p.whole(p.number(1), p.number(2), b"\x93"), "what has no name"),
    "a name with control characters": (p.whole(b"cos\x1b[2J\nsystem\n"), r"os\\x1b\[2J.system"),
    "a name without end": (p.whole(b"c" + b"a" * 1000), "does not end"),
    "a storage called": (p.whole(p.called("torch.FloatStorage", p.number(9))), "unusual"),
    "text called": (p.whole(p.called("builtins.str", p.text("a"))), "calls str"),
    "a result called": (p.whole(p.called(ORDERED), p.row(), b"R"), "calls a dict"),
    "another default": (p.whole(p.called(DICT, p.named(ORDERED))), "unusual arguments"),
    "arguments that are no tuple": (p.whole(p.named(ORDERED), b"]R"), "calls"),
    "two arguments": (p.whole(p.called(ORDERED, b"]", b"]")), "unusual arguments"),
    "a dict of no pairs": (p.whole(p.called(ORDERED, p.sequence(p.text("ab")))), "no pairs"),
    "a dict of a text": (p.whole(p.called(ORDERED, p.text("ab"))), "makes a dict of a str"),
    "the state of a list": (p.whole(b"]}b"), "sets the state of a list"),
    "the state of a tensor": (p.whole(p.tensor("0", "Float", 1, ()), b"}b"), "state of a tensor"),
    "a state that is no dict": (p.whole(b"}", p.row(b"}", b"}"), b"b"), "sets the state"),
    "items of a tuple": (p.whole(b")", p.text("a"), b"Ns"), "sets items of a tuple"),
    "an item of no list": (p.whole(b"}Na"), "appends to a dict"),
    "a key without a value": (p.whole(b"}(", p.text("a"), b"u"), "without a value"),
    "a list as a key": (p.whole(b"}]Ns"), "a list as a key"),
    "a float as a key": (p.whole(b"}G" + bytes(8) + b"Ns"), "a float as a key"),
    "text that is not UTF-8": (p.whole(b"X\x01\x00\x00\x00\xff"), "not UTF-8"),
    "a value recalled that never was": (p.whole(b"h\x07"), "never had"),
    "an empty stack": (p.whole(), "more from its stack"),
    "below a mark": (p.whole(b"N(\x85"), "more from its stack"),
    "no mark": (p.whole(b"t"), "more from its stack"),
    "a long whole number": (p.whole(b"\x8b\xff\xff\xff\x00" + bytes(99)), "of 16777215 bytes"),
    "a negative length": (p.whole(b"\x8b\xff\xff\xff\xff"), "whole number of"),
    "a text longer than the file": (p.whole(b"\x8d" + b"\xff" * 8), "ends too early"),
    "too many instructions": (p.whole(b"N0" * (MAX_STEPS // 2 + 1), b"N"), "1,000,000"),
    "many dicts of one long list": (
        p.whole(b"](", p.row(p.text("a"), b"N") * 1000, b"eq\x000",
                (p.named(ORDERED) + b"h\x00\x85R0") * 1000, b"N"), "1,000,000 instructions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_unusual_pickles_are_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(Refused, match=words) as caught:
        restricted_pickle.load(data)
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


PID = (p.text("storage"), p.named("torch.FloatStorage"), p.text("0"), p.text("cpu"), p.number(4))


@pytest.mark.parametrize(
    "parts",
    [
        (),
        PID[:4],
        (p.text("module"), *PID[1:]),
        (PID[0], p.named(ORDERED), *PID[2:]),
        (PID[0], p.text("torch.FloatStorage"), *PID[2:]),
        (*PID[:2], p.number(0), *PID[3:]),
        (*PID[:2], b"]", *PID[3:]),
        (*PID[:4], p.number(-4)),
        (*PID[:4], b"\x88"),
        (*PID[:4], b"G" + bytes(8)),
        (*PID, p.row(p.text("0"), p.number(1), p.number(2))),
        (*PID, b"N", b"N"),
    ],
)
def test_odd_persistent_ids_are_refused(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(Refused, match=r"something beside it|a view of a storage"):
        restricted_pickle.load(p.whole(p.row(*parts), b"Q"))


def test_a_persistent_id_is_a_tuple_and_a_storage_is_one_thing() -> None:
    with pytest.raises(Refused, match="beside it"):
        restricted_pickle.load(p.whole(p.text("0"), b"Q"))
    with pytest.raises(Refused, match="storage 0 is described in two ways"):
        restricted_pickle.load(
            p.whole(p.row(p.storage("0", "Float", 4), p.storage("0", "Float", 5)))
        )


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "words"),
    [
        ((2, 2), (2, 1), 2, "beyond its storage"),
        ((2, 2), (3, 1), 0, None),
        ((2, 2), (4, 1), 0, "beyond its storage"),
        ((4,), (1,), 2, "beyond its storage"),
        ((4,), (-1,), 3, "whole numbers from 0 up"),
        ((-4,), (1,), 0, "whole numbers from 0 up"),
        ((4,), (1,), -1, "do not fit"),
        ((4,), (1, 1), 0, "do not fit"),
        ((1 << 40, 1 << 40), (0, 0), 0, "more dimensions or values"),
        ((1 << 20, 1 << 20), (0, 0), 0, "beyond its storage"),
        ((6,), (0,), 0, "beyond its storage"),
        ((1,) * 17, (0,) * 17, 0, "more dimensions"),
        ((0, 1 << 61, 1 << 61), (1, 1, 1), 0, "more dimensions or values"),
        ((0, 7), (7, 1), 0, None),
        ((), (), 4, None),
        ((), (), 5, "beyond its storage"),
    ],
)
def test_tensors_stay_inside_of_their_storage(
    shape: tuple[int, ...], strides: tuple[int, ...], offset: int, words: str | None
) -> None:
    data = p.whole(p.tensor("0", "Float", 5, shape, strides, offset))
    if words is None:
        assert restricted_pickle.load(data).value.shape == shape
        return
    with pytest.raises(Refused, match=words):
        restricted_pickle.load(data)


def test_tensors_are_made_of_storages_and_whole_numbers() -> None:
    rest = (b"\x89", p.called(ORDERED))
    four = p.storage("0", "Float", 4)
    for parts, words in (
        ((p.text("0"), p.number(0), p.numbers((4,)), p.numbers((1,))), "a str in the place"),
        ((four, b"\x88", p.numbers((1,)), p.numbers((1,))), "do not fit"),
        ((four, p.number(0), p.row(b"\x88"), p.numbers((1,))), "whole numbers"),
        ((four, p.number(0), b"](K\x04e", p.numbers((1,))), "whole numbers"),
    ):
        made = p.called("torch._utils._rebuild_tensor_v2", *parts, *rest)
        with pytest.raises(Refused, match=words):
            restricted_pickle.load(p.whole(made))


# ---- time and memory ----------------------------------------------------------------------------


def shared_without_end(levels: int = 60) -> bytes:
    """A tuple of two that are one tuple of two that ..., 2**levels leaves in all."""
    return b")" + b"q\x00h\x00\x86" * levels


def test_values_shared_without_end_are_never_walked_through() -> None:
    """As a key, such a tuple would be hashed for years; in a list it costs nothing."""
    with pytest.raises(Refused, match="a tuple as a key"):
        restricted_pickle.load(p.whole(b"}", shared_without_end(), b"Ns"))
    with pytest.raises(Refused, match="a tuple as a key"):
        restricted_pickle.load(
            p.whole(b"}", p.row(p.tensor("0", "Float", 1, ())), shared_without_end(), b"s")
        )
    assert type(restricted_pickle.load(p.whole(shared_without_end())).value) is tuple


def test_deep_nesting_is_no_recursion(tmp_path: Path) -> None:
    depth = 300_000
    deep = b"]" * depth + b"a" * (depth - 1)
    file = p.archive(tmp_path / "deep.pt", p.whole(deep), {})
    with pytest.raises(InputError, match="expected a dict with state dicts"):
        load_official(file)
    file = p.archive(tmp_path / "deep.pt", p.whole(b"}", p.text("args"), deep, b"s"), {})
    with pytest.raises(InputError, match="no unet_model_state_dict"):
        load_official(file)


def test_a_value_that_holds_itself() -> None:
    value = restricted_pickle.load(p.whole(b"]q\x00h\x00a")).value
    assert value[0] is value


def test_memo_positions_cost_nothing() -> None:
    data = p.whole(b"K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff")
    assert restricted_pickle.load(data).value == 1


# ---- damage -------------------------------------------------------------------------------------


def test_cut_anywhere_it_is_refused() -> None:
    data = (Path(__file__).parent / "golden" / "params-best.pkl").read_bytes()
    restricted_pickle.load(data)
    for length in [*range(300), *range(300, len(data), 97), len(data) - 1]:
        with pytest.raises(Refused, match=r"ends too early|does not end"):
            restricted_pickle.load(data[:length])


def test_damaged_anywhere_it_is_read_or_refused() -> None:
    """Whatever else is raised would be a traceback for the user."""
    data = (Path(__file__).parent / "golden" / "params-best.pkl").read_bytes()
    short = p.whole(
        p.mapping({"a": p.tensor("0", "Float", 8, (2, 4)), "b": p.sequence(p.numbers((1, 2)))})
    )
    rng = random.Random(0)
    refused = 0
    for _ in range(3000):
        broken = bytearray(short if rng.random() < 0.95 else data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            restricted_pickle.load(bytes(broken))
        except Refused:
            refused += 1
    assert refused > 1000
