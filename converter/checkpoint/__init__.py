"""Open a PyTorch checkpoint safely and lazily: an index of names, shapes and byte ranges. Reads no weights.

Nothing in a file is ever executed or imported: pickles are interpreted by a machine that knows a short list
of names and has an inert stand-in for each. Needs numpy and ml_dtypes only, and
pyarrow for Parquet.
"""

from .checkpoint import Checkpoint, open_checkpoint
from .tensor import Tensor

__all__ = ["Checkpoint", "Tensor", "open_checkpoint"]
