"""A network that makes texts in the folder of Transformers.js, for optimum too: one decoder, and an encoder of sound.

The clients keep what the decoder gives of the tokens and of the sound, and have nothing to give it at first: its pasts
are empty then. Each program has a file of the weights that it uses.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.dims import axes_of, size, sizes_of
from ..validation.entry_point import Axis, EntryPoint, TensorSpec
from ..validation.errors import GateError, InputError
from ..validation.runner import Arrays, Runner
from .base import Artifact, Description

if TYPE_CHECKING:
    from ..model.family import Transcriber

SOUND = "encoder_hidden_states"

FIRST_CALL, PLACES = 2, 9
"""Tokens and places of the first call that is held to a later one."""


def described(model: "Transcriber", written: Mapping[str, Description]) -> dict[str, Description]:
    """Say of each entry point how the client's program that computes it is called."""
    programs = {
        client: written[client] | {"inputs": [*map(stated, each.inputs)], "outputs": [*map(stated, each.outputs)]}
        for client, each in model.network.entry_points.items()
    }
    heads = [list(pair) for pair in model.heads]
    return {
        name: programs[client] | {"feeds": dict(feeds), "gives": dict(gives), **({} if gives else {"heads": heads})}
        for name, (client, feeds, gives) in model.programs.items()
    }


def stated(spec: TensorSpec) -> dict[str, Any]:
    """Describe an input or output as the manifest does."""
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def documents(model: "Transcriber", tokenizer: Path) -> dict[str, Any]:
    """Make the JSON files, by the name that the clients have for each."""
    data = dict.fromkeys(model.network.entry_points, 1)  # a file for each program, in whichever precision
    config = {**model.documents["config.json"], "transformers.js_config": {"use_external_data_format": data}}
    generation = model.documents["generation_config.json"]
    return {**with_special_tokens(model, tokenizer, generation), "config.json": config}


def with_special_tokens(model: "Transcriber", tokenizer: Path, ids: Mapping[str, Any]) -> dict[str, Any]:
    """Give the documents, with the special tokens by their text beside them."""
    document = json.loads(tokenizer.read_text(encoding="utf-8"))
    texts = {i: text for text, i in document["model"]["vocab"].items()}
    texts |= {token["id"]: token["content"] for token in document["added_tokens"]}
    ends = ids["eos_token_id"]
    first = ends[0] if isinstance(ends, list) else ends
    if missing := [i for i in (first, ids["pad_token_id"]) if i not in texts]:
        raise InputError(f"{tokenizer.name} has no token {missing[0]}, which ends a text or pads it")
    special = dict.fromkeys(model.ends, texts[first]) | {"pad_token": texts[ids["pad_token_id"]]}
    return {
        **model.documents,
        "tokenizer_config.json": model.documents["tokenizer_config.json"] | special,
        "special_tokens_map.json": special,
    }


def writes(artifact: Artifact) -> bool:
    """Say whether the programs are those of a network that makes texts."""
    return any("feeds" in program for program in artifact.programs.values())


def open_(artifact: Artifact) -> Runner:
    """Check both programs, and that the decoder gives the same whether it computes what it hears or is given it.

    Raises:
        GateError: a program is not valid, or the first call gives something else than a later one.
    """
    programs = opened(artifact)
    (decoder,) = {_name(program) for program in artifact.programs.values() if "logits" in program["gives"]}
    described = _programs(artifact)[decoder]
    if any(each["name"] == SOUND for each in described["inputs"]):
        _hold_first_call(programs, decoder, described)
    return AsClients(programs, artifact, "Transformers.js")


def opened(artifact: Artifact) -> Runner:
    """Check the programs, each by its own name and as it says that it is called.

    Raises:
        GateError: one is not valid.
    """
    from .onnx.read import open_ as open_programs

    programs = _programs(artifact)
    entries = {client: _signature(client, program) for client, program in programs.items()}
    return open_programs(dataclasses.replace(artifact, entry_points=entries, programs=programs))


