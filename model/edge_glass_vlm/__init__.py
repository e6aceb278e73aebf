"""Edge Glass, second stage: a language model that goes on with a text about a picture."""

from typing import TYPE_CHECKING

import numpy as np

from ...validation.cases import Case
from ...validation.domains import Cache, Floats, PaddingMask, Positions, TokenIds
from ...validation.entry_point import Axis, EntryPoint, TensorSpec
from ...validation.outputs import Cache as Kept
from ...validation.outputs import Logits, Output, States
from ...validation.procedure import Greedy
from ..caches import fed, key_names
from ..family import Family, TextRules
from . import rules
from .config import BESIDE, PROJECTION, SIZES, VLMConfig, configure, documents, recognise, stated_adapter

if TYPE_CHECKING:
    from ..network import Network
    from ..reference import Original, Reference

SCALE = 0.6
"""Deviation of the numbers of a prefix, of keys and of values where they are drawn."""

ROWS = 8
"""Of the family's own cases."""

TOKENS, MASK, WHERE = "input_ids", "attention_mask", "position_ids"


def _entry_points(config: VLMConfig) -> tuple[EntryPoint, ...]:
    """Describe what a prompt passes, and more tokens.

    Places are those among what counts. The recursion has no mask: with it, as upstream does, padding has places too.
    Its tables bound all places together; so a text and a picture leave each other a few, and a step is of no more.
    """
    language, hidden = config.qwen, config.qwen.hidden_size
    most, more = (max(1, config.places - BESIDE), BESIDE) if config.trm else (language.max_tokens, language.max_tokens)
    batch, places = {"batch": Axis()}, {"places": Axis(1, most)}
    prompt = {**batch, **places, "tokens": Axis(1, most)}
    before = {**batch, "tokens": Axis(1, more), "past": Axis(1, config.places - (BESIDE if config.trm else 1))}
    ids, mask = TokenIds(language.vocab_size, language.pad_token_id), PaddingMask(TOKENS, leading=True)
    counted = Positions(MASK, padding=config.trm is not None)

    def whole(name: str, shape: tuple[int | str, ...], domain: TokenIds | PaddingMask | Positions) -> TensorSpec:
        return TensorSpec(name, "int32", shape, domain)

    sequence = TensorSpec("sequence", "float32", ("batch", "places", config.vision_token_dim), Floats())
    prefix = ("prefix", "float32", ("batch", "places", hidden))
    inputs = (
        TensorSpec(*prefix, Floats(SCALE)),
        whole(TOKENS, ("batch", "tokens"), ids),
        whole(MASK, ("batch", "tokens"), mask),
        whole(WHERE, ("batch", "places + tokens"), counted),
    )
    step = (
        whole(TOKENS, ("batch", "tokens"), ids),
        whole(MASK, ("batch", "past + tokens"), mask),
        whole(WHERE, ("batch", "tokens"), counted),
        *_kept(config, "past"),
    )
    every = TensorSpec("logits", "float32", ("batch", "places + tokens", language.vocab_size), kind=Logits(MASK))
    last = TensorSpec("logits", "float32", ("batch", language.vocab_size), kind=Logits())
    these = TensorSpec("logits", "float32", ("batch", "tokens", language.vocab_size), kind=Logits(MASK))
    given = TensorSpec(*prefix, kind=States())
    return (
        EntryPoint("project_vision", (sequence,), (given,), batch | places, rows="batch"),
        EntryPoint("forward", inputs, (every,), prompt, rows="batch"),
        EntryPoint("prefill", inputs, (last, *_kept(config, "places + tokens")), prompt, rows="batch"),
        EntryPoint("decode", step, (these, *_kept(config, "past + tokens")), before, rows="batch"),
    )


def _kept(config: VLMConfig, size: str) -> tuple[TensorSpec, ...]:
    """Describe keys and values, those of the recursion behind the language model's: one pair a step and layer."""
    language, taken = config.qwen, size == "past"
    own = ("batch", language.num_key_value_heads, size, language.head_dim)
    names = [(name, own, MASK) for i in range(language.num_hidden_layers) for name in key_names("", i)]
    if trm := config.trm:
        shape, count = ("batch", trm.num_heads, size, trm.head_dim), trm.steps * trm.num_layers
        names += [(name, shape, "") for i in range(count) for name in key_names("trm", i)]
    domain = Cache(SCALE, past="past") if taken else None
    return tuple(
        TensorSpec(f"past_{n}" if taken else n, "float32", shape, domain, Output() if taken else Kept(valid))
        for n, shape, valid in names
    )


def _cases(config: VLMConfig) -> tuple[Case, ...]:
    """Give padding between a picture and a text, as upstream's tokenizer puts it: what is drawn has it behind them.

    Of several rows: what float32 costs the scores of one state is one draw of luck.
    """
    rng = np.random.default_rng(0)
    mask = np.tile(np.array([[1, 1, 1, 1], [0, 0, 1, 1]], np.int32), (ROWS // 2, 1))
    found = []
    for entry in _entry_points(config):
        tokens = 1 if entry.name == "decode" else 4
        sizes = {"batch": ROWS, "places": 3, "tokens": tokens, "past": 6}
        inputs: dict[str, np.ndarray] = {}
        for spec in entry.inputs:
            shape = spec.resolve(sizes)
            if isinstance(spec.domain, Floats):
                inputs[spec.name] = (spec.domain.scale * rng.standard_normal(shape)).astype(np.float32)
            elif isinstance(spec.domain, TokenIds):
                inputs[spec.name] = rng.integers(0, config.qwen.vocab_size, shape).astype(np.int32)
            elif isinstance(spec.domain, Positions):
                inputs[spec.name] = spec.domain.of(mask, 7)[:, -shape[1] :].astype(np.int32)
            else:
                inputs[spec.name] = np.ones(shape, np.int32)
                inputs[spec.name][:, -4:] = mask
        if TOKENS in inputs:
            found.append(Case(entry.name, "padding between a picture and a text", inputs))
    return tuple(found)


def _procedures(config: VLMConfig) -> tuple[Greedy, ...]:
    """Declare greedy answers; with the recursion, upstream's loop stops at no token, and without it cuts answers."""
    trm = config.trm
    caches = fed(config.qwen.num_hidden_layers)
    caches |= {f"past_{n}": n for i in range(trm.steps * trm.num_layers if trm else 0) for n in key_names("trm", i)}
    ends = () if trm else config.qwen.eos_token_ids
    penalty = 1.0 if trm else config.qwen.repetition_penalty
    before = ("project_vision",)
    return (Greedy("answer", "prefill", "decode", caches, ends, before=before, penalty=penalty, cut=trm is None),)


def _network(config: VLMConfig) -> "Network":
    from ..network import Network
    from .modeling import QwenVLM

    return Network(lambda rngs: QwenVLM(config, rngs=rngs), _entry_points(config))


def _reference(config: VLMConfig, original: "Original") -> "Reference":
    from .reference import reference

    return reference(config, original)


FAMILY = Family(
    name="edge_glass_vlm",
    summary="Edge Glass, stage 2: Qwen that goes on with a text about a picture, with and without a recursion",
    recognise=recognise,
    configure=configure,
    config=VLMConfig,
    part=rules.whole,
    entry_points=_entry_points,
    network=_network,
    reference=_reference,
    sizes=SIZES,
    anchors=(PROJECTION,),
    holds=("qwen2", "qwen3"),
    documents=documents,
    texts=lambda config: TextRules(side="left"),
    cases=_cases,
    procedures=_procedures,
    adapter=stated_adapter,
)
