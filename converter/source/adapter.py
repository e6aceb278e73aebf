"""A low-rank adapter (LoRA) as peft leaves it: in a folder of its own beside a base, or unmerged inside the checkpoint.

Which layers it changes is told by its tensors, how strongly by adapter_config.json. Reads no weights.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...model.adapter import BASE, CONFIG, MAGNITUDE, ORIGINAL, Adapter, Layers, aside, knows
from ...model.documents import Document, Given, Harmless, Only, Settled, shown
from ...model.family import Drop, Rules
from ...validation.errors import InputError
from ..checkpoint import Checkpoint, open_checkpoint
from .folder import MERGED_FIRST
from .folder import rest as beside

FILES = ("adapter_model.safetensors", "adapter_model.bin")
PLACE = "adapter/"
"""Before the names of the adapter's own file in the manifest, and of its tensors until they have the checkpoint's."""

HOLDER = "base_model.model."
"""What peft puts before every name."""

HOLDERS = ("model.", "bert.", "roberta.", "mpnet.", "distilbert.", "electra.")
"""What transformers puts before the names of a network inside one with a head: an adapter that was trained with the
head fits the network alone."""

FACTOR = re.compile(
    rf"(?P<layer>.+)\.(?P<factor>lora_A|lora_B|lora_embedding_A|lora_embedding_B|{MAGNITUDE})"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.weight)?"
)
SAVED = re.compile(rf"\.modules_to_save\.(?P<adapter>[^.]+)\.|\.{BASE}\.")

ALPHA, RSLORA = "lora_alpha", "use_rslora"
OPTIONS = (ALPHA, RSLORA)
"""What the command line may say of an adapter that has no document."""

_WHICH = "which layers are changed is told by the adapter's tensors; peft, which reads this too, judges"
_TRAINING = "how the adapter was trained"
_NOTHING = "not used"
HARMLESS: Harmless = {
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"), _WHICH),
    **dict.fromkeys(("modules_to_save", "bias", "rank_pattern"), _WHICH),
    **dict.fromkeys(("base_model_name_or_path", "revision", "peft_version", "auto_mapping"), "where it came from"),
    **dict.fromkeys(("lora_dropout", "task_type", "inference_mode"), _TRAINING),
    **dict.fromkeys(("qalora_group_size", "megatron_core", "runtime_config"), "decides nothing by itself"),
    "init_lora_weights": Only((True, False, "gaussian", "orthogonal", "eva"), _TRAINING),
    **dict.fromkeys(("eva_config", "loftq_config"), Only((None, {}), _TRAINING)),
    **dict.fromkeys(("use_qalora", "lora_bias", "ensure_weight_tying", "use_bdlora"), Only((False, None), _NOTHING)),
    "fan_in_fan_out": Only((False,), "weights are stored as the layers of every family here are"),
    **dict.fromkeys(
        ("alora_invocation_tokens", "arrow_config", "corda_config", "kasa_config", "layer_replication"),
        Only((None,), _NOTHING),
    ),
    **dict.fromkeys(
        ("lora_ga_config", "megatron_config", "monteclora_config", "target_parameters", "trainable_token_indices"),
        Only((None,), _NOTHING),
    ),
    "velora_config": Only((None,), _NOTHING),
}
"""Fields of peft's LoraConfig (0.18 to 0.21). Another value of those that are limited makes another network than base
and adapter, and is refused by name."""


def document(folder: Path) -> Path:
    """Give the place of an adapter's configuration.

    Raises:
        InputError: there is none.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"--adapter {folder}: expected a folder with {CONFIG} and {FILES[0]}, as peft writes it")
    return folder / CONFIG


def rest(folder: Path, checkpoint: Checkpoint) -> dict[str, str]:
    """Name what lies beside an adapter and was not read, with the reason."""
    names = beside(folder, checkpoint.modules[PLACE], [CONFIG])
    return {PLACE + name: reason for name, reason in names.items()}


def opened(folder: Path) -> Checkpoint:
    """Open the file of an adapter's folder.

    Raises:
        InputError: there is none.
    """
    for name in FILES:
        if (folder / name).is_file():
            return open_checkpoint(folder / name)
    raise InputError(f"--adapter {folder}: it holds neither {' nor '.join(FILES)}; give the folder that peft wrote")


def unmerged(checkpoint: Checkpoint) -> bool:
    """Say whether a checkpoint is of a network with an adapter beside its layers."""
    return any(f".{BASE}." in name for name in checkpoint.tensors) and held(checkpoint)


def held(checkpoint: Checkpoint) -> bool:
    """Say whether some of the tensors are an adapter's: of several networks in a file another may have it."""
    return any(map(FACTOR.fullmatch, checkpoint.tensors))


