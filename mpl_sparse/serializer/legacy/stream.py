"""A pickle as a tree of plain data: what it would call is written down, never called.

Follows the opcodes that Python 3's pickle and torch.save write (protocols 2 to 5; PEP 307, 3154, 574), and no others.
pickle itself is not used: its loader allocates what a length says before it looks for the bytes.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import Any, Callable, Dict, List, NamedTuple, Tuple

from ..errors import BadPickle, ForbiddenPickle

__all__ = ["BYTES", "WHOLE_MODULE", "Call", "Global", "Items", "Persistent", "follow", "in_protocol_2"]

MAX_OPCODES = 3_000_000  # an object takes memory although it took one byte: some 70 bytes each
PROTOCOLS = (2, 3, 4, 5)
MARK = object()
WHOLE_MODULE = (
    "a whole module was saved, which is code, not data. Nothing was called. If you trust the file, load it with "
    "torch.load(path, weights_only=False), save its state_dict(), and import that"
)
BYTES = ("_codecs.encode", "builtins.bytes", "__builtin__.bytes")


class Global(NamedTuple):
    """A class or a function, by its full name."""

    name: str


class Persistent(NamedTuple):
    """What the pickle leaves to its reader to find: `key` tells which."""

    key: Any


class Call:
    """`function(*arguments)`, which was not called; for a class, an instance. `state` is what would be set on it."""

    __slots__ = ("arguments", "function", "state")

    def __init__(self, function: str, arguments: Tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.state: Any = None


class Items(list):
    """The elements of a set."""

    __slots__ = ()


def follow(data: memoryview, at: int, allowed: Callable[[str], bool]) -> Tuple[Any, int]:
    """(the object, where the pickle ends) of the pickle that begins at byte `at`.

    Bytes, if more than 255, stay in `data`: they are memoryviews. Tuples, dicts and lists are plain ones, OrderedDicts
    too; containers may hold themselves, and tuples be nested a million deep: to print or to hash one ends the process.

    Args:
        allowed: whether a name, "module.name", may occur.

    Raises:
        ForbiddenPickle: a name is not allowed.
        BadPickle: it is damaged, or has opcodes that nobody writes.
    """
    return _Machine(data, at, allowed).run()


def in_protocol_2(node: Any) -> Any:
    """The bytes of what Python 3 writes for bytes in protocol 2, a call of _codecs.encode; any other node itself."""
    if type(node) is Call and node.function in BYTES:
        if node.function == "_codecs.encode" and node.arguments[1:] == ("latin1",) and type(node.arguments[0]) is str:
            return node.arguments[0].encode("latin1", "replace")
        if not node.arguments:
            return b""
    return node


class _Machine:
    def __init__(self, data: memoryview, at: int, allowed: Callable[[str], bool]) -> None:
        self.data = data
        self.at = at
        self.allowed = allowed
        self.stack: List[Any] = []
        self.memo: Dict[int, Any] = {}

    def run(self) -> Tuple[Any, int]:
        start = self.at
        for _ in range(MAX_OPCODES):
            if self.at >= len(self.data):
                self.fail("it does not end")
            opcode = self.data[self.at]
            self.at += 1
            if opcode == 0x2E:  # STOP
                if len(self.stack) != 1 or self.stack[0] is MARK:
                    self.fail(f"it ends with {len(self.stack)} objects, not one")
                return self.stack[0], self.at
            if (self.at == start + 1) != (opcode == 0x80):
                self.fail("PROTO does not stand at its beginning, or stands again")
            if opcode not in _STEPS:
                self.fail(f"it has the opcode {bytes([opcode])!r}, which no writer of tensors writes")
            _STEPS[opcode](self)
        return self.fail(f"it has more than {MAX_OPCODES} opcodes")

    def fail(self, what: str) -> Any:
        raise BadPickle(f"the pickle is damaged or made to do harm: {what} (byte {self.at})")

    # ----- the bytes -----

    def take(self, size: int) -> memoryview:
        if size > len(self.data) - self.at:
            self.fail(f"it ends within an object of {size} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self, size: int) -> str:
        try:
            return str(self.take(size), "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return self.fail("a string is not UTF-8")

    def line(self) -> str:
        for size in range(200):  # longer names are nobody's
            if self.data[self.at + size : self.at + size + 1] == b"\n":
                line = self.text(size)
                self.at += 1
                return line
        return self.fail("a name does not end")

    # ----- the stack -----

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            self.fail("an object is missing")
        return self.stack.pop()

    def top(self, *kinds: type) -> Any:
        if not self.stack or type(self.stack[-1]) not in kinds:
            self.fail(f"there is no {kinds[0].__name__}")
        return self.stack[-1]

    def since_mark(self) -> List[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        return self.fail("a mark is missing")

    def set_items(self, pairs: List[Any]) -> None:
        target = self.top(dict, OrderedDict)
        if len(pairs) % 2:
            self.fail("a key has no value")
        for key, value in zip(pairs[::2], pairs[1::2]):
            # nothing whose hashes an attacker can make collide
            if not (key is None or type(key) in (str, bool, float) or (type(key) is int and abs(key) < 2**63)):
                self.fail(f"a dict has a key that is a {type(key).__name__}")
            target[key] = value

    def remember(self, index: int) -> None:
        if not self.stack or self.stack[-1] is MARK:
            self.fail("an object is missing")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.fail(f"it recalls object {index}, which was not remembered")
        self.stack.append(self.memo[index])

    # ----- what is more than data -----

    def find(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self.fail("the name of a function is no string")
        full = f"{module}.{name}"
        if not self.allowed(full):
            raise ForbiddenPickle(
                f"it asks for {full[:200]}, none of the functions that make plain tensors. Nothing was called. If "
                "you trust the file, load it with the program that made it, and save its state_dict()"
            )
        self.stack.append(Global(full))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is Persistent:  # of torch.save's stream: the class of a module, with its source code
            raise ForbiddenPickle(WHOLE_MODULE)
        if type(function) is not Global or type(arguments) is not tuple:
            self.fail("it calls what is no function")
        if function.name == "collections.OrderedDict" and not arguments:
            self.stack.append(OrderedDict())
        else:
            self.stack.append(Call(function.name, arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.top(Call, OrderedDict)
        if type(target) is Call:
            target.state = state
        elif type(state) is dict and "_metadata" in state:
            target._metadata = state["_metadata"]

    def protocol(self) -> None:
        protocol = self.number("B")
        if protocol not in PROTOCOLS:
            self.fail(f"its protocol is {protocol}")


def _pushing(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        machine.stack.append(read(machine))

    return step


def _tuple_of(count: int) -> Callable[[_Machine], None]:
    def step(machine: _Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return step


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.find(module, name)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _append(machine: _Machine) -> None:
    item = machine.pop()
    machine.top(list).append(item)


_STEPS: Dict[int, Callable[[_Machine], Any]] = {
    0x80: _Machine.protocol,
    0x95: lambda machine: machine.number("Q"),  # FRAME: for buffering alone
    ord("("): _pushing(lambda machine: MARK),
    # data
    ord("N"): _pushing(lambda machine: None),
    0x88: _pushing(lambda machine: True),
    0x89: _pushing(lambda machine: False),
    ord("K"): _pushing(lambda machine: machine.number("B")),
    ord("M"): _pushing(lambda machine: machine.number("H")),
    ord("J"): _pushing(lambda machine: machine.number("i")),
    0x8A: _pushing(lambda machine: int.from_bytes(machine.take(machine.number("B")), "little", signed=True)),
    ord("G"): _pushing(lambda machine: struct.unpack(">d", machine.take(8))[0]),
    0x8C: _pushing(lambda machine: machine.text(machine.number("B"))),
    ord("X"): _pushing(lambda machine: machine.text(machine.number("I"))),
    0x8D: _pushing(lambda machine: machine.text(machine.number("Q"))),
    ord("U"): _pushing(lambda machine: machine.text(machine.number("B"))),  # Python 2's str
    ord("T"): _pushing(lambda machine: machine.text(machine.number("I"))),
    ord("C"): _pushing(lambda machine: bytes(machine.take(machine.number("B")))),
    ord("B"): _pushing(lambda machine: machine.take(machine.number("I"))),
    0x8E: _pushing(lambda machine: machine.take(machine.number("Q"))),
    0x96: _pushing(lambda machine: machine.take(machine.number("Q"))),  # a bytearray
    # containers
    ord(")"): _pushing(lambda machine: ()),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("t"): _pushing(lambda machine: tuple(machine.since_mark())),
    ord("]"): _pushing(lambda machine: []),
    ord("a"): _append,
    ord("e"): lambda machine: _extend(machine, list),
    ord("}"): _pushing(lambda machine: {}),
    ord("s"): _set_item,
    ord("u"): lambda machine: machine.set_items(machine.since_mark()),
    0x8F: _pushing(lambda machine: Items()),
    0x90: lambda machine: _extend(machine, Items),
    # memory
    ord("q"): lambda machine: machine.remember(machine.number("B")),
    ord("r"): lambda machine: machine.remember(machine.number("I")),
    0x94: lambda machine: machine.remember(len(machine.memo)),
    ord("h"): lambda machine: machine.recall(machine.number("B")),
    ord("j"): lambda machine: machine.recall(machine.number("I")),
    # calls
    ord("c"): lambda machine: machine.find(machine.line(), machine.line()),
    0x93: _stack_global,
    ord("R"): _Machine.call,
    0x81: _Machine.call,  # NEWOBJ: of a class
    ord("b"): _Machine.build,
    ord("Q"): _pushing(lambda machine: Persistent(machine.pop())),
}


def _extend(machine: _Machine, kind: type) -> None:
    items = machine.since_mark()
    machine.top(kind).extend(items)
