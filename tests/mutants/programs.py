"""Mistakes in the ONNX programs: every node's operator, operands and attributes, constants, the weights' places."""

import copy
import functools
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .bench import Bench, Mutant

SIBLINGS = {
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "Div",
    "Div": "Mul",
    "Max": "Min",
    "Min": "Max",
    "ReduceL2": "ReduceL1",
    "ReduceSum": "ReduceMean",
    "ReduceMean": "ReduceMax",
    "Sigmoid": "Tanh",
    "Tanh": "Sigmoid",
    "Erf": "Tanh",
    "Sqrt": "Reciprocal",
    "Exp": "Softplus",
    "Equal": "Less",
    "Less": "LessOrEqual",
    "LessOrEqual": "Less",
    "Greater": "GreaterOrEqual",
    "GreaterOrEqual": "Greater",
    "And": "Or",
    "Or": "And",
    "Gelu": "Mish",
}
EQUIVALENT = {
    r"Shape: end ": "the axes asked for end before",
    r"(attention|cross)\.key\.Add: Sub": "a bias of the keys shifts all scores of a query alike",
    r"Concat\w*: axis 0 -> -1|constant_int64_0\S* of Squeeze \+ -1": "a list has one axis",
    r"constant_int32_1\S* of Mul \+ 1": "places that are only compared, all of them twice as far on",
    r"constant_int32_0\S* of Add \+ ": "places that are only compared, all of them one further on",
    r"prefill \S*Attention: is_causal 0 -> 1": "what comes later is masked already",
    r"siglip: encode_text text\.blocks\.1\S*Attention: is_causal 0 -> 1": "the last token alone is read",
    r"scale left out": "the operator's own scale is 1 / sqrt(width)",
    r" of (Less|Where) ": "what ids outside the vocabulary give",
    r"_-65504": "exp() of either is exactly 0 in float32",
    r"_9223372036854775807 ": "to the end, however long",
    r"Slice: operands 2 and 3 swapped": "the end and the axis are both 1",
    r"constant_float32_9.999999717\d*e-10 of Max": "a divisor of 0 tokens: 0 / anything is 0",
    r"encode_image (Sub|Concat_4|text.embeddings.norm.Concat): operands": "the empty text has no padding, and no order",
    r"encode_image Mul: Div|encode_image .*mask left out": "the empty text has no padding",
    r"encode_text input_ids.Less(_1)?: LessOrEqual": "positions count from one more than the padding's",
    r"encode_image Less: LessOrEqual": "the empty text has no id 0",
    r"_-3\.4028\d+e\+38 of Mul \+ 1": "exp() of either is exactly 0 in float32",
    r"log_mel samples\.(GreaterOrEqual|Where|Max|Mul|Div): ": "where samples are cut in two, which are added",
    r"log_mel constant_float32_(\d+|9\.09\d+e-13|0\.0078125) of (GreaterOrEqual|Max|Mul)": "where samples are cut",
    r"log_mel .*(pads \[0, 0\]|_-9223372036854775807 )": "no padding either way; from the end, however far that is",
    r"encode_audio encoder\.norm\.ReduceSum\w*: ReduceMean": "the vector is made of length one, however long it was",
    r"constant_float32_0\.0 of Max \+ -1": "no length is below 0",
    r"insight.*constant_float32_-1000000000\.0 of Mul": "what hides is as far below all scores as before",
    r"clip\S*: .* text\.blocks\.\d\.attention\.Attention: is_causal": "the mask that it is given is causal already",
}
"""Pattern of a name -> why such a change may compute the same."""

Change = Callable[[ModelProto], None]


def mutants(bench: Bench) -> Iterator[Mutant]:
    """Give every mistake in every program of a variant."""
    onnxruntime.set_default_logger_severity(4)
    for entry, program in bench.onnx.programs.items():
        file = bench.onnx.directory / program["path"]
        model = onnx.load(file, load_external_data=False)
        for group, name, change in changes(model):
            check = functools.partial(_with_program, bench, file.name, model, change)
            where = f"{bench.variant}: {entry} {name}"
            reason = next((why for pattern, why in EQUIVALENT.items() if re.search(pattern, where)), "")
            yield Mutant(f"ONNX, {group}", where, check, reason)


def _with_program(bench: Bench, file: str, model: ModelProto, change: Change) -> str:
    changed = copy.deepcopy(model)
    change(changed)
    with tempfile.TemporaryDirectory() as folder:
        programs = bench.copy_programs(Path(folder))
        (programs / file).write_bytes(changed.SerializeToString())
        return bench.with_programs(Path(folder), [file.removesuffix(".onnx")])


