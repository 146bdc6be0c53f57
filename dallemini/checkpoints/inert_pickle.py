"""Pickles read without calling, importing or building anything that they name.

`read_pickle` follows the instructions of a pickle with a stack of its own. It knows containers,
numbers, strings and, by a function that its caller gives, tensors; every other object becomes an
`Inert`, which keeps its entries and attributes and does nothing, whatever its class is. Names that
only an attack asks for are refused all the same, for such a file is nothing to go on with.
Instructions: `pickletools` of the standard library.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from typing import Any, BinaryIO

from ..errors import CheckpointError

_MOST_STEPS = 500_000  # a model with 1,000 tensors and its optimizer takes 75,000
_MOST_COPIED = 500_000  # entries, though every instruction could ask for one large container
_MOST_BITS = 128  # the number that begins torch's files has 77
_MOST_KEY_BITS = 60  # larger numbers can be chosen so that Python's dict compares all with all
_LONGEST_NAME = 1000  # of a class: an instruction copies it

_ATTACK = re.compile(
    r"(os|posix|nt|subprocess|pty|shutil|socket|runpy|importlib|ctypes|webbrowser|code|sys)[. ].*"
    r"|(builtins|__builtin__) (eval|exec|execfile|compile|__import__|open|breakpoint|apply)"
)
_MAPPINGS: tuple[str, ...] = (
    "collections OrderedDict",
    "collections defaultdict",
    "collections Counter",
)
_MAPPINGS += ("builtins dict", "__builtin__ dict")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": lambda: Inert("set"),
}
_LAST = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PLAIN = re.compile(r".*(INT1?|INT2|LONG|LONG1|LONG4|FLOAT|STRING|UNICODE8?|BYTES8?|BYTEARRAY8)")


class Inert:
    """Stands for an object whose class is not loaded: its name, its entries and attributes."""

    __slots__ = ("children", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.children: dict[Any, Any] = {}


class Global:
    """A name that a pickle asks for, such as a class: "module name"."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Make = Callable[[str, tuple[Any, ...]], Any]
"""Returns what a call of a name with arguments stands for, or None where it does not know it."""


def read_pickle(
    file: BinaryIO,
    *,
    origin: object,
    make: Make,
    storage: Callable[[Any], Any],
    allowed: re.Pattern[str] | None = None,
) -> Any:
    """Return what a pickle holds; the file is then behind its end.

    Args:
        file: at the beginning of the pickle.
        origin: where it comes from, for messages.
        make: gives what stands for a call, such as one that builds a tensor.
        storage: gives what stands for a persistent id.
        allowed: matches the only names ("module name") that the pickle may ask for; None allows all
            but those of an attack.

    Raises:
        CheckpointError: the pickle asks for the names of an attack, or for one that is not allowed,
            or is too long.
        Exception: it is damaged, in any way.
    """
    return _Machine(origin, make, storage, allowed).run(file)


