"""A class of transformers that no family knows, with what the folder does after it: built, called, judged.

One function, `build`, makes what is traced and what judges: the judge attends as transformers' "eager" code does, what
is traced as its "sdpa" does where the class has it, which is one operator.
"""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...validation.errors import InputError
from .. import upstream
from ..family import LONGEST_FIRST
from ..reference import Original, Reference
from ..steps import Steps
from .config import PAST, SCORE, TransformersConfig
from .graph import Graph
from .reference import judged, wanted

if TYPE_CHECKING:
    from ..reference import Encode

CONFIG = "config.json"

GENERATION, TRANSLATION = "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM"
HEADS = (
    *(GENERATION, TRANSLATION, "MASKED_LM", "SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION"),
    *("IMAGE_CLASSIFICATION", "AUDIO_CLASSIFICATION", "CTC"),
)
"""transformers' tables of classes that give `logits`, by what stands in their names."""

KEYS, VALUES = "keys", "values"
"""What a cache's inputs and outputs are called, with the number of the layer."""


@dataclass(frozen=True)
class Architecture:
    """A network of transformers.

    Args:
        network: transformers' class, loaded.
        after: sentence-transformers' modules, if embeddings are made of the states.
        output: what is taken of what the class gives: "last_hidden_state" or "logits".
        head: which of `HEADS` the class has; "" for one of states.
    """

    network: Any
    after: upstream.SentenceModules | None
    output: str
    head: str = ""

    @property
    def modules(self) -> Sequence[nn.Module]:
        """Give the modules that come after the class."""
        return self.after.modules if self.after else ()

    @property
    def whole(self) -> "Whole":
        """Everything that holds parameters, as one module."""
        return Whole(self)

    @property
    def name(self) -> str:
        """Name the classes."""
        return ", ".join(type(m).__name__ for m in (self.network, *self.modules))

    @property
    def sees(self) -> bool:
        """Say whether pictures are what it takes."""
        return bool(self.network.main_input_name == "pixel_values")

    def seen(self, height: int, width: int, channels: int) -> tuple[str, ...]:
        """Find what it gives of a picture, by running an empty one."""
        with torch.no_grad():
            given = self.network(pixel_values=torch.zeros(1, channels, height, width), return_dict=True)
        found = (self.output, "pooler_output")
        return tuple(name for name in found if isinstance(getattr(given, name, None), Tensor))

    def takes(self, name: str) -> bool:
        """Say whether the class has an input of this name."""
        return name in inspect.signature(self.network.forward).parameters

    @property
    def translates(self) -> bool:
        """Say whether it is an encoder with a decoder."""
        both = bool(getattr(self.network.config, "is_encoder_decoder", False)) and self.takes("decoder_input_ids")
        return both and self.head in ("", TRANSLATION)

    def caches(self) -> dict[str, tuple[int | str, ...]]:
        """Find the shapes of what a class for text generation keeps of past tokens, by running two; {} of any other.

        What is no key or value of each token (a state of the whole text, as Mamba's) is none either.
        """
        if self.head != GENERATION or not any(map(self.takes, upstream.CACHES)):
            return {}
        ids = torch.zeros(1, 2, dtype=torch.long)
        try:
            with torch.no_grad():
                found = self.whole.prefill(ids, torch.ones_like(ids))
        except (TypeError, ValueError, AttributeError, KeyError):  # of a class with a cache of its own kind
            return {}
        kept = {name: x.shape for name, x in found.items() if name != self.output}
        if not all(len(shape) == 4 and shape[2] == 2 for shape in kept.values()):
            return {}
        return {name: ("batch", shape[1], "past", shape[3]) for name, shape in kept.items()}


