"""Pickles of tensors and plain containers, read by a machine of our own that calls nothing.

A pickle is a program. Python's reader runs whatever it names; this one knows the few instructions
that PyTorch's checkpoints consist of, builds dicts, lists, tuples, numbers and texts, and describes
tensors without reading them. What a pickle may name is in ``GLOBALS``; the entries are marks that
stand for themselves, there is no way from them to a Python function. Time and memory are bounded by
``MAX_BYTES`` and ``MAX_STEPS``; nothing here walks through what was built, so that values nested or
shared without end cost no more than their instructions.
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 1 << 24  # of one pickle; that of the paper's networks has 0.1 MB
MAX_STEPS = 1_000_000  # instructions; the same has 30,000
MAX_INTEGER = 32  # bytes
MAX_DIMENSIONS = 16

Value = Any  # None, bool, int, float, str, bytes, list, tuple, dict, Storage, Tensor or Global


class Refused(ValueError):
    """A pickle that is broken, or wants more than tensors and plain containers."""


@dataclass(frozen=True)
class Global:
    """A name that pickles may use. It stands for itself; nothing is imported."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A flat array beside the pickle: ``size`` values of ``dtype`` ("bfloat16" or NumPy's)."""

    key: str
    dtype: str
    size: int


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage, known to lie inside of it; ``offset`` and ``strides`` in values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


ORDERED_DICT = Global("collections.OrderedDict")
DEFAULT_DICT = Global("collections.defaultdict")
TEXT = Global("str")
TENSOR = Global("torch._utils._rebuild_tensor_v2")
OLD_TENSOR = Global("torch._utils._rebuild_tensor")
PARAMETER = Global("torch._utils._rebuild_parameter")
STORAGES = {
    Global(f"torch.{name}Storage"): dtype
    for name, dtype in {
        "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16",
        "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
        "Bool": "bool",
    }.items()
}  # fmt: skip
GLOBALS: dict[str, Global] = {
    one.name: one for one in (ORDERED_DICT, DEFAULT_DICT, TENSOR, OLD_TENSOR, PARAMETER, *STORAGES)
} | dict.fromkeys(("builtins.str", "__builtin__.str", "__builtin__.unicode"), TEXT)


@dataclass(frozen=True)
class Pickle:
    """What a pickle says: its value, the storages it refers to by key, and where it ends."""

    value: Value
    storages: dict[str, Storage]
    end: int


def load(data: bytes, start: int = 0) -> Pickle:
    """Read the pickle at ``start``. Raises Refused."""
    machine = _Machine(data, start)
    return Pickle(machine.run(), machine.storages, machine.at)


