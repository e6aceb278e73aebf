"""What tests iterate over: every family as it is found, and configurations with a branch that its tiny size lacks.

A new family is here as soon as its folder is: nothing below names one but the variants.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest

from bgevis.model.family import Config, Family, families
from bgevis.model.steps import Dense, LayerNorm, Normalize, Pooling, plain

TINY = "tiny"

BRANCHES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "xlm-roberta": (
        "bert",
        {
            "model_type": "xlm-roberta",
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "pad_token_id": 1,
            "cls_token_id": 0,
            "sep_token_id": 2,
            "pipeline": plain(["mean"]),
        },
    ),
    "pipeline": (
        "bert",
        {
            "pipeline": (
                Pooling(("cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"), include_prompt=False),
                LayerNorm("2.", 160),
                Dense("3.", 160, 24, activation="GELU", residual=True),
                Normalize(),
            ),
        },
    ),
    "clip-2021": (
        "clip",
        {
            "text.eos_token_id": 2,
            "text.hidden_act": "quick_gelu",
            "vision.hidden_act": "quick_gelu",
            "text.truncation_side": "none",
            "multimodal": True,
        },
    ),
}
"""Name -> family, what is not as in its size `tiny`, by dotted field: positions that count tokens, pooling by mean, the
tanh form of gelu; every other pooling, without the prompt, and layers after it; the end of a text at its highest id,
and pairs as BGE-VL embeds them."""

VARIANTS = (*families(), *BRANCHES)
"""Names: of every family, then of the others."""


LATER = (*BRANCHES, "classifier", "edge_glass", "edge_glass_v3", "edge_glass_vlm", "qwen3")
"""What dear tests take with `make prove` only: variants, and families that are made of what others are made of, which
have tests of their own and go through `all` with every other family."""

MOST = [pytest.param(variant, marks=[pytest.mark.prove] if variant in LATER else []) for variant in VARIANTS]
"""What dear tests take."""


def some(names: Iterable[str], fast: Collection[str]) -> list[Any]:
    """Take all names; those that are not `fast` wait for `make prove`."""
    return [pytest.param(name, marks=[] if name in fast else [pytest.mark.prove]) for name in names]


def family_of(variant: str) -> Family:
    """Give the family that a variant is of."""
    return families()[BRANCHES[variant][0] if variant in BRANCHES else variant]


def config_of(variant: str) -> Config:
    """Give a variant's configuration, of what is the size `tiny` just now."""
    config = family_of(variant).sizes[TINY]
    for path, value in BRANCHES[variant][1].items() if variant in BRANCHES else ():
        config = replaced(config, tuple(path.split(".")), value)
    return config


def replaced(config: Config, path: tuple[str, ...], value: Any) -> Config:
    """Replace a field, nested ones too."""
    if len(path) > 1:
        value = replaced(getattr(config, path[0]), path[1:], value)
    return dataclasses.replace(config, **{path[0]: value})


def fields(config: Config, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Give every field with its value, nested ones too."""
    found: list[tuple[tuple[str, ...], Any]] = []
    for field in dataclasses.fields(config):
        value, place = getattr(config, field.name), (*path, field.name)
        found += fields(value, place) if dataclasses.is_dataclass(value) else [(place, value)]
    return found


LAYERS = (
    *("layers", "num_hidden_layers", "encoder_layers", "decoder_layers"),
    *("num_encoder_layers", "num_decoder_layers"),
)
"""Fields that count layers."""


def deepened(config: Config, layers: int) -> Config:
    """Give every tower of a configuration so many layers."""
    for path, value in fields(config):
        if path[-1] in LAYERS:
            config = replaced(config, path, layers)
        elif path[-1] == "windows":  # one for each layer
            config = replaced(config, path, (value * layers)[:layers])
    return config
