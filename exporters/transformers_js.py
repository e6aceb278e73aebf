"""The folder that Transformers.js opens: a network of two towers as three programs, with its processors' documents.

text_model.onnx and vision_model.onnx give what each tower projects to, as transformers' classes of one tower do;
model.onnx scores pictures against texts. Pictures are channels first. Each program has a file of the weights that it
uses, under the name that Transformers.js asks for. Each precision other than float32 is a format of its own, whose
programs lie beside these.

A network that makes texts is one program or two instead, see `transcribers`.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.entry_point import EntryPoint, TensorSpec
from ..validation.errors import InputError
from ..validation.runner import Arrays, Runner
from . import transcribers
from .base import Artifact, Description, Exporter, Request
from .onnx import EXPORTER as ONNX
from .precisions import FLOAT32, SUFFIXES
from .weights import ALIGNMENT

if TYPE_CHECKING:
    from ..model.family import Towers, Transcriber
    from ..model.network import Network

FOLDER = "transformers_js"
OPSET = 17
"""The default here: clients bring runtimes of their own, often older ones."""

PIXELS = "pixel_values"

CLIENTS = {"encode_text": "text_model", "encode_image": "vision_model", "similarity": "model"}
"""Entry point of a family -> that of the clients, by the name of its file; each has one output."""


def _write(request: Request) -> dict[str, Description]:
    """Write the folder.

    Raises:
        InputError: the family is none of these clients', or the run has no tokenizer or no processor.
    """
    from ..model.family import Transcriber

    model = _described(request)
    rules = json.loads((request.directory / "preprocess.json").read_text(encoding="utf-8"))
    of_towers = {"texts": "a tokenizer", "images": "the image processor's document"}
    writes = {"transcripts" if rules.get("transcripts") else "texts": "a tokenizer"}
    wanted = writes if isinstance(model, Transcriber) else of_towers
    for kind, what in wanted.items():
        if missing := (rules.get(kind) or {}).get("missing"):
            raise InputError(f"the layout transformers-js needs {what}: {missing}")
    described, tokenizer = _programs(request, FLOAT32), request.directory / "tokenizer.json"
    if isinstance(model, Transcriber):
        documents = transcribers.documents(model, tokenizer)
    else:
        documents = _documents(model.documents, rules, tokenizer)
    for name, document in documents.items():
        (request.out / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, request.out / "tokenizer.json")
    return described


def _described(request: Request) -> "Towers | Transcriber":
    if request.transformers_js is None:
        raise InputError("transformers-js opens networks of two towers, and those that make texts; this is neither")
    return request.transformers_js


def _programs(request: Request, precision: str) -> dict[str, Description]:
    """Write the programs in a precision, under the names that the clients have for it."""
    from ..model.family import Transcriber

    model = _described(request)
    written = _placed(request, model.network, precision)
    if isinstance(model, Transcriber):
        return transcribers.described(model, written)
    described = {}
    for entry, client in CLIENTS.items():
        specs = model.network.entry_points[client]
        inputs = [transcribers.stated(spec) for spec in specs.inputs]
        described[entry] = written[client] | {"inputs": inputs, "output": specs.outputs[0].name}
    return described


def _placed(request: Request, network: "Network", precision: str) -> dict[str, Description]:
    """Write the programs of the clients' entry points, each with a file of the weights that it uses."""
    from .onnx import write_rounded
    from .onnx.write import write

    folder = request.out / "onnx"
    folder.mkdir()
    opset = OPSET if request.opset is None else request.opset
    asked = Request(network, request.weights, folder, opset=opset)
    written = write(asked) if precision == FLOAT32 else write_rounded.write(asked, precision)
    shared = {folder / Path(program["weights"]).name for program in written.values()} if precision != FLOAT32 else set()
    (weights,) = shared or {request.weights.path}
    placed = {}
    for client in network.entry_points:
        program = folder / f"{client}{SUFFIXES[precision]}.onnx"
        _with_weights(folder / Path(written[client]["path"]).name, weights, program)
        request.progress(program.with_name(f"{program.name}_data").stat().st_size)
        placed[client] = {
            "path": f"{FOLDER}/onnx/{program.name}",
            "opset": opset,
            "ir_version": written[client]["ir_version"],
            "weights": f"{FOLDER}/onnx/{program.name}_data",
            **({"precision": precision} if precision != FLOAT32 else {}),
        }
    for file in shared:
        file.unlink()
    return placed