class _Machine:
    """The pickle machine: a stack with marks, a memo, and a position in the instructions."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data = data
        self.at = start
        self.stack: list[Value] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Value] = {}
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def run(self) -> Value:
        while (code := self.take(1)) != b".":
            action = ACTIONS.get(code)
            if action is None:
                raise Refused(f"the pickle holds {_instruction(code)}")
            self.count(1)
            action(self)
        return self.pop()

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise Refused(f"the pickle has more than {MAX_STEPS:,} instructions")

    # ---- instructions and stack ---------------------------------------------------------------

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Refused("the pickle ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def unsigned(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def signed(self, count: int) -> int:
        if count > MAX_INTEGER:
            raise Refused(f"the pickle holds a whole number of {count} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise Refused("the pickle holds a name that does not end")
        return _text(self.take(end + 1 - self.at)[:-1])

    def skip(self, count: int) -> None:
        self.take(count)

    def push(self, value: Value) -> None:
        self.stack.append(value)

    def pop(self) -> Value:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refused("the pickle takes more from its stack than there is")
        return self.stack.pop()

    def drop(self) -> None:
        self.pop()

    def drop_mark(self) -> None:
        self.pop_mark()

    def top(self) -> Value:
        self.push(value := self.pop())
        return value

    def pop_many(self, count: int) -> tuple[Value, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def pop_mark(self) -> list[Value]:
        if not self.marks:
            raise Refused("the pickle takes more from its stack than there is")
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values

    # ---- values -------------------------------------------------------------------------------

    def append(self, values: list[Value]) -> None:
        target = self.top()
        if type(target) is not list:
            raise Refused(f"the pickle appends to {_kind(target)}")
        target += values

    def set_items(self, values: list[Value]) -> None:
        target = self.top()
        if type(target) is not dict:
            raise Refused(f"the pickle sets items of {_kind(target)}")
        target.update(_pairs(values))

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise Refused("the pickle recalls a value that it never had")
        self.push(self.memo[index])

    def find(self, module: Value, name: Value) -> None:
        full = f"{module}.{name}" if type(module) is type(name) is str else "what has no name"
        if full not in GLOBALS:
            raise Refused(
                f"the file asks for {shown(full)}; only tensors and plain containers are read, "
                "and nothing was run"
            )
        self.push(GLOBALS[full])

    def find_on_stack(self) -> None:
        self.find(*self.pop_many(2))

    def persistent(self) -> None:
        """A storage: ("storage", type, key, location, size), in the old format also a view."""
        given = self.pop()
        if (
            type(given) is not tuple
            or len(given) not in (5, 6)
            or [type(part) for part in given[:5]] != [str, Global, str, str, int]
            or given[0] != "storage"
            or given[1] not in STORAGES
            or given[4] < 0
        ):
            raise Refused("the pickle refers to something beside it that is no storage of values")
        if given[5:] not in ((), (None,)):
            raise Refused("the pickle refers to a view of a storage, as PyTorch before 0.4 wrote")
        storage = Storage(given[2], STORAGES[given[1]], given[4])
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"storage {shown(storage.key)} is described in two ways")
        self.push(storage)

    def reduce(self) -> None:
        """Calls, in Python's reader; here each of the known names is a case of its own."""
        function, arguments = self.pop_many(2)
        if type(function) is not Global or type(arguments) is not tuple:
            raise Refused(f"the pickle calls {_kind(function)}; nothing was run")
        if function is ORDERED_DICT and len(arguments) <= 1:
            self.push(self.ordered_dict(*arguments))
        elif function is DEFAULT_DICT and arguments in ((), (TEXT,)):
            self.push({})
        elif function is TENSOR and len(arguments) in (6, 7):
            self.push(_tensor(*arguments[:4]))
        elif function is OLD_TENSOR and len(arguments) == 4:
            self.push(_tensor(*arguments))
        elif function is PARAMETER and len(arguments) == 3 and type(arguments[0]) is Tensor:
            self.push(arguments[0])
        else:
            raise Refused(f"the pickle calls {function.name} with unusual arguments")

    def ordered_dict(self, pairs: Value = ()) -> dict[Value, Value]:
        flat: list[Value] = []
        if type(pairs) not in (list, tuple):
            raise Refused(f"the pickle makes a dict of {_kind(pairs)}")
        self.count(len(pairs))  # or a long list, remembered, would make many dicts
        for pair in pairs:
            if type(pair) not in (list, tuple) or len(pair) != 2:
                raise Refused("the pickle makes a dict of what are no pairs")
            flat += pair
        return _pairs(flat)

    def build(self) -> None:
        """Attributes: state dicts have one, the versions of their modules, not needed here."""
        target, state = self.pop_many(2)
        if type(target) is not dict or type(state) is not dict:
            raise Refused(f"the pickle sets the state of {_kind(target)}; nothing was run")
        self.push(target)


def _text(encoded: bytes) -> str:
    try:
        return encoded.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("the pickle holds a text that is not UTF-8") from error


def _pairs(values: list[Value]) -> dict[Value, Value]:
    keys = values[::2]
    if len(values) % 2:
        raise Refused("the pickle holds a key without a value")
    # Hashing a tuple walks through all of it, and 100 bytes can share one 2**40 times over.
    for key in keys:
        if type(key) not in (str, int):
            raise Refused(f"the pickle has {_kind(key)} as a key, expected a text or a number")
    return dict(zip(keys, values[1::2], strict=True))


