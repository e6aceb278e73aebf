"""Reruns that are right: other threads, orders, padding, optimisation levels, kernels. All must pass."""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import onnxruntime

from bgevis.validation.cases import take, take_rows
from bgevis.validation.compare import Golden, compare
from bgevis.validation.domains import Domain, PaddingMask, Positions, TokenIds, TokenTypes
from bgevis.validation.entry_point import EntryPoint, TensorSpec
from bgevis.validation.goldens import Goldens
from bgevis.validation.runner import Arrays, Runner

from .bench import Bench, Eager, failed

LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")


def reruns(bench: Bench) -> Iterator[tuple[str, Callable[[], str]]]:
    """Give each rerun with what it fails, "" if nothing."""
    yield "NNX compiled", functools.partial(bench.judge, bench.compiled)
    yield "NNX op by op", functools.partial(bench.judge, Eager(bench.net, bench.weights))
    for name, change in REARRANGED.items():
        yield f"NNX, {name}", functools.partial(_hold, bench, Rearranged(bench, bench.compiled, change))
    for level, threads in itertools.product(LEVELS, (1, 2, 4)):
        yield f"onnxruntime, {level}, {threads} threads", functools.partial(_onnxruntime, bench, level, threads)
    for name, change in REARRANGED.items():
        yield f"onnxruntime, {name}", functools.partial(_onnxruntime, bench, "ENABLE_ALL", 2, change)


def _hold(bench: Bench, runner: Runner) -> str:
    return failed("outputs", compare(runner, bench.net.entry_points, goldens(bench)))


def goldens(bench: Bench) -> list[Golden]:
    """Give the ordinary goldens."""
    return Goldens(bench.run.path / "goldens").cases()


def _onnxruntime(bench: Bench, level: str, threads: int, change: "Change | None" = None) -> str:
    runner: Runner = Sessions(bench, level, threads)
    return _hold(bench, Rearranged(bench, runner, change) if change else runner)


class Sessions:
    """The ONNX programs at one optimisation level and number of threads."""

    def __init__(self, bench: Bench, level: str, threads: int):
        self.name = f"{level} {threads}"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
        options.intra_op_num_threads = threads
        self.sessions = {
            name: onnxruntime.InferenceSession(str(bench.onnx.directory / program["path"]), options)
            for name, program in bench.onnx.programs.items()
        }

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        feed = {n: a.astype(np.int64) if a.dtype == np.int32 else a for n, a in inputs.items()}
        session = self.sessions[entry_point]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))


Change = Callable[[EntryPoint, Arrays], tuple[Arrays, np.ndarray]]
"""Inputs -> other inputs, and in which of their rows the first ones' are found."""


class Rearranged:
    """Runs the same rows in another arrangement, and puts the results back."""

    def __init__(self, bench: Bench, runner: Runner, change: Change):
        self.bench, self.runner, self.change, self.name = bench, runner, change, runner.name

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        changed, rows = self.change(self.bench.net.entry_points[entry_point], inputs)
        outputs, entry = self.runner.run(entry_point, changed), self.bench.net.entry_points[entry_point]
        return {spec.name: self._back(entry, spec, inputs, outputs[spec.name], rows) for spec in entry.outputs}

    def _back(
        self, entry: EntryPoint, spec: TensorSpec, inputs: Arrays, output: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Take the first ones' rows, without the positions that were added."""
        places = tuple(slice(size) for size in spec.resolve(entry.sizes(inputs)))
        return take_rows(entry, spec, output, rows)[places]


def _rows(entry: EntryPoint, inputs: Arrays) -> np.ndarray:
    return np.arange(entry.sizes(inputs).get(entry.rows or "", 0))


def _backwards(entry: EntryPoint, inputs: Arrays) -> tuple[Arrays, np.ndarray]:
    order = _rows(entry, inputs)[::-1]
    return take(entry, inputs, order), order


def _doubled(entry: EntryPoint, inputs: Arrays) -> tuple[Arrays, np.ndarray]:
    rows = _rows(entry, inputs)
    return take(entry, inputs, np.concatenate([rows, rows])), rows + len(rows)


def _padding(domain: Domain) -> int:
    if isinstance(domain, TokenIds):
        return domain.pad
    return int(domain.inverted) if isinstance(domain, PaddingMask) else 0


def _padded(entry: EntryPoint, inputs: Arrays, more: int) -> tuple[Arrays, np.ndarray]:
    """Add padding after the texts, as far as there are positions."""
    lengthened, kinds = dict(inputs), TokenIds | PaddingMask | TokenTypes | Positions
    longer = [spec for spec in entry.inputs if isinstance(spec.domain, kinds)]
    bounds = [(entry.most(spec.shape[-1]), inputs[spec.name].shape[-1]) for spec in longer]
    room = min([more, *(bound - size for bound, size in bounds if bound is not None)])
    for spec in longer:
        assert spec.domain
        fill = _padding(spec.domain)
        lengthened[spec.name] = np.pad(inputs[spec.name], [(0, 0), (0, room)], constant_values=fill)
    return lengthened, _rows(entry, inputs)


REARRANGED: dict[str, Change] = {
    "rows backwards": _backwards,
    "every row twice": _doubled,
    "1 more token of padding": functools.partial(_padded, more=1),
    "5 more tokens of padding": functools.partial(_padded, more=5),
    "13 more tokens of padding": functools.partial(_padded, more=13),
}
