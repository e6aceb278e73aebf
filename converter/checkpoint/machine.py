"""The stack machine that a pickle is a program for. It builds inert values and nothing else.

Dictionaries become `Entries`, whose keys are never hashed; every object that is not plain data becomes what
`stand_ins` says. Everything is charged for, so a small file cannot ask for much time or memory.
"""

from collections.abc import Callable

from .format_error import SAVE_AGAIN, FormatError, shown
from .inert import Called, Entries, Opaque, Storage, Unsupported, View

MAX_LINE = 512
MAX_INTEGER_BYTES = 255
BASE_BUDGET = 48 << 20

FindGlobal = Callable[[str, str], object]
LoadStorage = Callable[[object], object]


class Machine:
    """The state between two opcodes of a pickle in `data`, of which `position` is the next byte.

    `find_global(module, name)` and `load_storage(persistent id)` supply what the pickle refers to. `budget` is in
    bytes of memory, give or take; it is charged before the memory is used.

    Raises (from every method):
        FormatError: the pickle is truncated, asks for what no checkpoint needs, or for too much.
    """

    def __init__(self, data: memoryview, budget: int, find_global: FindGlobal, load_storage: LoadStorage) -> None:
        self.data = data
        self.position = 0
        self._budget = budget
        self._find_global = find_global
        self._load_storage = load_storage
        self._stack: list[object] = []
        self._outer: list[list[object]] = []
        self._memo: dict[int, object] = {}

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
        return decoded(self.take(length + 1)[:-1])

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

    def finish(self) -> object:
        """Take the one value that is left, and forget everything else."""
        if len(self._stack) != 1 or self._outer:
            raise FormatError("the pickle stops with more or less than one value")
        self._memo.clear()
        return self._stack.pop()

    # The memo

    def put(self, key: int) -> None:
        """Remember the top value."""
        self._memo[key] = self.top()

    def memoize(self) -> None:
        """Remember the top value under the next free number."""
        self.put(len(self._memo))

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


def decoded(data: bytes) -> str:
    """Give the text of UTF-8 bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"the pickle holds text that is not UTF-8 ({error.reason})") from error
