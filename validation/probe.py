"""Probes: the same network with some weights made tiny or large, so that what ordinary values hide decides.

An epsilon of 1e-12 under a variance of 1 is lost in rounding: a network that was built with 1e-6 gives the
same outputs, until an input comes that is nearly constant. The low-variance probe makes every norm's input
so small that its variance is about epsilon.

A softmax that does not subtract the largest score is right until exp() overflows. The loud probe makes
scores of hundreds; all its tokens are nearly alike, so that these scores do not amplify rounding.

A masked token counts for nothing only while no score makes up for what is added to its own. The masked probe makes
scores so far apart that they do where that is float16's lowest number and do not where it is float32's. Only the
first layer's queries are scaled, each of which then attends to one token: what comes after is as ever.

Factors are powers of two: scaling loses no bit.
"""

import fnmatch
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from .errors import InputError
from .files import read_json

Exponents = Mapping[str, int]
"""Pattern of leaves -> power of two; the last pattern that fits counts."""

Factors = Mapping[str, float]
"""Leaf -> what its weights are multiplied by."""

LOW_VARIANCE = "low variance"
LOUD = "loud scores"
MASKED = "masked scores"
FACTORS = "factors.json"
"""Beside a probe's goldens: the factors that they were computed with."""


def exponent(epsilon: float) -> int:
    """Give the power of two next to the deviation whose variance is `epsilon`."""
    return round(math.log2(max(epsilon, 1e-30)) / 2)


def factors(exponents: Exponents, leaves: Iterable[str]) -> dict[str, float]:
    """Give the factor of each leaf that a pattern names.

    Raises:
        ValueError: a pattern names no leaf.
    """
    found: dict[str, float] = {}
    leaves = sorted(leaves)
    for pattern, power in exponents.items():
        named = fnmatch.filter(leaves, pattern)
        if not named:
            raise ValueError(f"the probe's pattern {pattern} names no parameter")
        found |= dict.fromkeys(named, 2.0**power)
    return found


def folder_name(probe: str) -> str:
    """Give the folder of a probe's goldens."""
    return probe.replace(" ", "_")


def read_factors(folder: Path) -> dict[str, float]:
    """Read the factors beside a probe's goldens.

    Raises:
        InputError: the file is missing or altered beyond reading.
    """
    file = folder / FACTORS
    try:
        return {str(leaf): float(factor) for leaf, factor in read_json(file).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}); run `bgevis-convert parity` again") from error
