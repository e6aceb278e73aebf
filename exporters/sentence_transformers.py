"""The folder that sentence-transformers, optimum, Transformers.js and fastembed open as it is.

Its model.onnx gives the states of the tokens, of which some clients make one vector as the files beside it say: the
modules of the pipeline, each in a folder of its own with its weights; the vector itself, for those that take it; or the
logits of a classifier. The weights of model.onnx are the run's own file under the name that Transformers.js asks for.
Each precision other than float32 is a format of its own, whose program lies beside model.onnx.
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
from .base import PROGRAMS, WEIGHTS, Artifact, Description, Exporter, Request
from .precisions import FLOAT32, SUFFIXES

if TYPE_CHECKING:
    import onnx

    from ..model.family import HuggingFace
    from ..model.steps import Step

FOLDER = "sentence_transformers"
OPSET = 17
"""The default here: clients bring runtimes of their own, often older ones."""


def _write(request: Request) -> dict[str, Description]:
    """Write the folder.

    Raises:
        InputError: the family is none of these clients', or the run has no tokenizer.
    """
    from safetensors.numpy import save_file

    model = _model(request)
    rules = json.loads((request.directory / "preprocess.json").read_text(encoding="utf-8"))
    if not rules["texts"]["tokenizer"]:
        raise InputError(f"the layout sentence-transformers needs a tokenizer: {rules['texts']['missing']}")
    described = _program(request, FLOAT32)
    (entry,) = model.network.entry_points.values()
    for name, document in _documents(rules, model.documents, request.directory / "tokenizer.json", entry).items():
        (request.out / name).parent.mkdir(exist_ok=True)
        (request.out / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(request.directory / "tokenizer.json", request.out / "tokenizer.json")
    for file, _, tensors in _modules_of(request, model):
        save_file(tensors, request.out / file, metadata={"format": "pt"})
    return described


def _model(request: Request) -> "HuggingFace":
    if request.hugging_face is None:
        raise InputError("sentence-transformers' clients open text encoders and classifiers, and this is none")
    return request.hugging_face


def _program(request: Request, precision: str) -> dict[str, Description]:
    """Write the program in a precision and its weights, under the names that the clients have for them."""
    from ..model.steps import step_to_json
    from .onnx import write_rounded
    from .onnx.write import write

    model, folder = _model(request), request.out / "onnx"
    folder.mkdir()
    opset = OPSET if request.opset is None else request.opset
    asked = Request(model.network, request.weights, folder, opset=opset)
    (program,) = (write(asked) if precision == FLOAT32 else write_rounded.write(asked, precision)).values()
    file = folder / f"model{SUFFIXES[precision]}.onnx"
    data = folder / f"{file.name}_data"
    _rename(folder / Path(program["path"]).name, file, data.name)
    if precision == FLOAT32:
        shutil.copyfile(request.directory / PROGRAMS / WEIGHTS, data)
    else:
        (folder / Path(program["weights"]).name).rename(data)
    request.progress(data.stat().st_size)
    (entry,) = model.network.entry_points.values()
    described = {
        "path": f"{FOLDER}/onnx/{file.name}",
        "opset": opset,
        "ir_version": program["ir_version"],
        "weights": f"{FOLDER}/onnx/{data.name}",
        "inputs": [spec.name for spec in entry.inputs],
        "outputs": {spec.name: list(spec.shape) for spec in entry.outputs},
        "gives": dict(model.gives),
        "pipeline": [step_to_json(step) for step in model.pipeline],
        "modules": {f"{FOLDER}/{name}": place for name, place, _ in _modules_of(request, model)},
        **({"precision": precision} if precision != FLOAT32 else {}),
    }
    return dict.fromkeys(request.network.entry_points, described)


def _rename(old: Path, new: Path, data: str) -> None:
    """Give the program its name, and its weights theirs."""
    import onnx

    model = onnx.load(old, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in _places(tensor):
            entry.value = data
    old.unlink()
    new.write_bytes(model.SerializeToString(deterministic=True))


def _places(tensor: "onnx.TensorProto") -> "Iterator[onnx.StringStringEntryProto]":
    return (entry for entry in tensor.external_data if entry.key == "location")


def _documents(
    rules: Mapping[str, Any], beside: Mapping[str, Any], tokenizer: Path, entry: EntryPoint
) -> dict[str, Any]:
    """Make the JSON files, by the name that the clients have for each."""
    texts = rules["texts"]
    (limit,) = texts["max_tokens"].values()
    special = special_tokens(json.loads(tokenizer.read_text(encoding="utf-8")), texts)
    config = beside["config.json"]
    taken = {spec.name for spec in entry.inputs}
    names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in taken]
    return {
        **beside,
        "config.json": {**config, "transformers.js_config": {"use_external_data_format": {"model": 1}}},
        # The plain class takes tokenizer.json as it is; BERT's own would put its own normalizer in its place.
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": limit,
            "truncation_side": "left" if texts["truncation"].startswith("keep the last") else "right",
            "model_input_names": names,
            "clean_up_tokenization_spaces": False,
            **special,
        },
        "special_tokens_map.json": special,
    }


def special_tokens(tokenizer: Mapping[str, Any], texts: Mapping[str, Any]) -> dict[str, str]:
    """Name the special tokens by their text."""
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    words = tokenizer["model"]["vocab"]
    known = {i: w for w, i in words.items()} if isinstance(words, dict) else {i: w for i, (w, _) in enumerate(words)}
    ids = {"cls_token": texts["first_id"], "sep_token": texts["last_id"], "pad_token": texts["pad_id"]}
    named = {key: added.get(token) or known[token] for key, token in ids.items() if token is not None}
    unknown = tokenizer["model"].get("unk_token") or known.get(tokenizer["model"].get("unk_id"))
    masks = [text for text in added.values() if text in ("[MASK]", "<mask>")]
    return named | ({"unk_token": unknown} if unknown else {}) | ({"mask_token": masks[0]} if masks else {})


def _open(artifact: Artifact) -> Runner:
    from .onnx.read import open_

    open_(dataclasses.replace(artifact, entry_points=_signatures(artifact)))
    return _runner(artifact, {})


def _signatures(artifact: Artifact) -> dict[str, EntryPoint]:
    """Describe what the clients feed and get, which is not what the entry point takes and gives."""
    found = {}
    for name, program in artifact.programs.items():
        entry = artifact.entry_points[name]
        inputs = tuple(TensorSpec(given, "int32", entry.inputs[0].shape) for given in program["inputs"])
        outputs = tuple(TensorSpec(given, "float32", tuple(shape)) for given, shape in program["outputs"].items())
        found[name] = dataclasses.replace(entry, inputs=inputs, outputs=outputs)
    return found


def _runner(artifact: Artifact, factors: Mapping[str, float]) -> Runner:
    from .onnx.read import ScaledRunner

    return AsClients(ScaledRunner(artifact, factors), artifact, factors)


def _more(artifact: Artifact, also: Mapping[str, Any]) -> Iterator[tuple[Runner, str]]:
    """Give what runs as the clients that take the vector as it is, where there is one beside the states."""
    from .onnx.runner import OnnxRunner

    if any(program["pipeline"] and program["gives"] for program in artifact.programs.values()):
        precision = next(iter(artifact.programs.values())).get("precision", FLOAT32)
        yield AsClients(OnnxRunner(artifact), artifact, {}, pools=False), precision


def _modules_of(request: Request, model: "HuggingFace") -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """Give for each module with weights the file in the folder, which step it is with its leaves, and the tensors."""
    from ..model.pipeline import module_place

    for i, step in enumerate(model.pipeline):
        leaves = {name: _place(request, model, i, name) for name in getattr(step, "shapes", ())}
        if leaves:
            arrays = {name: _turned(name, leaf, request.weights[leaf]) for name, leaf in leaves.items()}
            tensors = {name: np.ascontiguousarray(array.astype(np.float32)) for name, array in arrays.items()}
            yield f"{module_place(model.pipeline, i)}/model.safetensors", {"step": i, "leaves": leaves}, tensors


def _place(request: Request, model: "HuggingFace", i: int, name: str) -> str:
    """Find the leaf of a module's tensor in the network."""
    from ..model.steps import PLACE

    step: Any = model.pipeline[i]
    if model.leaves:
        return model.leaves[f"{step.tensors}{name}"]
    ending = f"{PLACE}.{i}.{_leaf(name, step)}"
    (leaf,) = (leaf for leaf in request.weights.tensors if leaf == ending or leaf.endswith(f".{ending}"))
    return leaf