class Whole(nn.Module):
    """The class and what comes after it. Each method is what an entry point is made of: inputs by upstream's names."""

    def __init__(self, parts: Architecture):
        super().__init__()
        self.network = parts.network
        self.modules_after = nn.ModuleList(parts.modules)
        self.after = parts.after
        self.taken = parts.output
        self.traced = False
        """Whether tokens of prompts are left out by a mask; the judge leaves them out as upstream does, row by row."""

    def see(self, images: Tensor) -> dict[str, Tensor]:
        """(batch, height, width, channels) -> what the class gives; what is pooled has one axis beside the rows."""
        given = self.network(pixel_values=images.permute(0, 3, 1, 2), return_dict=True)
        names = (self.taken, "pooler_output")
        found = {name: getattr(given, name, None) for name in names}
        there = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        return {name: value.flatten(1) if name == "pooler_output" else value for name, value in there.items()}

    def forward(self, prompt_tokens: Tensor | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """Inputs by name -> {"embeddings"} with the states that they are made of, or what the class gives."""
        given = self.network(**inputs, return_dict=True)
        if self.after is None:
            return {self.taken: given[self.taken]}
        mask = inputs["attention_mask"]
        if self.traced and prompt_tokens is not None:
            mask, prompt_tokens = _behind(mask, prompt_tokens), None
        states = given[self.taken]
        return {"embeddings": self.after(states, mask, prompt_tokens), self.taken: states}

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Give the encoder's states of a text."""
        given = self.network.get_encoder()(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        return {"encoder_hidden_states": given.last_hidden_state}

    def decode(
        self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """Give what the class gives for the decoder's tokens beside an encoded text."""
        from transformers.modeling_outputs import BaseModelOutput

        given = self.network(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=input_ids,
            use_cache=False,
            return_dict=True,
        )
        return {self.taken: given[self.taken]}

    def prefill(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Give the scores of a text's tokens, and the keys and values of each layer."""
        return self._generate(input_ids, attention_mask, ())

    def step(self, input_ids: Tensor, attention_mask: Tensor, **past: Tensor) -> dict[str, Tensor]:
        """Give the same for tokens that come after others, whose keys and values are given."""
        pairs = [(past[f"{PAST}{KEYS}_{i}"], past[f"{PAST}{VALUES}_{i}"]) for i in range(len(past) // 2)]
        return self._generate(input_ids, attention_mask, pairs)

    def _generate(self, input_ids: Tensor, attention_mask: Tensor, past: Any) -> dict[str, Tensor]:
        """Call a class for text generation, which counts the places of each row's own tokens where it is told them.

        So does upstream when it generates; a class by itself counts padding too.
        """
        from transformers import DynamicCache

        name = upstream.cache_name(self.network)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, name: DynamicCache(past or None)}
        if "position_ids" in inspect.signature(self.network.forward).parameters:
            places = (attention_mask.cumsum(1) - 1).clamp(min=0)
            inputs["position_ids"] = places[:, places.shape[1] - input_ids.shape[1] :]
        given = self.network(**inputs, use_cache=True, return_dict=True)
        found = {self.taken: given[self.taken]}
        for number, (keys, values, *_) in enumerate(given[name]):
            found |= {f"{KEYS}_{number}": keys, f"{VALUES}_{number}": values}
        return found


def _behind(mask: Tensor, prompt_tokens: Tensor) -> Tensor:
    """Let no token of a prompt count: as many as stated, from the first that counts."""
    begin = mask.argmax(1) + prompt_tokens
    return mask * (torch.arange(mask.shape[1]) >= begin[:, None])


def build(original: Original, steps: Steps) -> Architecture:
    """Load the class that config.json names, and what comes after it.

    Args:
        original: the checkpoint's tensors and the documents.
        steps: what makes one vector of the states; none where the states are given as they are.

    Raises:
        InputError: transformers does not know the class, or cannot load the checkpoint into it.
    """
    library = upstream.transformers()
    document = original.documents[CONFIG]
    config = upstream.configuration(document)
    cls, head = _class(library, config, document, bool(steps))
    if hasattr(config, "use_cache"):
        config.use_cache = False  # what generation needs: it is no part of what is computed
    # A head that pools texts is not what embeds them here; one that pools pictures is, where the checkpoint has it.
    kept = cls.main_input_name == "pixel_values" and any("pooler." in name for name in original.state)
    options = {"add_pooling_layer": kept} if "add_pooling_layer" in inspect.signature(cls).parameters else {}
    own = {name: tensor for name, tensor in original.state.items() if "/" not in name}  # not those of the modules after
    network = upstream.load(cls, config, own, **options)
    _computed(network, {tensor.data_ptr() for tensor in own.values()})
    after = upstream.SentenceModules(original, _width(config), steps) if steps else None
    return Architecture(network, after, "logits" if head else "last_hidden_state", head)


def _computed(network: nn.Module, stored: set[int]) -> None:
    """Make constants of the parameters that a class computes and never stores, such as tables of sines."""
    for name in getattr(network, "_keys_to_ignore_on_save", None) or ():
        owner, _, last = name.rpartition(".")
        module = next((module for path, module in network.named_modules() if path == owner), None)
        table = module._parameters.get(last) if module else None
        if module and table is not None and table.data_ptr() not in stored:
            del module._parameters[last]
            module.register_buffer(last, table.data, persistent=False)


def _width(config: Any) -> int:
    return int(config.get_text_config().hidden_size)


def _class(library: Any, config: Any, document: Mapping[str, Any], pooled: bool) -> tuple[Any, str]:
    """Choose the class and its head: that with one where the folder is of such, else the one that gives states."""
    stated = [str(name) for name in document.get("architectures") or []]
    for head in () if pooled else HEADS:
        headed = getattr(library, f"MODEL_FOR_{head}_MAPPING").get(type(config), None)
        for cls in headed if isinstance(headed, tuple | list) else [headed]:
            if cls is not None and cls.__name__ in stated:
                return cls, head
    found = next((getattr(library, n) for n in stated if n.endswith("EncoderModel") and hasattr(library, n)), None)
    if found is None and type(config) in library.MODEL_MAPPING:
        found = library.MODEL_MAPPING[type(config)]
    if found is None:
        raise InputError(
            f"{CONFIG}: transformers {library.__version__} has no class of states for {type(config).__name__}"
        )
    if isinstance(found, tuple | list):
        found = found[0]
    if pooled and getattr(config, "is_encoder_decoder", False) and not found.__name__.endswith("EncoderModel"):
        encoder = getattr(library, found.__name__.removesuffix("Model") + "EncoderModel", None)
        if encoder is None:
            raise InputError(
                f"{CONFIG}: {found.__name__} is an encoder with a decoder, and transformers has no class of its "
                "encoder alone, whose states could be pooled; write a function that makes the module that you want, "
                "and pass --module"
            )
        return encoder, ""
    return found, ""


def attend_in_one(network: Any) -> None:
    """Let a class attend by one operator, and compute its experts without a loop, if it can; else it stays as it is."""
    for choose, word in (("set_attn_implementation", "sdpa"), ("set_experts_implementation", "batched_mm")):
        with contextlib.suppress(ValueError, ImportError, AttributeError, NotImplementedError):
            getattr(network, choose)(word)


def reference(config: TransformersConfig, graph: Graph, original: Original) -> Reference:
    """Load the class again, as the judge."""
    parts = build(original, config.pipeline)
    whole = parts.whole
    entries = {name: judged(each.function(whole), each) for name, each in wanted(graph).items()}
    return Reference(_versions(parts), whole, entries, original.state)


def _versions(parts: Architecture) -> str:
    packages = ("torch", "transformers", *["sentence-transformers"] * bool(parts.modules))
    return f"{upstream.versions(*packages)}: {parts.name}"


def encode(
    config: TransformersConfig, graph: Graph, original: Original, reference: Reference
) -> Mapping[str, "Encode"]:
    """Let sentence-transformers encode or score raw texts with the network that the reference has loaded.

    No package of it cuts pairs as FlagReranker does.
    """
    whole: Any = reference.module
    if config.labels:
        judges = config.pairs == LONGEST_FIRST
        return {SCORE: upstream.PairScorer(original, whole.network, len(config.labels))} if judges else {}
    if whole.network.main_input_name == "pixel_values":
        if not config.pictures:
            return {}
        function = reference.entries["encode_image"]
        return {
            "encode_image": upstream.PictureEncoder(original, lambda images: function(images=images)["pooler_output"])
        }
    encoder = upstream.SentenceEncoder(original, whole.network, list(whole.modules_after))
    return dict.fromkeys((p.entry.name for p in graph.programs.values() if p.entry.embedding), encoder)
