"""Classes of transformers and sentence-transformers on the checkpoint's own tensors: the code that it was trained with.

Built from the user's own documents, offline, without code from the folder. Names that changed between releases are
upstream's business; what it leaves unfilled or unused is told by `Reference.check`.
"""

import copy
import inspect
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..validation.errors import EnvironmentFailure, GateError, InputError
from .pipeline import TRANSFORMERS
from .reference import Original, State, load_strict
from .steps import Dense, LayerNorm, Pooling, Steps, Truncate

OLDEST = 5
"""transformers 4 reads some of what 5 writes as if it were not there (`rope_parameters`), without a word."""

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""The environment in which upstream neither asks a network nor prints: it reads these when it is imported."""

PASSED_OVER = ("_attn_implementation", "attn_implementation", "quantization_config", "auto_map", "dtype", "torch_dtype")
"""Fields of config.json that say how to run a network, not what it is: they would ask for packages and devices."""


def transformers(oldest: int = OLDEST) -> Any:
    """Import transformers.

    Raises:
        EnvironmentFailure: it is missing or too old.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "parity needs transformers, the code that the checkpoint is for: pip install 'bgevis-convert[upstream]'"
        ) from error
    if int(transformers.__version__.partition(".")[0]) < oldest:
        raise EnvironmentFailure(
            f"parity needs transformers {oldest} or newer, found {transformers.__version__}: "
            "pip install -U 'bgevis-convert[upstream]'"
        )
    return transformers


def sentence_transformers() -> Any:
    """Import sentence-transformers.

    Raises:
        EnvironmentFailure: it is missing.
    """
    transformers(0)
    try:
        import sentence_transformers
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            "parity needs sentence-transformers, whose modules pool the states: pip install 'bgevis-convert[upstream]'"
        ) from error
    return sentence_transformers


def versions(*packages: str) -> str:
    """Name packages with their versions."""
    return ", ".join(f"{package} {version(package)}" for package in packages)


def configuration(document: Mapping[str, Any]) -> Any:
    """Make upstream's configuration of a config.json, with upstream's own defaults for what it does not say.

    Raises:
        InputError: upstream refuses it.
    """
    library = transformers(0)
    fields = {name: value for name, value in document.items() if name not in PASSED_OVER}
    architectures = fields.get("architectures") or []
    kind = fields.pop("model_type", None)
    try:
        if kind is None:
            found = [getattr(library, str(name), None) for name in architectures]
            if not found or found[0] is None:
                raise InputError(
                    "config.json states neither model_type nor architectures: upstream cannot tell its class"
                )
            return found[0].config_class(**fields)
        return library.AutoConfig.for_model(kind, **fields)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"config.json: transformers {library.__version__} refuses it: {_reason(error)}") from error


def load(cls: Any, config: Any, state: State, **options: Any) -> nn.Module:
    """Build a class of transformers around the tensors of `state`, in the dtypes that they are stored in.

    Raises:
        InputError: shapes do not fit the configuration.
    """
    known = {(t.data_ptr(), t.shape, t.dtype) for t in state.values()}
    count = Counter(t.dtype for t in state.values() if t.is_floating_point())
    model: Any = None
    for dtype, _ in count.most_common():
        try:
            # Stated each time: the configuration's word, which is the default, may cast without a word.
            with _Guarded(state):
                built = cls.from_pretrained(
                    None,
                    config=copy.deepcopy(config),
                    state_dict=dict(state),
                    dtype=dtype,
                    attn_implementation="eager",
                    **options,
                )
        except (RuntimeError, ValueError) as error:
            raise InputError(f"the checkpoint does not load into {cls.__name__}: {_reason(error)}") from error
        model = built if model is None else _joined(model, built, known)
    if model is None:
        raise InputError("the checkpoint holds no floating-point tensors")
    _put_back(model, state)
    return model.eval().requires_grad_(False)


READING = ("requires_grad_", "detach_", "share_memory_")
"""Functions that are called as those that write, and do not."""


