"""torch.export of a module -> the traced network as data. The only file of this folder that needs torch to be there.

What the graph holds beyond arithmetic is taken away: aliases, assertions, dropout, moves between devices. Sizes are
written over the names of the axes; torch's symbols do not get out of here.
"""

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import sympy
import torch
from torch import Tensor, fx, nn

from ...validation.dims import terms
from ...validation.domains import Domain, Integers, PaddingMask, TokenIds
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.errors import GateError, InputError
from ...validation.outputs import Output
from ..documents import JSON
from .bounds import TooLong, TooShort
from .graph import Graph, Node, Parameter, Program, reached, references
from .module import LAST, computed_at
from .operators import accepts, find
from .wanted import Wanted
from .whole import NAMES, Whole

PREFIX = "module."
"""Before every path, since the module is called from one that gives its results in order."""

IN_TORCH = str(Path(torch.__file__).parent)

SAME = {
    "aten.clone", "aten.alias", "aten.detach", "aten.detach_", "aten.lift_fresh_copy", "aten.lift_fresh",
    "aten.contiguous", "aten.dropout", "aten.feature_dropout", "aten.alpha_dropout", "aten.positive",
}  # fmt: skip
"""What gives its first argument."""

CASTS = {"aten._to_copy", "aten.to", "aten.type_as"}
"""What gives its first argument, if that has the type already."""

ASSERTIONS = ("aten._assert", "aten.sym_constrain_range", "aten._check")

NOT_SAID = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "requires_grad"}
"""Arguments that say where and how numbers lie, not what they are."""

RANDOM = ("aten.rand", "aten.bernoulli", "aten.normal", "aten.multinomial", "aten.native_dropout", "aten.uniform")

DATA = (
    "a size depends on the numbers that the network is given, not on their shapes: .item(), a mask as an index and "
    "nonzero() make such sizes, and no runtime here has programs for them"
)

SHOWN = 8
"""Operators without a rule that a message names."""


def named(result: Any, wanted: Mapping[str, Output], what: str) -> dict[str, Tensor]:
    """Give the tensors that a method gives, by name: a dictionary's own, else in order those that are wanted.

    Raises:
        InputError: it gives no tensors, or not those that are wanted.
    """
    if isinstance(result, Tensor):
        result = (result,)
    if isinstance(result, Mapping):
        found = {str(name): value for name, value in result.items() if isinstance(value, Tensor)}
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        fields = dict(zip(result._fields, result, strict=True))
        found = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    elif isinstance(result, tuple | list):
        tensors = [value for value in result if isinstance(value, Tensor)]
        alone = ["output"] if len(tensors) == 1 else [f"output_{i}" for i in range(len(tensors))]
        found = dict(zip([*wanted] if len(wanted) <= len(tensors) and wanted else alone, tensors, strict=False))
    else:
        raise InputError(f"{what} gives a {type(result).__name__}, expected tensors, alone, in a tuple or by name")
    missing = [name for name in wanted if name not in found]
    if missing or not found:
        raise InputError(f"{what} gives {', '.join(found) or 'no tensor'}, and {', '.join(missing)} was asked for")
    return {name: found[name] for name in wanted} if wanted else found


class _Given:
    """Holds names outside of a module, whose attributes torch puts back when it has traced it."""

    names: tuple[str, ...] = ()


class _Entry(nn.Module):
    """A module that gives its results in order, so that torch need not know how they nest."""

    def __init__(self, module: nn.Module, wanted: Wanted):
        super().__init__()
        self.module = module
        self.wanted = wanted
        self.given = _Given()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip((spec.name for spec in self.wanted.inputs), inputs, strict=True))
        with Whole():
            outputs = {**self.wanted.outputs, **dict.fromkeys(self.wanted.beside, Output())}
            results = named(self.wanted.function(self.module)(**given), outputs, self.wanted.name)
        self.given.names = tuple(results)
        return tuple(results.values())


def capture(
    module: nn.Module,
    wanted: Sequence[Wanted],
    tensors: Mapping[str, str],
    origin: str,
    facts: Mapping[str, JSON] | None = None,
) -> Graph:
    """Trace entry points of a module.

    Args:
        module: in its state for inference, filled.
        wanted: what is to be traced.
        tensors: path of each parameter and buffer that a checkpoint's tensor fills -> that tensor.
        origin: who made the module.
        facts: what else network.json says.

    Raises:
        InputError: torch cannot trace it, or it holds operators that nobody here computes.
    """
    ties = _ties(module, tensors)
    parameters: dict[str, Parameter] = {}
    constants: dict[str, np.ndarray] = {}
    programs = {}
    for each in wanted:
        tracer = _Tracer(module, each, tensors, ties, constants)
        programs[each.name] = tracer.program()
        parameters |= tracer.parameters
        constants |= tracer.constants
    read = {parameter.tensor for parameter in parameters.values()}
    tied = {tensors[path]: tensors[first] for path, first in ties.items() if path != first and tensors[first] in read}
    tied = {name: first for name, first in tied.items() if name != first}
    whole = {tensors[path] for path in constants if path in tensors}
    dropped = {
        name: "whole numbers or none: a constant of network.json" if name in whole else "no entry point reads it"
        for name in tensors.values()
        if name not in read and name not in tied
    }
    graph = Graph(origin, parameters, tied, dropped, constants, programs, facts or {})
    _refuse_unknown(graph)
    return graph


