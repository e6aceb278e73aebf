"""A low-rank adapter (LoRA) on a checkpoint of any family: which layers it changes, and by what.

Its tensors stand beside the checkpoint's under the names that peft gives them in a network that is not merged:
`X.base_layer.weight`, `X.lora_A.weight`, `X.lora_B.weight`. The family is extended by a Merge for each such layer,
whose axes are named by their sizes, and knows nothing of it. Imports no framework.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..validation.errors import InputError
from .documents import JSON
from .family import Config, Drop, Family, Merge, Rule, Rules, Split, Tie, config_from_json, config_to_json, pattern
from .layout import parse
from .parts import Part, join

if TYPE_CHECKING:
    from .reference import Encode, Original, Reference

CONFIG = "adapter_config.json"
"""peft's document."""

BASE, ORIGINAL = "base_layer", "original_module"
"""What peft calls a layer that an adapter stands beside, and one in whose place another was trained."""

MAGNITUDE = "lora_magnitude_vector"


@dataclass(frozen=True)
class Layers:
    """Layers that the adapter changes in the same way.

    Args:
        names: of the layers, as the checkpoint has them, without ".weight".
        shape: of the weight.
        rank: of the change.
        alpha: the change is multiplied by alpha / rank,
        rslora: or, if this is so, by alpha / sqrt(rank).
        lengths: whether each row of the sum is as long as a vector says (DoRA); of an embedding each column.
        embedding: whether the layer looks up rows, rather than multiplies.
        dtype: what the sum is rounded to.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    rank: int
    alpha: float
    rslora: bool
    lengths: bool
    embedding: bool
    dtype: str

    @property
    def factors(self) -> tuple[str, str]:
        """Name A and B, behind a layer's name."""
        return ("lora_embedding_A", "lora_embedding_B") if self.embedding else ("lora_A.weight", "lora_B.weight")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Give the shapes that A, B and the lengths must have."""
        merge = dataclasses.replace(self, names=("",), lengths=True).merges[0]
        texts = {"a": merge.layouts[1], "b": merge.layouts[2], "lengths": merge.lengths}
        return {role: parse(text).source_shape(self.axis_sizes) for role, text in texts.items()}

    @property
    def axis_sizes(self) -> dict[str, int]:
        """Give the sizes of the axes."""
        return dict(zip(self._axes, (self.rank, *self.shape), strict=True))

    @property
    def _axes(self) -> tuple[str, ...]:
        """Name the rank, and the axes of the weight."""
        named = (f"{name}_{size}" for name, size in zip(("out", "in", "high", "wide"), self.shape, strict=False))
        return f"rank_{self.rank}", *named

    @property
    def merges(self) -> tuple[Merge, ...]:
        """Give the word for each layer."""
        rank, first, *others = self._axes
        inner, ones = " ".join(others), " 1" * (len(others) - 1)
        layouts = f"{first} {inner}", f"{rank} {inner}", f"{first} {rank}{ones}"
        kept = f"1 {first}{ones}" if ones else first
        if self.embedding:  # its factors are those of the table the other way round
            layouts, kept = (layouts[0], f"{rank} {first}", f"{inner} {rank}"), inner
        return tuple(
            Merge(
                f"{name}.{BASE}.weight",
                f"{name}.{self.factors[0]}",
                f"{name}.{self.factors[1]}",
                f"{name}.weight",
                layouts,
                self.alpha,
                self.rslora,
                self.dtype,
                f"{name}.{MAGNITUDE}" if self.lengths else "",
                kept if self.lengths else "",
            )
            for name in self.names
        )


@dataclass(frozen=True)
class Adapter:
    """What an adapter does to a checkpoint.

    Args:
        layers: that it changes.
        replaced: tensors in whose place it has others, each with its name in the network that was trained: biases,
            modules_to_save.
        trained: what stood before the names of layers in the network that it was trained on, where the checkpoint has
        held: this before them.
        origin: where alpha came from.
    """

    layers: tuple[Layers, ...]
    replaced: tuple[tuple[str, str], ...]
    trained: str
    held: str
    origin: str

    @property
    def touched(self) -> tuple[str, ...]:
        """Name the tensors of the base that are others with it."""
        return (
            *(f"{name}.weight" for group in self.layers for name in group.names),
            *(name for name, _ in self.replaced),
        )

    @property
    def told(self) -> str:
        """Say in one line what it does."""
        count = sum(len(group.names) for group in self.layers)
        ranks = sorted({group.rank for group in self.layers})
        alphas = sorted({group.alpha for group in self.layers})
        more = f", {len(self.replaced)} tensors in the place of others" if self.replaced else ""
        return f"LoRA on {count} layers, rank {_several(ranks)}, alpha {_several(alphas)} ({self.origin}){more}"

    def part(self, rules: Rules) -> Part:
        """Declare what becomes of the tensors, beside a family's own rules. Layers that these drop are not merged."""
        found: list[Merge | Drop] = []
        for merge in (merge for group in self.layers for merge in group.merges):
            dropped = next((rule for rule in rules if isinstance(rule, Drop) and knows(rule, merge.target)), None)
            names = (merge.source, merge.a, merge.b, merge.magnitude)
            found += [Drop(name, dropped.reason) for name in names if name] if dropped else [merge]
        found += [
            Drop(aside(name), "the adapter has another in its place, which was trained") for name, _ in self.replaced
        ]
        own = tuple(rule for rule in found if isinstance(rule, Merge) or not any(knows(r, rule.source) for r in rules))
        sizes = {axis: size for group in self.layers for axis, size in group.axis_sizes.items()}
        return Part(own, sizes, {})

    def as_trained(self, name: str) -> str:
        """Give a tensor the name that it had in the network that the adapter was trained on."""
        return self.trained + name.removeprefix(self.held)

    def to_json(self) -> dict[str, Any]:
        """Write it as the manifest holds it."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, document: JSON) -> "Adapter":
        """Read what `to_json` wrote.

        Raises:
            InputError: a field is missing, unknown or of another kind.
        """
        try:
            adapter: Adapter = config_from_json(cls, document)
            texts = [name for group in adapter.layers for name in group.names]
            texts += [name for pair in adapter.replaced for name in pair]
            sizes = [size for group in adapter.layers for size in (*group.shape, group.rank)]
            fits = all(type(text) is str for text in texts) and all(type(size) is int and size > 0 for size in sizes)
            fits = fits and all(type(group.names) is tuple and len(group.shape) > 1 for group in adapter.layers)
        except (TypeError, ValueError, AttributeError) as error:
            raise InputError(f"the manifest's adapter is malformed ({error}); convert again") from error
        if not fits:
            raise InputError("the manifest's adapter is malformed: names of layers, shapes or ranks; convert again")
        return adapter


def _several(numbers: Sequence[int | float]) -> str:
    return " and ".join(f"{number:g}" for number in numbers)


def aside(name: str) -> str:
    """Give the name of a tensor in whose place the adapter has another."""
    layer, _, last = name.rpartition(".")
    return f"{layer}.{ORIGINAL}.{last}"


def knows(rule: Rule | Tie | Drop | Split | Merge, name: str) -> bool:
    """Say whether a rule's first name fits."""
    return pattern(rule.source).fullmatch(name) is not None


def adapted(family: Family, adapter: Adapter) -> Family:
    """Extend a family by an adapter: its rules, and peft beside the judge."""

    def part(config: Config) -> Part:
        own = family.part(config)
        return join(own, adapter.part(own.rules))

    def reference(config: Config, original: "Original") -> "Reference":
        from .adapter_judge import beside, without

        return beside(family.reference(config, without(original, adapter)), original, adapter)

    def encode(config: Config, original: "Original", found: "Reference") -> Mapping[str, "Encode"]:
        from .adapter_judge import without

        assert family.encode is not None
        return family.encode(config, without(original, adapter), found)

    more: dict[str, Any] = {"encode": encode} if family.encode else {}
    return dataclasses.replace(family, part=part, reference=reference, **more)
