"""Feed-forward networks and the layers that they are made of.

A hidden layer is two linear layers, of four times its input's width between them; the norm stands after the second one
and before the residual. Axes: see `pieces.py`.
"""

import functools
import itertools
from dataclasses import dataclass

from ...validation.entry_point import EntryPoint, TensorSpec
from ...validation.outputs import Ids, Logits
from ..parts import Part, join
from .entries import floats, given, method
from .kind import Kind, Reading
from .pieces import feed_forward, linear, norm

ACTIVATIONS = ("relu", "gelu", "tanh", "sigmoid")


@dataclass(frozen=True)
class FeedForwardConfig:
    """FeedForwardNN, FeedForwardClassifier or MultiLayerPerceptron."""

    model_type: str
    input_size: int
    hidden_sizes: tuple[int, ...]
    output_size: int
    activation: str
    use_layer_norm: bool
    use_residual: bool
    dropout: float = 0.0

    @property
    def blocks(self) -> tuple[tuple[int, int, bool, bool], ...]:
        """Give what goes into each block and what comes out, and whether it has a norm, and a residual."""
        perceptron = self.model_type == "MultiLayerPerceptron"
        sizes = (self.input_size, *self.hidden_sizes, *([self.output_size] if perceptron else []))
        pairs = list(itertools.pairwise(sizes))
        last = len(pairs) - 1 if perceptron else len(pairs)
        return tuple(
            (one, two, self.use_layer_norm and i < last, self.use_residual and one == two and i < last)
            for i, (one, two) in enumerate(pairs)
        )


@dataclass(frozen=True)
class BlockConfig:
    """FeedForwardBlock."""

    model_type: str
    input_dim: int
    hidden_dim: int
    output_dim: int
    activation: str
    use_layer_norm: bool
    use_residual: bool
    dropout: float = 0.0


@dataclass(frozen=True)
class LinearConfig:
    """LinearLayer."""

    model_type: str
    in_features: int
    out_features: int
    bias: bool
    use_layer_norm: bool
    dropout: float = 0.0


def ask_activation(reading: Reading, used: bool = True) -> None:
    """Settle what stands between two linear layers."""
    if used:
        reading.ask("activation", ACTIVATIONS)
    else:
        reading.option("activation", "relu", "there is no hidden layer", choices=ACTIVATIONS)


def ask_residual(reading: Reading, widths: list[int]) -> None:
    """Settle whether a block of equal widths has a residual; between others upstream leaves it out in silence."""
    if widths:
        reading.ask("use_residual", (True, False), f"a block leads from {widths[0]} to {widths[0]}")
    else:
        why = "no block's input is as wide as its output: upstream adds nothing then, whatever was asked for"
        reading.option("use_residual", False, why)
        reading.settled.values["use_residual"], reading.settled.origins["use_residual"] = False, why


def _read(reading: Reading) -> None:
    perceptron = any(name.startswith("layers.") for name in reading.shapes)
    place = "layers" if perceptron else "hidden_layers"
    shapes = [
        (
            reading.shape(f"{place}.{i}.linear1.linear.weight", 2)[1],
            reading.shape(f"{place}.{i}.linear2.linear.weight", 2)[0],
        )
        for i in range(reading.count(rf"{place}\.(\d+)\."))
    ]
    if not perceptron:
        last, first = reading.shape("output_layer.linear.weight", 2)
    inputs, outputs = (shapes[0][0] if shapes else first), (shapes[-1][1] if perceptron else last)
    hidden = tuple(two for _, two in (shapes[:-1] if perceptron else shapes))
    reading.show("input_size", inputs, "shapes", "input_dim")
    reading.show("hidden_sizes", hidden, "shapes", "hidden_dims")
    reading.show("output_size", outputs, "shapes", "output_dim", "num_classes")
    ask_activation(reading, used=bool(shapes))
    normed = any(name.endswith("layer_norm.weight") for name in reading.shapes)
    reading.show("use_layer_norm", normed, "names linear2.layer_norm.*")
    ask_residual(reading, [one for one, two in (shapes[:-1] if perceptron else shapes) if one == two])
    reading.dropout()


def _part(config: FeedForwardConfig) -> Part:
    perceptron = config.model_type == "MultiLayerPerceptron"
    place = "layers" if perceptron else "hidden_layers"
    blocks = [
        feed_forward(one, 4 * one, two, normed).mounted(f"{place}.{i}.", f"layers.{i}.")
        for i, (one, two, normed, _) in enumerate(config.blocks)
    ]
    last = (config.hidden_sizes or (config.input_size,))[-1]
    head = [] if perceptron else [linear(last, config.output_size).mounted("output_layer.linear.", "head.")]
    return join(*blocks, *head)


def _entries(config: FeedForwardConfig) -> tuple[EntryPoint, ...]:
    x = floats("x", "batch", config.input_size)
    if config.model_type != "FeedForwardClassifier":
        return (method("forward", [x], [given("output", "batch", config.output_size)]),)
    return (
        method("forward", [x], [given("logits", "batch", config.output_size, kind=Logits())]),
        method("predict_proba", [x], [given("probabilities", "batch", config.output_size)]),
        method("predict", [x], [TensorSpec("classes", "int32", ("batch",), kind=Ids())]),
    )