def changes(model: ModelProto) -> Iterator[tuple[str, str, Change]]:
    """Give every single change of a program."""
    for index, node in enumerate(model.graph.node):
        for name, change in node_changes(node):
            yield "operators", f"{node.name}: {name}", functools.partial(_apply, index, change)
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.data_location != TensorProto.EXTERNAL:
            readers = sorted({node.op_type for node in model.graph.node if tensor.name in node.input})
            for delta in (1, -1):
                name = f"{tensor.name} of {', '.join(readers)} + {delta}"
                yield "constants", name, functools.partial(_shift, index, delta)
    external = [i for i, t in enumerate(model.graph.initializer) if t.data_location == TensorProto.EXTERNAL]
    for one, other in itertools.pairwise(external):
        yield "places of weights", model.graph.initializer[one].name, functools.partial(_swap_places, one, other)


def _apply(index: int, change: Callable[[NodeProto], None], model: ModelProto) -> None:
    change(model.graph.node[index])


def _shift(index: int, delta: int, model: ModelProto) -> None:
    """Add `delta` to a constant: ones to whole numbers, hundredths of themselves to others."""
    tensor = model.graph.initializer[index]
    array = numpy_helper.to_array(tensor)
    step = np.ones_like(array) if array.dtype.kind == "i" else np.where(array == 0, 0.01, 0.01 * abs(array))
    with np.errstate(over="ignore"):
        moved = ~array if array.dtype == bool else array + delta * step
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(moved, array.dtype), tensor.name))


def _swap_places(one: int, other: int, model: ModelProto) -> None:
    """Let two weights point to each other's bytes."""
    first, second = model.graph.initializer[one], model.graph.initializer[other]
    places = [[copy.deepcopy(e) for e in t.external_data] for t in (first, second)]
    for tensor, place in zip((second, first), places, strict=True):
        del tensor.external_data[:]
        tensor.external_data.extend(place)


def node_changes(node: NodeProto) -> Iterator[tuple[str, Callable[[NodeProto], None]]]:
    """Give the mistakes in one node."""
    if node.op_type in SIBLINGS:
        yield f"{SIBLINGS[node.op_type]} instead", functools.partial(_set_operator, SIBLINGS[node.op_type])
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        for other in other_values(attribute.name, value):
            change = functools.partial(_set_attribute, attribute.name, other)
            yield f"{attribute.name} {_text(value)} -> {_text(other)}", change
    if node.op_type == "Gelu":
        other = "none" if "approximate" in {a.name for a in node.attribute} else "tanh"
        yield f"approximate -> {other}", functools.partial(_set_attribute, "approximate", other)
    if node.op_type == "Attention":
        yield "scale left out", functools.partial(_drop_attribute, "scale")
        yield "is_causal 0 -> 1", functools.partial(_set_attribute, "is_causal", 1)
        if len(node.input) > 3:
            yield "mask left out", functools.partial(_drop_input, 3)
    if node.op_type == "LayerNormalization":
        if all(a.f != np.float32(1e-5) for a in node.attribute):  # which is ONNX's own
            yield "epsilon left out", functools.partial(_drop_attribute, "epsilon")
        yield "bias left out", functools.partial(_drop_input, 2)
    if node.op_type not in ("Add", "Mul", "Max", "Min", "And", "Or", "Equal", "Sum"):
        for i in range(len(node.input) - 1):
            yield f"operands {i} and {i + 1} swapped", functools.partial(_swap_inputs, i)


def other_values(name: str, value: object) -> Iterator[object]:
    """Give other values of an attribute."""
    if isinstance(value, float):
        yield from (value * 1.01, value * 1e3, 0.0)
    elif name in ("interleaved", "keepdims"):
        yield 1 - int(value)
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, list) and len(value) > 1 and all(isinstance(v, int) for v in value):
        for i in range(len(value) - 1):
            yield [*value[:i], value[i + 1], value[i], *value[i + 2 :]]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _set_operator(operator: str, node: NodeProto) -> None:
    node.op_type = operator


def _set_attribute(name: str, value: object, node: NodeProto) -> None:
    _drop_attribute(name, node)
    node.attribute.append(helper.make_attribute(name, value))


def _drop_attribute(name: str, node: NodeProto) -> None:
    kept = [copy.deepcopy(a) for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _drop_input(index: int, node: NodeProto) -> None:
    del node.input[index:]


def _swap_inputs(index: int, node: NodeProto) -> None:
    node.input[index], node.input[index + 1] = node.input[index + 1], node.input[index]