def _ties(module: nn.Module, tensors: Mapping[str, str]) -> dict[str, str]:
    """Give for each path the first one that has the same memory."""
    first: dict[Any, str] = {}
    found = {}
    for path, tensor in module.state_dict(keep_vars=True).items():
        if path in tensors:
            # Nothing tells two tensors without elements apart, and torch gives both the address 0.
            key = (tensor.data_ptr(), tensor.shape, tensor.dtype) if tensor.numel() else path
            found[path] = first.setdefault(key, path)
    return found


def _refuse_unknown(graph: Graph) -> None:
    """See that every operator has a function that takes what it is called with.

    Raises:
        InputError: naming those that have none, how often they occur, and the line of the first.
    """
    missing: dict[str, list[Node]] = {}
    for program in graph.programs.values():
        for node in program.nodes:
            function = find(node.op)
            if function is None or not accepts(function, len(node.args), tuple(node.kwargs)):
                missing.setdefault(node.op, []).append(node)
    if missing:
        told = [
            f"{op}, {len(nodes)} time{'s' * (len(nodes) > 1)}, first at {nodes[0].line or 'a place torch does not say'}"
            for op, nodes in list(missing.items())[:SHOWN]
        ]
        more = f"\n  and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise InputError(
            f"{graph.origin}: {len(missing)} operator(s) of the module have no rule here (docs/operators.md):\n  "
            + "\n  ".join(told)
            + more
        )


@dataclass(frozen=True)
class Failing:
    """The sizes of an axis at which guards fail: a few, or all up to `until`; and all from `beyond` on."""

    few: tuple[int, ...] = ()
    until: int | None = None
    beyond: int | None = None


