"""The PyTorch original as a Runner: upstream's own modules, or ours where there are none to install.

Parameters stay as they are stored, mapped from the checkpoint. `Lifted` raises what is computed with them to float64 or
float32, one function at a time, so one module computes in both without a second copy of the weights, and
half-precision checkpoints are up-cast exactly. Intermediate values are taken by hooks at every module that owns a
parameter, named by the leaf that the parameter fills. torch is imported only when this module is.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..validation.errors import GateError, InputError, about
from ..validation.runner import Arrays
from ..validation.taps import is_recording, record, recording

State = Mapping[str, Tensor]
"""The checkpoint's tensors by its own names, on the mapped file."""

Function = Callable[..., Mapping[str, Tensor]]
"""An entry point: tensors by the names of its inputs -> tensors by the names of its outputs."""

LOWER: Mapping[torch.dtype, tuple[torch.dtype, ...]] = {
    torch.float64: (torch.float32, torch.float16, torch.bfloat16),
    torch.float32: (torch.float16, torch.bfloat16),
}


@dataclass(frozen=True)
class Original:
    """What was trained, as its files say it.

    Args:
        state: every tensor by the name that the ledger has for it.
        documents: JSON beside the checkpoint, by its place ("config.json", "1_Pooling/config.json").
        folder: where the documents lie, for upstream's modules, which read their own.
        tokenizer: where the tokenizer lies.
        code: where Python looks for the user's own module, if one was traced.
        changed: those of the documents that the command line says otherwise than the files in the folder.
        texts: whether there is a tokenizer that raw texts are to be read by.
    """

    state: State
    documents: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = Path()
    tokenizer: Path = Path()
    code: Path = Path()
    changed: Mapping[str, Any] = field(default_factory=dict)
    texts: bool = True


class Encode(Protocol):
    """Upstream's own way from raw texts, pictures or sounds to embeddings, or to scores, of pairs of texts too.

    `name` says whose, with versions; `note` what of it disagrees with itself, or is not upstream's, "" if nothing. One
    for pictures may have `pixels`, which prepares one, and one for sounds `spectrogram`.
    """

    name: str
    note: str

    def __call__(self, samples: Sequence[Any], /) -> np.ndarray:
        """Encode texts, pictures' bytes or samples, or score texts: (rows, width), in the dtype computed in."""
        ...


TRANSPOSED = Tensor.T.__get__  # type: ignore[attr-defined]
"""What `parameter.T` calls."""


