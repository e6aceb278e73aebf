"""Where do two networks part? The first module, in the order of computation, whose value leaves its budget."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .budget import Budget, distance
from .runner import Arrays

Taps = Mapping[str, tuple[np.ndarray, Budget]]
"""Module path -> (float64 sample, budget), in the order of computation."""


ROOM = 2.0
"""Times its budget that an intermediate value of the NNX model may lie off: other processors, other luck."""


def with_room(taps: Taps, times: float) -> Taps:
    """Widen the budgets: of each module few numbers were measured, and the worst of some hundred modules decides."""
    return {m: (exact, Budget(times * b.yardstick, times * b.scale)) for m, (exact, b) in taps.items()}


@dataclass(frozen=True)
class Divergence:
    """The first module that disagrees."""

    module: str
    error: float
    allowed: float


def first_divergence(wanted: Taps, got: Arrays) -> Divergence | None:
    """Compare intermediate values by module path; None when all agree."""
    for module, (exact, budget) in wanted.items():
        value = got.get(module)
        error = float("inf")
        if value is not None and value.size == exact.size:
            error = distance(value.reshape(exact.shape), exact)
        if not error <= budget.allowed:
            return Divergence(module, error, budget.allowed)
    return None


def worst(wanted: Taps, got: Arrays) -> Divergence:
    """Give the module that used most of its budget."""
    used = [
        Divergence(module, distance(got[module].reshape(exact.shape), exact), budget.allowed)
        for module, (exact, budget) in wanted.items()
    ]
    return max(used, key=lambda d: d.error / d.allowed if d.allowed else d.error)
