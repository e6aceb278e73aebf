"""What an output is. That alone decides how it is compared, how much of it a golden keeps, and what clients get.

`valid` names the mask among the inputs that says at which positions an output means something, "~" before it where
the mask is 0 there; the others are not compared.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Output:
    """Numbers of which nothing more is known."""

    word: ClassVar[str] = "numbers"
    vectors: ClassVar[bool] = False
    """Rows are vectors, of which the angle counts and who is near to whom."""
    exact: ClassVar[bool] = False
    """Every number is right or wrong; nothing is near."""
    sums: ClassVar[bool] = False
    """Products of vectors: where all are alike, as in a probe, what float32 costs them is luck, no yardstick."""
    distributions: ClassVar[bool] = False
    """The last axis holds scores of which a softmax is taken."""
    heads_first: ClassVar[bool] = False
    """Between the rows and their positions stand an attention's heads, which a mask of positions does not know."""

    @property
    def mask(self) -> str:
        """The input that says where the output counts; "" where it does everywhere."""
        return getattr(self, "valid", "")

    def to_json(self) -> dict[str, Any]:
        """Describe it as the manifest states it."""
        return {"is": self.word, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Embedding(Output):
    """One vector a row; of length one if `unit`."""

    word: ClassVar[str] = "embedding"
    vectors: ClassVar[bool] = True
    unit: bool = True


@dataclass(frozen=True)
class States(Output):
    """A vector a position."""

    word: ClassVar[str] = "states"
    valid: str = ""


@dataclass(frozen=True)
class Logits(Output):
    """Scores over classes or a vocabulary, of which a softmax is taken."""

    word: ClassVar[str] = "logits"
    distributions: ClassVar[bool] = True
    valid: str = ""


@dataclass(frozen=True)
class Scores(Output):
    """Scores of rows against each other, or of one row: each number counts by itself."""

    word: ClassVar[str] = "scores"
    sums: ClassVar[bool] = True


@dataclass(frozen=True)
class TokenWeights(Output):
    """A number a position, a product of two vectors as a score is."""

    word: ClassVar[str] = "token weights"
    sums: ClassVar[bool] = True
    valid: str = ""


@dataclass(frozen=True)
class Ids(Output):
    """Ids that were chosen: exactly these."""

    word: ClassVar[str] = "ids"
    exact: ClassVar[bool] = True


@dataclass(frozen=True)
class Cache(Output):
    """Keys or values that the next step takes, (rows, heads, places, width)."""

    word: ClassVar[str] = "cache"
    heads_first: ClassVar[bool] = True
    valid: str = ""


KINDS = {kind.word: kind for kind in (Output, Embedding, States, Logits, Scores, TokenWeights, Ids, Cache)}


def from_json(document: Mapping[str, Any] | None) -> Output:
    """Rebuild what `to_json` wrote.

    Raises:
        ValueError: a kind that this version does not know.
    """
    stated = dict(document or {"is": Output.word})
    kind = KINDS.get(str(stated.pop("is", "")))
    if kind is None or set(stated) != {field.name for field in dataclasses.fields(kind)}:
        raise ValueError(f"{document} is no kind of output (kinds: {', '.join(KINDS)})")
    return kind(**stated)
