"""Reading pickles that hold tensors, without running them.

A pickle is a program for a small stack machine whose opcodes may import and call anything. This machine has the opcodes that
`torch.save` writes and the globals that state dictionaries need (Python's `pickletools` documents the former,
`torch/_utils.py` the latter). Whatever else a pickle asks for is refused by its name, before anything happens.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

MAX_BYTES, MAX_STEPS = 32 << 20, 4 << 20
"""Of one pickle. A tensor of a state dictionary takes about 100 bytes and 35 opcodes, so that this holds 100,000; what so many
opcodes can build takes less than 1 GB."""

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_DTYPES = (*_STORAGES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu")


class UnpickleError(ValueError):
    """A pickle is damaged, or asks for something that a state dictionary does not need."""


@dataclasses.dataclass(frozen=True)
class Dtype:
    """An element type; empty for the bytes of a storage without a type."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of memory outside of the pickle, found by its key: elements of `dtype`, bytes where that is empty."""

    key: str
    dtype: str
    count: int


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A view into a storage, in elements of `dtype`. Not checked against the storage's size."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Function:
    """A global that may be called."""

    name: str
    call: Callable[..., Any]


def unpickle(stream: BinaryIO) -> Any:
    """The value of the pickle at the stream's position, which is left behind it: tensors, dicts, lists, plain values.

    Raises UnpickleError, and nothing else.
    """
    start = stream.tell()
    left = stream.seek(0, 2) - start
    stream.seek(start)
    data = io.BytesIO(stream.read(min(left, MAX_BYTES)))  # reading makes room for all that is asked for
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_STEPS:
                raise UnpickleError(f"it has more than {MAX_STEPS} opcodes, which no state dictionary needs")
            machine.step(opcode.name, argument)
        stream.seek(start + data.tell())
        return machine.result()
    except UnpickleError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise UnpickleError(f"the pickle is damaged ({type(error).__name__}: {str(error)[:100]})") from error


class _Machine:
    """The stack, the stacks below the marks, and the memo."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """The value that is left at the end."""
        if len(self._stack) != 1 or self._below:
            raise UnpickleError("the pickle is damaged: it leaves no single value")
        return self._stack[0]

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def step(self, name: str, argument: Any) -> None:
        """Do one opcode."""
        stack = self._stack
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "INT" | "LONG" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "STRING" | "BINSTRING":
                stack.append(argument)
            case "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._since_mark()
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = 0 if name == "EMPTY_TUPLE" else int(name[-1])
                items = [stack.pop() for _ in range(count)]
                stack.append(tuple(reversed(items)))
            case "TUPLE" | "LIST":
                items = self._since_mark()
                self._stack.append(tuple(items) if name == "TUPLE" else items)
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                value = stack.pop()
                _a(list, stack[-1]).append(value)
            case "APPENDS":
                items = self._since_mark()
                _a(list, self._stack[-1]).extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                items = self._since_mark()
                self._stack.append(_fill({}, items))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _fill(_a(dict, stack[-1]), [key, value])
            case "SETITEMS":
                items = self._since_mark()
                _fill(_a(dict, self._stack[-1]), items)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(_find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_find(_a(str, module), _a(str, attribute)))
            case "REDUCE":
                arguments, function = _a(tuple, stack.pop()), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes; state dictionaries have `_metadata`, versions of modules
                _a(dict, stack[-1])
            case "BINPERSID":
                stack.append(_storage(_a(tuple, stack.pop())))
            case _:
                raise UnpickleError(f"it uses the pickle opcode {name}, which state dictionaries do not need")


def _a(kind: type, value: Any) -> Any:
    """`value`, which must be of exactly this type."""
    if type(value) is not kind:
        raise UnpickleError(f"the pickle is damaged: a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    for key in items[::2]:
        if type(key) not in (str, int):  # hashing a deeply nested tuple would overflow the C stack
            raise UnpickleError(f"a dictionary has a key of type {type(key).__name__}")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(function, _Function):
        raise UnpickleError(f"the pickle is damaged: it calls a {type(function).__name__}")
    return function.call(*arguments)


def _find(module: str, name: str) -> _Function | Dtype:
    """A global that state dictionaries need."""
    full = f"{module}.{name}"
    if full in _FUNCTIONS:
        return _Function(full, _FUNCTIONS[full])
    if module == "torch" and name in _STORAGES:
        return Dtype(_STORAGES[name])
    if module == "torch" and name in _DTYPES:
        return Dtype(name)
    if full in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        return Dtype("")
    raise UnpickleError(f"it asks for {full:.100}")


def _storage(identifier: tuple[Any, ...]) -> Storage:
    kind, dtype, key, _, count, *rest = identifier
    if kind != "storage" or any(value is not None for value in rest):
        raise UnpickleError("the pickle is damaged: an unknown kind of persistent identifier")
    return Storage(_a(str, key), _a(Dtype, dtype).name, _a(int, count))


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str) -> StoredTensor:
    for sizes in (_a(tuple, shape), _a(tuple, strides)):
        if any(type(size) is not int or size < 0 for size in sizes):
            raise UnpickleError("the pickle is damaged: a tensor's shape or strides are no counts")
    if len(shape) != len(strides) or _a(int, offset) < 0:
        raise UnpickleError("the pickle is damaged: a tensor's shape, strides and offset do not fit together")
    return StoredTensor(_a(Storage, storage), dtype, offset, shape, strides)


def _tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> StoredTensor:
    if metadata:
        raise UnpickleError("a tensor has metadata: it may be a negated or conjugated view")
    if not _a(Storage, storage).dtype:
        raise UnpickleError("the pickle is damaged: a tensor without a type")
    return _tensor(storage, offset, shape, strides, storage.dtype)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> StoredTensor:
    if metadata or not _a(Dtype, dtype).name:
        raise UnpickleError("a tensor has metadata or no type")
    return _tensor(storage, offset, shape, strides, dtype.name)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch.Size": lambda sizes: tuple(sizes),
    "torch._utils._rebuild_tensor": lambda s, o, shape, strides: _tensor_v2(s, o, shape, strides, False, None),
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda tensor, grad, hooks: _a(StoredTensor, tensor),
}
