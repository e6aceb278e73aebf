"""The folder that onnxruntime-genai opens: a decoder and, of sounds, an encoder that gives all that it attends to.

genai_config.json names the programs, their inputs and outputs; both have one file of weights.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..validation.errors import GateError, InputError
from ..validation.runner import Runner
from . import transcribers
from .base import PROGRAMS, WEIGHTS, Artifact, Description, Exporter, Request
from .onnx import EXPORTER as ONNX
from .transformers_js import OPSET
from .weights import WeightsFile

FOLDER = "onnxruntime_genai"
CLIENT = "onnxruntime-genai"

CONFIG = "genai_config.json"

HEARS = "encode_audio"
"""The entry point that only networks of sounds have."""


def _write(request: Request) -> dict[str, Description]:
    """Write the folder.

    Raises:
        InputError: the family is none of this client's, or the run has no tokenizer.
    """
    from .onnx.write import write

    model = request.onnxruntime_genai
    if model is None:
        raise InputError("onnxruntime-genai opens networks that make texts, and this is none")
    rules = json.loads((request.directory / "preprocess.json").read_text(encoding="utf-8"))
    if missing := (rules.get("transcripts") or rules.get("texts") or {}).get("missing"):
        raise InputError(f"the layout onnxruntime-genai needs a tokenizer: {missing}")
    opset = OPSET if request.opset is None else request.opset
    written = write(Request(model.network, request.weights, request.out, opset=opset))
    shutil.copyfile(request.weights.path, request.out / WEIGHTS)
    request.progress((request.out / WEIGHTS).stat().st_size)
    tokenizer = request.directory / "tokenizer.json"
    ids = model.documents[CONFIG]["model"]
    for name, document in transcribers.with_special_tokens(model, tokenizer, ids).items():
        (request.out / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, request.out / "tokenizer.json")
    placed = {
        client: {**program, "path": f"{FOLDER}/{Path(program['path']).name}", "weights": f"{FOLDER}/{WEIGHTS}"}
        for client, program in written.items()
    }
    return transcribers.described(model, placed)


def _open(artifact: Artifact) -> Runner:
    """Check both programs, and what the encoder gives for the decoder, which no entry point takes from it.

    Raises:
        GateError: a program is not valid, or what is attended to is not what the model computes of the same states.
    """
    from ..model.runner import NNXRunner

    programs = transcribers.opened(artifact)
    if HEARS not in artifact.programs:
        return transcribers.AsClients(programs, artifact, CLIENT)
    hears = artifact.programs[HEARS]
    (given,) = hears["inputs"]
    shape = [1, *given["shape"][1:]]
    features = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    found = programs.run(Path(hears["path"]).stem, {given["name"]: features})
    model = NNXRunner(artifact.network(), WeightsFile(artifact.directory / PROGRAMS / WEIGHTS))
    wanted = model.run("cross_kv", {"last_hidden_state": found["last_hidden_state"]})
    for name, values in wanted.items():
        if not np.allclose(found[name], values, rtol=1e-4, atol=1e-4 * np.abs(values).max()):
            raise GateError(f"{hears['path']}: {name} is not what the model makes of the states that it gives")
    return transcribers.AsClients(programs, artifact, CLIENT)


def _runner(artifact: Artifact, factors: Mapping[str, float]) -> Runner:
    return transcribers.runner(artifact, factors, CLIENT)


EXPORTER = Exporter(
    name=CLIENT,
    key=FOLDER,
    folder=FOLDER,
    modules=("onnx", "onnxruntime"),
    write=_write,
    open=_open,
    read_weights=ONNX.read_weights,
    probe=_runner,
    compiles=False,
    layout=True,
    without=("log_mel", "cross_kv", "align"),
    describes="onnxruntime_genai",
)