def read_by(checkpoint: Checkpoint, rules: Rules) -> bool:
    """Say whether some of an adapter's tensors are read: those of a layer that no entry point reads are dropped."""
    dropped = [rule for rule in rules if isinstance(rule, Drop)]
    names = filter(FACTOR.fullmatch, checkpoint.tensors)
    return not all(any(knows(rule, name) for rule in dropped) for name in names)


def plain(checkpoint: Checkpoint) -> Checkpoint:
    """Give the layers of an unmerged checkpoint the names that they have without an adapter.

    Raises:
        InputError: it holds several adapters.
    """
    names, adapters = {}, {}
    for name in checkpoint.tensors:
        factor, saved = FACTOR.fullmatch(name), SAVED.search(name)
        if factor:
            names[name] = _factor(factor["layer"], factor["factor"])
        elif saved:
            names[name] = SAVED.sub(".", name)
        for found in (factor, saved):
            if found and found["adapter"]:
                adapters[found["adapter"]] = name
    if len(adapters) > 1:
        raise InputError(
            f"{checkpoint.path} holds {len(adapters)} adapters, {', '.join(sorted(adapters))}: which of them are added "
            "up is stated nowhere; save it with the one that is wanted"
        )
    return checkpoint.renamed(names)


def _factor(layer: str, factor: str) -> str:
    return f"{layer}.{factor}" if factor.startswith(("lora_embedding", MAGNITUDE)) else f"{layer}.{factor}.weight"


def asked(checkpoint: Checkpoint, document: Document | None, given: Mapping[str, Given]) -> tuple[str, ...]:
    """List what of an adapter inside a checkpoint nobody states, with how to state it."""
    if document is not None or ALPHA in given or not held(checkpoint):
        return ()
    return (f"{ALPHA} (--set {ALPHA}=, or {CONFIG} beside the checkpoint)",)


def joined(
    checkpoint: Checkpoint, folder: Path | None, document: Document | None, given: Mapping[str, Given], stored: str
) -> tuple[Checkpoint, Adapter]:
    """Put an adapter's tensors beside those of the layers that it changes.

    Args:
        checkpoint: of which the family is known, with plain names.
        folder: the adapter's; None where its tensors are in the checkpoint.
        document: adapter_config.json.
        given: what the command line says of the adapter.
        stored: what the leaves are stored as.

    Raises:
        InputError: it does not fit, or is of a kind that cannot be merged.
    """
    reading = _Reading(checkpoint, document, folder)
    settled = _settled(reading, given)
    if folder:
        reading.beside(opened(folder))
    else:
        reading.inside()
    groups: dict[Layers, list[str]] = {}
    for layer, factors in reading.factors.items():
        group = reading.layer(layer, factors, settled, stored)
        groups.setdefault(group, []).append(layer)
    layers = tuple(replace(group, names=tuple(names)) for group, names in groups.items())
    origin = settled.origins[ALPHA]
    adapter = Adapter(layers, tuple(reading.replaced.items()), reading.trained, reading.held, origin)
    return reading.finished(layers), adapter


def _settled(reading: "_Reading", given: Mapping[str, Given]) -> Settled:
    """Settle what decides how strongly layers are changed, and account for all fields of the document."""
    said = {name: each for name, each in given.items() if name in OPTIONS}
    if ALPHA in said and type(said[ALPHA].value) is int:
        said[ALPHA] = replace(said[ALPHA], value=float(said[ALPHA].value))
    document, settled = reading.document, Settled(said)
    if document is None:
        advice = (
            f"no {CONFIG} lies beside the checkpoint, and the tensors do not say it: state it with --set {ALPHA}=N "
            f"(it is divided by the rank; by its root with --set {RSLORA}=true), or give the file with --config"
        )
        settled.choose(ALPHA, float, advice=advice)
        settled.choose(RSLORA, bool, otherwise=(False, "peft's default"))
        return settled
    document.read = True
    kind = document.take("peft_type", str)
    if kind != "LORA":
        raise InputError(f"{document.origin}: peft_type is {shown(kind)}, expected 'LORA'; {MERGED_FIRST}")
    settled.put(ALPHA, document.take(ALPHA, float), f"{document.name}: {ALPHA}")
    settled.put(RSLORA, document.take(RSLORA, bool, False), f"{document.name}: {RSLORA}")
    for field in ("use_dora", "alpha_pattern", "r"):
        document.note(field, "used")
    document.accept(HARMLESS)
    unknown = [name for name in document.fields if name in HARMLESS and name in document and name not in document.fates]
    if unknown:
        value = shown(document.fields[unknown[0]])
        raise InputError(f"{document.origin}: {unknown[0]} is {value}, which this tool does not merge; {MERGED_FIRST}")
    return settled


