"""What sherpa-onnx opens: an encoder, a decoder whose caches are as long as any text, and a table of tokens.

All that the client asks for beside stands in the encoder's metadata. Both programs have one file of weights.
"""

import base64
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..validation.errors import GateError, InputError
from ..validation.runner import Arrays, Runner
from . import transcribers
from .base import PROGRAMS, WEIGHTS, Artifact, Description, Exporter, Request
from .onnx import EXPORTER as ONNX
from .transformers_js import OPSET
from .weights import WeightsFile

FOLDER = "sherpa_onnx"
CLIENT = "sherpa-onnx"
TOKENS = "tokens.txt"

SPECIAL = {
    "translate": ("<|translate|>",),
    "transcribe": ("<|transcribe|>",),
    "no_speech": ("<|nospeech|>", "<|nocaptions|>"),
    "blank_id": ("Ġ",),
}
"""Metadata -> the token whose id it is, by the names that it has had. Where there is none, nothing asks for it."""

KINDS = "kv"


def _write(request: Request) -> dict[str, Description]:
    """Write the folder.

    Raises:
        InputError: the family is none of this client's, or the run has no tokenizer of bytes.
    """
    from .onnx.write import write

    model = request.sherpa_onnx
    if model is None:
        raise InputError("sherpa-onnx opens networks from sound to text, and this is none")
    rules = json.loads((request.directory / "preprocess.json").read_text(encoding="utf-8"))
    if missing := (rules.get("transcripts") or {}).get("missing"):
        raise InputError(f"the layout sherpa-onnx needs a tokenizer: {missing}")
    tokenizer = json.loads((request.directory / "tokenizer.json").read_text(encoding="utf-8"))
    opset = OPSET if request.opset is None else request.opset
    written = write(Request(model.network, request.weights, request.out, opset=opset))
    shutil.copyfile(request.weights.path, request.out / WEIGHTS)
    request.progress((request.out / WEIGHTS).stat().st_size)
    for name, metadata in model.documents.items():
        _add_metadata(request.out / name, metadata | _ids(tokenizer, metadata["eot"]))
    (request.out / TOKENS).write_text(_table(tokenizer), encoding="ascii")
    placed = {
        client: {**program, "path": f"{FOLDER}/{Path(program['path']).name}", "weights": f"{FOLDER}/{WEIGHTS}"}
        for client, program in written.items()
    }
    return transcribers.described(model, placed)


def _add_metadata(file: Path, metadata: Mapping[str, str]) -> None:
    import onnx

    model = onnx.load(file, load_external_data=False)
    onnx.helper.set_model_props(model, dict(metadata))
    file.write_bytes(model.SerializeToString(deterministic=True))


