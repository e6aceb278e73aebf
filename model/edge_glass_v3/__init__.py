"""Edge Glass, train_perceiver_v3.py: features of pictures and texts, which others computed, aligned in one space."""

from typing import TYPE_CHECKING

import numpy as np

from ...validation.cases import Case
from ...validation.domains import Floats
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.outputs import Embedding
from ..edge_glass.config import EPSILON
from ..family import Family
from . import rules
from .config import ANCHOR, SIZES, V3Config, configure, documents, recognise

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Original, Reference


def _entry_points(config: V3Config) -> tuple[EntryPoint, ...]:
    widths = {"z": config.out, **{f"mrl_{n}": n for n in config.mrl}}
    outputs = tuple(
        TensorSpec(name, "float32", ("batch", width), kind=Embedding(unit=name != "z"))
        for name, width in widths.items()
    )
    axes = {"batch": Axis(), "places": Axis()}
    return tuple(
        EntryPoint(
            f"align_{kind}",
            (TensorSpec("features", "float32", ("batch", "places", getattr(config, kind)), Floats()),),
            outputs,
            axes,
            rows="batch",
        )
        for kind in ("vision", "text")
    )


def _cases(config: V3Config) -> tuple[Case, ...]:
    """Give features that hardly differ, so that the epsilon of the adapters' norms decides: no weight makes them so."""
    rng, found = np.random.default_rng(0), []
    for entry in _entry_points(config):
        shape = entry.inputs[0].resolve({"batch": 3, "places": 5})
        features = (EPSILON**0.5 * rng.standard_normal(shape)).astype(np.float32)
        found.append(Case(entry.name, "features that hardly differ", {"features": features}))
    return tuple(found)


def _network(config: V3Config) -> "Network":
    from ..network import Network
    from .modeling import PerceiverV3

    return Network(lambda rngs: PerceiverV3(config, rngs=rngs), _entry_points(config))


def _reference(config: V3Config, original: "Original") -> "Reference":
    from .reference import reference

    return reference(config, original)


FAMILY = Family(
    name="edge_glass_v3",
    summary="Edge Glass, train_perceiver_v3.py: features of pictures and texts aligned in one space",
    recognise=recognise,
    configure=configure,
    config=V3Config,
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    anchors=(ANCHOR,),
    documents=documents,
    cases=_cases,
)
