"""Perplexity: how surprised a language model is by texts, and how much more so in smaller numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...validation.errors import InputError
from .generating import Generator

SHIPPED = Path(__file__).with_suffix(".txt")
"""Texts for when none are given: plain English, of several kinds."""

LIMIT = 1.05
"""How many times the other format's perplexity one may have, if nothing else is said: rounding that changes which token
is best in more than a few of a hundred places costs more."""


@dataclass(frozen=True)
class Perplexity:
    """What texts cost a language model.

    Args:
        tokens: that were foretold: all but the first of each text.
        nats: minus the logarithm of the chance that each got, all together.
    """

    tokens: int
    nats: float

    @property
    def value(self) -> float:
        """Give exp of the mean: among how many tokens the model was undecided."""
        return math.exp(min(self.nats / self.tokens, 700.0))


def perplexity(generator: Generator, texts: Sequence[str]) -> Perplexity:
    """Read texts, each by itself, and say how probable each token was after those before it.

    A text that is longer than the network reads is read in parts, each by itself.

    Raises:
        InputError: the network does not score the tokens of a text, or the texts have no two tokens.
    """
    entry = generator.entries[generator.greedy.prefill]
    scores = next((spec.name for spec in entry.outputs if spec.kind.distributions), None)
    if generator.picture:
        raise InputError("the network reads a picture before each text: of texts alone it has no perplexity")
    if scores is None:
        raise InputError("the network scores no tokens of the text that it is given: it has no perplexity")
    count, nats = 0, 0.0
    for ids in _parts(generator, texts):
        given = generator.texts.padded([ids])
        logits = generator.runner.run(entry.name, {spec.name: given[spec.name] for spec in entry.inputs})[scores][0]
        for row, token in zip(logits[: len(ids) - 1], ids[1:], strict=True):
            exact = row.astype(np.float64)
            highest = exact.max()
            nats += float(highest + np.log(np.exp(exact - highest).sum()) - exact[token])
        count += len(ids) - 1
    if not count:
        raise InputError("the texts have no token after the first one: there is nothing to foretell")
    return Perplexity(count, nats)


def _parts(generator: Generator, texts: Sequence[str]) -> Iterator[list[int]]:
    limit = generator.prompt_limit
    for text in texts:
        ids = generator.texts.whole(text)
        size = min(limit or len(ids), max(len(ids), 1))
        yield from (ids[start : start + size] for start in range(0, len(ids), size))
