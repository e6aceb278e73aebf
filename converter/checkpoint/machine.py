"""A machine for the opcodes that `torch.save` writes, which builds inert values and nothing else.

Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py. Protocols 2 to 5. Dictionaries become
`Entries`, whose keys are never hashed; every object that is not plain data becomes what `stand_ins` says. Each
opcode is charged for, so a small file cannot ask for much time or memory.
"""

import pickle
import struct
from collections.abc import Callable

from .format_error import SAVE_AGAIN, FormatError, shown
from .inert import Called, Entries, Opaque, Storage, Unsupported, View

MAX_LINE = 512
MAX_INTEGER_BYTES = 255
BASE_BUDGET = 48 << 20

FindGlobal = Callable[[str, str], object]
LoadStorage = Callable[[object], object]


class Machine:
    """Interpret the pickle that starts at `position` of `data`; run again for one that follows it.

    `find_global(module, name)` and `load_storage(persistent id)` supply what the pickle refers to. `budget` is in
    bytes of memory, give or take; it is charged before the memory is used.

    Raises (from `run`):
        FormatError: the pickle is truncated, uses an opcode or a name that no checkpoint needs, or is too large.
    """

    def __init__(
        self, data: memoryview, position: int, budget: int, find_global: FindGlobal, load_storage: LoadStorage
    ) -> None:
        self.data = data
        self.position = position
        self._budget = budget
        self._find_global = find_global
        self._load_storage = load_storage
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Give the pickled value; `position` is then the byte after STOP."""
        if self.take(1) != pickle.PROTO or self.number(1) not in range(2, 6):
            raise FormatError(f"no pickle of protocol 2 to 5 starts at byte {self.position}")
        while (opcode := self.take(1)) != pickle.STOP:
            if opcode not in OPCODES:
                raise FormatError(
                    f"the pickle uses opcode 0x{opcode.hex()} at byte {self.position - 1}, which torch.save never "
                    "writes; nothing was executed",
                    SAVE_AGAIN,
                )
            handle, cost = OPCODES[opcode]
            self.charge(cost)
            handle(self)
        if len(self._stack) != 1 or self._outer:
            raise FormatError("the pickle stops with more or less than one value")
        self._memo.clear()
        return self._stack.pop()

    # Reading the stream

    def charge(self, cost: int) -> None:
        """Pay for memory."""
        self._budget -= cost
        if self._budget < 0:
            raise FormatError("the pickle describes more objects than a checkpoint of this size can need")

    def take(self, length: int) -> bytes:
        """Read bytes."""
        end = self.position + length
        if end > len(self.data):
            raise FormatError(f"the pickle is truncated at byte {len(self.data)}: {length} more bytes were expected")
        self.charge(length)
        taken = bytes(self.data[self.position : end])
        self.position = end
        return taken

    def number(self, width: int) -> int:
        """Read an unsigned integer."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        """Read up to a newline, as in GLOBAL."""
        length = bytes(self.data[self.position : self.position + MAX_LINE]).find(b"\n")
        if length < 0:
            raise FormatError(f"the name at byte {self.position} of the pickle does not end")
        return _text(self.take(length + 1)[:-1])

    # The stack

    def push(self, value: object) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> object:
        """Take the top value."""
        if not self._stack:
            raise FormatError(f"the pickle's stack is empty at byte {self.position}")
        return self._stack.pop()

    def top(self) -> object:
        """Look at the top value."""
        if not self._stack:
            raise FormatError(f"the pickle's stack is empty at byte {self.position}")
        return self._stack[-1]

    def mark(self) -> None:
        """Begin a group of values."""
        self._outer.append(self._stack)
        self._stack = []

    def group(self) -> list[object]:
        """Take all values since the last mark."""
        if not self._outer:
            raise FormatError(f"the pickle has no mark at byte {self.position}")
        values = self._stack
        self._stack = self._outer.pop()
        self.charge(8 * len(values))
        return values

    def pop_or_mark(self) -> None:
        """POP removes a value, or the mark if there is no value after it."""
        if self._stack:
            self._stack.pop()
        else:
            self.group()

    def tuple(self, length: int) -> None:
        """Make a tuple of the last values."""
        values = [self.pop() for _ in range(length)]
        self.push(tuple(reversed(values)))

    def integer(self, width: int) -> None:
        """Push a signed integer whose length is given by `width` bytes."""
        length = self.number(width)
        if length > MAX_INTEGER_BYTES:
            raise FormatError(f"the pickle holds an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    # The memo

    def put(self, key: int) -> None:
        """Remember the top value."""
        self._memo[key] = self.top()

    def get(self, key: int) -> None:
        """Push a remembered value."""
        if key not in self._memo:
            raise FormatError(f"the pickle refers to value {key}, which it has not stored")
        self.push(self._memo[key])

    # Filling containers

    def append(self, values: list[object]) -> None:
        """Add to the list (or to the set, whose members no weight depends on) below."""
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif type(target) is not Opaque or target.kind != "set":
            raise FormatError(f"the pickle appends to a {kind(target)} instead of a list")

    def set_items(self, flat: list[object]) -> None:
        """Add keys and values to the dictionary below."""
        target = self.top()
        if type(target) is not Entries:
            raise FormatError(f"the pickle sets items of a {kind(target)} instead of a dictionary")
        if len(flat) % 2:
            raise FormatError("the pickle sets a key without a value")
        target.flat.extend(flat)

    # What runs code in an ordinary unpickler

    def find_global(self, module: object, name: object) -> None:
        """Push the stand-in for a name."""
        if type(module) is not str or type(name) is not str:
            raise FormatError("the pickle names a global with something other than text")
        self.push(self._find_global(module, name))

    def stack_global(self) -> None:
        """Push the stand-in for the name on the stack."""
        name, module = self.pop(), self.pop()
        self.find_global(module, name)

    def call(self, new: bool) -> None:
        """REDUCE and NEWOBJ: let the stand-in say what the call would give."""
        arguments, function = self.pop(), self.pop()
        if type(function) is not Called or type(arguments) is not tuple or (new and not function.newable):
            raise FormatError(
                f"the pickle calls {kind(function)}, which checkpoints never do; nothing was executed", SAVE_AGAIN
            )
        self.charge(8 * len(arguments))
        self.charge(16 * sum(len(argument) for argument in arguments if type(argument) in (list, tuple)))
        self.push(function.make(arguments))

    def build(self) -> None:
        """BUILD sets attributes, such as `_metadata` of a state dict. No weight depends on them."""
        self.pop()
        if type(self.top()) not in (Entries, Opaque):
            raise FormatError(f"the pickle sets attributes of a {kind(self.top())}; nothing was executed", SAVE_AGAIN)

    def persistent(self) -> None:
        """Push the storage that a persistent id names."""
        self.push(self._load_storage(self.pop()))


KINDS = {Entries: "dictionary", Opaque: "object", View: "tensor", Unsupported: "tensor", Storage: "storage"}


def kind(value: object) -> str:
    """Name the kind of a value for a message, without looking inside."""
    return shown(value.name) if isinstance(value, Called) else KINDS.get(type(value), type(value).__name__)


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"the pickle holds text that is not UTF-8 ({error.reason})") from error


def _legacy_text(data: bytes) -> str:
    """Python 2 wrote its byte strings, which are names there, with BINSTRING."""
    return data.decode("latin-1")


def _check_frame(machine: Machine) -> None:
    length = machine.number(8)
    if machine.position + length > len(machine.data):
        raise FormatError(f"the pickle is truncated: a frame of {length} bytes does not fit")


def _list_item(machine: Machine) -> None:
    machine.append([machine.pop()])


def _dict_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _frozenset(machine: Machine) -> None:
    machine.group()
    machine.push(Opaque("frozenset"))


Handler = Callable[[Machine], object]


def _text_of(width: int) -> Handler:
    return lambda machine: machine.push(_text(machine.take(machine.number(width))))


def _bytes_of(width: int) -> Handler:
    return lambda machine: machine.push(machine.take(machine.number(width)))


def _signed(machine: Machine) -> None:
    machine.push(int.from_bytes(machine.take(4), "little", signed=True))


# opcode -> what it does, and what it is charged in bytes of memory (at least 32, for the time it takes)
OPCODES: dict[bytes, tuple[Handler, int]] = {
    pickle.FRAME: (_check_frame, 32),
    pickle.MARK: (Machine.mark, 96),
    pickle.POP: (Machine.pop_or_mark, 32),
    pickle.POP_MARK: (Machine.group, 32),
    pickle.NONE: (lambda machine: machine.push(None), 32),
    pickle.NEWTRUE: (lambda machine: machine.push(True), 32),
    pickle.NEWFALSE: (lambda machine: machine.push(False), 32),
    pickle.BININT: (_signed, 40),
    pickle.BININT1: (lambda machine: machine.push(machine.number(1)), 32),
    pickle.BININT2: (lambda machine: machine.push(machine.number(2)), 40),
    pickle.LONG1: (lambda machine: machine.integer(1), 64),
    pickle.LONG4: (lambda machine: machine.integer(4), 64),
    pickle.BINFLOAT: (lambda machine: machine.push(struct.unpack(">d", machine.take(8))[0]), 32),
    pickle.SHORT_BINUNICODE: (_text_of(1), 64),
    pickle.BINUNICODE: (_text_of(4), 64),
    pickle.BINUNICODE8: (_text_of(8), 64),
    pickle.SHORT_BINSTRING: (lambda machine: machine.push(_legacy_text(machine.take(machine.number(1)))), 64),
    pickle.BINSTRING: (lambda machine: machine.push(_legacy_text(machine.take(machine.number(4)))), 64),
    pickle.SHORT_BINBYTES: (_bytes_of(1), 64),
    pickle.BINBYTES: (_bytes_of(4), 64),
    pickle.BINBYTES8: (_bytes_of(8), 64),
    pickle.BYTEARRAY8: (_bytes_of(8), 64),
    pickle.EMPTY_TUPLE: (lambda machine: machine.push(()), 32),
    pickle.TUPLE1: (lambda machine: machine.tuple(1), 96),
    pickle.TUPLE2: (lambda machine: machine.tuple(2), 96),
    pickle.TUPLE3: (lambda machine: machine.tuple(3), 96),
    pickle.TUPLE: (lambda machine: machine.push(tuple(machine.group())), 96),
    pickle.EMPTY_LIST: (lambda machine: machine.push([]), 96),
    pickle.APPEND: (_list_item, 48),
    pickle.APPENDS: (lambda machine: machine.append(machine.group()), 48),
    pickle.EMPTY_SET: (lambda machine: machine.push(Opaque("set")), 96),
    pickle.ADDITEMS: (lambda machine: machine.append(machine.group()), 48),
    pickle.FROZENSET: (_frozenset, 96),
    pickle.EMPTY_DICT: (lambda machine: machine.push(Entries()), 192),
    pickle.SETITEM: (_dict_item, 64),
    pickle.SETITEMS: (lambda machine: machine.set_items(machine.group()), 64),
    pickle.GLOBAL: (lambda machine: machine.find_global(machine.line(), machine.line()), 64),
    pickle.STACK_GLOBAL: (Machine.stack_global, 64),
    pickle.REDUCE: (lambda machine: machine.call(new=False), 256),
    pickle.NEWOBJ: (lambda machine: machine.call(new=True), 256),
    pickle.BUILD: (Machine.build, 32),
    pickle.BINPERSID: (Machine.persistent, 256),
    pickle.BINPUT: (lambda machine: machine.put(machine.number(1)), 136),
    pickle.LONG_BINPUT: (lambda machine: machine.put(machine.number(4)), 136),
    pickle.MEMOIZE: (lambda machine: machine.put(len(machine._memo)), 136),
    pickle.BINGET: (lambda machine: machine.get(machine.number(1)), 32),
    pickle.LONG_BINGET: (lambda machine: machine.get(machine.number(4)), 32),
}
