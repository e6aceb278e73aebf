"""Precisions: the numbers that a program computes or stores in, and how near to float32 it must stay.

A program in smaller numbers is another network in a narrow sense, so the budget of float32 says nothing about it.
What counts for embeddings is said instead: the angle to the exact vector, and whether the same neighbours are found.
The floors are set from measurement, see docs/performance.md: about twice the distance that a right program has on
the networks there, and less than what two exchanged heads or a wrong scale cost.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from ..validation.rounded import Floors
from .weights import WeightsFile

FLOAT32 = "float32"
FLOAT16 = "float16"
BFLOAT16 = "bfloat16"
INT8 = "int8"
INT8_REDUCED = "int8-reduced"
INT4 = "int4"
BFLOAT16_COMPUTED = "bfloat16 products"
"""What a runtime may do of its own to a float32 program."""


FLOORS = {
    FLOAT16: Floors(FLOAT16, cosine=0.9999, mean=0.99999, overlap=0.95, pearson=0.9999, activations=4, words=0.01),
    BFLOAT16: Floors(BFLOAT16, cosine=0.9995, mean=0.9998, overlap=0.92, pearson=0.999, activations=0.001, words=0.02),
    INT8: Floors(INT8, cosine=0.98, mean=0.995, overlap=0.85, pearson=0.97, activations=6, words=0.06),
    BFLOAT16_COMPUTED: Floors(
        BFLOAT16_COMPUTED, cosine=0.999, mean=0.9995, overlap=0.9, pearson=0.99, activations=12, words=0.04
    ),
    INT8_REDUCED: Floors(INT8_REDUCED, cosine=0.97, mean=0.99, overlap=0.8, pearson=0.95, activations=2, words=0.12),
    INT4: Floors(INT4, cosine=0.8, mean=0.93, overlap=0.7, pearson=0.9, activations=0.05, words=0.25),
}

PRECISIONS = (FLOAT32, FLOAT16, BFLOAT16, INT8, INT8_REDUCED, INT4)
"""Those that programs are written in."""

SUFFIXES = {FLOAT32: "", FLOAT16: "_fp16", INT8: "_quantized", INT8_REDUCED: "_int8", INT4: "_q4"}
"""What Transformers.js appends to a program's name: for fp32, fp16, q8, int8 and q4. It has no other dtypes."""

DTYPES = {FLOAT16: np.float16, BFLOAT16: ml_dtypes.bfloat16, BFLOAT16_COMPUTED: ml_dtypes.bfloat16}
"""What rounds a weight by itself, whatever its neighbours are."""

OFF_GRID = np.float32(4 / 3)
"""A number that fits into a few bits does not fit any more when it is multiplied by this."""


def typically_rounded(
    exact: WeightsFile, rounded: Mapping[str, np.ndarray], precision: str
) -> Mapping[str, np.ndarray]:
    """Give weights as far from the exact ones as rounding to `precision` moves weights of no particular kind.

    That is `rounded`, unless most numbers were of that precision before, as those of a checkpoint in half
    precision are: rounding these costs nothing, and says nothing about what rounding activations may cost.
    """
    if precision not in DTYPES:
        return rounded
    moved = sum(np.count_nonzero(array != exact[leaf]) for leaf, array in rounded.items())
    if 2 * moved > sum(array.size for array in rounded.values()):
        return rounded
    return {leaf: (exact[leaf] * OFF_GRID).astype(DTYPES[precision]) / OFF_GRID for leaf in rounded}
