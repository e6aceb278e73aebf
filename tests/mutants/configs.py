"""Mistakes in the configuration, and in one module's constant at a time."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from variants import fields, replaced

from bgevis.model.network import Network
from bgevis.model.steps import MODES, plain
from bgevis.validation.cases import tap_case

from .bench import Bench, Mutant

Path = tuple[str, ...]
"""Of a field, nested ones too."""

OTHERS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("hidden_act", "activation_function"), ("gelu", "gelu_new", "quick_gelu", "silu", "relu")),
    "model_type": ("bert", "xlm-roberta"),
    "pipeline": (*(plain([mode]) for mode in MODES if mode != "mean_sqrt_len_tokens"), plain(normalize=False)),
    "num_attention_heads": (1, 2, 8),
    "heads": (1, 4, 8),
    "truncation_side": ("left", "right"),
    "similarity": ("cosine", "dot"),
    "prompts": ((("query", "query: "),),),
    "default_prompt": ("query",),
    "resample": ("bicubic", "bilinear"),
    "offset": ("floor", "half to even"),
    "alpha": ("over white", "dropped"),
    **dict.fromkeys(("text", "vision", "names", "language", "head"), ()),
    "labels": (("other", "names", "too"),),
    "activation": ("identity", "sigmoid"),
    "pairs": ("longest-first", "flag-reranker"),
    **dict.fromkeys(("prefix", "rope_type"), ()),
    "positional_encoding": ("learned", "rotary"),
    "dropout": (),
    **dict.fromkeys(("audio", "bert", "mpnet", "clip", "place", "pooling", "decoder"), ()),
    "num_heads": (1, 4, 8),
    "strategy": ("concat", "gated"),
}
"""Field -> its values, where these are no numbers or not any number."""

SPELLED = {"gelu_new": "gelu_pytorch_tanh"}
"""Value -> another name of the same."""

PACK = "of raw texts and pictures, which `test_end_to_end.py` holds against upstream's own way"
CHOICE = "of what is chosen by scores, which `test_whisper.py` and `test_hearing.py` hold"
PAIRS = "of raw pairs and their scores, which `test_classifier.py` holds"
DRAWN = "cases are drawn with it; no network computes with it"
GIVEN = "goes on with a text, which `test_generate.py` holds"
NEAR = "told apart only by scores that differ by just as much"
TURNS = "of a rope type that has none"
EQUIVALENT = {
    "pretrained_grid": "the rotary tables are taken from the checkpoint, not computed",
    "embed_dim": "the width of a head that no embedding passes through",
    "pipeline": "a classifier's head reads the first token's state itself",
    **dict.fromkeys(("model_type", "type_vocab_size"), "of a network that has no types and one way of positions"),
    "labels": "what a classifier's numbers are called",
    **dict.fromkeys(("activation", "pairs", "token_types"), PAIRS),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "languages", "tasks"), CHOICE),
    **dict.fromkeys(("decoder_start_token_id", "eos_token_id", "no_timestamps_token_id"), CHOICE),
    **dict.fromkeys(("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "last_token_id"), DRAWN),
    **dict.fromkeys(("max_seq_length", "truncation_side", "do_lower_case", "similarity"), PACK),
    **dict.fromkeys(("prompts", "default_prompt"), PACK),
    **dict.fromkeys(("resize", "resample", "crop", "offset", "rgb_first", "alpha", "mean", "std"), PACK),
    **dict.fromkeys(("first_token_ids", "last_token_ids"), DRAWN),
    **dict.fromkeys(("eos_token_ids", "repetition_penalty"), GIVEN),
    **dict.fromkeys(("factor", "original", "beta_fast", "beta_slow", "truncate"), TURNS),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor"), TURNS),
    **dict.fromkeys(("image_size", "max_position_embeddings"), "a bound, which entry points state and no table has"),
    "positional_encoding": "a table of places is one, whoever made it",
    "multimodal": "an entry point more or less, which the manifest and its programs tell",
}
"""Field -> why it may change nothing. That is believed where it is so: see `unread`."""


def mutants(bench: Bench) -> Iterator[Mutant]:
    """Give every field of the configuration another value, and every constant of every module."""
    harmless = unread(bench)
    for path, value in fields(bench.config):
        for other in wrong(path[-1], value):
            changed = functools.partial(bench.family.network, replaced(bench.config, path, other))
            reason = EQUIVALENT[path[-1]] if path in harmless else ""
            name = f"{bench.variant}: {'.'.join(path)} {value} -> {other}"
            yield Mutant("configuration", name, functools.partial(bench.with_network, changed), reason)
    for place, attribute, value in constants(bench):
        for factor in (1.01, 1e6, 0.0):
            check = functools.partial(_with_constant, bench, place, attribute, value * factor)
            name = f"{bench.variant}: {place}.{attribute} {value:.3g} -> {value * factor:.3g}"
            reason = NEAR if attribute == "masked_score" and factor == 1.01 else ""
            yield Mutant("constant of one module", name, check, reason)


def unread(bench: Bench) -> frozenset[Path]:
    """Give the fields with a reason to change nothing on which the programs of all entry points do not depend."""
    listed = [(path, next(wrong(path[-1], value))) for path, value in fields(bench.config) if path[-1] in EQUIVALENT]
    right = program(bench, bench.config)

    def among(some: list[tuple[Path, Any]]) -> frozenset[Path]:
        config = functools.reduce(lambda config, change: replaced(config, *change), some, bench.config)
        if not some or program(bench, config) == right:
            return frozenset(path for path, _ in some)
        half = len(some) // 2
        return among(some[:half]) | among(some[half:]) if half else frozenset()

    return among(listed)


def program(bench: Bench, config: Any) -> str:
    """Write down what the network of a configuration computes of the same inputs; "" where there is none."""
    try:
        net = bench.family.network(config)
    except (LookupError, ValueError):
        return ""
    net.entry_points = bench.net.entry_points
    sized = {name: tap_case(entry).inputs.values() for name, entry in net.entry_points.items()}
    try:
        return _written(net, sized)
    except ValueError as error:  # it does not take these inputs: another network
        return str(error)


def _written(net: Network, sized: Mapping[str, Iterable[Any]]) -> str:
    return "\n".join(str(jax.make_jaxpr(net.function(name))(net.leaves, *sized[name])) for name in sized)


def wrong(field: str, value: Any) -> Iterator[Any]:
    """Give other values."""
    if field in OTHERS:
        yield from (other for other in OTHERS[field] if SPELLED.get(other, other) != SPELLED.get(value, value))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, tuple):
        yield _moved(value)
    elif isinstance(value, float):
        yield from (value * 1.01, value * 1e6, value / 1e6, 0.0)
    else:
        yield from dict.fromkeys((value + 1, value * 2 or -1))


def _moved(value: Any) -> Any:
    """Give another value of the same kind: numbers one higher, texts longer."""
    if isinstance(value, tuple):
        return tuple(map(_moved, value))
    return f"{value}?" if isinstance(value, str) else value + 1


def constants(bench: Bench) -> Iterator[tuple[str, str, float]]:
    """Give every float that a module of the network keeps: epsilons and scales."""
    for path, module in modules(bench.net.module({})):
        for attribute, value in vars(module).items():
            if isinstance(value, float):
                yield path, attribute, value


def modules(root: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Give every module with its path."""
    for path, node in nnx.iter_modules(root):
        yield ".".join(map(str, path)), node


def _with_constant(bench: Bench, place: str, attribute: str, value: float) -> str:
    def build(rngs: nnx.Rngs) -> nnx.Module:
        del rngs  # it is built already
        root = bench.net.module({})
        setattr(dict(modules(root))[place], attribute, value)
        return root

    return bench.with_network(lambda: Network(build, tuple(bench.net.entry_points.values())))