class _Guarded(TorchFunctionMode):
    """Lets nothing be written into the tensors of a checkpoint, whose pages are read-only: the process would die.

    Some classes set a row of a table to zero, as for new weights, each time that they are loaded.
    """

    def __init__(self, state: State):
        super().__init__()
        self.names = {tensor.untyped_storage().data_ptr(): name for name, tensor in state.items()}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; one that would write what is there already has nothing to do.

        Raises:
            InputError: it would write something else.
        """
        name = getattr(function, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name not in READING and args:
            held = self._held(args[0])
            if held is not None:
                copied = args[0].detach().clone()
                function(copied, *args[1:], **(kwargs or {}))
                if not torch.equal(copied, args[0]):
                    raise InputError(
                        f"tensor {held}: transformers overwrites a part of it as it loads it ({name}): it computes "
                        "with something else than the checkpoint holds; save what it has loaded by save_pretrained, "
                        "and convert that folder"
                    )
                return args[0]
        return function(*args, **(kwargs or {}))

    def _held(self, target: Any) -> str | None:
        if not isinstance(target, torch.Tensor) or target.device.type != "cpu":
            return None
        return self.names.get(target.untyped_storage().data_ptr())


def _put_back(model: nn.Module, state: State) -> None:
    """Let parameters that upstream has copied, as a bias beside a tied table, lie in the memory of their tensors."""
    for name, parameter in model.named_parameters():
        tensor = state.get(name)
        if tensor is not None and tensor.dtype == parameter.dtype and torch.equal(tensor, parameter):
            parameter.data = tensor


def remade(model: Any) -> list[str]:
    """Name the tensors, as patterns, of which upstream makes others when it loads a class: q, k and v cut apart."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # of a release that loads every tensor as it is
        return []
    made = (each for each in get_model_conversion_mapping(model) if type(each).__name__ == "WeightConverter")
    return [pattern for each in made for pattern in each.source_patterns]


def _joined(model: nn.Module, other: nn.Module, known: set[tuple[Any, ...]]) -> nn.Module:
    """Take from a second loading, in another dtype, what was not cast there."""
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        if (theirs.data_ptr(), theirs.shape, theirs.dtype) in known:
            mine.data = theirs.data
    return model


def inside(state: State, name: str) -> dict[str, torch.Tensor]:
    """Give the tensors of the module that holds `name`, by its own names: without what stands before them all.

    Raises:
        InputError: no tensor is called so, or several are.
    """
    prefixes = [n.removesuffix(name) for n in state if n == name or n.endswith(f".{name}")]
    if len(prefixes) != 1:
        raise InputError(f"the checkpoint holds {len(prefixes)} tensors called {name}, expected one: {prefixes}")
    return {n.removeprefix(prefixes[0]): t for n, t in state.items() if n.startswith(prefixes[0])}


CACHES = ("cache", "past_key_values")
"""What releases of transformers call the keys and values of past tokens, among inputs and outputs."""


def cache_name(model: Any) -> str:
    """Say what a class of transformers calls its cache."""
    known = inspect.signature(model.forward).parameters
    return next(name for name in CACHES if name in known)


def text_encoder(config: Mapping[str, Any], state: State) -> nn.Module:
    """Load what transformers' AutoModel gives for a config.json, without the layer of BERT's that pools on its own."""
    upstreams = configuration(config)
    cls = transformers(0).MODEL_MAPPING[type(upstreams)]
    pools = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
    return load(cls, upstreams, state, **({"add_pooling_layer": False} if pools else {}))


ULPS = 2.0**-20
"""How far upstream's frequencies may be from those that are computed here: a few roundings of float32."""


def turned(model: nn.Module, frequencies: np.ndarray, scale: float) -> None:
    """Hold upstream's rotary positions to these, and let it compute with these: it rounds as its device does.

    Args:
        model: upstream's.
        frequencies: the angle of each pair for one place, (pairs,) float32.
        scale: of cosines and sines.

    Raises:
        GateError: upstream turns by other angles, or not at all.
    """
    found: list[Any] = [module for module in model.modules() if hasattr(module, "inv_freq")]
    for module in found:
        theirs, given = module.inv_freq.float().numpy(), torch.from_numpy(frequencies)
        near = theirs.shape == frequencies.shape and bool(np.all(abs(theirs / frequencies - 1) <= ULPS))
        if not near or not np.isclose(float(module.attention_scaling), scale, rtol=1e-6):
            kind = type(module).__name__
            raise GateError(f"reference: {kind} turns queries and keys by other angles than config.json is read to say")
        module.inv_freq = given
    if not found:
        raise GateError(f"reference: {type(model).__name__} has no rotary positions")