def _ids(tokenizer: Mapping[str, Any], otherwise: str) -> dict[str, str]:
    """Give the ids of tokens that the client asks for by their meaning."""
    known = dict(tokenizer["model"]["vocab"]) | {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    return {
        name: next((str(known[text]) for text in texts if text in known), otherwise) for name, texts in SPECIAL.items()
    }


def _table(tokenizer: Mapping[str, Any]) -> str:
    """Give a line for each token that is text: its bytes in base64, and its id. What is missing is not written.

    Raises:
        InputError: a token is not written in the letters that stand for bytes.
    """
    letters = {letter: byte for byte, letter in enumerate(letters_of_bytes())}
    special = {each["id"] for each in tokenizer["added_tokens"]}
    lines = []
    for text, i in sorted(tokenizer["model"]["vocab"].items(), key=lambda token: token[1]):
        if i in special or not text:
            continue
        if not letters.keys() >= set(text):
            raise InputError(f"the layout sherpa-onnx needs tokens of bytes (ByteLevel); tokenizer.json has {text!r}")
        lines.append(f"{base64.b64encode(bytes(letters[letter] for letter in text)).decode()} {i}\n")
    return "".join(lines)


def letters_of_bytes() -> list[str]:
    """Give the letter that stands for each byte in a tokenizer of bytes: itself if it shows, else one from 256 on."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]


def _open(artifact: Artifact) -> Runner:
    """Check both programs, and what the encoder gives for the decoder, which no entry point takes from it.

    Raises:
        GateError: a program is not valid, or what is attended to is not what the model computes of the same states, or
            a part of a window is heard otherwise than with zeros behind it.
    """
    from ..model.runner import NNXRunner

    programs = transcribers.opened(artifact)
    hears = artifact.programs["encode_audio"]
    name = Path(hears["path"]).stem
    (features,) = artifact.entry_points["encode_audio"].inputs
    bands, frames = (int(size) for size in features.shape[1:])
    drawn = np.random.default_rng(0).uniform(-1, 1, (1, bands, frames)).astype(np.float32)
    short = drawn.copy()
    short[:, :, frames // 3 :] = 0
    model = NNXRunner(artifact.network(), WeightsFile(artifact.directory / PROGRAMS / WEIGHTS))
    for whole, given in ((drawn, drawn), (short, short[:, :, : frames // 3])):
        found = programs.run(name, {"mel": given})
        states = model.run("encode_audio", {features.name: whole})["last_hidden_state"]
        wanted = _layered(model.run("cross_kv", {"last_hidden_state": states}), "cross")
        for kind, values in wanted.items():
            output = f"n_layer_cross_{kind}"
            if not np.allclose(found[output], values, rtol=1e-3, atol=1e-3 * np.abs(values).max()):
                raise GateError(f"{hears['path']}: {output} is not what the model makes of the same spectrogram")
    return AsSherpa(programs, artifact)


def _layered(arrays: Arrays, kind: str) -> dict[str, np.ndarray]:
    """Put keys and values of layers, (batch, heads, places, head_dim), into (layers, batch, places, width) each."""
    before, found = f"{kind}_" if kind else "", {}
    for short, name in zip(KINDS, ("keys", "values"), strict=True):
        count = sum(each.startswith(f"{before}{name}_") for each in arrays)
        several = [arrays[f"{before}{name}_{i}"].swapaxes(1, 2) for i in range(count)]
        found[short] = np.stack([x.reshape(*x.shape[:2], -1) for x in several])
    return found


def _by_layer(arrays: Mapping[str, np.ndarray], heads: int) -> dict[str, np.ndarray]:
    """Take them apart again, as a step gives them."""
    found = {}
    for short, name in zip(KINDS, ("keys", "values"), strict=True):
        for i, x in enumerate(arrays[short]):
            found[f"{name}_{i}"] = x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)
    return found


class AsSherpa:
    """Runs the programs as the client does: caches full of zeros at first, and the number of tokens before."""

    def __init__(self, programs: Runner, artifact: Artifact):
        self.name = f"{programs.name}, as {CLIENT} runs it"
        self._programs, self._artifact = programs, artifact

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        program = self._artifact.programs[entry_point]
        name = Path(program["path"]).stem
        if entry_point == "encode_audio":
            found = self._programs.run(name, {"mel": inputs["input_features"]})
            return {own: found[client] for client, own in program["gives"].items()}
        cross, ids = _layered(inputs, "cross"), inputs["input_ids"]
        heads = inputs["cross_keys_0"].shape[1]
        room = next(each["shape"] for each in program["inputs"] if each["name"].startswith("in_n_layer_self"))[2]
        past = inputs["past_keys_0"].shape[2] if "past_keys_0" in inputs else 0
        layers, batch, _, width = cross["k"].shape
        caches = {kind: np.zeros((layers, batch, room, width), np.float32) for kind in KINDS}
        if past:
            for kind, values in _layered(inputs, "past").items():
                caches[kind][:, :, :past] = values
        fed = {"tokens": ids, "offset": np.array([past], np.int32)}
        fed |= {f"in_n_layer_self_{kind}_cache": values for kind, values in caches.items()}
        fed |= {f"n_layer_cross_{kind}": values for kind, values in cross.items()}
        found = self._programs.run(name, fed)
        so_far = past + ids.shape[1]
        kept = {kind: found[f"out_n_layer_self_{kind}_cache"][:, :, :so_far] for kind in KINDS}
        return {"logits": found["logits"], **_by_layer(kept, heads)}


def _runner(artifact: Artifact, factors: Mapping[str, float]) -> Runner:
    return AsSherpa(transcribers.scaled(artifact, factors), artifact)


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
    describes="sherpa_onnx",
)
