"""What each opcode that `torch.save` writes does to the machine. Any other opcode is refused.

Opcodes: https://github.com/python/cpython/blob/main/Lib/pickletools.py. Protocols 2 to 5.
"""

import pickle
import struct
from collections.abc import Callable

from .format_error import SAVE_AGAIN, FormatError
from .inert import Entries, Opaque
from .machine import Machine, decoded


def run(machine: Machine) -> object:
    """Interpret one pickle and give its value; the machine is then at the byte after STOP.

    Raises:
        FormatError: the pickle is truncated, uses an opcode or a name that no checkpoint needs, or is too large.
    """
    if machine.take(1) != pickle.PROTO or machine.number(1) not in range(2, 6):
        raise FormatError(f"no pickle of protocol 2 to 5 starts at byte {machine.position}")
    while (opcode := machine.take(1)) != pickle.STOP:
        if opcode not in OPCODES:
            raise FormatError(
                f"the pickle uses opcode 0x{opcode.hex()} at byte {machine.position - 1}, which torch.save never "
                "writes; nothing was executed",
                SAVE_AGAIN,
            )
        handle, cost = OPCODES[opcode]
        machine.charge(cost)
        handle(machine)
    return machine.finish()


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
    return lambda machine: machine.push(decoded(machine.take(machine.number(width))))


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
    pickle.REDUCE: (lambda machine: machine.call(new=False), 160),
    pickle.NEWOBJ: (lambda machine: machine.call(new=True), 160),
    pickle.BUILD: (Machine.build, 32),
    pickle.BINPERSID: (Machine.persistent, 192),
    pickle.BINPUT: (lambda machine: machine.put(machine.number(1)), 136),
    pickle.LONG_BINPUT: (lambda machine: machine.put(machine.number(4)), 136),
    pickle.MEMOIZE: (Machine.memoize, 136),
    pickle.BINGET: (lambda machine: machine.get(machine.number(1)), 32),
    pickle.LONG_BINGET: (lambda machine: machine.get(machine.number(4)), 32),
}