def runner(artifact: Artifact, factors: Mapping[str, float], client: str = "Transformers.js") -> Runner:
    """Open with some leaves multiplied."""
    return AsClients(scaled(artifact, factors), artifact, client)


def scaled(artifact: Artifact, factors: Mapping[str, float]) -> Runner:
    """Open the programs, by their own names, with some leaves multiplied."""
    from .onnx.read import ScaledRunner

    return ScaledRunner(dataclasses.replace(artifact, programs=_programs(artifact)), factors)


def _name(program: Description) -> str:
    return Path(program["path"]).stem


def _programs(artifact: Artifact) -> dict[str, Description]:
    """Give the programs by their own names: several entry points share one."""
    return {_name(program): program for program in artifact.programs.values()}


def _signature(client: str, program: Description) -> EntryPoint:
    inputs, outputs = (
        tuple(TensorSpec(each["name"], each["dtype"], tuple(each["shape"])) for each in program[part])
        for part in ("inputs", "outputs")
    )
    axes = {axis: Axis() for spec in inputs for dim in spec.shape for axis in axes_of(dim)}
    return EntryPoint(client, inputs, outputs, axes)


def _hold_first_call(programs: Runner, name: str, decoder: Description) -> None:
    """Call the decoder as clients do at first, with nothing kept, and again with what that gave of the sound."""
    (*_, width) = next(each["shape"] for each in decoder["inputs"] if each["name"] == SOUND)
    sound = np.random.default_rng(0).normal(0, 0.5, (1, PLACES, width)).astype(np.float32)
    given = {"input_ids": np.zeros((1, FIRST_CALL), np.int32), SOUND: sound}
    first = programs.run(name, _filled(decoder, given))
    heard = {n.replace("present", "past_key_values"): x for n, x in first.items() if n.endswith(HEARD)}
    again = programs.run(name, _filled(decoder, {**given, **heard, SOUND: 0 * sound}))
    for output, values in first.items():
        if not output.endswith(HEARD) and not np.allclose(values, again[output], rtol=1e-4, atol=1e-4):
            raise GateError(f"{decoder['path']}: {output} is another where what is heard is kept than where it is not")


HEARD = ".encoder.key", ".encoder.value"


def _filled(program: Description, given: Arrays) -> dict[str, np.ndarray]:
    """Give every input of a program: what is not there is empty, or zeros of the size that what is there asks for."""
    there = [(each["shape"], given[each["name"]].shape) for each in program["inputs"] if each["name"] in given]
    axes = (axis for each in program["inputs"] for dim in each["shape"] for axis in axes_of(dim))
    sizes = dict.fromkeys(axes, 0) | {"tokens": 1} | sizes_of(there)
    filled = {}
    for each in program["inputs"]:
        shape = [size(dim, sizes) for dim in each["shape"]]
        filled[each["name"]] = given.get(each["name"], np.zeros(shape)).astype(each["dtype"])
    return filled


class AsClients:
    """Runs the programs as a client does: one decoder, whose pasts are empty where there are none."""

    def __init__(self, programs: Runner, artifact: Artifact, client: str):
        self.name = f"{programs.name}, as {client} runs it"
        self._programs, self._artifact = programs, artifact

    def run(self, entry_point: str, inputs: Arrays) -> Arrays:
        """Compute an entry point."""
        program = self._artifact.programs[entry_point]
        given = {client: inputs[own] for client, own in program["feeds"].items()}
        found = self._programs.run(_name(program), _filled(program, given))
        if program["gives"]:
            return {own: found[client] for client, own in program["gives"].items()}
        seen = [found[f"cross_attentions.{layer}"][:, head] for layer, head in program["heads"]]
        (output,) = self._artifact.entry_points[entry_point].outputs
        return {output.name: np.stack(seen, axis=1)}
