"""Any module that torch.export can trace, as a family made at run time of the traced network."""

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...validation.domains import Cache, PaddingMask, PromptTokens, TokenIds
from ...validation.entry_point import EntryPoint, TensorSpec
from ...validation.errors import InputError
from ...validation.outputs import States
from ...validation.procedure import Greedy
from .. import pictures, steps
from ..family import Config, Drop, Family, HuggingFace, Rule, Source, Tie
from ..parts import Part
from ..pipeline import VECTOR, prompt_input, text_rules
from ..pipeline import documents as sentence_documents
from .config import (
    DECODE,
    ENCODE,
    GENERATE,
    NAME,
    NETWORK,
    PAST,
    PREFILL,
    SCORE,
    STATES,
    TRANSFORMERS,
    TracedConfig,
    TransformersConfig,
)
from .graph import Graph, Program, reached

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["CONFIGS", "FAMILIES", "NAME", "NETWORK", "TRANSFORMERS", "TracedConfig", "TransformersConfig", "family"]

CONFIGS: Mapping[str, Any] = {NAME: TracedConfig, TRANSFORMERS: TransformersConfig}
"""Name of the family in a manifest -> what its configuration is."""

CONFIG = "config.json"

FAMILIES = ()
"""None that is known before a module is traced."""


@functools.lru_cache(maxsize=2)
def family(text: str, name: str = NAME) -> Family:
    """Make the family of one traced network, of what its network.json holds.

    Raises:
        InputError: that is no such document.
    """
    graph = Graph.from_json(text)

    def network(config: Config) -> "Network":
        from ..network import Network
        from .module import build

        del config
        return Network(lambda rngs: build(graph), graph.entry_points)

    own = Family(
        name=name,
        summary="a module of one's own, traced by torch.export",
        recognise=lambda source: "",
        configure=_not_configured,
        config=TracedConfig,
        part=lambda config: part(graph),
        entry_points=lambda config: graph.entry_points,
        network=network,
        reference=lambda config, original: _module("reference").reference(config, graph, original),
        sizes={},
    )
    if name == NAME:
        return own
    judged = any(entry.embedding or entry.name == SCORE for entry in graph.entry_points)
    return dataclasses.replace(
        own,
        summary="an architecture of transformers that no family knows, traced by torch.export",
        config=TransformersConfig,
        reference=lambda config, original: _module("architecture").reference(config, graph, original),
        embeddings=_embeddings,
        scores=_scores if any(entry.name == SCORE for entry in graph.entry_points) else None,
        encode=(lambda config, *given: _module("architecture").encode(config, graph, *given)) if judged else None,
        texts=lambda config: dataclasses.replace(text_rules(config), pairs=config.pairs),
        images=_images,
        procedures=lambda config: _generation(graph),
        hugging_face=_describer(graph),
    )


def _module(name: str) -> Any:
    """Import a file of this folder that needs torch."""
    return importlib.import_module(f".{name}", __package__)


def _embeddings(config: TransformersConfig) -> Mapping[str, Any]:
    if config.pictures:
        return {"pooling": ["cls"], "normalize": False, "similarity": config.similarity}
    return {**steps.described(config.pipeline), "similarity": config.similarity} if config.pipeline else {}


def _scores(config: TransformersConfig) -> Mapping[str, Any]:
    return {"labels": list(config.labels), "activation": config.activation}


def _images(config: TransformersConfig) -> Mapping[str, Any] | None:
    return pictures.rules(config.pictures, config.image_size) if config.pictures else None


def _describer(graph: Graph) -> "Callable[[TransformersConfig], HuggingFace] | None":
    """Give what describes an encoder or a classifier of texts to Hugging Face's clients; None of another network."""
    if not all(program.beside or name == SCORE for name, program in graph.programs.items()):
        return None
    return lambda config: _hugging_face(graph, config)