class _Machine:
    """A stack, marks in it, and a memo."""

    def __init__(
        self,
        origin: object,
        make: Make,
        storage: Callable[[Any], Any],
        allowed: re.Pattern[str] | None,
    ) -> None:
        self.origin = origin
        self.make = make
        self.storage = storage
        self.allowed = allowed
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[Any, Any] = {}
        self.copies_left = _MOST_COPIED

    def run(self, file: BinaryIO) -> Any:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if step > _MOST_STEPS:
                raise CheckpointError(
                    f"{self.origin} holds a pickle of more than {_MOST_STEPS} steps, which is no "
                    "file of weights. Get the weights as safetensors."
                )
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            self.step(name, argument)
        raise ValueError("no end")

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif "PUT" in name or name == "MEMOIZE":
            place = len(self.memo) if name == "MEMOIZE" else argument
            if place.bit_length() > _MOST_KEY_BITS:
                raise ValueError("a place in the memo without measure")
            self.memo[place] = self.stack[-1]
        elif name.endswith("GET"):
            self.stack.append(self.memo[argument])
        elif name in _LAST:
            self.stack.append(tuple(self.pop_last(_LAST[name])))
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif _PLAIN.fullmatch(name):
            self.stack.append(_small(argument))
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name}")

    def count_copies(self, entries: int) -> None:
        """Spend a part of what this pickle may copy, which bounds the work of all instructions."""
        self.copies_left -= entries
        if self.copies_left < 0:
            raise CheckpointError(
                f"{self.origin} holds a pickle that copies more than {_MOST_COPIED} entries, which "
                "is no file of weights. Get the weights as safetensors."
            )

    def pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an empty stack")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def pop_mark(self, _: Any = None) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        return self.pop_last(len(self.stack) - self.marks.pop())

    def extend(self, values: list[Any]) -> None:
        """Put values into the list that is on top."""
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif isinstance(target := self.stack[-1], Inert):
            target.children |= {len(target.children) + at: x for at, x in enumerate(values)}

    def update(self, values: list[Any]) -> None:
        """Put keys and values into the mapping that is on top."""
        target = self.stack[-1].children if isinstance(self.stack[-1], Inert) else self.stack[-1]
        if isinstance(target, dict):
            target |= _pairs(values)

    def global_name(self, name: str) -> None:
        if len(name) > _LONGEST_NAME:
            raise ValueError("a name without measure")
        allowed = self.allowed is None or self.allowed.fullmatch(name)
        if _ATTACK.fullmatch(name) or not allowed:
            wanted = name.replace(" ", ".")[:100]
            raise CheckpointError(
                f"{self.origin} was refused: its pickle asks for {wanted}, and code in a "
                "checkpoint is never executed. Get the weights as safetensors, or from a source "
                "that you trust."
            )
        self.stack.append(Global(name))

    def stack_global(self, _: Any) -> None:
        module, name = self.pop_last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not text")
        if len(module) > _LONGEST_NAME:
            raise ValueError("a name without measure")
        self.global_name(f"{module} {name}")

    def call(self, function: Any, arguments: Any) -> None:
        """Put what stands for a call on the stack."""
        name = function.name if isinstance(function, Global | Inert) else "unknown"
        values = arguments if isinstance(arguments, tuple) else ()
        self.count_copies(len(values))
        if name in _MAPPINGS:
            pairs = next((value for value in values if isinstance(value, list)), [])
            self.count_copies(len(pairs))
            made: Any = _pairs([part for pair in pairs if len(pair) == 2 for part in pair])
        else:
            made = self.make(name, values)
        self.stack.append(Inert(name) if made is None else made)

    def reduce(self, _: Any) -> None:
        self.call(*self.pop_last(2))

    def new_with_keywords(self, _: Any) -> None:
        made, arguments, _ = self.pop_last(3)
        self.call(made, arguments)

    def instance(self, name: str) -> None:
        values = self.pop_mark()
        self.global_name(name)
        self.call(self.stack.pop(), tuple(values))

    def instance_of_first(self, _: Any) -> None:
        made, *values = self.pop_mark()
        self.call(made, tuple(values))

    def build(self, _: Any) -> None:
        """Give an object its attributes."""
        (state,) = self.pop_last(1)
        if isinstance(target := self.stack[-1], Inert):
            parts = state if isinstance(state, tuple) else (state,)
            self.count_copies(len(parts))
            for part in parts:
                if isinstance(part, dict):
                    self.count_copies(len(part))
                    target.children |= part


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.pop_last(1),
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "DICT": lambda machine, _: machine.stack.append(_pairs(machine.pop_mark())),
    "FROZENSET": lambda machine, _: machine.stack.append(_set_of(machine.pop_mark())),
    "APPEND": lambda machine, _: machine.extend(machine.pop_last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.pop_mark(),
    "SETITEM": lambda machine, _: machine.update(machine.pop_last(2)),
    "SETITEMS": lambda machine, _: machine.update(machine.pop_mark()),
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.instance,
    "OBJ": _Machine.instance_of_first,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "PERSID": lambda machine, pid: machine.stack.append(machine.storage(pid)),
    "BINPERSID": lambda machine, _: machine.stack.append(machine.storage(machine.stack.pop())),
}


def _set_of(_: list[Any]) -> Inert:
    return Inert("set")


def _pairs(values: list[Any]) -> dict[Any, Any]:
    """Make a dict of keys and values; a key that is neither text nor a number is an object."""
    keys = (key if _is_key(key) else Inert("key") for key in values[::2])
    return dict(zip(keys, values[1::2], strict=True))


def _is_key(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= _MOST_KEY_BITS
    return value is None or isinstance(value, str | float | bytes)


def _small(value: Any) -> Any:
    """Keep a number of an ordinary size; nothing here needs a larger one."""
    too_long = isinstance(value, int) and value.bit_length() > _MOST_BITS
    return Inert("number") if too_long else value