class _Tracer:
    """Traces one entry point and reads torch's graph."""

    def __init__(
        self,
        module: nn.Module,
        wanted: Wanted,
        tensors: Mapping[str, str],
        ties: Mapping[str, str],
        others: Mapping[str, np.ndarray],
    ):
        self.module = module
        self.wanted = wanted
        self.tensors = tensors
        self.ties = ties
        self.others = others
        """The constants of entry points before, whose names torch may give to others."""
        self.parameters: dict[str, Parameter] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.refs: dict[fx.Node, JSON] = {}
        self.symbols: dict[str, str] = {}
        """torch's symbol -> name of the axis."""
        self.nodes: list[Node] = []
        self.unsaid: dict[fx.Node, InputError] = {}
        """Sizes without a word, which matter only where something reads them."""
        self.doubtful: dict[str, Sequence[int]] = {}
        """Sizes of axes that torch's guards leave out, for which what was traced may hold none the less."""

    def program(self) -> Program:
        """Trace, clean, and give the program."""
        entry = _Entry(self.module, self.wanted)
        exported = self._exported(entry)
        self._name_symbols(exported)
        self._name_arguments(exported)
        taps = self._taps(exported)
        for node in exported.graph.nodes:
            self._read(node, exported, taps)
        count = len(entry.given.names) - len(self.wanted.beside)
        results = self._results(exported)
        entry_point = self._entry_point(exported, entry.given.names[:count])
        beside = dict(zip(self.wanted.beside, results[count:], strict=True))
        results = results[:count]
        nodes = reached(self.nodes, results)
        self._keep(nodes, results)
        self._refuse_unbacked(nodes)
        program = Program(entry_point, nodes, results, self.wanted.method, beside)
        if any(self.doubtful.values()):
            self._hold_at_doubtful(program)
        return program

    def _hold_at_doubtful(self, program: Program) -> None:
        """See that what was traced is the module at the sizes too that torch's guards leave out.

        Raises:
            TooShort: it is not.
        """
        graph = Graph("", self.parameters, {}, {}, self.constants, {self.wanted.name: program})
        held = self.module.state_dict()
        weights = {leaf: held[leaf].numpy() for leaf in graph.parameters}
        for axis, sizes in self.doubtful.items():
            for size in reversed(sizes):
                drawn = _drawn(self.wanted, program.entry.inputs, {axis: size})
                try:
                    want = run(self.module, self.wanted, drawn)
                    same = _alike(want, computed_at(graph, self.wanted.name, weights, drawn))
                except (InputError, GateError):
                    same = False
                if not same:
                    raise TooShort(
                        f"{self.wanted.name}: what is traced of the module is another network at {axis} = {size}: "
                        f"write {axis} >= {size + 1}",
                        axis,
                        size + 1,
                    )

    def _exported(self, entry: nn.Module) -> Any:
        entry.eval()
        self.wanted.function(self.module)
        longest: dict[str, int] = {}
        first: Exception | None = None
        for scale in SCALES:
            inputs = tuple(_example(spec, example_sizes(self.wanted.axes, scale)) for spec in self.wanted.inputs)
            try:
                return self._export(entry, inputs, self._named_dims())
            except InputError:
                raise
            except Exception as error:  # whatever torch or the module raises: it cannot be traced
                first = first or error
                failing = guard_failures(str(error), self.wanted.inputs, self.wanted.axes)
                guarded = SPECIALIZED in str(error) or GUARD.search(str(error))
                if failing is None and guarded and scale != SCALES[-1]:
                    continue  # perhaps of this example only
                if failing is None and not longest:
                    self._refuse_where_it_fails()
                    raise InputError(
                        f"{self.wanted.name}: {refusal(first, self.wanted.inputs, self.wanted.axes)}"
                    ) from first
                if failing is None:  # the larger example is no input of the module: the bound before is its own
                    break
                beyond = {axis: sizes.beyond - 1 for axis, sizes in failing.items() if sizes.beyond}
                if not beyond:
                    self._refuse_short(failing)
                    self.doubtful = {axis: sizes.few for axis, sizes in failing.items()}
                    return self._exported_freely(entry, inputs)
                longest |= beyond
        axis, size = longest.popitem()
        raise TooLong(
            f"{self.wanted.name}: the module works only for {axis} <= {size}, by a guard of torch's: write that bound",
            axis,
            size,
        )

    def _refuse_where_it_fails(self) -> None:
        """See whether the module itself runs for the least sizes that the spec allows.

        Raises:
            TooShort: it does not, and runs for larger ones.
        """
        inputs = tuple(map(self._with_any_domain, self.wanted.inputs))
        for axis, bounds in self.wanted.axes.items():
            failed = self._failure(inputs, axis, bounds.low)
            last = min(bounds.high or TRIED, bounds.low + SMALL)
            if not failed or failed == self._failure(inputs, axis, last):  # in the same words: for another axis' size
                continue
            several = range(bounds.low + 1, last + 1)
            least = next((size for size in several if not self._failure(inputs, axis, size)), None)
            if least is not None:
                raise TooShort(
                    f"{self.wanted.name}: the module fails for {axis} = {bounds.low} ({failed}), and runs from "
                    f"{axis} = {least} on: write that bound",
                    axis,
                    least,
                )

    def _failure(self, inputs: Sequence[TensorSpec], axis: str, size: int) -> str:
        """Run the module at a size; say what it raises, "" if nothing."""
        drawn = {name: tensor_in(array) for name, array in _drawn(self.wanted, inputs, {axis: size}).items()}
        try:
            with torch.no_grad():
                self.wanted.function(self.module)(**drawn)
        except Exception as error:  # whatever the module raises
            return _first(error)
        return ""

    def _with_any_domain(self, spec: TensorSpec) -> TensorSpec:
        """Let whole numbers of which nothing is known yet be 0, which all tables have."""
        unknown = spec.domain is None and np.dtype(spec.dtype).kind in "iu"
        return replace(spec, domain=Integers(1)) if unknown else spec

    def _refuse_short(self, failing: Mapping[str, Failing]) -> None:
        for axis, sizes in failing.items():
            if sizes.until:
                raise TooShort(
                    f"{self.wanted.name}: the module works only for {axis} > {sizes.until}, by a guard of torch's: "
                    "write that bound",
                    axis,
                    sizes.until + 1,
                )

    def _named_dims(self) -> dict[str, Any]:
        return {
            name: torch.export.Dim(name, min=axis.low, max=axis.high)
            for name, axis in self.wanted.axes.items()
            if axis.high is None or axis.high > axis.low
        }

    def _export(self, entry: nn.Module, inputs: tuple[Tensor, ...], dims: Mapping[str, Any]) -> Any:
        free = tuple(
            {i: _dynamic(dim, dims) for i, dim in enumerate(spec.shape) if _dynamic(dim, dims) is not None}
            for spec in self.wanted.inputs
        )
        with torch.no_grad(), warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            exported = torch.export.export(entry, inputs, dynamic_shapes=(free,), strict=False)
            return exported.run_decompositions({})

    def _exported_freely(self, entry: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        """Let torch assume what it cannot prove, which was seen to hold for every size; no bound may become narrower.

        Raises:
            InputError: it cannot be traced so either, or only for fewer sizes.
        """
        dims = {
            name: torch.export.Dim.AUTO(min=axis.low, max=axis.high)
            for name, axis in self.wanted.axes.items()
            if axis.high is None or axis.high > axis.low
        }
        try:
            exported = self._export(entry, inputs, dims)
        except Exception as error:  # whatever torch or the module raises: it cannot be traced
            raise InputError(f"{self.wanted.name}: {refusal(error, self.wanted.inputs, self.wanted.axes)}") from error
        self._name_symbols(exported)
        for symbol, found in exported.range_constraints.items():
            axis = self.symbols.get(str(symbol), "")
            high = self.wanted.axes[axis].high if axis in self.wanted.axes else None
            if axis in self.wanted.axes and "oo" not in str(found.upper) and (high is None or int(found.upper) < high):
                raise InputError(
                    f"{self.wanted.name}: the module works only for {axis} <= {found.upper}: state that bound"
                )
        return exported

    def _name_symbols(self, exported: Any) -> None:
        """Find torch's symbol of each axis.

        Raises:
            InputError: the spec says that a size is free, and torch has made a number of it.
        """
        given = iter(self.wanted.inputs)
        for node, spec in _placeholders(exported):
            if spec.kind != torch.export.graph_signature.InputKind.USER_INPUT:
                continue
            tensor = next(given)
            for dim, size in zip(tensor.shape, node.meta["val"].shape, strict=True):
                if isinstance(dim, int):
                    continue
                expression = size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)
                if dim not in self.wanted.axes:  # a sum, which torch may take for a size of its own
                    if expression.is_Symbol:
                        self.symbols.setdefault(expression.name, dim)
                    continue
                axis = self.wanted.axes[dim]
                if expression.is_Symbol:
                    self.symbols[expression.name] = dim
                elif axis.low != axis.high:
                    raise InputError(
                        f"{self.wanted.name}: {dim} of {tensor.name} is free by the spec, but the module works only "
                        f"for {dim} = {expression}: its code makes a number of this size (a Python loop over it, "
                        f"int(...), a comparison); write {expression} in the spec's place, or compute it with tensors"
                    )

    def _read(self, node: fx.Node, exported: Any, taps: Mapping[fx.Node, Sequence[str]]) -> None:
        """Take a node over, or note what it stands for."""
        if node.op == "placeholder":
            return
        if node.op == "output":
            return
        value = node.meta.get("val")
        sizes = torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool
        if isinstance(value, sizes) and node.op != "get_attr":
            try:
                self.refs[node] = self._size(value)
            except InputError as error:  # of a comparison that only an assertion reads
                self.unsaid[node] = error
            return
        if node.op == "get_attr":
            self.refs[node] = self._constant(str(node.target), getattr(exported.graph_module, str(node.target), None))
            return
        op = name_of(node.target)
        if op.startswith(ASSERTIONS):
            return
        same = self._same(op, node)
        if same is not None:
            self.refs[node] = same
            if node in taps and isinstance(same, dict) and "node" in same:
                self._tap(same["node"], taps[node])
            return
        shape: tuple[int | str, ...] = ()
        dtype = ""
        if isinstance(value, Tensor):
            shape, dtype = tuple(map(self._written, value.shape)), str(value.dtype).removeprefix("torch.")
        self.nodes.append(
            Node(
                node.name,
                op,
                [self._argument(each) for each in node.args],
                {k: self._argument(v) for k, v in node.kwargs.items() if k not in NOT_SAID},
                dtype,
                shape,
                _module_of(node),
                line_of(node),
                tuple(taps.get(node, ())),
            )
        )
        self.refs[node] = {"node": node.name}

    def _tap(self, name: str, taps: Sequence[str]) -> None:
        for i, node in enumerate(self.nodes):
            if node.name == name:
                self.nodes[i] = Node(**(vars(node) | {"taps": (*node.taps, *taps)}))

    def _same(self, op: str, node: fx.Node) -> JSON:
        """Give what a node merely repeats; None if it computes something."""
        packet = op.rpartition(".")[0]
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node):
            return None
        before, after = first.meta.get("val"), node.meta.get("val")
        if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
            return None
        if packet in SAME:
            if "dropout" in op and node.args[2:3] == (True,):
                raise InputError(
                    f"{self.wanted.name}: the module drops at random ({line_of(node)}): it must be in its state for "
                    "inference, .eval()"
                )
            return self.refs[first]
        if packet in CASTS and before.dtype == after.dtype:
            return self.refs[first]
        whole = packet in ("aten.slice", "aten.expand", "aten.view")
        if whole and before.dim() == after.dim() and list(map(str, before.shape)) == list(map(str, after.shape)):
            return self.refs[first] if packet != "aten.slice" or len(node.args) < 5 or node.args[4] == 1 else None
        return None

    def _argument(self, value: Any) -> JSON:
        if isinstance(value, fx.Node):
            if value in self.unsaid:
                raise self.unsaid[value]
            if value not in self.refs:
                raise InputError(f"{self.wanted.name}: torch's graph holds {value.target}, which cannot be taken over")
            return self.refs[value]
        if isinstance(value, tuple | list):
            return [self._argument(each) for each in value]
        if isinstance(value, torch.SymInt | torch.SymFloat):
            return self._size(value)
        if isinstance(value, float) and not math.isfinite(value):
            return {"number": str(value)}
        if isinstance(value, torch.dtype):
            return str(value).removeprefix("torch.")
        return value if value is None or isinstance(value, bool | int | float | str) else str(value)

    def _size(self, value: Any) -> JSON:
        if isinstance(value, bool | int | float):
            return value
        written = self._text(value.node.expr)
        return written if isinstance(written, int | float) else {"size": written}

    def _written(self, size: Any) -> int | str:
        written = self._text(size.node.expr) if isinstance(size, torch.SymInt) else int(size)
        return int(written) if isinstance(written, float) else written

    def _text(self, expression: sympy.Basic) -> int | float | str:
        """Write a size over the names of axes."""
        if isinstance(expression, sympy.Integer):
            return int(expression)
        if isinstance(expression, sympy.Float | sympy.Rational):
            return float(expression)
        return self._term(expression)

    def _term(self, e: Any) -> str:
        if isinstance(e, sympy.Symbol):
            return self.symbols.get(e.name, e.name)
        if isinstance(e, sympy.Integer | sympy.Float | sympy.Rational):
            return str(int(e) if isinstance(e, sympy.Integer) else float(e))
        parts = [self._term(each) for each in e.args]
        kind = type(e).__name__
        if kind == "Add":
            return " + ".join(parts)
        if kind == "Mul":
            return "*".join(f"({part})" if " + " in part else part for part in parts)
        if kind == "Pow" and e.args[1] == sympy.Rational(1, 2):
            return f"sqrt({parts[0]})"
        if kind == "Pow":
            return f"({parts[0]})**{parts[1]}"
        known = {
            **dict.fromkeys(("FloorDiv", "CleanDiv", "FloorToInt"), "floordiv"),
            **dict.fromkeys(("Mod", "PythonMod"), "mod"),
            **dict.fromkeys(("Max",), "max"),
            **dict.fromkeys(("Min",), "min"),
            **dict.fromkeys(("FloatTrueDiv", "IntTrueDiv"), "truediv"),
            **dict.fromkeys(("ToFloat", "Identity"), "float"),
            "OpaqueUnaryFn_sqrt": "sqrt",
        }
        strange = sorted(s.name for s in e.free_symbols if s.name not in self.symbols)
        if strange:
            raise InputError(f"{self.wanted.name}: {DATA} ({', '.join(strange)})")
        if kind not in known:
            raise InputError(f"{self.wanted.name}: a size is computed as {e}, which has no word here ({kind})")
        if known[kind] in ("max", "min") and len(parts) > 2:
            name = known[kind]
            while len(parts) > 1:
                parts = [f"{name}({parts[0]}, {parts[1]})", *parts[2:]]
            return parts[0]
        return f"{known[kind]}({', '.join(parts)})"

    def _taps(self, exported: Any) -> dict[fx.Node, list[str]]:
        """Find the node that gives each module's value, of modules with parameters and no modules in them.

        The same modules as the reference hooks, under the same names: the place of the leaves that they own.
        """
        found: dict[fx.Node, list[str]] = {}
        calls: dict[str, dict[str, list[fx.Node]]] = {}
        for node in exported.graph.nodes:
            stack = node.meta.get("nn_module_stack") or {}
            if node.op == "call_function" and stack:
                key, (path, _) = list(stack.items())[-1]
                calls.setdefault(path.partition("@")[0], {}).setdefault(key, []).append(node)
        taken: set[str] = set()
        for path, module in self.module.named_modules():
            own = [n for n, _ in module.named_parameters(prefix=path, recurse=False)]
            leaves = {self.ties[n] for n in own if n in self.ties} - taken  # of words that score too, the look-up's
            taken |= leaves
            places = {leaf.rpartition(".")[0] for leaf in leaves}
            if len(places) != 1 or any(module.children()) or PREFIX + path not in calls:
                continue
            inside = list(calls[PREFIX + path].values())[-1]  # called several times, the last one counts
            escaping = [n for n in inside if any(user not in inside for user in n.users)]
            tensors = [n for n in escaping if isinstance(n.meta.get("val"), Tensor)]
            if len(tensors) == 1 and len(escaping) == 1 and tensors[0].meta["val"].is_floating_point():
                last = LAST if isinstance(module, nn.Conv1d | nn.Conv2d) else ""
                found.setdefault(tensors[0], []).append(last + places.pop())
        return found

    def _name_arguments(self, exported: Any) -> None:
        """Say what each argument of the graph is: an input, a leaf, or a constant."""
        given = iter(self.wanted.inputs)
        for node, spec in _placeholders(exported):
            if spec.kind == torch.export.graph_signature.InputKind.USER_INPUT:
                self.refs[node] = {"input": next(given).name}
                continue
            target = str(spec.target)
            value = exported.state_dict.get(target)
            value = exported.constants[target] if value is None else value
            self.refs[node] = self._tensor(target.removeprefix(PREFIX), value)

    def _tensor(self, path: str, value: Tensor) -> JSON:
        if path in self.ties and value.is_floating_point() and value.numel():
            leaf = self.ties[path]
            trained = leaf in dict(self.module.named_parameters(remove_duplicate=False))
            self.parameters[leaf] = Parameter(self.tensors[leaf], tuple(value.shape), trained)
            return {"parameter": leaf}
        return self._constant(path, value)

    def _constant(self, path: str, value: Any) -> JSON:
        if not isinstance(value, Tensor):
            return None
        numbers = value.detach().cpu()
        numbers = numbers.float() if numbers.is_floating_point() else numbers
        if numbers.is_complex():
            raise InputError(f"{self.wanted.name}: {path} holds complex numbers, which have no word here")
        array = numbers.contiguous().numpy()
        other = self.others.get(path)
        apart = other is not None and not (other.dtype == array.dtype and np.array_equal(other, array))
        name = f"{self.wanted.name}.{path}" if apart else path
        self.constants[name] = array
        return {"constant": name}

    def _results(self, exported: Any) -> list[JSON]:
        output = next(node for node in exported.graph.nodes if node.op == "output")
        kinds = exported.graph_signature.output_specs
        user = torch.export.graph_signature.OutputKind.USER_OUTPUT
        return [self._argument(each) for each, spec in zip(output.args[0], kinds, strict=True) if spec.kind == user]

    def _entry_point(self, exported: Any, names: Sequence[str]) -> EntryPoint:
        """Describe the outputs, and what the inputs hold where the spec does not say."""
        output = next(node for node in exported.graph.nodes if node.op == "output")
        kinds = exported.graph_signature.output_specs
        user = torch.export.graph_signature.OutputKind.USER_OUTPUT
        values = [n.meta["val"] for n, s in zip(output.args[0], kinds, strict=True) if s.kind == user]
        specs = tuple(
            TensorSpec(
                name,
                _output_type(value.dtype),
                tuple(map(self._written, value.shape)),
                kind=self.wanted.outputs.get(name, Output()),
            )
            for name, value in zip(names, values, strict=False)
        )
        inputs = tuple(self._with_domain(spec) for spec in self.wanted.inputs)
        axes = dict(self.wanted.axes.items())
        try:
            return EntryPoint(self.wanted.name, inputs, specs, axes, self._rows(inputs, specs))
        except ValueError as error:
            raise InputError(str(error)) from error

    def _rows(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str | None:
        """Give the axis that all inputs and outputs begin with, if rows do not depend on each other."""
        first = {spec.shape[0] if spec.shape else 0 for spec in (*inputs, *outputs)}
        if len(first) != 1:
            return None
        (axis,) = first
        if not isinstance(axis, str) or axis not in self.wanted.axes or self.wanted.axes[axis].low > 1:
            return None
        return axis if independent(self.module, self.wanted, inputs, axis) else None

    def _with_domain(self, spec: TensorSpec) -> TensorSpec:
        """State what an input holds, where the spec does not: ids of a table's rows, a mask by its name."""
        if spec.domain is not None or np.dtype(spec.dtype).kind == "f":
            return spec
        domain = self._mask(spec) or self._ids(spec)
        if domain is None and np.dtype(spec.dtype).kind != "b":
            raise InputError(
                f"{self.wanted.name}: what does the input {spec.name} hold? It looks up no table, and its name is that "
                f"of no mask: state its bound, as in '{spec.name}: int64[...] < 10', or its domain in a file"
            )
        return TensorSpec(spec.name, spec.dtype, spec.shape, domain)

    def _mask(self, spec: TensorSpec) -> Domain | None:
        if not (spec.name == "mask" or spec.name.endswith("_mask")) or not spec.shape:
            return None
        others = [s for s in self.wanted.inputs if s.name != spec.name and s.shape[-1:] == spec.shape[-1:]]
        return PaddingMask(others[0].name) if others and isinstance(spec.shape[-1], str) else None

    def _ids(self, spec: TensorSpec) -> Domain | None:
        rows = [
            self._rows_of(node.args[0])
            for node in self.nodes
            if node.op.startswith("aten.embedding") and node.args[1] == {"input": spec.name}
        ]
        rows = [count for count in rows if count]
        if not rows:
            return None
        taken = [s for s in self.wanted.inputs if isinstance(s.domain, TokenIds)]
        first = next(s for s in self.wanted.inputs if s.domain is None and np.dtype(s.dtype).kind in "iu")
        text = spec.shape and isinstance(spec.shape[-1], str) and len(spec.shape) > 1
        return TokenIds(min(rows), 0) if text and spec.name == first.name and not taken else Integers(min(rows))

    def _rows_of(self, table: JSON) -> int:
        if isinstance(table, dict) and "parameter" in table:
            return self.parameters[table["parameter"]].shape[0]
        return len(self.constants[table["constant"]]) if isinstance(table, dict) and "constant" in table else 0

    def _keep(self, nodes: Sequence[Node], results: list[JSON]) -> None:
        """Forget leaves and constants that nothing reads."""
        arguments = [[node.args, list(node.kwargs.values())] for node in nodes]
        for kind, held in (("parameter", self.parameters), ("constant", self.constants)):
            read = set(references([*arguments, results], kind))
            for name in [name for name in held if name not in read]:
                del held[name]

    def _refuse_unbacked(self, nodes: Sequence[Node]) -> None:
        """Refuse sizes that depend on the numbers that come in.

        Raises:
            InputError: naming the first.
        """
        from ...validation.sizes import names

        for node in nodes:
            sizes = [*node.references("size"), *(dim for dim in node.shape if isinstance(dim, str))]
            unknown = {name for size in sizes for name in names(size)} - self.wanted.axes.keys()
            if unknown:
                raise InputError(f"{self.wanted.name}: {DATA} ({', '.join(sorted(unknown))} at {node.line})")
        for node in nodes:
            if node.op.startswith(RANDOM):
                raise InputError(f"{self.wanted.name}: the module draws at random ({node.op} at {node.line})")


def _placeholders(exported: Any) -> Iterator[tuple[fx.Node, Any]]:
    nodes = [node for node in exported.graph.nodes if node.op == "placeholder"]
    yield from zip(nodes, exported.graph_signature.input_specs, strict=True)


def name_of(target: Any) -> str:
    """Name an operator as the table does: "aten.add.Tensor"."""
    if isinstance(target, torch._ops.OpOverload):
        return NAMES.get(str(target), str(target))
    return getattr(target, "__name__", str(target))


def _module_of(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return path.partition("@")[0].removeprefix("module").removeprefix(".")


def line_of(node: fx.Node) -> str:
    """Give the last line outside torch that a node comes from: "net.py:31: return x + y"."""
    lines = (node.meta.get("stack_trace") or "").splitlines()
    found = ""
    for at, text in enumerate(lines):
        parts = text.strip().split('"')
        if text.strip().startswith("File ") and len(parts) > 2:
            file, number = parts[1], parts[2].split("line ")[-1].split(",")[0]
            if not file.startswith(("torch/", IN_TORCH)) and file != __file__:
                code = lines[at + 1].strip() if at + 1 < len(lines) else ""
                found = f"{Path(file).name}:{number}: {code}"
    return found


def _dynamic(dim: int | str, dims: Mapping[str, Any]) -> Any:
    """Give what torch is told of a dimension: its name, or that it is some size."""
    if isinstance(dim, int):
        return None
    if dim in dims:
        return dims[dim]
    return torch.export.Dim.DYNAMIC if any(axis in dims for axis, _ in terms(dim)) else None


def example_sizes(axes: Mapping[str, Axis], scale: int) -> dict[str, int]:
    """Choose sizes to trace with: no two alike, none that torch takes for a number."""
    return {name: axis.clip(max(axis.low * scale, 3) + 2 * i) for i, (name, axis) in enumerate(axes.items())}


def _example(spec: TensorSpec, sizes: Mapping[str, int]) -> Tensor:
    shape = spec.resolve(sizes)
    kind = np.dtype(spec.dtype).kind
    if kind == "f":
        return torch.zeros(shape)
    return torch.ones(shape, dtype=torch.bool if kind == "b" else torch.long)


def _output_type(dtype: torch.dtype) -> str:
    if dtype.is_floating_point:
        return "float32"
    return "bool" if dtype == torch.bool else "int32"


def independent(module: nn.Module, wanted: Wanted, inputs: Sequence[TensorSpec], axis: str) -> bool:
    """Say whether a row computed alone is what it is among others."""
    from ...validation.cases import take

    rows = wanted.axes[axis].clip(3)
    entry = EntryPoint(wanted.name, tuple(inputs), (), wanted.axes, axis)
    drawn = _drawn(wanted, inputs, {axis: rows})
    both, one = (run(module, wanted, each) for each in (drawn, take(entry, drawn, [1]) if rows > 1 else drawn))
    place = slice(1, 2) if rows > 1 else slice(None)
    return all(value.ndim for value in both.values()) and _alike({n: x[place] for n, x in both.items()}, one)


def _drawn(wanted: Wanted, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Draw inputs of these sizes, the other axes short."""
    from ...validation.domains import Draft, domain_of

    sizes = {name: bounds.clip(5) for name, bounds in wanted.axes.items()} | dict(sizes)
    entry = EntryPoint(wanted.name, tuple(inputs), (), wanted.axes)
    rng = np.random.default_rng(3)
    return {spec.name: domain_of(spec).draw(Draft(entry, sizes, {}), spec, rng) for spec in inputs}


def _alike(some: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> bool:
    return all(
        some[name].shape == others[name].shape
        and np.allclose(some[name], others[name], rtol=1e-3, atol=1e-4, equal_nan=True)
        for name in some
    )


def run(module: nn.Module, wanted: Wanted, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Call a module on arrays.

    Raises:
        InputError: it fails.
    """
    tensors = {name: tensor_in(array) for name, array in inputs.items()}
    try:
        with torch.no_grad():
            found = named(wanted.function(module)(**tensors), wanted.outputs, wanted.name)
    except InputError:
        raise
    except Exception as error:  # whatever the module raises
        raise failure(wanted, inputs, error) from error
    return {name: value.float().numpy() for name, value in found.items()}


def failure(wanted: Wanted, inputs: Mapping[str, Any], error: Exception) -> InputError:
    """Say that a module cannot be run on what the spec allows."""
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in inputs.items())
    return InputError(f"{wanted.name}: the module itself fails on {shapes}: {_first(error)}")


def tensor_in(array: np.ndarray) -> Tensor:
    """Give an input as torch's modules expect it: ids as int64."""
    tensor = torch.from_numpy(np.array(array))
    return tensor if tensor.is_floating_point() or tensor.dtype == torch.bool else tensor.long()


GUARD = re.compile(r"Not all values of .* satisfy the generated guard (.*?)\.?$", re.MULTILINE)
TORCHS = re.compile(r"L\['inputs'\]\[(\d+)\]\.size\(\)\[(\d+)\]")
SCALES = (1, 3, 24)
"""What an axis' least size is multiplied by for an example: of one that a module makes a 1 of, torch makes a number."""

SPECIALIZED = "specialized"
"""Among torch's words where it has made a number of a size."""

TRIED = 1 << 16
"""Sizes of an axis without a bound for which a guard is tried, beside powers of two."""

ARITHMETIC = {"__builtins__": {}, "min": min, "max": max, "IntInfinity": lambda: math.inf}
"""What guards may use."""

SMALL = 4096
"""Sizes above the least one, of which the first is looked for that a module runs at."""

FEW = 8
"""Of so many sizes that torch's guards leave out, each is tried: what was traced is run and compared."""


def guard_failures(text: str, inputs: Sequence[TensorSpec], axes: Mapping[str, Axis]) -> dict[str, Failing] | None:
    """Say by axis where guards fail that torch could not prove: each is tried for every size that the spec allows.

    None where a guard is of several axes, of more than sizes, or fails at many that are neither small nor great.
    """
    guards = [_of_axes(guard, inputs) for guard in GUARD.findall(text)]
    if not guards or SPECIALIZED in text or "must be" in text:
        return None
    wrong: dict[str, set[int]] = {}
    for guard in guards:
        name, failing = failing_sizes(guard, axes)
        if failing is None:
            return None
        wrong[name] = wrong.get(name, set()) | set(failing)
    found = {name: _sorted_out(sizes, axes[name]) for name, sizes in wrong.items()}
    return None if None in found.values() else {name: each for name, each in found.items() if each}


def failing_sizes(guard: str, axes: Mapping[str, Axis]) -> tuple[str, list[int] | None]:
    """Try a guard of one axis for every size that the spec allows: its name, and where it fails; None of any other."""
    names = sorted(name for name in axes if re.search(rf"\b{name}\b", guard))
    if len(names) != 1 or not re.fullmatch(r"[\w\s()+*/%<>=!.,-]*", guard):
        return "", None
    (name,) = names
    try:  # arithmetic of one name: the pattern above lets nothing else through
        code = compile(guard, "guard", "eval")
        return name, [n for n in _sizes(axes[name]) if not eval(code, ARITHMETIC, {name: n})]
    except (ArithmeticError, NameError, TypeError, SyntaxError):
        return name, None


def _sorted_out(wrong: set[int], axis: Axis) -> Failing | None:
    """Tell sizes at both ends from a few between; None where there are many."""
    every = list(_sizes(axis))
    last = next((i for i, size in enumerate(reversed(every)) if size not in wrong), len(every))
    end = len(every) - last
    rest = [size for size in every[:end] if size in wrong]
    beyond = every[end] if last else None
    if len(rest) <= FEW:
        return Failing(tuple(rest), None, beyond)
    return Failing((), rest[-1], beyond) if rest == every[: len(rest)] else None


def _sizes(axis: Axis) -> Iterator[int]:
    """Give the sizes that an axis is tried at: all, or where there is no bound many and then powers of two."""
    high = axis.high
    yield from range(axis.low, min(high or TRIED, TRIED) + 1)
    if high is None or high > TRIED:
        yield from (n for power in range(17, 31) if (n := 2**power) <= (high or n))


def _of_axes(text: str, inputs: Sequence[TensorSpec]) -> str:
    """Write the names of axes in the place of torch's way to a size."""
    return TORCHS.sub(lambda match: f"{inputs[int(match[1])].shape[int(match[2])]}", text)


def refusal(error: Exception, inputs: Sequence[TensorSpec], axes: Mapping[str, Axis]) -> str:
    """Say in words why torch cannot trace a module, with torch's own guard, and where that fails."""
    text = _of_axes(str(error), inputs)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Constraints violated" in text or "violate" in text:
        told = (
            _guards(text, axes) or [line.removeprefix("- ") for line in lines[1:] if line.startswith("- ")] or lines[:1]
        )
        fixes = [line for line in lines if " = " in line and line.split(" = ")[0].isidentifier()]
        hint = f" (torch suggests {', '.join(fixes)})" if fixes else ""
        return f"the sizes that the spec calls free are not, in this module: {'; '.join(told)}{hint}"
    if type(error).__name__.startswith("GuardOnDataDependent") or "data-dependent" in text:
        guard = next((line for line in lines if "guard" in line or "expression" in line), lines[0])
        where = next((line for line in lines if '.py", line' in line and IN_TORCH not in line), "")
        return (
            "what the module does depends on the numbers that it is given (an if on a tensor, .item(), a loop over "
            f"one), which no program here can: torch says: {guard}{f'; {where}' if where else ''}"
        )
    return f"torch.export cannot trace the module: {_first(error)}"


def _guards(text: str, axes: Mapping[str, Axis]) -> list[str]:
    """Tell of the guards that fail at some sizes, the one that fails at fewest, and some of these."""
    found = []
    for guard in GUARD.findall(text):
        name, failing = failing_sizes(guard, axes)
        if failing:
            found.append((len(failing), name, failing, guard))
    if not found:
        return []
    _, name, failing, guard = max(found, key=lambda each: each[0])
    some = ", ".join(map(str, failing[: FEW // 2]))
    return [f"at some it computes something else, where {guard} does not hold; a few of them are {name} = {some}"]


def _first(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


class _silent:  # noqa: N801 - a context
    """Keep torch's log of what it cannot trace from the terminal: it is said in one message."""

    def __enter__(self) -> None:
        import logging

        self.loggers = [logging.getLogger(name) for name in ("torch", "torch.export", "torch.fx", "torch._dynamo")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.CRITICAL)

    def __exit__(self, *error: object) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
