"""`open_checkpoint`: whatever the container, a list of tensors and where each one's bytes are."""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from ...validation.errors import InputError
from .archive import check_crc
from .arrow import read_arrow
from .foreign import container_of
from .format_error import FormatError, blame
from .mapped import MappedFile
from .part import Part
from .safetensors_file import read_safetensors
from .sharded import find_in_folder, read_shards
from .state_dict import strip_prefixes
from .tensor import Tensor
from .torch_legacy import read_torch_legacy
from .torch_zip import read_torch_zip

READERS = {
    "torch-zip": read_torch_zip,
    "torch-legacy": read_torch_legacy,
    "safetensors": read_safetensors,
    "parquet": read_arrow,
}


class Checkpoint:
    """An opened checkpoint: an index. Weights are read by `read`, one at a time.

    path: as it was given. files: every file that it consists of, the index first, without its modules. container:
    "torch-zip", "torch-legacy", "safetensors", "safetensors-sharded", "torch-zip-sharded", "arrow" or
    "arrow-quantised". wrappers: what was
    unwrapped, outermost first, such as ("model_state_dict", "module."). tensors: by name after unwrapping, in the
    order of the file. ignored: key paths of what is no tensor of the state dict, such as "optimizer_state_dict". facts:
    what of these is plain (texts, numbers, lists and dictionaries of them), by key path. modules: checkpoints of
    further modules, by what stands before the names of their tensors, see `joined`. tower: the wrapper that only some
    of the tensors were behind, see `within`; "" if there is none. names: of tensors that were renamed, by those that
    they have without, see `renamed`.
    """

    def __init__(
        self, path: Path, container: str, parts: list[Part], tensors: Mapping[str, Tensor], index: MappedFile | None
    ) -> None:
        prefixes, renamed = strip_prefixes(tensors)
        self.path = path
        self.container = container
        self.files = tuple(file.path for file in (*([index] if index else ()), *(part.file for part in parts)))
        self.wrappers = (*parts[0].wrappers, *prefixes)
        self.ignored = tuple(key for part in parts for key in part.ignored)
        self.facts: Mapping[str, object] = {key: fact for part in parts for key, fact in part.facts.items()}
        self.tensors: Mapping[str, Tensor] = MappingProxyType(renamed)
        self.modules: Mapping[str, Checkpoint] = {}
        self.tower = ""
        self.names: Mapping[str, str] = {}
        self._parts = {part.file.path: part for part in parts}
        for part in parts:
            part.file.close()

    def behind(self, prefix: str) -> "Checkpoint":
        """Give the same checkpoint with a prefix taken away from the names that have it, as another wrapper.

        Raises:
            InputError: two tensors would have one name then.
        """
        renamed: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            short = name.removeprefix(prefix)
            if short in renamed:
                raise InputError(f"{self.path}: without the prefix {prefix} two tensors are called {short}")
            renamed[short] = replace(tensor, name=short)
        made = copy.copy(self)
        made.wrappers, made.tensors = (*self.wrappers, prefix), MappingProxyType(renamed)
        made.names = {old.removeprefix(prefix): new.removeprefix(prefix) for old, new in self.names.items()}
        return made

    def renamed(self, names: Mapping[str, str]) -> "Checkpoint":
        """Give the same checkpoint with other names for some tensors: old name -> new name.

        Raises:
            InputError: two tensors would have one name then.
        """
        before = {new: old for old, new in self.names.items()}
        renamed: dict[str, Tensor] = {}
        for name, tensor in self.tensors.items():
            new = names.get(name, name)
            if new in renamed:
                raise InputError(f"{self.path}: {name} and another tensor would both be called {new}")
            renamed[new] = replace(tensor, name=new)
        made = copy.copy(self)
        made.tensors = MappingProxyType(renamed)
        every = {before.get(name, name): names.get(name, name) for name in self.tensors}
        made.names = {old: new for old, new in every.items() if old != new}
        return made

    def within(self, prefix: str) -> "Checkpoint":
        """Give the tensors behind a prefix alone, as one of several networks; what else there is counts as ignored."""
        made = copy.copy(self)
        kept = (prefix, *self.modules)
        made.tensors = {name: tensor for name, tensor in self.tensors.items() if name.startswith(kept)}
        others = Counter(name.partition(".")[0] for name in self.tensors if name not in made.tensors)
        made.ignored = (*self.ignored, *(f"{first}.* ({count} tensors)" for first, count in sorted(others.items())))
        made = made.behind(prefix)
        made.tower = prefix
        return made

    def joined(self, prefix: str, module: "Checkpoint") -> "Checkpoint":
        """Give the same checkpoint with the tensors of another one too, behind a prefix.

        Raises:
            InputError: two tensors would have one name then.
        """
        named = {prefix + name: replace(tensor, name=prefix + name) for name, tensor in module.tensors.items()}
        if twice := named.keys() & self.tensors.keys():
            raise InputError(f"{self.path} and {module.path} both hold a tensor called {min(twice)}")
        made = copy.copy(self)
        made.tensors = MappingProxyType({**self.tensors, **named})
        made.modules = {**self.modules, prefix: module}
        made._parts = {**self._parts, **module._parts}
        return made

    @property
    def named_files(self) -> Mapping[str, Path]:
        """Give every file, the modules' too, by its place relative to the folder."""
        inner = {
            f"{prefix if prefix.endswith('/') else ''}{name}": file  # else it lies in the same folder
            for prefix, module in self.modules.items()
            for name, file in module.named_files.items()
        }
        return {**{file.name: file for file in self.files}, **inner}

    def read(self, name: str) -> np.ndarray:
        """Give a tensor as a read-only view of the mapped file, with the bits and strides that are stored.

        Shape () for a scalar. Nothing is read until the array is touched; no checksum is compared, see `check`.

        Raises:
            KeyError: there is no such tensor.
            InputError: the file changed since it was opened.
        """
        tensor = self.tensors[name]
        with blame(tensor.file):
            return self._parts[tensor.file].file.array(tensor)

    def release(self, name: str) -> None:
        """Drop a tensor's pages from this process, so that streaming over all tensors needs the memory of one.

        Arrays that `read` gave stay valid; touching them reads the file again.
        """
        tensor = self.tensors[name]
        self._parts[tensor.file].file.forget(tensor.offset, tensor.extent)

    def check(self) -> None:
        """Compare the CRC32 of every record of a torch zip with its bytes, reading each file once. Others have none.

        `read` alone does not do this; run it once, where the file is read from end to end anyway.

        Raises:
            InputError: a record is corrupt.
        """
        for part in self._parts.values():
            with blame(part.file.path):
                for record in part.records:
                    check_crc(part.file, record)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint: a torch file (zip or legacy), safetensors, index of shards, ArrowEngine's store, or a folder.

    Reads names, shapes and places, no weights. The content decides, never the file's name. Nothing from the file is
    executed or imported.

    Raises:
        InputError: it cannot be read, is unsafe, corrupt or of an unsupported kind.
        EnvironmentFailure: there is no permission to read it.
    """
    with blame(path):
        file = MappedFile(find_in_folder(path) if path.is_dir() else path)
    with blame(file.path):
        container = container_of(file)
        if container == "index":
            parts, tensors = read_shards(file, _read_file)
            return Checkpoint(path, f"{parts[0].container}-sharded", parts, tensors, file)
        part = READERS[container](file)
        return Checkpoint(path, part.container, [part], part.tensors, None)


def _read_file(file: MappedFile) -> Part:
    container = container_of(file)
    if container == "index":
        raise FormatError("is an index of shards, expected a shard")
    return READERS[container](file)
