"""What makes one vector of the states of a text's tokens: the steps of a pipeline, as data. Imports no framework.

They are those modules of sentence-transformers that this project computes, in its order and under its words.
`pooling.py` is their network, `pipeline.py` reads and writes the folders that state them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from ..validation.probe import LOW_VARIANCE, Exponents, exponent
from .family import Rule, Shapes
from .parts import Part

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Of a Pooling, by sentence-transformers' words, in the order in which its older layout puts several together."""

ACTIVATIONS = (
    *("Identity", "Tanh", "Sigmoid", "ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish"),
    *("Softplus", "Softsign", "Hardtanh", "Hardsigmoid", "Hardswish", "LogSigmoid", "Tanhshrink"),
)
"""Classes of torch.nn, each with its defaults, that a Dense may end with."""

EPSILON = 1e-5
"""Of a LayerNorm: the default of torch.nn.LayerNorm, which sentence-transformers takes."""

SMALL = -48
"""Power of two for what decides how long a vector is: it falls below the epsilon of a division that follows."""


@dataclass(frozen=True)
class Pooling:
    """One vector of the states of a text's tokens, or several of them side by side.

    Args:
        modes: some of `MODES`.
        include_prompt: whether the tokens of the prompt count too; if not, the entry point takes `prompt_tokens`.
    """

    do: ClassVar[str] = "pooling"
    modes: tuple[str, ...]
    include_prompt: bool = True


@dataclass(frozen=True)
class Dense:
    """A linear layer and an activation.

    Args:
        tensors: what stands before the names of its tensors: "2_Dense/" where they lie in a folder of their own, "2."
            in the state dict of the whole model.
        inputs: width of what it takes.
        outputs: width of what it gives.
        bias: whether it has one.
        activation: one of `ACTIVATIONS`.
        residual: whether its input is added to its result, through a matrix where the widths differ.
    """

    do: ClassVar[str] = "dense"
    tensors: str
    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "Tanh"
    residual: bool = False

    @property
    def shapes(self) -> Shapes:
        """Give names and shapes of its tensors, as upstream stores them."""
        size = {"linear.weight": (self.outputs, self.inputs)}
        bias: dict[str, tuple[int, ...]] = {"linear.bias": (self.outputs,)} if self.bias else {}
        crossing = self.residual and self.inputs != self.outputs
        return {**size, **bias, **({"residual.weight": (self.outputs, self.inputs)} if crossing else {})}


@dataclass(frozen=True)
class LayerNorm:
    """A layer normalisation of the vector.

    Args:
        tensors: what stands before the names of its tensors.
        width: of the vector.
    """

    do: ClassVar[str] = "layer_norm"
    tensors: str
    width: int

    @property
    def shapes(self) -> Shapes:
        """Give names and shapes of its tensors, as upstream stores them."""
        return {"norm.weight": (self.width,), "norm.bias": (self.width,)}


@dataclass(frozen=True)
class Normalize:
    """Length one."""

    do: ClassVar[str] = "normalize"


@dataclass(frozen=True)
class Truncate:
    """The first numbers alone.

    Args:
        width: how many.
    """

    do: ClassVar[str] = "truncate"
    width: int


Step: TypeAlias = Pooling | Dense | LayerNorm | Normalize | Truncate
Steps: TypeAlias = tuple[Step, ...]


def plain(modes: Sequence[str] = ("cls",), *, normalize: bool = True) -> Steps:
    """Give the pipeline of most models: a pooling, and perhaps length one."""
    return (Pooling(tuple(modes)), *((Normalize(),) if normalize else ()))


CLS = plain()
"""The first token's state, of length one."""


def width(steps: Steps, states: int) -> int:
    """Give the width of what the steps make of states of a width."""
    for step in steps:
        if isinstance(step, Pooling):
            states *= len(step.modes)
        elif isinstance(step, Dense):
            states = step.outputs
        elif isinstance(step, Truncate):
            states = step.width
    return states


def pooling(steps: Steps) -> Pooling:
    """Give the one step that pools."""
    return next(step for step in steps if isinstance(step, Pooling))


def unit(steps: Steps) -> bool:
    """Say whether the result is of length one."""
    return isinstance(steps[-1], Normalize)


def leading(steps: Steps) -> bool:
    """Say whether padding may stand before a text: not where the first token is taken wherever the text begins."""
    step = pooling(steps)
    return "cls" not in step.modes or not step.include_prompt