def _turned(name: str, leaf: str, array: np.ndarray) -> np.ndarray:
    """Turn the axes of a tensor into its leaf's, or back: a leaf of another name has them the other way round."""
    return array if leaf.endswith(name) else array.T


def _leaf(name: str, step: "Step") -> str:
    """Give the leaf of a module's tensor in `Pipeline`, relative to the module; its axes are the tensor's, turned."""
    from ..model.steps import LayerNorm

    layer, _, kind = name.rpartition(".")
    return f"{layer}.{kind if kind == 'bias' else 'scale' if isinstance(step, LayerNorm) else 'kernel'}"


def _modules(artifact: Artifact) -> Iterator[tuple[str, str, str, np.ndarray]]:
    """Read the weights of the modules as the clients do: the leaf in `Pipeline`, the network's leaf, name, array."""
    from safetensors.numpy import load_file

    from ..model.steps import PLACE, steps_from_json

    for program in artifact.programs.values():
        steps = steps_from_json(program["pipeline"])
        for file, module in program["modules"].items():
            for name, array in load_file(artifact.directory / file).items():
                place = f"{PLACE}.{module['step']}.{_leaf(name, steps[module['step']])}"
                yield place, module["leaves"][name], name, array


def _module_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Give the weights of the modules by the names and in the axes of leaves."""
    for _, leaf, name, array in _modules(artifact):
        yield leaf, _turned(name, leaf, array)


class AsClients:
    """Runs model.onnx as the clients do: token types of zero, then the modules of the pipeline on its states.

    Args:
        program: what runs model.onnx.
        artifact: with the weights of the modules.
        factors: what some leaves are multiplied by.
        pools: whether the modules are run; if not, the embedding is what model.onnx gives.
    """

    def __init__(self, program: Runner, artifact: Artifact, factors: Mapping[str, float], *, pools: bool = True):
        self.name = f"{program.name}, {'then the modules' if pools else 'as it is'}"
        self._program = program
        self._artifact = artifact
        self._weights = {
            place: array.T * np.float32(factors.get(leaf, 1)) for place, leaf, _, array in _modules(artifact)
        }
        self._pools = pools

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        from ..model.pooling import embedded
        from ..model.steps import steps_from_json

        program = self._artifact.programs[entry_point]
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        fed = {"token_type_ids": np.zeros_like(ids), **inputs}
        given = self._program.run(entry_point, {name: fed[name] for name in program["inputs"]})
        outputs = {ours: given[theirs] for theirs, ours in program["gives"].items()}
        if self._pools and program["pipeline"]:
            prompt = [array for name, array in inputs.items() if name not in ("input_ids", "attention_mask")]
            states = given["last_hidden_state"]
            vector = np.asarray(embedded(steps_from_json(program["pipeline"]), self._weights, states, mask, *prompt))
            outputs[self._artifact.entry_points[entry_point].outputs[0].name] = vector
        return outputs


def _read_weights(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    from .onnx.read import read_weights

    modules = dict(_module_weights(artifact))
    yield from read_weights(artifact, modules)
    yield from modules.items()


EXPORTER = Exporter(
    name="sentence-transformers",
    key="sentence_transformers",
    folder=FOLDER,
    modules=("onnx", "onnxruntime"),
    write=_write,
    open=_open,
    read_weights=_read_weights,
    probe=_runner,
    more=_more,
    compiles=False,
    layout=True,
)


def _read_rounded(artifact: Artifact) -> Iterator[tuple[str, np.ndarray]]:
    """Read what the program holds, rounded, and the weights of modules that it has not, which stay as they are."""
    from .onnx.rounded import read_weights

    modules = dict(_module_weights(artifact))
    for leaf, array in read_weights(artifact):
        modules.pop(leaf, None)
        yield leaf, array
    yield from modules.items()


def _rounding(artifact: Artifact, precision: str) -> Iterator[tuple[str, str]]:
    from .onnx.rounded import rounding

    yield from rounding(artifact, precision, dict(_module_weights(artifact)))


def _in(precision: str) -> Exporter:
    return dataclasses.replace(
        EXPORTER,
        name=f"{EXPORTER.name}-{precision}",
        key=f"{EXPORTER.key}_{precision.replace('-', '_')}",
        write=functools.partial(_program, precision=precision),
        also=(EXPORTER.name,),
        read_weights=_read_rounded,
        probe=None,
        precision=precision,
        rounding=functools.partial(_rounding, precision=precision),
    )


EXPORTERS = tuple(_in(precision) for precision in SUFFIXES if precision != FLOAT32)
