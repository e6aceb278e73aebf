"""Mistakes in the models' own source: every number another, every operator another, every function its sibling.

The modules are found: a family's `modeling`, a module or a package, and those of this package that it computes with.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

from bgevis.model.family import Family
from bgevis.validation.cases import tap_case

from .bench import Bench, Mutant

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
SIBLINGS = {
    "cos": "sin",
    "sin": "cos",
    "even": "odd",
    "odd": "even",
    "max": "min",
    "mean": "max",
    "sum": "mean",
    "maximum": "minimum",
    "sqrt": "exp",
    "rsqrt": "exp",
    "exp": "tanh",
    "erf": "tanh",
    "tanh": "erf",
    "logistic": "tanh",
    "square": "abs",
    "silu": "gelu",
    "query": "key",
    "key": "query",
    "gate": "up",
    "scale": "bias",
    "cumsum": "cumprod",
}
EQUIVALENT = {
    "(rngs.params(), ": "the first random value, which the checkpoint's replaces",
    "1 / math.sqrt": "the first random value, which the checkpoint's replaces",
    "MASKED_SCORE = -": "told apart only by scores that differ by just as much",
    "1e-09": "a divisor of 0 tokens: 0 / anything is 0",
    "ACTIVATIONS = ": "the activation of another network",
    "even, odd = ": "an index past the end of an axis of two is its last",
    "self.position.first, x.shape[1]": "the first rows of a table, of which there are no more",
    "return layers.at(x * counts": "of the last that counts, and so 1",
    "for mode in self.step.modes], axis=-1": "what one mode gives has nothing to be joined with",
    "self.token_type.embedding[0] if": "of a network of one type, or of one that is given the types",
    "config.projection_dim > 0": "of a tower without its projection, whose size is 0",
    "self.cls_token.shape[0]": "it has one axis",
    "before = past[0][0]": "keys and values of all layers have as many places",
    "jnp.ones_like(cos[:1])": "ones and zeros of the same shape",
}
"""Part of a statement -> why a change there may compute the same network."""
OWN = ("__file__", "__package__", "__path__", "__spec__")
"""What says where a module is."""


def root(family: Family) -> str:
    """Give the module of a family's network."""
    return f"{family.network.__module__}.modeling"


def chain(name: str) -> list[str]:
    """Give the modules that a network computes with, each after those that it imports; the last is `name`."""
    found: dict[str, None] = {}

    def visit(each: str) -> None:
        module = importlib.import_module(each)
        frameworks = (getattr(value, "__name__", "").partition(".")[0] for value in vars(module).values())
        if each in found or (each != name and not {"jax", "flax"} & {*frameworks}):
            return
        for other in imported(module):
            visit(other)
        found[each] = None

    visit(name)
    return list(found)


def imported(module: types.ModuleType) -> Iterator[str]:
    """Give the modules of this package that a module imports at its top."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            place = importlib.util.resolve_name("." * node.level + (node.module or ""), module.__package__)
            for name in (place, *(f"{place}.{alias.name}" for alias in node.names)):
                if isinstance(sys.modules.get(name), types.ModuleType) and name.startswith("bgevis.model."):
                    yield name


def mutants(bench: Bench) -> Iterator[Mutant]:
    """Give every mistake in the modules of a variant."""
    names = chain(root(bench.family))
    lines = executed(bench, names)
    for name in names:
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        for statement in statements(tree, lines[name]) if lines[name] else ():
            text = ast.unparse(statement)
            reason = next((why for part, why in EQUIVALENT.items() if part in text), "")
            for node in ast.walk(statement):
                for group, said, new in replacements(node):
                    where = f"{bench.variant}: {name}:{statement.lineno} {text.splitlines()[0][:110]}  [{said}]"
                    yield Mutant(f"source, {group}", where, _checker(bench, name, tree, node, new), reason)


def _checker(bench: Bench, name: str, tree: ast.Module, node: ast.AST, new: dict) -> Callable[[], str]:
    def check() -> str:
        with mutated(bench.family, name, changed(tree, node, new)):
            return bench.with_network(lambda: bench.family.network(bench.config))

    return check


def executed(bench: Bench, names: list[str]) -> dict[str, set[int]]:
    """Give the lines of each module that the network runs: a change elsewhere is another variant's."""
    files = {str(importlib.import_module(name).__file__): name for name in names}
    lines: dict[str, set[int]] = {name: set() for name in names}

    def trace(frame: types.FrameType, event: str, argument: object) -> object:
        name = files.get(frame.f_code.co_filename)
        if name is None:
            return None
        lines[name].add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        net = bench.family.network(bench.config)
        for name, entry in bench.net.entry_points.items():
            jax.eval_shape(net.function(name), bench.weights, *tap_case(entry).inputs.values())
    finally:
        sys.settrace(before)
    return lines


def changed(tree: ast.Module, node: ast.AST, new: dict) -> str:
    """Write a module with one node changed: only now, since most mistakes are listed and never made."""
    before = {field: getattr(node, field) for field in new}
    try:
        vars(node).update(new)
        return ast.unparse(tree)
    finally:
        vars(node).update(before)


def statements(tree: ast.Module, lines: set[int]) -> Iterator[ast.stmt]:
    """Give the simple statements that were run, and the module's constants; a composite's name is for exporters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "call":
            lines = lines - set(range(node.lineno, node.end_lineno + 1))
    constants = [node for node in tree.body if isinstance(node, ast.Assign)]
    run = [n for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.Return | ast.AugAssign)]
    for node in run:
        if node in constants or lines & set(range(node.lineno, node.end_lineno + 1)):
            yield node


def replacements(node: ast.AST) -> Iterator[tuple[str, str, dict]]:
    """Give what a node could be by mistake."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        value = node.value
        near = (value * 1.01, value * 1e3) if value else (1e-12, 1.0)
        for other in (value + 1, value - 1) if isinstance(value, int) else near:
            yield "number", f"{value} -> {other}", {"value": other}
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        other = OPERATORS[type(node.op)]
        yield "operator", f"{type(node.op).__name__} -> {other.__name__}", {"op": other()}
    elif isinstance(node, ast.Attribute) and node.attr in SIBLINGS:
        yield "function", f"{node.attr} -> {SIBLINGS[node.attr]}", {"attr": SIBLINGS[node.attr]}
    elif isinstance(node, ast.Name) and node.id in SIBLINGS and isinstance(node.ctx, ast.Load):
        yield "function", f"{node.id} -> {SIBLINGS[node.id]}", {"id": SIBLINGS[node.id]}


@contextmanager
def mutated(family: Family, name: str, source: str) -> Iterator[None]:
    """Build a network's modules anew, one of them from another source, and put them in the others' place."""
    before = {module: importlib.import_module(module) for module in chain(root(family))}
    try:
        for module, old in before.items():
            new = types.ModuleType(module)
            new.__dict__.update({own: value for own, value in vars(old).items() if own in OWN})
            _place(module, new)
            text = source if module == name else inspect.getsource(old)
            exec(compile(text, str(old.__file__), "exec"), new.__dict__)
        yield
    finally:
        for module, old in before.items():
            _place(module, old)


def _place(name: str, module: types.ModuleType) -> None:
    package, _, last = name.rpartition(".")
    sys.modules[name] = module
    setattr(sys.modules[package], last, module)
