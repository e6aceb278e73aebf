"""The Insight Engine (MultiModal Insight Engine): its networks and layers, told apart by class."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...validation.entry_point import EntryPoint
from ...validation.errors import InputError
from ..documents import JSON, shown
from ..family import Family, config_to_json
from . import (
    attention,
    embeddings,
    encoder_decoder,
    feed_forward,
    fusion,
    kind,
    multimodal,
    pieces,
    transformer,
    vision,
)

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Original, Reference

DECLARED = (feed_forward, attention, fusion, embeddings, transformer, encoder_decoder, vision, multimodal)
KINDS = {each.name: each for module in DECLARED for each in module.KINDS}
"""Every class, by its name."""


SIZES = (
    {"tiny": encoder_decoder.TINY, "base": encoder_decoder.BASE}
    | {each.name: each.tiny for each in KINDS.values() if each.marks}
    | {f"{each.name}-documented": each.documented for each in KINDS.values() if each.documented and each.marks}
)
"""Of fixtures: the class with the most to go wrong, tiny and as upstream documents it; each class, tiny; and each class
that upstream's document builds an example of, in that size."""


def _of(config: kind.Config) -> kind.Kind:
    return KINDS[config.model_type]


def _config(document: Mapping[str, JSON]) -> type:
    """Give the class of the configuration that a manifest holds."""
    name = document.get("model_type")
    if not isinstance(name, str) or name not in KINDS:
        raise InputError(f"the manifest's config: model_type is {shown(name)}, expected one of {', '.join(KINDS)}")
    return KINDS[name].config


def _entry_points(config: kind.Config) -> tuple[EntryPoint, ...]:
    return _of(config).entries(config)


def _network(config: kind.Config) -> "Network":
    from ..network import Network
    from . import modeling

    return Network(lambda rngs: getattr(modeling, config.model_type)(config, rngs=rngs), _entry_points(config))


def _reference(config: kind.Config, original: "Original") -> "Reference":
    from .reference import reference

    return reference(config, original, tuple(entry.name for entry in _entry_points(config)))


def _images(config: kind.Config) -> Mapping[str, Any] | None:
    """Say that nobody knows how pictures are prepared: upstream's users do it by what their data say."""
    if not any(spec.name == "images" for entry in _entry_points(config) for spec in entry.inputs):
        return None
    return {"input": "images", "missing": "upstream stores nothing of how its pictures were normalised"}


def _documents(config: kind.Config) -> Mapping[str, Any]:
    """State a configuration: upstream writes none, so nothing of it would be known."""
    return {kind.CONFIG: config_to_json(config)}


FAMILY = Family(
    name="insight",
    summary="MultiModal Insight Engine: feed-forward networks, transformers, ViT, two towers and every layer of them",
    recognise=lambda source: kind.recognise(source, KINDS),
    configure=lambda source: kind.configure(source, KINDS),
    config=_config,
    part=lambda config: pieces.probed(_of(config).part(config)),
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    images=_images,
    documents=_documents,
    attends=True,
    cases=lambda config: _of(config).cases(config),
    procedures=lambda config: _of(config).procedures(config),
)