MODULES = "modules.json"
SENTENCES = "config_sentence_transformers.json"
WEIGHTS = (".bin", ".safetensors", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx")


class SentenceModules:
    """What sentence-transformers does after the transformer: its own modules, on the checkpoint's own tensors.

    Args:
        original: what was trained. Its modules.json and config_sentence_transformers.json say what is done.
        width: of the transformer's states, where there is no modules.json.
        steps: what the user says, where there is no modules.json.
    """

    def __init__(self, original: Original, width: int, steps: Steps):
        sentence_transformers()
        described = original.documents.get(MODULES)
        self.modules = _stated(original, width, steps) if described is None else _loaded(original, described[1:])
        self._width = original.documents.get(SENTENCES, {}).get("truncate_dim")

    def __call__(
        self, states: torch.Tensor, attention_mask: torch.Tensor, prompt_tokens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Make embeddings, (batch, width), of states (batch, tokens, width).

        `prompt_tokens`, (batch,), are what upstream knows as one number for a batch: each text is one of its own then.
        """
        if prompt_tokens is None:
            return self._embed(states, attention_mask, {})
        rows = zip(states.split(1), attention_mask.split(1), prompt_tokens.tolist(), strict=True)
        return torch.cat([self._embed(one, mask, {"prompt_length": count}) for one, mask, count in rows])

    def _embed(self, states: torch.Tensor, mask: torch.Tensor, more: Mapping[str, Any]) -> torch.Tensor:
        features: dict[str, Any] = {"token_embeddings": states, "attention_mask": mask, **more}
        for module in self.modules:
            features = module(features)
        return features["sentence_embedding"][..., : self._width]


def _loaded(original: Original, described: Sequence[Mapping[str, Any]]) -> list[nn.Module]:
    """Load the modules that modules.json names, by their own `load`.

    Raises:
        InputError: upstream cannot load a module, or the checkpoint has not its tensors.
    """
    from sentence_transformers.util import import_from_string

    made: list[nn.Module] = []
    for module in described:
        cls: Any = import_from_string(module["type"])
        own = _own(original.state, f"{module['path']}/", f"{module['name']}.")
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / module["path"]
            place.mkdir(parents=True)
            if (original.folder / module["path"]).is_dir():
                _link(original.folder / module["path"], place)
            if own:
                torch.save(own, place / "pytorch_model.bin")
            try:
                made.append(cls.load(scratch, subfolder=module["path"], local_files_only=True))
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                reason = _reason(error)
                raise InputError(f"{MODULES}: sentence-transformers cannot load {module['type']}: {reason}") from error
        load_strict(made[-1], own)
    return made


def _stated(original: Original, width: int, steps: Steps) -> list[nn.Module]:
    """Make sentence-transformers' modules for a pipeline that no file states, but the user."""
    from sentence_transformers.util import import_from_string

    made: list[nn.Module] = []
    for step in steps:
        if isinstance(step, Truncate):
            continue
        cls: Any = import_from_string(f"sentence_transformers.models.{type(step).__name__}")
        if isinstance(step, Pooling):
            made.append(cls(width, step.modes, step.include_prompt))
        elif isinstance(step, Dense):
            activation = getattr(nn, step.activation)()
            made.append(cls(step.inputs, step.outputs, step.bias, activation, use_residual=step.residual))
        else:
            made.append(cls(step.width) if isinstance(step, LayerNorm) else cls())
        load_strict(made[-1], _own(original.state, getattr(step, "tensors", "")) if hasattr(step, "tensors") else {})
    return made


def _own(state: State, *prefixes: str) -> dict[str, torch.Tensor]:
    """Give the tensors behind the one of these prefixes that there are, by their names without it."""
    return {n.removeprefix(p): t for p in prefixes for n, t in state.items() if n.startswith(p)}


class SentenceEncoder:
    """sentence-transformers' `encode` on a folder, from raw texts: its tokenizer, limits, prompts, modules.

    The folder is a scratch one of links to the user's documents: whatever the weights' file is called, and however
    it is wrapped. In the place of the weights lie constants, for whose network the strictly loaded one is then put.

    Args:
        original: what was trained.
        encoder: transformers' class, loaded.
        modules: what comes after it, loaded.
    """

    def __init__(self, original: Original, encoder: Any, modules: Sequence[nn.Module] = ()):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            inner = _documents(folder, original, encoder, modules)
            self.model = self._open(folder, original, modules)
            lowers = any(original.documents.get(name, {}).get("do_lower_case") is True for name in TRANSFORMERS)
            self.note, exact = exact_tokenizer(self.model.tokenizer, inner, lowers=lowers)
        for i, module in enumerate(modules, 1):
            self.model[i] = module
        _exchange(self.model, exact, encoder)
        self.name = f"{versions('sentence-transformers', 'transformers')}: encode"

    def _open(self, folder: Path, original: Original, modules: Sequence[nn.Module]) -> Any:
        library = sentence_transformers()
        from sentence_transformers.util import import_from_string

        options = {"dtype": torch.float32, "attn_implementation": "eager"}
        try:
            if MODULES in original.documents:
                return library.SentenceTransformer(
                    str(folder), device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=options
                )
            transformer: Any = import_from_string("sentence_transformers.models.Transformer")
            made = transformer.load(str(folder), local_files_only=True, trust_remote_code=False, model_kwargs=options)
            stated = original.documents.get(SENTENCES, {})
            named = ("prompts", "default_prompt_name", "truncate_dim")
            given = {name: stated[name] for name in named if stated.get(name)}
            return library.SentenceTransformer(modules=[made, *modules], device="cpu", **given)
        except Exception as error:  # whatever upstream raises, it cannot open the folder
            raise InputError(f"sentence-transformers cannot open {original.folder}: {_reason(error)}") from error

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encode raw texts: (texts, width), in the dtype that is computed in."""
        found = self.model.encode(list(texts), convert_to_numpy=False, convert_to_tensor=True, show_progress_bar=False)
        return found.detach().numpy()


def _exchange(model: Any, tokenizer: Any, network: Any) -> None:
    """Put tokenizer and network into the place of those that sentence-transformers opened."""
    first = model[0]
    holder = first if hasattr(first, "processor") else model
    setattr(holder, "processor" if holder is first else "tokenizer", tokenizer)
    setattr(first, "model" if hasattr(first, "model") else "auto_model", network)


class PairScorer:
    """sentence-transformers' `CrossEncoder.predict` on a folder, from raw texts and pairs of them, to logits.

    Args:
        original: what was trained.
        network: transformers' class, loaded.
        labels: how many it gives.
    """

    def __init__(self, original: Original, network: Any, labels: int):
        library, options = sentence_transformers(), {"dtype": torch.float32, "attn_implementation": "eager"}
        with tempfile.TemporaryDirectory() as scratch:
            inner = _documents(Path(scratch), original, network, ())
            try:
                self.model: Any = library.CrossEncoder(
                    scratch, device="cpu", local_files_only=True, trust_remote_code=False, model_kwargs=options
                )
            except Exception as error:  # whatever upstream raises, it cannot open the folder
                raise InputError(f"sentence-transformers cannot open {original.folder}: {_reason(error)}") from error
            self.note, exact = exact_tokenizer(self.model.tokenizer, inner)
        _exchange(self.model, exact, network)
        self.network, self.tokenizer, self.labels = network, exact, labels
        self.name = f"{versions('sentence-transformers', 'transformers')}: CrossEncoder.predict"

    def __call__(self, texts: Sequence[Any]) -> np.ndarray:
        """Score raw texts, or pairs of them: (rows, labels), in the dtype that is computed in."""
        if any(isinstance(text, str) for text in texts):  # which predict() would take for pairs
            batch = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
            known = inspect.signature(self.network.forward).parameters
            with torch.inference_mode():
                return self.network(**{n: t for n, t in batch.items() if n in known}).logits.numpy()
        pairs = [list(pair) for pair in texts]
        found = self.model.predict(pairs, activation_fn=nn.Identity(), convert_to_tensor=True, show_progress_bar=False)
        return found.detach().numpy().reshape(len(pairs), self.labels)


TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "added_tokens.json")
TELLING = ("A Quick Fox", "Crème brûlée à 3 €", "中文 [SEP] Ångström", "tab\tand  spaces")


def _documents(folder: Path, original: Original, encoder: Any, modules: Sequence[nn.Module]) -> Path:
    """Lay the user's documents into a folder, constants in the place of the weights; give the transformer's place."""
    described = original.documents.get(MODULES)
    place = described[0]["path"] if described else ""
    inner = folder / place
    _link(original.folder, folder)
    for stated, module in zip(described[1:] if described else (), modules, strict=False):
        if module.state_dict():  # its weights may lie in the checkpoint
            own = folder / stated["path"]
            own.unlink(missing_ok=True)
            own.mkdir(parents=True)
            _link(original.folder / stated["path"], own)
            torch.save(_constants(module), own / "pytorch_model.bin")
    if place:  # a folder of its own, since the constants go into it
        inner.unlink(missing_ok=True)
        inner.mkdir(parents=True)
        _link(original.folder / place, inner)
    _link(original.tokenizer, inner, TOKENIZERS)
    for name, document in original.changed.items():
        (inner / name).unlink(missing_ok=True)
        (inner / name).write_text(json.dumps(document))
    stated = original.documents.get("config.json") or encoder.config.to_dict()
    kept = {name: value for name, value in stated.items() if name not in PASSED_OVER}
    (inner / "config.json").unlink(missing_ok=True)
    (inner / "config.json").write_text(json.dumps(kept | {"model_type": encoder.config.model_type}))
    torch.save(_constants(encoder), inner / "pytorch_model.bin")
    return inner


def _constants(module: nn.Module) -> dict[str, torch.Tensor]:
    """Give tensors of the module's shapes that take no room."""
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in module.state_dict().items()}


def _link(source: Path, folder: Path, names: Sequence[str] = ()) -> None:
    """Link to the documents of a folder, and to the folders in it, but not to the weights."""
    for path in source.iterdir():
        if path.name in names or (not names and path.suffix not in WEIGHTS and not path.name.endswith(".index.json")):
            place = folder / path.name
            place.unlink(missing_ok=True)
            place.symlink_to(path.resolve())


class TokenizedEncoder:
    """Raw texts through transformers' own tokenizer into an entry point of the reference.

    Args:
        original: what was trained; its tokenizer's folder is read.
        function: of `input_ids` and `attention_mask`.
        positions: as many tokens as the network takes, where the tokenizer states no lower limit.
        before: what stands before every text.
        padding: as the tokenizer takes it.
        side: of the padding, "left" or "right", whatever the tokenizer's own; "" for its own.
        folder: where upstream's own tokenizer lies, if tokenizer.json was made of it: it judges itself then.
    """

    def __init__(
        self,
        original: Original,
        function: Callable[..., torch.Tensor],
        positions: int,
        before: str = "",
        padding: str = "longest",
        folder: Path | None = None,
        side: str = "",
    ):
        library = transformers(0)
        place = str(folder or original.tokenizer)
        try:
            self.tokenizer = library.AutoTokenizer.from_pretrained(
                place, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # whatever upstream raises, it cannot open the folder
            raise InputError(f"transformers cannot open the tokenizer in {place}: {_reason(error)}") from error
        self.function = function
        self.name = f"{versions('transformers')}: {type(self.tokenizer).__name__}"
        self.note = ""
        if folder is None:
            self.note, self.tokenizer = exact_tokenizer(self.tokenizer, original.tokenizer)
        self.tokenizer.padding_side = side or self.tokenizer.padding_side
        self.limit = min(positions, self.tokenizer.model_max_length)
        self.before, self.padding = before, padding

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Encode raw texts: (texts, width), in the dtype that is computed in."""
        with torch.inference_mode():
            return self.function(*self.tokens(texts)).numpy()

    def tokens(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Give ids and mask of raw texts, (texts, tokens) each."""
        given = [self.before + text for text in texts]
        options = {"truncation": True, "max_length": self.limit, "return_tensors": "pt"}
        batch = self.tokenizer(given, padding=self.padding, return_attention_mask=True, **options)
        return batch["input_ids"], batch["attention_mask"]


class PictureEncoder:
    """Raw pictures through transformers' own image processor into an entry point of the reference.

    Args:
        original: what was trained; its documents say how pictures are prepared.
        function: of `images`, (batch, height, width, channels).
    """

    note = ""

    def __init__(self, original: Original, function: Callable[[torch.Tensor], torch.Tensor]):
        library = transformers(0)
        with tempfile.TemporaryDirectory() as scratch:
            for place in ("config.json", *PICTURES):
                if place in original.documents:
                    (Path(scratch) / place).write_text(json.dumps(original.documents[place]))
            try:  # in the form for Pillow, whatever else is installed: that is what preprocess.json states
                self.processor = library.AutoImageProcessor.from_pretrained(
                    scratch, backend="pil", local_files_only=True, trust_remote_code=False
                )
            except Exception as error:  # whatever upstream raises, it cannot open the document
                raise InputError(f"transformers cannot open {PICTURES[0]}: {_reason(error)}") from error
        self.function = function
        self.name = f"{versions('transformers', 'pillow')}: {type(self.processor).__name__}"

    def pixels(self, picture: bytes) -> np.ndarray | None:
        """Prepare a picture: (height, width, channels) float32; None for one that upstream refuses."""
        from PIL import Image

        try:
            made = self.processor(Image.open(io.BytesIO(picture)), return_tensors="np")["pixel_values"][0]
        except (ValueError, TypeError, KeyError):  # of a mode that it does not convert
            return None
        return np.asarray(made, np.float32).transpose(1, 2, 0)

    def __call__(self, pictures: Sequence[bytes]) -> np.ndarray:
        """Encode raw pictures: (pictures, width), in the dtype that is computed in.

        Raises:
            InputError: upstream refuses one.
        """
        with torch.inference_mode():
            return self.function(self.images(pictures)).numpy()

    def images(self, pictures: Sequence[bytes]) -> torch.Tensor:
        """Prepare raw pictures: (pictures, height, width, channels).

        Raises:
            InputError: upstream refuses one.
        """
        made = [pixels for picture in pictures if (pixels := self.pixels(picture)) is not None]
        if len(made) < len(pictures):
            raise InputError(f"{self.name} refuses a picture of the pack")
        return torch.from_numpy(np.stack(made))


class FeatureExtractor:
    """Samples through transformers' own extractor of log-mel spectrograms: in float32 as it is, in float64 by the
    functions of numpy that it falls back to.

    Args:
        documents: beside the checkpoint, by place.
        silent: what transformers writes of such an extractor, where no document is there.
    """

    def __init__(self, documents: Mapping[str, Any], silent: Mapping[str, Any]):
        stated = documents.get(PICTURES[1], {}).get("feature_extractor") or documents.get(PICTURES[0])
        fields = stated or silent[PICTURES[0]]
        self.extractor: Any = transformers().WhisperFeatureExtractor(**fields)

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        """(rows, samples) -> (rows, bands, frames), in the dtype of the samples."""
        made = self._float64 if samples.dtype == torch.float64 else self._own
        return torch.from_numpy(np.stack([made(row) for row in samples.numpy()]))

    def _own(self, sound: np.ndarray) -> np.ndarray:
        rate = self.extractor.sampling_rate
        return np.asarray(self.extractor(sound, sampling_rate=rate, return_tensors="np")["input_features"][0])

    def _float64(self, sound: np.ndarray) -> np.ndarray:
        from transformers.audio_utils import spectrogram, window_function

        own = self.extractor
        options = {"power": 2.0, "mel_filters": own.mel_filters, "log_mel": "log10", "dtype": np.float64}
        window = window_function(own.n_fft, "hann")
        decades = np.asarray(spectrogram(sound, window, own.n_fft, own.hop_length, **options))[:, :-1]
        return (np.maximum(decades, decades.max() - 8.0) + 4.0) / 4.0


class SoundEncoder:
    """Samples of sounds, as long as they are, through transformers' extractor into an entry point of the reference.

    Args:
        extractor: of the checkpoint's own numbers.
        function: of spectrograms, (sounds, bands, frames), computed in float64 and rounded once; None for the
            spectrograms themselves, in the dtype that is computed in.
    """

    note = "files of sounds are opened by this tool, their channels made one and their rate the network's"

    def __init__(self, extractor: FeatureExtractor, function: Callable[[torch.Tensor], torch.Tensor] | None):
        self.own = extractor.extractor
        self.features, self.function = extractor, function
        self.name = f"{versions('transformers')}: {type(self.own).__name__}"

    def spectrogram(self, sound: np.ndarray) -> np.ndarray:
        """Make a spectrogram as a user of upstream's does: (samples,) -> (bands, frames) float32."""
        made = self.own(sound, sampling_rate=self.own.sampling_rate, return_tensors="np")
        return np.asarray(made["input_features"][0])

    def __call__(self, sounds: Sequence[np.ndarray]) -> np.ndarray:
        """Encode sounds of one window at most, (samples,) each, in the dtype that is computed in."""
        rows = {"input_features": [sound[:, None] for sound in sounds]}
        padded = self.own.pad(rows, padding="max_length", max_length=self.own.n_samples, return_tensors="np")
        samples = torch.from_numpy(np.asarray(padded["input_features"])[..., 0])
        with torch.inference_mode():
            if self.function is None:
                return self.features(samples.to((nn.Parameter(torch.ones(1)) * 1).dtype)).numpy()
            return self.function(torch.from_numpy(self.features(samples.double()).numpy().astype(np.float32))).numpy()


class PairEncoder:
    """Raw pictures and texts, a picture with a text each, into an entry point of the reference.

    Args:
        texts: what reads the texts.
        pictures: what prepares the pictures.
        function: of `images`, `input_ids` and `attention_mask`.
    """

    note = ""

    def __init__(self, texts: TokenizedEncoder, pictures: PictureEncoder, function: Callable[..., torch.Tensor]):
        self.texts, self.pictures, self.function = texts, pictures, function
        self.name = f"{texts.name}; {pictures.name}"

    def __call__(self, pairs: Sequence[tuple[bytes, str]]) -> np.ndarray:
        """Encode raw pairs: (pairs, width), in the dtype that is computed in."""
        images = self.pictures.images([picture for picture, _ in pairs])
        with torch.inference_mode():
            return self.function(images, *self.texts.tokens([text for _, text in pairs])).numpy()


PICTURES = ("preprocessor_config.json", "processor_config.json")


def exact_tokenizer(rebuilt: Any, folder: Path, *, lowers: bool = False) -> tuple[str, Any]:
    """Give the tokenizer that tokenizer.json is, as it stands, and where transformers' own class reads it otherwise.

    Args:
        rebuilt: what upstream makes of the folder.
        folder: with the tokenizer's documents.
        lowers: whether sentence-transformers puts its own lower-casing before the tokenizer's rules.
    """
    if not (folder / "tokenizer.json").is_file():
        return "", rebuilt
    exact = transformers(0).PreTrainedTokenizerFast.from_pretrained(str(folder))
    exact.model_max_length = rebuilt.model_max_length  # where sentence-transformers keeps its own limit
    exact.model_input_names = rebuilt.model_input_names  # whether it tells two texts apart
    if lowers:
        from tokenizers import normalizers

        own = [exact.backend_tokenizer.normalizer] if exact.backend_tokenizer.normalizer else []
        exact.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    for text in TELLING:
        if rebuilt(text)["input_ids"] != exact(text)["input_ids"]:
            kind = type(rebuilt).__name__
            return f"transformers' {kind} reads {text!r} otherwise than tokenizer.json, which is used", exact
    return "", exact


def _reason(error: Exception) -> str:
    """Give the first line of what a library said."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
