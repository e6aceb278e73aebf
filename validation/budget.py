"""The budget: how far a candidate may lie from the network that was trained, derived from measurement.

The reference runs in float64 and in float32 on the same inputs. What float32 itself costs there is the
yardstick; a candidate passes when its distance to float64 is within a small multiple of it. There is no
hand-set tolerance in a family, and none that a user can loosen.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

FACTOR = 4.0
"""Other kernels and orders of summation cost up to about twice what PyTorch's cost; wrong arithmetic costs far more."""

FLOOR = 4.0
"""Least yardstick, in units of float32's rounding error at the output's largest value: luck may be exact."""

LUCK = FLOOR * float(np.finfo(np.float32).eps) / 2
"""The same as a share of the largest value."""

CEILING = 2.0**-10
"""Greatest yardstick, as a share of the output's largest value. Real networks cost some 1e-6; where float32 cost this
much, the inputs would prove nothing, and goldens that say so were altered."""


FEW = 8
"""Numbers below which what float32 costs them is one draw of luck: of two draws of one number, the one is more than
four times the other in three of twenty."""


@dataclass(frozen=True)
class Budget:
    """The greatest absolute difference that one output of one case may have to float64.

    Args:
        yardstick: max |float32 - float64| of the reference.
        scale: max |float64|.
    """

    yardstick: float
    scale: float

    @property
    def allowed(self) -> float:
        """Greatest absolute difference that passes."""
        return FACTOR * max(self.yardstick, LUCK * self.scale)

    def problem(self, exact: np.ndarray, scales: Collection[float]) -> str:
        """Say why this cannot be what was measured on an output that is `exact` in float64; "" if it can.

        Args:
            exact: the output.
            scales: the largest values of the entry point's cases: a case may have the budget of one that holds it.
        """
        if exact.size == 0:
            return "holds no values"
        if self.scale not in scales or self.scale < largest(exact):
            return f"its scale is {self.scale:.9g}, but the largest value is {largest(exact):.9g}"
        if not 0 <= self.yardstick <= CEILING * self.scale:
            return f"float32 is said to cost {self.yardstick:.3g} of {self.scale:.3g}: that would let anything pass"
        return ""


def largest(array: np.ndarray) -> float:
    """Give the largest absolute value; scores of what is masked may be infinite, and count for nothing."""
    sizes = np.abs(array)
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


def measure(exact: np.ndarray, float32: np.ndarray) -> Budget:
    """Derive the budget from the reference's two runs."""
    return Budget(yardstick=distance(float32, exact), scale=largest(exact))


def distance(got: np.ndarray, exact: np.ndarray) -> float:
    """Give the greatest absolute difference; NaN anywhere is an infinite distance, the same infinity is none."""
    difference = differences(got, exact)
    return float("inf") if np.isnan(difference).any() else float(np.max(difference, initial=0.0))


def differences(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Give the absolute difference of each number."""
    with np.errstate(invalid="ignore"):
        return np.where(got == exact, 0.0, np.abs(got.astype(np.float64) - exact.astype(np.float64)))
