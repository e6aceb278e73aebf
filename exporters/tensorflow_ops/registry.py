"""The table of TensorFlow: filled by the modules of `operators`."""

from ..lowering.table import Table

TABLE = Table("TensorFlow operators", f"{__package__}.operators")
primitive, composite = TABLE.primitive, TABLE.composite
