"""What a language model of Edge Glass's second stage is, in numbers, and how it is read from names, shapes, documents.

Upstream stores no configuration. What no shape shows is said by a config.json in the words of upstream's constructors,
by the language model's own documents, or by --set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...validation.errors import GateError, InputError
from ..clip.config import shape_of
from ..documents import Configured, Document, Given, Harmless, Only, shown
from ..edge_glass.config import trm_sizes
from ..edge_glass.trm import TRM
from ..family import Source
from ..qwen import config as qwen
from ..qwen.config import CLASSES, GENERATION, QWEN2_SIZES, QWEN3, QwenConfig

CONFIG = "config.json"
LANGUAGE = "qwen"
"""The folder of the language model's own documents, called as what its tensors' names begin with."""

PLACES = ("qwen.model.base_model.model.", "qwen.model.")
"""What stands before the language model's names: with peft's wrapper around it, and without."""

PROJECTION = "vision_proj.weight"
LAYERS, DOWN = "trm_layers.", "down_proj.weight"

FIELDS = ("qwen_config", "vision_token_dim", "use_trm_recursion", "num_recursion_steps", "trm_config", "lora")
"""Of config.json, in the words of upstream's constructors."""

QUANTISED = (".absmax", ".quant_map", ".SCB")
"""How the names end that bitsandbytes puts beside weights of 4 and 8 bits."""

BESIDE = 8
"""Places that a picture, a text and the tokens of a step leave each other, where a table bounds all together."""

STEPS = "num_recursion_steps"
EPSILON = "trm.layer_norm_eps"

_SHAPES = "the tensors' shapes show it"
TRM_HARMLESS: Harmless = {
    "vocab_size": "of upstream's other decoder: the language model scores the words",
    "dropout": "dropout, which inference leaves out",
    "use_rope": Only((True,), "the tables of positions are in the checkpoint"),
    "rope_theta": "the tables of positions are in the checkpoint",
    **dict.fromkeys(("num_inner_steps", "num_outer_steps", "use_learned_z_init"), "upstream's code never reads it"),
}
LORA_HARMLESS: Harmless = {
    **dict.fromkeys(("target_modules", "dropout"), "which layers are changed is told by the adapter's tensors"),
}
STATED_HARMLESS: Harmless = {
    **dict.fromkeys(("name", "description", "tags", "seed", "optimization", "training", "dataset"), "of the training"),
    "confidence_threshold": "upstream's code never reads it",
}


@dataclass(frozen=True)
class Recursion(TRM):
    """Layers that refine the last states again and again.

    Args:
        steps: how often a state passes all layers.
        projected: whether linear layers stand between the two widths.
    """

    steps: int
    projected: bool

    @property
    def places(self) -> int:
        """The most places of picture and text: upstream puts as many again behind them, and its tables bound all."""
        return self.max_seq_len // 2


@dataclass(frozen=True)
class VLMConfig:
    """A language model that reads a picture's tokens before a text.

    Args:
        qwen: the language model.
        vision_token_dim: width of a picture's tokens, as the image encoder of the first stage gives them.
        trm: what refines the last states; None where nothing does.
        place: what stands before the names of the language model's tensors.
    """

    qwen: QwenConfig
    vision_token_dim: int
    trm: Recursion | None = None
    place: str = PLACES[1]

    @property
    def max_tokens(self) -> int:
        """The longest text that the language model reads."""
        return self.qwen.max_tokens

    @property
    def places(self) -> int:
        """The most places of picture and text together."""
        return min(self.trm.places, self.qwen.max_tokens) if self.trm else self.qwen.max_tokens


USUAL = Recursion(2048, 4, 16, 2048, 2048, 1e-6, 4, projected=False)
"""Of upstream's training script."""

SIZES = {
    "3b": VLMConfig(QWEN2_SIZES["3b"], 4096),
    "3b-trm": VLMConfig(QWEN2_SIZES["3b"], 4096, USUAL),
    "7b": VLMConfig(QWEN2_SIZES["7b"], 4096),
    "tiny": VLMConfig(QWEN2_SIZES["tiny"], 12, Recursion(16, 1, 4, 20, 96, 1e-5, 2, projected=True)),
}
"""Of upstream's configurations for Qwen2.5-3B and 7B, with and without its recursion. And a tiny one."""


def again(step: int) -> str:
    """Say behind what the values of a step through the layers are called: those of each are other values."""
    return f"step{step}"


