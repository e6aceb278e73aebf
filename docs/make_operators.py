"""Write docs/operators.md from the tables of rules: `python docs/make_operators.py`. A test holds the page to it."""

from pathlib import Path

import onnx

from bgevis.exporters.lowering.table import Table
from bgevis.exporters.lowering.walk import CALLS, NOTHING
from bgevis.exporters.onnx.registry import TABLE as ONNX
from bgevis.exporters.onnx.write import OPSETS
from bgevis.exporters.tensorflow_ops.registry import TABLE as TENSORFLOW
from bgevis.model.traced.operators import table as aten

PAGE = Path(__file__).with_name("operators.md")
INTRODUCTION = """# Operators

Made from the tables of rules by `python docs/make_operators.py`.

A traced program is walked once, by `exporters/lowering/walk.py`, whatever it becomes; a table says what each
primitive of `jax.lax`, and each composite of `model/ops.py`, becomes in ONNX (`exporters/onnx/operators/`) and in
TensorFlow (`exporters/tensorflow_ops/operators/`, for `--ops tensorflow` and `--via tf2onnx`). Each row is tried
against JAX, with static and with symbolic sizes. What has no rule is an error that names the primitive and the line
of the model that used it. Sizes and broadcasting may add operators that move or compute no elements.

A number after an ONNX operator is the first opset that has it, where that is newer than {oldest}: below it, a composite
is decomposed and a primitive is refused. `-` means that there is no rule.

What is computed otherwise than one might think: a `scan` (also `fori_loop` with known bounds) is unrolled, up to 256
steps; of a `cond` every branch is computed and the result chosen; there is no `while`. Running reductions other than
`cumsum` take memory for the square of the axis in ONNX. Indices outside an array raise, where JAX fills or drops.
"""

OTHER_READERS = """
## Other readers of the TensorFlow operators

**LiteRT.** TensorFlow's own converter takes the SavedModel that `--ops tensorflow` writes, with its signatures and
dynamic axes:

```python
converter = tf.lite.TFLiteConverter.from_saved_model("artifacts/saved_model", signature_keys=["encode_text"])
Path("encode_text.tflite").write_bytes(converter.convert())
```

The result gives the network's embeddings in LiteRT (a test holds that), but it is not an export format of this tool,
because it cannot pass the gate: the converter computes with constants, so that some weights are in the file only as
slices, sums or products of themselves (the token type table as the one row that is read, the rotary tables reshaped,
a bias added to the positions), and what is not there cannot be led back to the checkpoint's bytes.
"""


ATEN = """
## Operators of torch

What `--module` and `--transformers` trace is made of these ([network.md](network.md)); `model/traced/operators/` has
one function each, held against torch's own over shapes, types and sizes that are symbolic. A name without an overload
stands for all of its overloads that have the same arguments.

| ATen | what it computes |
| --- | --- |
"""


def page() -> str:
    """Give the page as it should be."""
    ONNX.load()
    TENSORFLOW.load()
    sections = [INTRODUCTION.format(oldest=OPSETS[0])]
    for title, kind in (("Composites", "composites"), ("Primitives", "primitives")):
        entries = [getattr(table, kind) for table in (ONNX, TENSORFLOW)]
        rows = [f"| `{name}` | {_onnx(name, kind)} | {_emits(TENSORFLOW, name, kind)} |" for name in _names(entries)]
        sections.append(f"## {title}\n\n| JAX | ONNX | TensorFlow |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n")
    sections.append(f"Inlined: {_listed(CALLS)}. Nothing at inference: {_listed(NOTHING)}.\n")
    return "\n".join(sections) + OTHER_READERS + ATEN + "\n".join(_of_torch()) + "\n"


def _of_torch() -> list[str]:
    """Give a row for each function that computes operators of torch."""
    names: dict[object, list[str]] = {}
    for name, function in aten().items():
        names.setdefault(function, []).append(name)
    rows = []
    for function, several in names.items():
        told = (function.__doc__ or "").strip().splitlines()
        own = getattr(function, "__module__", "").startswith("bgevis") and told
        what = told[0].removesuffix(".") if own else f"`{getattr(function, '__name__', function)}` of JAX"
        rows.append(f"| {', '.join(f'`{name}`' for name in sorted(several))} | {what} |")
    return sorted(rows)


def _names(tables: list[dict]) -> list[str]:
    return sorted({name for table in tables for name in table})


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _emits(table: Table, name: str, kind: str) -> str:
    entry = getattr(table, kind).get(name)
    if entry is None:
        return "decomposed" if kind == "composites" else "-"
    return " ".join(entry.emits) or "what came"


def _onnx(name: str, kind: str) -> str:
    words = _emits(ONNX, name, kind).split(" ") if name in getattr(ONNX, kind) else [_emits(ONNX, name, kind)]
    return " ".join(f"{word} ({_first(word)})" if _first(word) > OPSETS[0] else word for word in words)


def _first(operator: str) -> int:
    """Give the first opset that has an operator."""
    history = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""]
    return min((schema.since_version for schema in history if schema.name == operator), default=0)


if __name__ == "__main__":
    PAGE.write_text(page())
