"""What the command line says, and which formats that asks for."""

import dataclasses
import difflib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..exporters.base import Exporter, exporters
from ..exporters.onnx import OPSETS, VIA_TENSORFLOW
from ..exporters.precisions import FLOAT32
from ..model.documents import JSON, Given
from ..model.family import families
from ..validation.errors import InputError, UsageFailure
from .checkpoint.format_error import FormatError
from .checkpoint.strict_json import parse

SPECS = (".json", ".yaml", ".yml")
"""How the name of a file of inputs ends; what ends otherwise is the inputs' description itself."""


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
    pooling: str = ""
    normalize: bool | None = None
    pairs: str = ""
    """How pairs of texts are cut, one of `PAIRS`."""
    sets: tuple[str, ...] = ()
    """Fields of the configuration, each "part.field=value"."""
    ignore: tuple[str, ...] = ()
    """Fields of documents to pass over, each "document:field"."""
    tower: str = ""
    """Which of several networks in one checkpoint: what its names begin with."""
    no_tokenizer: bool = False
    force: bool = False
    """Whether another checkpoint's proven run may be replaced."""
    module: str = ""
    """package.module:function that makes the module, where no family is meant."""
    transformers: bool = False
    """The class that config.json names is traced, where no family is meant."""
    inputs: str = ""
    """What the module takes: a text, or a file."""
    again: bool = False
    """Whether programs are exported again and compared; not said on the command line: `validate` does."""
    adapter: str = ""
    """The folder of an adapter, which is merged into the checkpoint."""
    dtype: str = "float32"
    """What leaves are stored as: "float32", or "source" for the type that each has in the checkpoint."""

    @property
    def given(self) -> dict[str, Given]:
        """What is said of the configuration, by dotted field.

        Raises:
            InputError: one is malformed, or said twice.
        """
        found: dict[str, Given] = {}
        if self.pooling:
            found["pooling"] = Given(self.pooling, "--pooling")
        if self.normalize is not None:
            found["normalize"] = Given(self.normalize, "--normalize" if self.normalize else "--no-normalize")
        if self.pairs:
            found["pairs"] = Given(self.pairs, "--pairs")
        for text in self.sets:
            field, equals, value = text.partition("=")
            if not equals or not field.strip():
                raise InputError(f"--set {text}: expected FIELD=VALUE, as in num_attention_heads=12")
            if field.strip() in found:
                raise InputError(f"--set {text}: {field.strip()} is said twice, by {found[field.strip()].option} too")
            found[field.strip()] = Given(_value(value.strip()), "--set")
        return found

    def stated(self) -> dict[str, Any]:
        """Give what the manifest records of these: whatever decides how the folder is read."""
        given = {field: each.value for field, each in self.given.items()}
        tower = {"tower": self.tower} if self.tower else {}
        traced = {"module": self.module} if self.module else {"transformers": True} if self.transformers else {}
        read = {"set": given, "ignore": sorted(self.ignore), "tokenizer": not self.no_tokenizer}
        return read | tower | traced | ({"named": named} if (named := self._named()) else {})

    def _named(self) -> list[list[str]]:
        """Give the options that name a family, files or inputs, as words; of files no folder: it is this machine's."""
        words = [["--family", self.family]] if self.family else []
        words += [["--config", Path(config).name] for config in self.configs]
        words += [["--tokenizer", "DIR"]] if self.tokenizer else []
        words += [["--adapter", "DIR"]] if self.adapter else []
        if self.inputs:
            words.append(["--inputs", Path(self.inputs).name if self.inputs.endswith(SPECS) else self.inputs])
        return words

    def to_json(self) -> str:
        """Serialize for another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Options":
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**(values | lists))


def _value(text: str) -> JSON:
    """Read a value as JSON; what is none is a text."""
    try:
        return parse(text.encode())
    except (FormatError, UnicodeEncodeError):
        return text


def command(manifest: Mapping[str, Any]) -> str:
    """Write the command that makes such a run, of what its manifest records; DIR is a folder, which none records."""
    given, stages = manifest.get("given", {}), manifest["stages"]
    words = ["all", manifest["source"]["file"], *(word for option in given.get("named", ()) for word in option)]
    words += ["--module", given["module"]] if "module" in given else []
    words += ["--transformers"] * given.get("transformers", False)
    words += ["--tower", given["tower"]] if "tower" in given else []
    for field, value in given.get("set", {}).items():
        if field == "normalize":
            words.append("--normalize" if value else "--no-normalize")
        elif field in ("pooling", "pairs"):
            words += [f"--{field}", value]
        else:
            plain = isinstance(value, str) and _value(value) == value
            words += ["--set", f"{field}={value if plain else json.dumps(value)}"]
    words += [word for field in given.get("ignore", ()) for word in ("--ignore", field)]
    words += ["--no-tokenizer"] * (not given.get("tokenizer", True))
    words += ["--dtype", "source"] * (manifest.get("stored", {}).get("dtype") == "source")
    return shlex.join(["bgevis-convert", *words, *_formats(stages), "--out", "DIR"])


def _formats(stages: Mapping[str, Any]) -> list[str]:
    """Give the options that ask for the formats of a run, and for what shaped them."""
    made = {name: each for name, each in exporters().items() if f"export-{name}" in stages}
    shaped = {name: stages[f"export-{name}"].get("options", {}) for name in made}
    plain = [name for name, each in made.items() if not each.layout]
    words = [] if plain == usual() else [word for name in plain for word in ("--format", name)]
    layouts = [name for name, each in made.items() if each.layout and each.precision == FLOAT32]
    words += [word for name in layouts for word in ("--layout", name)]
    onnx = shaped.get("onnx", {})
    words += ["--opset", str(onnx["opset"])] if onnx.get("opset") else []
    words += ["--via", onnx["via"]] if onnx.get("via") else []
    words += ["--ops", "tensorflow"] * (shaped.get("saved-model", {}).get("ops") == "tensorflow")
    for sizes in shaped.get("stablehlo", {}).get("static", ()):
        words += ["--static", ",".join(f"{axis}={size}" for axis, size in sizes.items())]
    return words


def chosen(options: Options) -> list[Exporter]:
    """Give the exporters that were asked for; by default all that are neither optional nor a layout.

    Raises:
        UsageFailure: a format that does not exist, or an option that none of the formats has.
    """
    known = exporters()
    formats = tuple(
        spelled("format", name, {e.key: n for n, e in known.items()} | {n: n for n in known})
        for name in options.formats
    )
    if options.precisions and formats and "onnx" not in formats:
        raise UsageFailure(f"--precision is for the format onnx; {', '.join(formats)} was asked for")
    names = formats or usual()
    if options.precisions:
        names = [each for name in names for each in (_in_precisions(options) if name == "onnx" else [name])]
    return [known[name] for name in dict.fromkeys([*names, *_layouts(options, names)])]


def _layouts(options: Options, names: Sequence[str]) -> Iterator[str]:
    """Name the layouts that were asked for, each also in those precisions of ONNX that its clients know."""
    precisions = [name.removeprefix("onnx-") for name in names if name.startswith("onnx-")]
    for layout in options.layouts:
        yield layout
        yield from (name for name in (f"{layout}-{each}" for each in precisions) if name in exporters())


def usual() -> list[str]:
    """Name the formats that are written where none is asked for."""
    return [name for name, exporter in exporters().items() if not (exporter.optional or exporter.layout)]


def spelled(kind: str, name: str, known: Mapping[str, str]) -> str:
    """Find what a name means, in any spelling.

    Args:
        kind: what it names.
        name: as it was given.
        known: spelling -> name.

    Raises:
        UsageFailure: nothing is called so; names what is meant, or all there is.
    """
    plain = {spelling.lower().replace("_", "-"): each for spelling, each in known.items()}
    given = name.lower().replace("_", "-")
    if given in plain:
        return plain[given]
    close = difflib.get_close_matches(given, plain, 1)
    meant = f"; did you mean {plain[close[0]]}?" if close else ""
    several = {"family": "families"}.get(kind, f"{kind}s")
    raise UsageFailure(f"there is no {kind} {name!r}{meant} ({several}: {', '.join(dict.fromkeys(known.values()))})")


def check(options: Options) -> None:
    """Refuse what cannot be done, before any work: formats, the family, ONNX's opset, sizes that no format has.

    Raises:
        UsageFailure: naming the option.
    """
    formats = chosen(options)
    if options.family:
        spelled("family", options.family, {name: name for name in families()})
    if options.opset is not None:
        opsets = VIA_TENSORFLOW if options.via else OPSETS
        if options.opset not in opsets:
            way = f" via {options.via}" if options.via else ""
            raise UsageFailure(f"--opset {options.opset} is not supported{way}: choose {opsets[0]} to {opsets[-1]}")
    if options.static and "stablehlo" not in {exporter.name for exporter in formats}:
        raise UsageFailure(
            "--static is for the format stablehlo, which is not asked for: "
            f"{', '.join(exporter.name for exporter in formats)}"
        )


def _in_precisions(options: Options) -> list[str]:
    """Name the ONNX formats of the precisions that were asked for."""
    return ["onnx" if precision == FLOAT32 else f"onnx-{precision}" for precision in options.precisions]
