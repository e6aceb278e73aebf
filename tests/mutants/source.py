"""Mistakes in the models' own source: every number another, every operator another, every function its sibling."""

import ast
import copy
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .bench import Bench, Eager, Mutant

MODULES = {
    "bert": ("ops", "layers", "attention", "blocks", "bert.modeling"),
    "xlm-roberta": ("ops", "bert.modeling"),
    "visualized_bge": ("ops", "layers", "blocks", "bert.modeling", "visualized_bge.modeling"),
    "clip": ("ops", "attention", "blocks", "clip.modeling"),
}
"""Variant -> the modules that are mutated there."""

CHAIN = ("ops", "layers", "attention", "blocks", "bert.modeling", "visualized_bge.modeling", "clip.modeling")
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
    "jnp.ones_like(cos[:1])": "ones and zeros of the same shape",
}
"""Part of a statement -> why a change there may compute the same network."""


def mutants(bench: Bench) -> Iterator[Mutant]:
    """Give every mistake in the modules of a variant."""
    for name in MODULES[bench.variant]:
        module = importlib.import_module(f"bgevis.model.{name}")
        tree, lines = ast.parse(inspect.getsource(module)), executed(bench, module)
        for line, (group, said), changed in changes(tree, lines):
            text = ast.unparse(line)
            reason = next((why for part, why in EQUIVALENT.items() if part in text), "")
            where = f"{bench.variant}: {name}:{line.lineno} {text.splitlines()[0][:90]}  [{said}]"
            yield Mutant(f"source, {group}", where, _checker(bench, name, ast.unparse(changed)), reason)


def _checker(bench: Bench, name: str, source: str) -> Callable[[], str]:
    def check() -> str:
        with mutated(name, source):
            return bench.with_network(lambda: bench.family.network(bench.config))

    return check


def executed(bench: Bench, module: types.ModuleType) -> set[int]:
    """Give the lines that the network runs: a change elsewhere is another variant's."""
    lines: set[int] = set()

    def trace(frame: types.FrameType, event: str, argument: object) -> object:
        if frame.f_code.co_filename != module.__file__:
            return None
        lines.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        bench.judge(Eager(bench.family.network(bench.config), bench.weights))
    finally:
        sys.settrace(before)
    return lines


def changes(tree: ast.Module, lines: set[int]) -> Iterator[tuple[ast.stmt, tuple[str, str], ast.Module]]:
    """Change one node at a time: give its statement, what was done, and the whole tree."""
    for statement in statements(tree, lines):
        for index, node in enumerate(ast.walk(statement)):
            for group, said, new in replacements(node):
                changed = copy.deepcopy(tree)
                place = next(s for s in ast.walk(changed) if _same(s, statement))
                target = list(ast.walk(place))[index]
                for field, value in new.items():
                    setattr(target, field, value)
                yield statement, (group, said), changed


def _same(one: ast.AST, other: ast.stmt) -> bool:
    return type(one) is type(other) and (one.lineno, one.col_offset) == (other.lineno, other.col_offset)


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
        for other in (value + 1, value - 1) if isinstance(value, int) else (value * 1.01, value * 1e3):
            yield "number", f"{value} -> {other}", {"value": other}
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        other = OPERATORS[type(node.op)]
        yield "operator", f"{type(node.op).__name__} -> {other.__name__}", {"op": other()}
    elif isinstance(node, ast.Attribute) and node.attr in SIBLINGS:
        yield "function", f"{node.attr} -> {SIBLINGS[node.attr]}", {"attr": SIBLINGS[node.attr]}
    elif isinstance(node, ast.Name) and node.id in SIBLINGS and isinstance(node.ctx, ast.Load):
        yield "function", f"{node.id} -> {SIBLINGS[node.id]}", {"id": SIBLINGS[node.id]}


@contextmanager
def mutated(name: str, source: str) -> Iterator[None]:
    """Build the models' modules anew, one of them from another source, and put them in the others' place."""
    full = [f"bgevis.model.{part}" for part in CHAIN]
    before = {module: importlib.import_module(module) for module in full}
    try:
        for part, module in zip(CHAIN, full, strict=True):
            old = before[module]
            new = types.ModuleType(module)
            new.__dict__.update(__file__=old.__file__, __package__=old.__package__, __spec__=old.__spec__)
            _place(module, new)
            text = source if part == name else inspect.getsource(old)
            exec(compile(text, str(old.__file__), "exec"), new.__dict__)
        yield
    finally:
        for module, old in before.items():
            _place(module, old)


def _place(name: str, module: types.ModuleType) -> None:
    package, _, last = name.rpartition(".")
    sys.modules[name] = module
    setattr(sys.modules[package], last, module)