def _with_weights(program: Path, weights: Path, file: Path) -> None:
    """Move a program, and put the weights that it uses beside it, in the order in which it has them, each aligned."""
    import onnx

    model = onnx.load(program, load_external_data=False)
    program.unlink()
    end = 0
    with weights.open("rb") as source, file.with_name(f"{file.name}_data").open("wb") as target:
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                continue
            place = {entry.key: entry for entry in tensor.external_data}
            length = int(place["length"].value)
            source.seek(int(place["offset"].value))
            target.write(bytes(-end % ALIGNMENT) + source.read(length))
            start = end + -end % ALIGNMENT
            place["location"].value, place["offset"].value = f"{file.name}_data", str(start)
            end = start + length
    file.write_bytes(model.SerializeToString(deterministic=True))


def _documents(beside: Mapping[str, Any], rules: Mapping[str, Any], tokenizer: Path) -> dict[str, Any]:
    """Make the JSON files, by the name that the clients have for each."""
    from .sentence_transformers import special_tokens

    (limit,) = set(rules["texts"]["max_tokens"].values())
    special = special_tokens(json.loads(tokenizer.read_text(encoding="utf-8")), rules["texts"])
    data = dict.fromkeys(CLIENTS.values(), 1)  # a file for each program, in whichever precision
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": limit,
        "truncation_side": "left" if rules["texts"]["truncation"].startswith("keep the last") else "right",
        "model_input_names": [name for kind, name in rules["texts"]["inputs"].items() if kind in ("ids", "mask")],
        "clean_up_tokenization_spaces": False,
    }
    return {
        **beside,
        "config.json": {**beside["config.json"], "transformers.js_config": {"use_external_data_format": data}},
        "tokenizer_config.json": settings | special,
        "special_tokens_map.json": special,
    }


def _open(artifact: Artifact) -> Runner:
    if transcribers.writes(artifact):
        return transcribers.open_(artifact)
    from .onnx.read import open_

    open_(dataclasses.replace(artifact, entry_points=_signatures(artifact)))
    return _runner(artifact, {})


def _signatures(artifact: Artifact) -> dict[str, EntryPoint]:
    """Describe what the clients feed and get, which is not what the entry points take and give."""
    found = {}
    for name, program in artifact.programs.items():
        entry = artifact.entry_points[name]
        inputs = tuple(TensorSpec(given["name"], given["dtype"], tuple(given["shape"])) for given in program["inputs"])
        (output,) = (spec for spec in entry.outputs if spec.kind.vectors or len(entry.outputs) == 1)
        found[name] = dataclasses.replace(
            entry, inputs=inputs, outputs=(dataclasses.replace(output, name=program["output"]),)
        )
    return found


def _runner(artifact: Artifact, factors: Mapping[str, float]) -> Runner:
    if transcribers.writes(artifact):
        return transcribers.runner(artifact, factors)
    from .onnx.read import ScaledRunner

    return Towered(ScaledRunner(artifact, factors), artifact)


class Towered:
    """Runs the programs as the clients do: pictures channels first, and vectors made of length one where ours are."""

    def __init__(self, programs: Runner, artifact: Artifact):
        self.name = f"{programs.name}, as Transformers.js runs it"
        self._programs, self._artifact = programs, artifact

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        program, entry = self._artifact.programs[entry_point], self._artifact.entry_points[entry_point]
        fed = dict(inputs)
        if "images" in fed:
            fed[PIXELS] = np.ascontiguousarray(fed.pop("images").transpose(0, 3, 1, 2))
        found = self._programs.run(entry_point, {given["name"]: fed[given["name"]] for given in program["inputs"]})
        (spec,) = (spec for spec in entry.outputs if spec.kind.vectors or len(entry.outputs) == 1)
        values = found[program["output"]]
        if getattr(spec.kind, "unit", False):
            values = values / np.linalg.norm(values, axis=-1, keepdims=True)
        return {spec.name: values}


EXPORTER = Exporter(
    name="transformers-js",
    key="transformers_js",
    folder=FOLDER,
    modules=("onnx", "onnxruntime"),
    write=_write,
    open=_open,
    read_weights=ONNX.read_weights,
    probe=_runner,
    compiles=False,
    layout=True,
    without=("log_mel",),
    describes="transformers_js",
)


def _read_rounded(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    from .onnx.rounded import read_weights

    yield from read_weights(artifact)


def _rounding(artifact: Artifact, precision: str) -> Iterator[tuple[str, str]]:
    from .onnx.rounded import rounding

    yield from rounding(artifact, precision)


def _in(precision: str) -> Exporter:
    return dataclasses.replace(
        EXPORTER,
        name=f"{EXPORTER.name}-{precision}",
        key=f"{EXPORTER.key}_{precision.replace('-', '_')}",
        write=functools.partial(_programs, precision=precision),
        read_weights=_read_rounded,
        probe=None,
        precision=precision,
        rounding=functools.partial(_rounding, precision=precision),
    )


EXPORTERS = tuple(_in(precision) for precision in SUFFIXES if precision != FLOAT32)