class Lifted(TorchFunctionMode):
    """Computes in `dtype` whatever meets a number of that dtype or a parameter; numbers only ever go up.

    For functions that are pure that is bit for bit what a module converted to `dtype` gives; where a network asks
    for float32 by name (softmax, norms), it is what the network means and not that rounding. What is computed of
    integers alone, such as tables of angles, stays as the network makes it: it is part of the network.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.lower = LOWER[dtype]

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch with what is lower raised, if anything of it is high."""
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if function == TRANSPOSED and isinstance(args[0], nn.Parameter) and args[0].dtype in self.lower:
            return self._up(function(*args, **kwargs))  # which is no parameter any more
        if name in ("__get__", "__set__"):
            return function(*args, **kwargs)
        if function is torch.full and "dtype" not in kwargs and isinstance(args[1] if len(args) > 1 else None, float):
            return function(*args, **kwargs, dtype=self.dtype)
        tensors = list(_tensors((args, kwargs)))
        if not any(t.dtype == self.dtype or (isinstance(t, nn.Parameter) and t.dtype in self.lower) for t in tensors):
            return function(*args, **kwargs)
        if function is functional.embedding:  # looked up first: the table itself may be gigabytes
            return self._up(function(*args, **kwargs))
        if name in ("to", "float", "half", "bfloat16", "type", "type_as") and self._down(name, args, kwargs):
            return args[0]
        in_place = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
        if in_place and args[0].dtype in self.lower:
            raise TypeError(f"{name} would round a {self.dtype} into a {args[0].dtype}: the reference must not")
        raised = {k: self.dtype if k == "dtype" and v in self.lower else self._up(v) for k, v in kwargs.items()}
        return function(*self._up(args), **raised)

    def _down(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Say whether a cast would lower a number of `dtype`, or only repeat it."""
        if not isinstance(args[0], Tensor) or args[0].dtype != self.dtype:
            return False
        if name in ("float", "half", "bfloat16"):
            return True
        wanted = [a.dtype if isinstance(a, Tensor) else a for a in (*args[1:], *kwargs.values())]
        return any(isinstance(a, torch.dtype) and a.is_floating_point for a in wanted)

    def _up(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().to(self.dtype) if value.dtype in self.lower else value
        if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
            return type(value)(map(self._up, value))
        return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


class RowByRow:
    """Applies a function to each row of a batch by itself, and to the same row only once.

    For towers whose rows do not depend on each other and that cost more than all the rest, such as the one that
    turns a picture into tokens. Intermediate values are kept of the last row that was recorded, until a row comes
    that is not.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self._function = function
        self._known: dict[tuple[torch.dtype, bytes], Tensor] = {}
        self._recorded: dict[torch.dtype, tuple[bytes, dict[str, Any]]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """(batch, ...) -> (batch, ...), what the function gives for each row."""
        return torch.cat([self._row(row) for row in x.split(1)])

    def _row(self, row: Tensor) -> Tensor:
        digest = hashlib.sha256(row.contiguous().numpy().data).digest()
        key = row.dtype, digest
        if is_recording():
            if self._recorded.get(row.dtype, (b"",))[0] != digest:
                with recording() as taps:
                    self._known[key] = self._function(row)
                self._recorded[row.dtype] = digest, taps
            record(self._recorded[row.dtype][1])
            return self._known[key]
        self._recorded.clear()
        if key not in self._known:
            self._known[key] = self._function(row)
        return self._known[key]


class Reference:
    """A network of PyTorch as a Runner, in one dtype.

    Args:
        name: the classes that it is made of, with their packages' versions.
        module: holds every parameter.
        entries: entry point -> function of the module.
        state: the tensors that the module was loaded from; says which parameter is which.
        dtype: "float32" or "float64": what is computed in.
        stands: tensors that are in no parameter -> the one that was made of them and is.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        entries: Mapping[str, Function],
        state: State,
        dtype: str = "float32",
        stands: Mapping[str, str] | None = None,
    ):
        self.name = name
        self.module = module
        self.entries = entries
        self.state = state
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.stands = stands or {}

    def in_dtype(self, dtype: str) -> "Reference":
        """Give the same network, on the same memory, computing in another dtype."""
        return Reference(self.name, self.module, self.entries, self.state, dtype, self.stands)

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        with about(entry_point), torch.inference_mode(), self.computing():
            outputs = self.entries[entry_point](**{name: self._tensor(array) for name, array in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute in the dtype; nothing is done where the weights are of it already."""
        stored = {p.dtype for p in self.module.parameters()}
        with _nothing_remembered(self.module):
            if not stored & set(LOWER[self.dtype]):
                yield
                return
            with Lifted(self.dtype), _recurrent_layers_take_any_dtype():
                yield

    def traced(
        self, entry_point: str, inputs: Arrays, leaves: Mapping[str, str], keep: Callable[[np.ndarray], Any]
    ) -> tuple[Arrays, dict[str, Any]]:
        """Compute an entry point; give its outputs, and of each intermediate value, in the order of computation, what
        `keep` makes of it: whole, they may be large.

        Args:
            entry_point: to compute.
            inputs: of it.
            leaves: checkpoint tensor -> leaf; names each module's value by the place of its leaves.
            keep: array -> what is kept; must copy.
        """
        with recording() as taps, self._hooked(leaves, keep):
            outputs = self.run(entry_point, inputs)
        return outputs, {n: keep(v.numpy()) if isinstance(v, Tensor) else v for n, v in taps.items()}

    @contextmanager
    def _hooked(self, leaves: Mapping[str, str], keep: Callable[[np.ndarray], Any]) -> Iterator[None]:
        """Record what each module that owns parameters gives, under the place of the leaves that these fill."""
        placed, handles = {_identity(self.state[n]): leaf.rpartition(".")[0] for n, leaf in leaves.items()}, []

        def hook(place: str, *, convolves: bool) -> Callable[..., None]:
            def see(module: nn.Module, inputs: Any, output: Any) -> None:
                value = output[0] if isinstance(output, tuple) else output
                if convolves:  # channels last, as everything else has them
                    value = value.flatten(2).transpose(1, 2)
                record({place: keep(value.numpy())})

            return see

        def watch(module: nn.Module, place: str) -> None:
            convolves = any(isinstance(inner, nn.Conv1d | nn.Conv2d) for inner in module.modules())
            handles.append(module.register_forward_hook(hook(place, convolves=convolves)))

        for place, module in self._around(leaves).items():
            if module and all(placed.get(_identity(p)) == place for p in module.parameters()):
                watch(module, place)
            placed = {identity: other for identity, other in placed.items() if other != place}
        for module in self.module.modules():
            own = [_identity(parameter) for parameter in module.parameters(recurse=False)]
            # Once: of words that score the states too, what is looked up is their value, not the scores.
            places = {placed.pop(identity) for identity in own if identity in placed}
            if len(places) == 1 and not any(module.children()):
                watch(module, places.pop())
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _around(self, leaves: Mapping[str, str]) -> dict[str, nn.Module | None]:
        """Give the places of leaves that are made of several tensors, each with the smallest module that has them."""
        count, tensors = Counter(leaves.values()), dict[str, set[tuple[Any, ...]]]()
        for name, leaf in leaves.items():
            if count[leaf] > 1:
                tensors.setdefault(leaf.rpartition(".")[0], set()).add(_identity(self.state[name]))
        held = [(m, {_identity(p) for p in m.parameters()}) for m in self.module.modules()] if tensors else []
        found: dict[str, nn.Module | None] = {}
        for place, own in tensors.items():
            around = [(len(inside), -at, module) for at, (module, inside) in enumerate(held) if inside >= own]
            found[place] = min(around, key=lambda each: each[:2])[2] if around else None
        return found

    def tensors(self) -> dict[str, str]:
        """Say which tensor of the checkpoint each parameter and buffer is: the one that lies in the same memory."""
        known = {_identity(t): n for n, t in self.state.items()}
        every = [
            *self.module.named_parameters(remove_duplicate=False),
            *self.module.named_buffers(remove_duplicate=False),
        ]
        return {path: known[_identity(t)] for path, t in every if _identity(t) in known}

    def check(self, mapped: Mapping[str, str]) -> None:
        """Refuse to judge what is not the checkpoint.

        Args:
            mapped: the tensors that the converted network is made of -> their leaves.

        Raises:
            GateError: a parameter is no tensor of the checkpoint, or a mapped tensor is in no parameter.
        """
        found = self.tensors()
        for path, _ in self.module.named_parameters(remove_duplicate=False):
            if path not in found:
                raise GateError(
                    f"reference: {self.name} has a parameter {path}, which no tensor of the checkpoint fills"
                )
        used = set(found.values())
        same = {_identity(self.state[n]) for n in used}  # a tie is one memory under several names
        for name, leaf in mapped.items():
            tensor = self.stands.get(name, name)
            if tensor not in used and _identity(self.state[tensor]) not in same:
                raise GateError(f"reference: {self.name} does not use tensor {tensor}, which fills {leaf}")

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(np.array(array))
        if tensor.is_floating_point():
            return tensor.to(self.dtype)
        return tensor if tensor.dtype == torch.bool else tensor.long()


@contextmanager
def _nothing_remembered(module: nn.Module) -> Iterator[None]:
    """Let go of what modules put into dictionaries of their own: what they kept in one dtype is none of another."""
    own = [value for each in module.modules() for name, value in vars(each).items() if _remembers(name, value)]
    before = [dict(each) for each in own]
    try:
        yield
    finally:
        for each, contents in zip(own, before, strict=True):
            each.clear()
            each.update(contents)


def _remembers(name: str, value: object) -> bool:
    return type(value) is dict and not name.startswith("_")


@contextmanager
def _recurrent_layers_take_any_dtype() -> Iterator[None]:
    """Let recurrent layers take numbers that are raised: they compare types before their weights are raised too."""
    check = nn.RNNBase.check_input

    def checked(layer: nn.RNNBase, x: Tensor, batch_sizes: Tensor | None) -> None:
        check(layer, torch.empty(x.shape, dtype=layer._flat_weights[0].dtype), batch_sizes)  # type: ignore[union-attr]

    nn.RNNBase.check_input = checked  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.RNNBase.check_input = check  # type: ignore[method-assign]


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.dtype


def tensor_of(array: np.ndarray) -> Tensor:
    """Give a tensor on the array's memory, with numpy's bfloat16 as torch's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a mapped file cannot be written to: nobody does
        if array.dtype == np.dtype(ml_dtypes.bfloat16):
            return torch.from_numpy(array.view(np.uint16).reshape(array.shape)).view(torch.bfloat16)
        return torch.from_numpy(array)


def uninitialised(size: int, width: int) -> nn.Embedding:
    """Make a table on the meta device: to draw numbers there imports PyTorch's compiler, which takes two seconds."""
    return nn.Embedding.from_pretrained(torch.empty(size, width), freeze=False)


def load_strict(module: nn.Module, state: State) -> nn.Module:
    """Give `module`, built on the meta device, the checkpoint's tensors: every name once, none left over.

    Raises:
        InputError: names that are missing, unexpected or of another shape.
    """
    try:
        module.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        raise InputError(f"the checkpoint does not load strictly into the reference network: {error}") from error
    return module.eval().requires_grad_(False)