def recognise(source: Source) -> str:
    """Say why a checkpoint belongs here."""
    place = place_of(source)
    return f"names {PROJECTION} and {place}*" if place and PROJECTION in source.shapes else ""


def place_of(source: Source) -> str:
    """Say what stands before the language model's names; "" where there is none."""
    return next((place for place in PLACES if f"{place}model.{qwen.WORDS}" in source.shapes), "")


def configure(source: Source) -> Configured:
    """Read the language model, the projection before it, and what refines its states.

    Raises:
        InputError: what no shape shows is stated nowhere (all of it at once), contradicts the shapes, or the language
            model's tensors are packed to fewer bits.
        GateError: a tensor that shows a size is missing.
    """
    _refuse_packed(source)
    stated = _Stated(source)
    if missing := stated.missing():
        raise InputError(
            f"no tensor's shape shows {len(missing)} fields of this network, and no document states them: "
            f"{'; '.join(missing)}"
        )
    place = place_of(source)
    language = _language(source, stated, place)
    settled = source.settled()
    settled.put("place", place, "names of the tensors")
    hidden, dim = shape_of(source.shapes, PROJECTION, 2)
    settled.put("vision_token_dim", dim, f"shape of {PROJECTION}")
    stated.agree("vision_token_dim", dim, f"shape of {PROJECTION}")
    if hidden != language.config.hidden_size:
        raise InputError(
            f"{PROJECTION} gives {hidden} numbers, but the language model's states have {language.config.hidden_size}"
        )
    trm, origins = _recursion(source, stated, hidden)
    stated.finish(trm is not None)
    told = {f"qwen.{field}": origin for field, origin in language.origins.items()}
    config = VLMConfig(language.config, trm=trm, **settled.values)
    return Configured(config, {**told, **settled.origins, **origins})


def _refuse_packed(source: Source) -> None:
    """Refuse a language model whose layers bitsandbytes has packed."""
    for name in source.shapes:
        ending = next((end for end in (*QUANTISED, ".quant_state") if end in name), None)
        if ending and name.startswith("qwen."):
            layer = name.partition(ending)[0]
            raise InputError(
                f"{layer} is packed by bitsandbytes (load_in_4bit or load_in_8bit: {name} stands beside it), which is "
                "not read here; load the base in bfloat16 without it, load this checkpoint's other tensors (lora_A, "
                "lora_B, vision_proj, trm_layers, ...) into that model, and save its state_dict"
            )


class _Stated:
    """What documents say: config.json in upstream's words, or the language model's own alone."""

    def __init__(self, source: Source):
        self.source = source
        self.has_trm = any(name.startswith("trm_layers.") for name in source.shapes)
        found = source.documents.get(CONFIG)
        own = found is not None and isinstance(found.content, dict) and any(f in found.content for f in FIELDS)
        self.document = source.document(CONFIG) if own else None

    def part(self, name: str) -> Document | None:
        """Give an object inside config.json; one that is null says nothing."""
        if self.document is None or not isinstance(self.document.fields.get(name), dict):
            return None
        return self.document.part(name)

    def language(self) -> Document | None:
        """Give the language model's config.json: inside the network's, in its folder, or by itself."""
        found = self.part("qwen_config") or self.source.document(f"{LANGUAGE}/{CONFIG}")
        return found or (None if self.document else self.source.document(CONFIG))

    def generation(self) -> Document | None:
        """Give the language model's generation_config.json."""
        return self.source.document(f"{LANGUAGE}/{GENERATION}") or self.source.document(GENERATION)

    def missing(self) -> list[str]:
        """List what is stated nowhere, each with how to state it."""
        found = list(self.source.asked)
        if self.language() is None:
            found.append(
                f"the language model's {CONFIG} (as {LANGUAGE}/{CONFIG} beside the checkpoint, or --config FILE)"
            )
        if self.has_trm:
            if STEPS not in (self.document or ()) and "trm.steps" not in self.source.given:
                found.append(f"how often a state passes the recursion (--set trm.steps=, or {STEPS} in {CONFIG})")
            if "layer_norm_eps" not in (self.part("trm_config") or ()) and EPSILON not in self.source.given:
                found.append(f"{EPSILON} (--set {EPSILON}=, or trm_config.layer_norm_eps in {CONFIG})")
        return found

    def agree(self, name: str, value: Any, origin: str, part: str = "") -> None:
        """Refuse a document that contradicts the tensors."""
        document = self.part(part) if part else self.document
        if document is not None and document.take(name, type(value), value) != value:
            raise InputError(
                f"{document.origin}: {f'{part}.' if part else ''}{name} is {shown(document.fields[name])}, but the "
                f"checkpoint's tensors say {shown(value)} ({origin})"
            )

    def finish(self, has_trm: bool) -> None:
        """Account for what is left of config.json."""
        if self.document is None:
            return
        self.agree("use_trm_recursion", has_trm, "names trm_layers.*")
        if lora := self.part("lora"):
            rank = next((s[0] for n, s in self.source.shapes.items() if n.endswith(".lora_A.weight")), None)
            if rank:
                self.agree("r", rank, "shapes of *.lora_A.*", "lora")
                lora.note("alpha", "used")
            else:
                lora.accept(dict.fromkeys(("r", "alpha"), "the checkpoint holds no adapter"))
            lora.accept(LORA_HARMLESS)
        if trm := self.part("trm_config"):
            trm.accept(TRM_HARMLESS)
            if not has_trm:
                trm.accept(dict.fromkeys(trm.fields, "of a recursion that is not in the checkpoint"))
        for name in FIELDS:
            self.document.note(name, self.document.fates.get(name, "of a part that is not in the checkpoint"))
        self.document.accept(STATED_HARMLESS)