class _Reading:
    """An adapter's tensors, on their way to their places in a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, document: Document | None, folder: Path | None):
        self.checkpoint, self.document = checkpoint, document
        self.whose = f"the adapter in {folder}" if folder else f"the adapter in {checkpoint.path}"
        self.trained = self.held = ""
        self.factors: dict[str, dict[str, str]] = {}
        """Layer of the checkpoint -> factor -> the name of its tensor."""
        self.replaced: dict[str, str] = {}
        """Tensor of the checkpoint that has another in its place -> its name in the network that was trained."""
        self._names: dict[str, str] = {}

    def inside(self) -> None:
        """Find the adapter among the checkpoint's own tensors."""
        for name in self.checkpoint.tensors:
            factor = FACTOR.fullmatch(name)
            if factor:
                self.factors.setdefault(factor["layer"], {})[factor["factor"]] = name
        before = "".join(wrapper for wrapper in self.checkpoint.wrappers if wrapper.endswith("."))
        first = next(iter(self.factors))
        if HOLDER in before:
            self.trained = before.rpartition(HOLDER)[2]
        elif HOLDER in first:
            self.held = "".join(first.rpartition(HOLDER)[:2])
        for name in self.checkpoint.tensors:
            layer, _, last = name.rpartition(".")
            if layer.endswith(f".{ORIGINAL}"):
                plainly = f"{layer.removesuffix(f'.{ORIGINAL}')}.{last}"
                self.replaced[plainly] = self._as_trained(plainly)

    def beside(self, adapter: Checkpoint) -> None:
        """Find the places of the tensors of an adapter's file.

        Raises:
            InputError: the checkpoint has none for one of them.
        """
        keys = {name: name.removeprefix(HOLDER) for name in adapter.tensors}
        found = {name: match for name, key in keys.items() if (match := FACTOR.fullmatch(key))}
        if not found:
            raise InputError(f"{adapter.path} holds no adapter: no tensor is called *.lora_A.weight")
        self.trained, self.held = self._place([match["layer"] for match in found.values()])
        self.checkpoint = self.checkpoint.joined(PLACE, adapter)
        for name, match in found.items():
            layer = self._as_held(match["layer"])
            assert self._as_trained(layer) == match["layer"]  # what the judge calls it
            self._names[PLACE + name] = final = _factor(layer, match["factor"])
            self.factors.setdefault(layer, {})[match["factor"]] = final
        for name in (name for name in keys if name not in found):
            self._replace(name, keys[name], adapter)

    def _replace(self, name: str, key: str, adapter: Checkpoint) -> None:
        """Note a tensor that takes the place of one of the base: a bias, a layer that was trained whole."""
        plainly = self._as_held(SAVED.sub(".", key))
        base = self.checkpoint.tensors.get(plainly)
        if base is None:
            raise InputError(
                f"{self.whose} holds {name}, for which the checkpoint has no tensor {plainly}: it was trained on "
                f"another network, or with a head that the base has not; {MERGED_FIRST}"
            )
        if base.shape != adapter.tensors[name].shape:
            raise self._other_base(plainly, f"{name} is {adapter.tensors[name].shape}", base.shape)
        layer, _, last = plainly.rpartition(".")
        final = f"{layer}.{BASE}.weight" if layer in self.factors and last == "weight" else plainly
        self._names |= {PLACE + name: final, plainly: aside(final)}
        self.replaced[final] = key

    def _place(self, layers: Sequence[str]) -> tuple[str, str]:
        """Say what stands before the names of layers in the adapter, and what in its place in the checkpoint.

        Raises:
            InputError: the checkpoint has no such layers, or several.
        """
        known = self.checkpoint.tensors
        first = f".{layers[0]}.weight"
        added = [name.removesuffix(first[1:]) for name in known if f".{name}".endswith(first)]
        stripped = [wrapper for wrapper in self.checkpoint.wrappers if wrapper.endswith(".")]
        dropped = [prefix for prefix in (*HOLDERS, *stripped) if all(layer.startswith(prefix) for layer in layers)]
        places = [*(("", prefix) for prefix in added), *((prefix, "") for prefix in dict.fromkeys(dropped))]
        fitting = [
            (trained, held)
            for trained, held in places
            if all(f"{held}{layer.removeprefix(trained)}.weight" in known for layer in layers)
        ]
        exact = [place for place in fitting if place == ("", "")]
        if len(exact or fitting) == 1:
            return (exact or fitting)[0]
        if fitting:
            where = ", ".join(held or trained for trained, held in fitting)
            raise InputError(f"{self.whose} fits several places of the checkpoint ({where}); choose one with --tower")
        raise InputError(
            f"{self.whose} changes {layers[0]} and {len(set(layers)) - 1} more, but not all of these are layers of "
            f"the checkpoint, which holds {', '.join(list(known)[:3])}, ...: it was trained on another base"
            f"{self._base_said()}"
        )

    def _base_said(self) -> str:
        said = self.document.fields.get("base_model_name_or_path") if self.document else None
        return f" (it says {shown(said)})" if isinstance(said, str) and said else ""

    def _other_base(self, name: str, adapters: str, shape: Sequence[int]) -> InputError:
        return InputError(
            f"{self.whose} was trained on another base{self._base_said()}: its {adapters}, and the checkpoint's {name} "
            f"is {tuple(shape)}; give the checkpoint that it was trained on"
        )

    def _as_held(self, name: str) -> str:
        return self.held + name.removeprefix(self.trained)

    def _as_trained(self, name: str) -> str:
        return self.trained + name.removeprefix(self.held)

    def layer(self, layer: str, factors: Mapping[str, str], settled: Settled, stored: str) -> Layers:
        """Describe how one layer is changed.

        Raises:
            InputError: a factor is missing, or does not fit.
        """
        base = self.checkpoint.tensors.get(f"{layer}.weight")
        embedding = any(name.startswith("lora_embedding") for name in factors)
        a, b = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
        for role in (a, b):
            if role not in factors:
                held = ", ".join(factors)
                raise InputError(f"{self.whose} has {held} for {layer}, but no {role}: nothing can be added")
        if base is None:
            raise InputError(f"{self.whose} changes {layer}, but the checkpoint holds no {layer}.weight")
        before = {final: name for name, final in self._names.items()}
        shapes = {role: self.checkpoint.tensors[before.get(name, name)].shape for role, name in factors.items()}
        rank = (*shapes[a], 0)[0]
        found = Layers(
            (),
            tuple(base.shape),
            rank,
            self._of(layer, "alpha_pattern", settled.values[ALPHA], float),
            settled.values[RSLORA],
            MAGNITUDE in factors,
            embedding,
            base.dtype if stored == "source" else "float32",
        )
        wanted = found.shapes if len(base.shape) >= 2 and rank else {}
        for role, shape in shapes.items():
            kind = "ab"[role.endswith("B")] if role != MAGNITUDE else "lengths"
            if tuple(shape) != wanted.get(kind):
                raise self._other_base(f"{layer}.weight", f"{role} of {layer} is {tuple(shape)}", base.shape)
        self._check(layer, found)
        return found

    def _check(self, layer: str, found: Layers) -> None:
        """Hold rank and lengths to what the document says.

        Raises:
            InputError: it says otherwise.
        """
        document = self.document
        if document is None:
            return
        stated = self._of(layer, "rank_pattern", document.take("r", int, low=1), int)
        if stated != found.rank:
            raise InputError(
                f"{document.origin}: the rank of {layer} is {stated} there and {found.rank} in the adapter's tensors; "
                "the two do not belong together"
            )
        if document.take("use_dora", bool, False) != found.lengths:
            has = "has" if found.lengths else "has no"
            raise InputError(
                f"{document.origin}: use_dora is {shown(not found.lengths)}, but {layer} {has} {MAGNITUDE}; the file "
                "and the tensors do not belong together"
            )

    def _of(self, layer: str, field: str, otherwise: int | float, kind: type) -> Any:
        """Give a layer's own number, of those that the document has for names that end in a pattern, as peft does."""
        if self.document is None:
            return otherwise
        patterns = self.document.take(field, dict, None) or {}
        name = self._as_trained(layer)
        for pattern, value in patterns.items():
            try:
                fits = re.match(rf"(.*\.)?({pattern})$", name)
            except re.error as error:
                raise InputError(
                    f"{self.document.origin}: {field} has {shown(pattern)}, no pattern ({error})"
                ) from error
            if fits:
                if type(value) not in ((int, float) if kind is float else (int,)):
                    what = f"{self.document.origin}: {field} of {pattern} is {shown(value)}"
                    raise InputError(f"{what}, expected a {'' if kind is float else 'whole '}number")
                return kind(value)
        return otherwise

    def finished(self, layers: Iterable[Layers]) -> Checkpoint:
        """Give the checkpoint with all tensors under their last names."""
        names = dict(self._names)
        for name in (name for group in layers for name in group.names):
            taken = names.get(f"{name}.weight")  # what the adapter has in its place has the name already
            names[f"{name}.weight"] = taken or f"{name}.{BASE}.weight"
        return self.checkpoint.renamed(names)
