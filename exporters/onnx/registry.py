"""The table of ONNX: filled by the modules of `operators`."""

from ..lowering.table import Table

TABLE = Table("ONNX", f"{__package__}.operators")
primitive, composite = TABLE.primitive, TABLE.composite