def _hugging_face(graph: Graph, config: TransformersConfig) -> HuggingFace:
    """Describe it: the states of an encoder, which stand in its graph, first; the vector is not there where the pooling
    leaves the prompt out, which the clients count themselves.
    """
    from ..network import Network
    from .module import build

    (program,) = graph.programs.values()
    config_json = {**graph.facts[CONFIG], "architectures": [config.architecture]}
    config_json.pop("auto_map", None)
    if program.entry.name == SCORE:
        network = Network(lambda rngs: build(graph), graph.entry_points)
        return HuggingFace({CONFIG: config_json}, network, {spec.name: spec.name for spec in program.entry.outputs})
    shape = program.shape(program.beside[STATES])
    outputs = [TensorSpec(STATES, "float32", shape, kind=States("attention_mask"))]
    results = [program.beside[STATES]]
    if not prompt_input(config.pipeline):
        (embeddings,) = program.entry.outputs
        outputs.append(dataclasses.replace(embeddings, name=VECTOR))
        results += program.results
    inputs = tuple(spec for spec in program.entry.inputs if not isinstance(spec.domain, PromptTokens))
    entry = EntryPoint("token_states", inputs, tuple(outputs), program.entry.axes, rows="batch")
    part = Program(entry, reached(program.nodes, results), results)
    encoder = dataclasses.replace(graph, programs={entry.name: part})
    network = Network(lambda rngs: build(encoder), (entry,))
    documents = {CONFIG: config_json, **sentence_documents(config, int(shape[-1]))}
    gives = {spec.name: "embeddings" for spec in outputs if spec.name == VECTOR}
    leaves = {parameter.tensor: leaf for leaf, parameter in graph.parameters.items()}
    return HuggingFace(documents, network, gives, config.pipeline, leaves)


def _generation(graph: Graph) -> tuple[Greedy, ...]:
    """Generate by what has a decoder that gives scores: after a prompt, or beside an encoded text."""
    entries = {entry.name: entry for entry in graph.entry_points}
    first, decode = entries.get(PREFILL) or entries.get(ENCODE), entries.get(DECODE)
    if not (first and decode and any(spec.kind.distributions for spec in decode.outputs)):
        return ()
    if first.name == PREFILL:
        kept = [spec.name for spec in decode.inputs if isinstance(spec.domain, Cache)]
        greedy = Greedy(GENERATE, PREFILL, DECODE, {name: name.removeprefix(PAST) for name in kept})
        longest = first.axes["tokens"].high or greedy.prompt + greedy.steps
        steps = min(greedy.steps, longest)
        return (dataclasses.replace(greedy, steps=steps, prompt=min(greedy.prompt, longest - steps + 1)),)
    ids, mask = decode.input_of(TokenIds), decode.input_of(PaddingMask)
    if not (ids and isinstance(ids.domain, TokenIds) and mask and ids.domain.first is not None):
        return ()
    given = {spec.name: spec.name for spec in first.outputs} | {mask.name: "attention_mask"}
    steps = min(Greedy.steps, decode.axes["tokens"].high or Greedy.steps)
    return (Greedy(GENERATE, ENCODE, DECODE, given, steps=steps, start=ids.domain.first),)


def _not_configured(source: Source) -> Any:
    raise InputError("a traced network is configured by --module or --transformers")


def part(graph: Graph) -> Part:
    """Give each tensor its fate: a leaf as it is, a tie, or dropped with the reason. Axes are named by their sizes."""
    rules: list[Rule | Tie | Drop] = []
    sizes: dict[str, int] = {}
    shapes = {}
    for leaf, parameter in graph.parameters.items():
        axes = [f"{'abcdefgh'[i]}{size}" for i, size in enumerate(parameter.shape)]
        sizes |= dict(zip(axes, parameter.shape, strict=True))
        shapes[parameter.tensor] = parameter.shape
        rules.append(Rule(parameter.tensor, leaf, " ".join(axes)))
    rules += [Tie(name, first, "the module has one parameter under both names") for name, first in graph.tied.items()]
    rules += [Drop(name, reason) for name, reason in graph.dropped.items()]
    return Part(tuple(rules), sizes, shapes)