def _read_block(reading: Reading) -> None:
    inputs = reading.size("input_dim", "linear1.linear.weight", 1)
    reading.size("hidden_dim", "linear1.linear.weight", 0)
    outputs = reading.size("output_dim", "linear2.linear.weight", 0)
    ask_activation(reading)
    reading.show("use_layer_norm", "linear2.layer_norm.weight" in reading.shapes, "names linear2.layer_norm.*")
    ask_residual(reading, [inputs] if inputs == outputs else [])
    reading.dropout()


def _read_linear(reading: Reading) -> None:
    reading.size("in_features", "linear.weight", 1)
    reading.size("out_features", "linear.weight", 0)
    reading.show("bias", "linear.bias" in reading.shapes, "names linear.*")
    reading.show("use_layer_norm", "layer_norm.weight" in reading.shapes, "names layer_norm.*")
    reading.dropout()


def along(inputs: int, outputs: int) -> tuple[EntryPoint, ...]:
    """Describe a layer that is applied to each vector of a sequence."""
    x = floats("x", "batch", "tokens", inputs)
    return (method("forward", [x], [given("output", "batch", "tokens", outputs)]),)


def _linear_part(config: LinearConfig) -> Part:
    normed = [norm(config.out_features).mounted("layer_norm.", "norm.")] if config.use_layer_norm else []
    return join(linear(config.in_features, config.out_features, config.bias).mounted("linear.", "linear."), *normed)


_network = functools.partial(
    Kind,
    config=FeedForwardConfig,
    read=_read,
    part=_part,
    entries=_entries,
    oddities=(
        "a hidden layer is two linear layers, its input's width times four between them",
        "the norm stands after the second linear layer and before the residual",
        "where a layer's output is not as wide as its input, nothing is added, whatever use_residual says",
    ),
)
HIDDEN = r"hidden_layers\.\d+\.(linear[12]\.linear|linear2\.layer_norm)\.(weight|bias)"
LAYERS = r"layers\.\d+\.(linear[12]\.linear|linear2\.layer_norm)\.(weight|bias)"
OUTPUT = r"output_layer\.linear\.weight"

KINDS = (
    _network(
        name="FeedForwardNN",
        tiny=FeedForwardConfig("FeedForwardNN", 6, (6, 5), 3, "gelu", use_layer_norm=True, use_residual=True),
        documented=FeedForwardConfig(  # with use_residual there, which adds nothing: no two widths are the same
            "FeedForwardNN", 784, (128, 64), 10, "relu", use_layer_norm=True, use_residual=False, dropout=0.3
        ),
        marks=(OUTPUT,),
        others=(HIDDEN, r"output_layer\.linear\.bias"),
    ),
    _network(
        name="FeedForwardClassifier",
        tiny=FeedForwardConfig("FeedForwardClassifier", 6, (5,), 4, "tanh", use_layer_norm=False, use_residual=False),
        documented=FeedForwardConfig(
            "FeedForwardClassifier", 784, (256, 128), 10, "relu", use_layer_norm=False, use_residual=False, dropout=0.5
        ),
        marks=(OUTPUT,),
        others=(HIDDEN, r"output_layer\.linear\.bias"),
    ),
    _network(
        name="MultiLayerPerceptron",
        tiny=FeedForwardConfig("MultiLayerPerceptron", 6, (6, 5), 5, "sigmoid", use_layer_norm=True, use_residual=True),
        documented=FeedForwardConfig(
            "MultiLayerPerceptron", 100, (50, 25), 10, "gelu", use_layer_norm=True, use_residual=False, dropout=0.2
        ),
        marks=(r"layers\.0\.linear1\.linear\.weight",),
        others=(LAYERS,),
    ),
    Kind(
        name="FeedForwardBlock",
        config=BlockConfig,
        read=_read_block,
        part=lambda config: feed_forward(config.input_dim, config.hidden_dim, config.output_dim, config.use_layer_norm),
        entries=lambda config: along(config.input_dim, config.output_dim),
        tiny=BlockConfig("FeedForwardBlock", 6, 9, 6, "relu", use_layer_norm=True, use_residual=True),
        documented=BlockConfig(
            "FeedForwardBlock", 512, 2048, 512, "relu", use_layer_norm=True, use_residual=True, dropout=0.2
        ),
        marks=(r"linear1\.linear\.weight", r"linear2\.linear\.weight"),
        others=(r"linear[12]\.linear\.bias", r"linear2\.layer_norm\.(weight|bias)"),
    ),
    Kind(
        name="LinearLayer",
        config=LinearConfig,
        read=_read_linear,
        part=_linear_part,
        entries=lambda config: along(config.in_features, config.out_features),
        tiny=LinearConfig("LinearLayer", 6, 5, bias=True, use_layer_norm=True),
        documented=LinearConfig("LinearLayer", 512, 256, bias=True, use_layer_norm=True, dropout=0.3),
        marks=(r"linear\.weight",),
        others=(r"linear\.bias", r"layer_norm\.(weight|bias)"),
        telling=False,
    ),
)
