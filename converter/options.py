"""What the command line says, and which formats that asks for."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ..exporters.base import Exporter, exporters
from ..exporters.precisions import FLOAT32
from ..validation.errors import InputError


@dataclass(frozen=True)
class Options:
    """What the command line says beyond DIR."""

    checkpoint: str = ""
    family: str = ""
    configs: tuple[str, ...] = ()
    tokenizer: str = ""
    formats: tuple[str, ...] = ()
    layouts: tuple[str, ...] = ()
    static: tuple[dict[str, int], ...] = ()
    opset: int | None = None
    ops: str = "xla"
    via: str = ""
    precisions: tuple[str, ...] = ()
    dtype: str = "float32"
    """What leaves are stored as: "float32", or "source" for the type that each has in the checkpoint."""

    def to_json(self) -> str:
        """Serialize for another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Options":
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))


def chosen(options: Options) -> list[Exporter]:
    """Give the exporters that were asked for; by default all that are neither optional nor a layout.

    Raises:
        InputError: a format or a precision that does not exist, or a precision of a format that has none.
    """
    known = exporters()
    unknown = [name for name in (*options.formats, *options.layouts) if name not in known]
    if unknown:
        raise InputError(f"there is no format {unknown[0]!r} (formats: {', '.join(known)})")
    if options.precisions and options.formats and "onnx" not in options.formats:
        raise InputError(f"--precision is for the format onnx; {', '.join(options.formats)} was asked for")
    names = options.formats or [name for name, exporter in known.items() if not (exporter.optional or exporter.layout)]
    if options.precisions:
        names = [each for name in names for each in (_in_precisions(options) if name == "onnx" else [name])]
    return [known[name] for name in dict.fromkeys([*names, *options.layouts])]


def _in_precisions(options: Options) -> list[str]:
    """Name the ONNX formats of the precisions that were asked for."""
    return ["onnx" if precision == FLOAT32 else f"onnx-{precision}" for precision in options.precisions]