def _tensor(storage: Value, offset: Value, shape: Value, strides: Value) -> Tensor:
    if type(storage) is not Storage:
        raise Refused(f"a tensor has {_kind(storage)} in the place of its values")
    for what in (shape, strides):
        if type(what) is not tuple or any(type(n) is not int or n < 0 for n in what):
            raise Refused("a tensor's shape or strides are no whole numbers from 0 up")
    if type(offset) is not int or offset < 0 or len(shape) != len(strides):
        raise Refused("a tensor's offset, shape and strides do not fit together")
    if len(shape) > MAX_DIMENSIONS or math.prod(max(n, 1) for n in shape) >= 1 << 62:
        raise Refused("a tensor has more dimensions or values than there can be")
    count = math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if count and (count > storage.size or last >= storage.size):
        raise Refused(
            f"a tensor reaches beyond its storage {shown(storage.key)} of {storage.size} values"
        )
    return Tensor(storage, offset, shape, strides)


def _kind(value: Value) -> str:
    if type(value) is Global:
        return value.name
    name = type(value).__name__.lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def shown(text: str) -> str:
    """A text of the file for a message: short, and nothing that a terminal acts upon."""
    return ascii(text[:80])[1:-1]


def _instruction(code: bytes) -> str:
    names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
    name = names.get(code.decode("latin-1"))
    if name is None:
        return f"the unknown instruction 0x{code.hex()}"
    return f"the instruction {name}, which no state of networks needs; nothing was run"


Action = Callable[[_Machine], None]
ACTIONS: dict[bytes, Action] = {
    b"(": lambda m: m.marks.append(len(m.stack)),
    b"0": lambda m: m.drop(),
    b"1": lambda m: m.drop_mark(),
    # numbers and texts
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.signed(4)),
    b"K": lambda m: m.push(m.unsigned(1)),
    b"M": lambda m: m.push(m.unsigned(2)),
    b"\x8a": lambda m: m.push(m.signed(m.unsigned(1))),
    b"\x8b": lambda m: m.push(m.signed(m.unsigned(4))),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.push(_text(m.take(m.unsigned(4)))),
    b"\x8c": lambda m: m.push(_text(m.take(m.unsigned(1)))),
    b"\x8d": lambda m: m.push(_text(m.take(m.unsigned(8)))),
    b"T": lambda m: m.push(_text(m.take(m.unsigned(4)))),  # texts of Python 2
    b"U": lambda m: m.push(_text(m.take(m.unsigned(1)))),
    b"B": lambda m: m.push(m.take(m.unsigned(4))),
    b"C": lambda m: m.push(m.take(m.unsigned(1))),
    b"\x8e": lambda m: m.push(m.take(m.unsigned(8))),
    # containers
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"}": lambda m: m.push({}),
    b"l": lambda m: m.push(m.pop_mark()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"d": lambda m: m.push(_pairs(m.pop_mark())),
    b"\x85": lambda m: m.push(m.pop_many(1)),
    b"\x86": lambda m: m.push(m.pop_many(2)),
    b"\x87": lambda m: m.push(m.pop_many(3)),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"s": lambda m: m.set_items(list(m.pop_many(2))),
    b"u": lambda m: m.set_items(m.pop_mark()),
    # memo
    b"q": lambda m: m.remember(m.unsigned(1)),
    b"r": lambda m: m.remember(m.unsigned(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.unsigned(1)),
    b"j": lambda m: m.recall(m.unsigned(4)),
    # what in Python's reader imports and calls
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": lambda m: m.find_on_stack(),
    b"Q": lambda m: m.persistent(),
    b"R": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
    # frames
    b"\x80": lambda m: m.skip(1),
    b"\x95": lambda m: m.skip(8),
}