def described(steps: Steps) -> Mapping[str, Any]:
    """State what the embeddings are, in the words of preprocess.json."""
    return {"pooling": list(pooling(steps).modes), "normalize": unit(steps)}


def told(steps: Sequence[Mapping[str, Any]]) -> str:
    """Say what steps there are, as JSON has them, in one line for people."""
    words = []
    for step in steps:
        modes, activation = " + ".join(step.get("modes", ())), step.get("activation", "")
        sizes = f"{step['inputs']} to {step['outputs']}" if "inputs" in step else str(step.get("width", ""))
        without = "without the prompt" if not step.get("include_prompt", True) else ""
        words.append(" ".join(filter(None, [step["do"], modes, sizes, activation, without])))
    return ", ".join(words)


PLACE = "pipeline"
"""Where the steps stand in a network: `pipeline.0`, `pipeline.1`, ..."""


def part(steps: Steps) -> Part:
    """Declare the steps' tensors; the leaves are relative to the module that holds the pipeline."""
    return Part(
        tuple(_rules(steps)),
        {axis: size for i, step in enumerate(steps) for axis, size in _axes(i, step)},
        {f"{step.tensors}{name}": shape for step in _trained(steps) for name, shape in step.shapes.items()},
        {LOW_VARIANCE: _small(steps)} if any(_trained(steps)) else {},
    )


def _trained(steps: Steps) -> list[Dense | LayerNorm]:
    return [step for step in steps if isinstance(step, Dense | LayerNorm)]


def _rules(steps: Steps) -> Iterator[Rule]:
    for i, step in enumerate(steps):
        source, target = getattr(step, "tensors", ""), f"{PLACE}.{i}."
        if isinstance(step, Dense):
            yield Rule(f"{source}linear.weight", f"{target}linear.kernel", f"{_out(i)} {_in(i)} -> {_in(i)} {_out(i)}")
            if step.bias:
                yield Rule(f"{source}linear.bias", f"{target}linear.bias", _out(i))
            if "residual.weight" in step.shapes:
                layout = f"{_out(i)} {_in(i)} -> {_in(i)} {_out(i)}"
                yield Rule(f"{source}residual.weight", f"{target}residual.kernel", layout)
        elif isinstance(step, LayerNorm):
            yield Rule(f"{source}norm.weight", f"{target}norm.scale", _out(i))
            yield Rule(f"{source}norm.bias", f"{target}norm.bias", _out(i))


def _in(i: int) -> str:
    return f"in{i}"


def _out(i: int) -> str:
    return f"out{i}"


def _axes(i: int, step: Step) -> Iterator[tuple[str, int]]:
    if isinstance(step, Dense):
        yield from ((_in(i), step.inputs), (_out(i), step.outputs))
    elif isinstance(step, LayerNorm):
        yield _out(i), step.width


def before(steps: Sequence[Step]) -> int:
    """Give the power of two that makes a vector so small that the epsilon of what follows it decides."""
    following = next((step for step in steps if isinstance(step, Dense | LayerNorm)), None)
    return exponent(EPSILON) if isinstance(following, LayerNorm) else SMALL


def _small(steps: Steps) -> Exponents:
    """Leave vectors so small that the epsilon of what follows decides: what is added to them."""
    found: dict[str, int] = {}
    for i, step in enumerate(steps):
        if isinstance(step, LayerNorm) or (isinstance(step, Dense) and step.bias):
            leaf = "norm.*" if isinstance(step, LayerNorm) else "linear.bias"
            found[f"{PLACE}.{i}.{leaf}"] = before(steps[i + 1 :])
    return found


KINDS: Mapping[str, Callable[..., Step]] = {kind.do: kind for kind in (Pooling, Dense, LayerNorm, Normalize, Truncate)}


def step_to_json(step: Step) -> dict[str, Any]:
    """Write a step as JSON."""
    fields = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    return {"do": step.do, **{n: list(v) if isinstance(v, tuple) else v for n, v in fields.items()}}


def steps_from_json(listed: Sequence[Mapping[str, Any]]) -> Steps:
    """Read steps that `step_to_json` wrote."""
    fields = [{n: tuple(v) if isinstance(v, list) else v for n, v in step.items() if n != "do"} for step in listed]
    return tuple(KINDS[step["do"]](**given) for step, given in zip(listed, fields, strict=True))