def stated_adapter(source: Source) -> Mapping[str, Given]:
    """Give what config.json says of an adapter inside the checkpoint."""
    lora = _Stated(source).part("lora")
    return {"lora_alpha": Given(lora.take("alpha", float), f"{CONFIG}: lora.alpha")} if lora else {}


def _language(source: Source, stated: _Stated, place: str) -> Configured:
    """Let the language model's own family read it."""
    shapes = {n.removeprefix(place): shape for n, shape in source.shapes.items() if n.startswith(place)}
    given = {f.removeprefix("qwen."): v for f, v in source.given.items() if f.startswith("qwen.")}
    document, generation = stated.language(), stated.generation()
    assert document
    own = {CONFIG: document} | ({GENERATION: generation} if generation else {})
    of_tokenizer = {n: d for n, d in source.documents.items() if n.startswith(("tokenizer", "special", "added"))}
    inner = replace(
        source, shapes=shapes, documents={**own, **of_tokenizer}, given=given, facts={}, wrappers=(), asked=()
    )
    kind = document.take("model_type", str, choices=tuple(CLASSES))
    if (f"model.{qwen.QUERY_NORM}" in shapes) != (kind == QWEN3):
        raise InputError(f"{document.origin}: model_type is {shown(kind)}, but the tensors' names are not its own")
    return qwen.configure(inner, kind)


def _recursion(source: Source, stated: _Stated, hidden: int) -> tuple[Recursion | None, dict[str, str]]:
    """Settle what refines the states, if anything does."""
    if not stated.has_trm:
        return None, {"trm": "no tensor trm_layers.*"}
    settled, projected = source.settled("trm."), DOWN in source.shapes
    for field, (value, origin, name) in trm_sizes(source.shapes, LAYERS).items():
        settled.put(field, value, origin)
        stated.agree(name, value, origin, "trm_config")
    if settled.values["width"] != hidden and not projected:
        raise GateError(
            f"{LAYERS}* are {settled.values['width']} wide, the language model {hidden}, and no {DOWN} is between them"
        )
    settled.put("projected", projected, f"{'' if projected else 'no '}name {DOWN}")
    settled.choose("steps", int, (stated.document, STEPS), low=1)
    settled.choose("layer_norm_eps", float, (stated.part("trm_config"), "layer_norm_eps"), low=0)
    return Recursion(**settled.values), {f"trm.{field}": origin for field, origin in settled.origins.items()}


def documents(config: VLMConfig) -> Mapping[str, Any]:
    """Give the documents beside such a checkpoint."""
    language = dict(qwen.documents(config.qwen))
    stated: dict[str, Any] = {"vision_token_dim": config.vision_token_dim, "use_trm_recursion": config.trm is not None}
    if trm := config.trm:
        stated[STEPS] = trm.steps
        stated["trm_config"] = {
            "hidden_dim": trm.width,
            "num_layers": trm.num_layers,
            "num_heads": trm.num_heads,
            "intermediate_dim": trm.inner,
            "max_seq_len": trm.max_seq_len,
            "layer_norm_eps": trm.layer_norm_eps,
        }
    return {
        CONFIG: {**stated, "qwen_config": language[CONFIG]},
        f"{LANGUAGE}/{GENERATION}": language[GENERATION],
    }
