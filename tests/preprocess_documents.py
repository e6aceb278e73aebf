"""Documents preprocess.json that every reader accepts, and what each refuses: one table for Python, JavaScript and C.

`LEGAL` has a document of every form that docs/pack.md describes. `mutations` changes one place of a document: every
key is taken away, every value exchanged, a key added to every object, and the steps put together wrongly.
"""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

Path = tuple[str | int, ...]

POOLING = (
    *("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "first end of text", "last token"),
)
"""All that a list of poolings may hold."""

WORDS = {
    "similarity": ("dot", "cosine", "euclidean", "manhattan"),
    "padding": (
        *("after the text, to the longest of the batch", "before the text, to the longest of the batch"),
        "after the text, to max_tokens",
    ),
    "truncation": (
        *("keep the first tokens and the special tokens", "keep the last tokens and the special tokens"),
        "none: a longer text is refused",
    ),
    "pairs": ("token by token from the longer one", "the first to three quarters of max_tokens, then the second"),
    "activation": ("identity", "sigmoid", "tanh", "softmax"),
}
"""All that these keys may say."""

TEXTS = {
    "tokenizer": "tokenizer.json",
    "inputs": {"ids": "input_ids", "mask": "attention_mask"},
    "vocab_size": 300,
    "first_id": 101,
    "last_id": 102,
    "pad_id": 0,
    "max_tokens": {"encode_text": 64, "encode_multimodal": None},
    "truncation": "keep the first tokens and the special tokens",
    "padding": "after the text, to the longest of the batch",
    "prompts": {"query": "query: ", "passage": ""},
    "default_prompt": "query",
}
UNPROMPTED = {"prompts": {}, "default_prompt": None}
EMBEDDINGS = {
    "outputs": {"encode_text": "text_embeds", "encode_multimodal": "embeddings"},
    "width": 32,
    "dtype": "float32",
    "pooling": ["cls"],
    "normalize": True,
    "similarity": "dot",
}
SCORES = {
    "outputs": {"encode_text": "logits"},
    "labels": ["bad", "good"],
    "dtype": "float32",
    "activation": "softmax",
}
SOUNDS = {
    "input": "samples",
    "dtype": "float32",
    "rate": 16000,
    "channels": "mean",
    "resample": {
        "filter": "windowed sinc",
        "window": "hann",
        "zero_crossings": 6,
        "rolloff": 0.99,
        "arithmetic": "float64",
    },
    "samples": 480000,
    "shorter": "silence after the sound",
    "longer": "windows, one after the other",
    "least": 1600,
    "spectrogram": {
        "entry_point": "log_mel",
        "output": "input_features",
        "window": "hann",
        "n_fft": 400,
        "hop": 160,
        "edges": "reflected",
        "bands": 80,
        "scale": "slaney",
        "highest": 8000,
        "least_power": 1e-10,
        "decades": 8,
        "last_frame": "left out",
    },
}
TRANSCRIPTS = {
    "tokenizer": "tokenizer.json",
    "entry_points": {"hear": "encode_audio", "keep": "cross_kv", "begin": "decode_prefill", "next": "decode_step"},
    "caches": {"past_keys_0": "keys_0", "past_values_0": "values_0"},
    "start": 257,
    "languages": {"<|en|>": 258, "<|de|>": 259},
    "tasks": {"transcribe": 270},
    "language": "<|en|>",
    "no_timestamps": 280,
    "suppress": [1, 2],
    "suppress_first": [3],
    "end": 256,
    "pad": 256,
    "max_tokens": 48,
}
ENGLISH = {"languages": {}, "tasks": {}, "language": None, "no_timestamps": None, "suppress": [], "suppress_first": []}
HEARD = {"encode_audio": "embeddings"}
RESAMPLED = {"antialias": True, "arithmetic": "uint8", "nearest_in_modes": ["1", "P"], "alpha": "premultiplied"}
BICUBIC = {"filter": "bicubic", "a": -0.5, **RESAMPLED}
BILINEAR = {"filter": "bilinear", **RESAMPLED}
SHORTER = {"do": "resize", "shorter_side": 224, "longer_side": "floor"}
EXACT = {"do": "resize", "height": 224, "width": 224}
CROP = {"do": "crop", "height": 224, "width": 224, "offset": "half to even"}
COLOUR = {"do": "colour", "to": "RGB", "alpha": "dropped"}
NORMALIZE = {"do": "normalize", "divide": 255, "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.25, 0.5, 1]}


def document(steps: list[dict[str, Any]] | None, texts: dict[str, Any] | None = TEXTS, **stated: Any) -> dict[str, Any]:
    """Make a document; without steps, of a network that sees no pictures."""
    images = {
        "input": "images",
        "layout": "NHWC",
        "dtype": "float32",
        "colour": "RGB",
        "size": 224,
        "exif_orientation": "ignored",
        "frame": 0,
        "steps": [*(steps or []), NORMALIZE],
    }
    made = {
        "format_version": 3,
        "texts": texts,
        "images": None if steps is None else images,
        "embeddings": EMBEDDINGS | stated,
    }
    return copy.deepcopy(made)


LEGAL: dict[str, dict[str, Any]] = {
    "converted last": document([SHORTER | BICUBIC, CROP, COLOUR]),
    "converted first": document(
        [
            COLOUR | {"alpha": "over white"},
            SHORTER | {"shorter_side": 256} | BICUBIC,
            CROP | {"offset": "floor"},
        ],
        None,
    ),
    "rounded": document([SHORTER | {"longer_side": "round"} | BILINEAR, CROP, COLOUR]),
    "squashed": document([COLOUR, EXACT | BILINEAR]),
    "squashed in float32": document([COLOUR, EXACT | BILINEAR | {"arithmetic": "float32"}]),
    "squashed by a bicubic": document([EXACT | BICUBIC, COLOUR | {"alpha": "over white"}]),
    "twice": document([CROP | {"height": 300, "width": 400}, EXACT | {"width": 512} | BICUBIC, CROP, COLOUR]),
    "cropped only": document([CROP, COLOUR]),
    "texts": document(None, pooling=["mean"], normalize=False, similarity="cosine"),
    "no tokenizer": document(None, TEXTS | {"tokenizer": None, "missing": "none was given", **UNPROMPTED}),
    "no mask": document([CROP, COLOUR], TEXTS | {"inputs": {"ids": "input_ids"}}, pooling=["first end of text"]),
    "prompts left out": document(
        None,
        TEXTS | {"inputs": {**TEXTS["inputs"], "prompt": "prompt_tokens"}, "default_prompt": None},
        pooling=[*POOLING[:6]],
    ),
    "no special tokens": document(
        None,
        TEXTS | {"first_id": None, "last_id": None, "padding": "before the text, to the longest of the batch"},
        pooling=["last token"],
        similarity="euclidean",
    ),
    "only a last token": document(
        None, TEXTS | {"first_id": None, "truncation": WORDS["truncation"][1]}, similarity="manhattan"
    ),
    "positions": document(
        None, TEXTS | {"inputs": {**TEXTS["inputs"], "positions": "position_ids"}, "first_id": None}, similarity="dot"
    ),
    "scores of pairs": document(
        None,
        TEXTS | UNPROMPTED | {"inputs": {**TEXTS["inputs"], "types": "token_type_ids"}, "pairs": WORDS["pairs"][0]},
    )
    | {"embeddings": None, "scores": SCORES},
    "scores without a tokenizer": document(
        None,
        TEXTS | UNPROMPTED | {"tokenizer": None, "missing": "none was given", "pairs": WORDS["pairs"][1]},
    )
    | {"embeddings": None, "scores": SCORES | {"labels": ["LABEL_0"], "activation": "sigmoid"}},
    "no embeddings": document(None) | {"embeddings": None},
    "no embeddings, but pictures": document([CROP, COLOUR]) | {"embeddings": None},
    "pictures that nobody states": document(None) | {"images": {"input": "images", "missing": "no document says"}},
    "only pictures that nobody states": document(None, None) | {"images": {"input": "x", "missing": "no document"}},
    "sounds": document(None, None, outputs=HEARD) | {"sounds": SOUNDS},
    "sounds that nobody states": document(None, None, outputs=HEARD)
    | {"sounds": {"input": "input_features", "missing": "no document says"}},
    "transcripts": document(None, None, outputs=HEARD) | {"sounds": SOUNDS, "transcripts": TRANSCRIPTS},
    "transcripts without a tokenizer": document(None, None)
    | {
        "embeddings": None,
        "sounds": SOUNDS,
        "transcripts": TRANSCRIPTS | ENGLISH | {"tokenizer": None, "missing": "none was given"},
    },
    "nothing": document(None, None) | {"embeddings": None},
}

VALUES = (None, True, False, 0, -1, 0.5, 3, 2**31, "?", "", "224", [], {})
"""What every value is exchanged for, where it is not `free`."""

OTHERS: tuple[tuple[str, Any], ...] = (
    ("offset", "half up"),
    ("offset", "round"),
    ("longer_side", "ceil"),
    ("longer_side", "half to even"),
    ("filter", "nearest"),
    ("filter", "lanczos"),
    ("filter", "Bicubic"),
    ("a", -0.75),
    ("a", "-0.5"),
    ("arithmetic", "float16"),
    ("nearest_in_modes", ["1"]),
    ("nearest_in_modes", ["P", "1"]),
    ("alpha", "over black"),
    ("to", "BGR"),
    ("do", "pad"),
    ("do", "toString"),
    ("divide", 256),
    ("divide", 1),
    ("std", [0.25, 0.25]),
    ("mean", [0.5, 0.5, 0.5, 0.5]),
    ("layout", "NCHW"),
    ("dtype", "float16"),
    ("colour", "BGR"),
    ("exif_orientation", "applied"),
    ("frame", 1),
    ("tokenizer", "../tokenizer.json"),
    ("truncation", "keep the middle tokens"),
    ("padding", "before the text"),
    ("pooling", "max"),
    ("pooling", ["eos"]),
    ("pooling", ["cls", "eos"]),
    ("default_prompt", "other"),
    ("similarity", "hamming"),
    ("pairs", "the second first"),
    ("activation", "relu"),
    ("labels", [0]),
    ("vocab_size", 102),
    ("pad_id", 300),
    ("channels", "first"),
    ("window", "hamming"),
    ("zero_crossings", 16),
    ("rolloff", 0.945),
    ("shorter", "the sound again"),
    ("longer", "cut off"),
    ("edges", "zeros"),
    ("scale", "htk"),
    ("last_frame", "kept"),
    ("n_fft", 401),
    ("n_fft", 480002),
    ("hop", 161),
    ("samples", 480001),
    ("samples", 160),
    ("least", 480001),
    ("language", "<|fr|>"),
    ("format_version", 1),
    ("format_version", 2),
    ("format_version", 4),
)
"""Words that somebody could mean."""

NAMES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "a mask called as the ids": ("texts", lambda d: d["texts"]["inputs"].update(mask=d["texts"]["inputs"]["ids"])),
    "pictures called as the ids": ("images", lambda d: d["images"].update(input="input_ids")),
    "embeddings of nothing": ("embeddings", lambda d: _nothing(d)),
    "transcripts without sounds": ("transcripts", lambda d: d.pop("sounds")),
    "transcripts of sounds that nobody states": (
        "transcripts",
        lambda d: d.update(sounds={"input": "input_features", "missing": "no document says"}),
    ),
    "a spectrogram called as the samples": (
        "transcripts",
        lambda d: d["sounds"]["spectrogram"].update(output="samples"),
    ),
    "no embeddings but an object": ("embeddings", lambda d: d["embeddings"]["outputs"].clear()),
    "scores beside embeddings": ("embeddings", lambda d: d.update(scores=copy.deepcopy(SCORES))),
    "scores of nothing": ("scores", lambda d: d.update(texts=None, images=None)),
    "no scores but an object": ("scores", lambda d: d["scores"]["outputs"].clear()),
    "the output of version 1": ("embeddings", lambda d: d["embeddings"].update(outputs="embeddings")),
}
"""What two parts of a document make wrong, by the part that must be there."""

STRUCTURES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another step first": lambda d: d["images"]["steps"].insert(0, {"do": "pad", "to": 224}),
    "a resize in float32 before others": lambda d: _resized(d, arithmetic="float32"),
    "a step twice": lambda d: d["images"]["steps"].insert(0, d["images"]["steps"][-1]),
    "a step without a name": lambda d: d["images"]["steps"].insert(0, {}),
    "a step that is a word": lambda d: d["images"]["steps"].insert(0, "resize"),
    "colour twice": lambda d: d["images"]["steps"].insert(0, COLOUR),
    "nothing done": lambda d: d["images"]["steps"].clear(),
    "not normalized": lambda d: d["images"]["steps"].pop(),
    "normalized first": lambda d: d["images"]["steps"].insert(0, d["images"]["steps"].pop()),
    "no colour": lambda d: _keep(d, lambda step: step["do"] != "colour"),
    "no size": lambda d: _keep(d, lambda step: step["do"] not in ("crop", "resize")),
    "another size": lambda d: d["images"].update(size=225),
    "only a shorter side": lambda d: _keep(d, lambda step: step["do"] != "crop" and "height" not in step, SHORTER),
    "a crop of more than there is": lambda d: d["images"]["steps"].insert(0, EXACT | {"height": 223} | BICUBIC),
    "a shorter side beside height and width": lambda d: _resized(d, height=224, width=224),
    "a bilinear with a": lambda d: _resized(d, filter="bilinear", a=-0.5),
}


def _nothing(document: dict[str, Any]) -> None:
    """Say of no input how it is made."""
    document.update(texts=None, images=None)
    for part in ("sounds", "transcripts"):
        document.pop(part, None)


def _keep(document: dict[str, Any], wanted: Callable[[dict[str, Any]], bool], *first: dict[str, Any]) -> None:
    """Drop steps; put the first of them by a resize of these keys, if they are given."""
    steps = [step for step in document["images"]["steps"] if wanted(step)]
    document["images"]["steps"] = [*({**step, **BICUBIC} for step in first), *steps]


def _resized(document: dict[str, Any], **keys: Any) -> None:
    document["images"]["steps"].insert(0, SHORTER | BICUBIC | keys)


OPTIONAL = (
    *(
        ("texts", "inputs", "mask"),
        ("texts", "inputs", "prompt"),
        ("texts", "inputs", "types"),
        ("texts", "inputs", "positions"),
        ("texts", "pairs"),
    ),
    *(("scores",), ("transcripts",)),
)
"""What need not be there."""


def mutations(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Change one place of a legal document; give what was done and the document, which must be refused."""
    legal = LEGAL[name]
    for path, value in _places(legal):
        # By entry points, whose names a document cannot know.
        named = path[:2] in (
            *(("texts", "max_tokens"), ("embeddings", "outputs"), ("scores", "outputs"), ("texts", "prompts")),
            *(("transcripts", "caches"), ("transcripts", "languages"), ("transcripts", "tasks")),
        )
        if path and isinstance(path[-1], str) and not (named and len(path) > 2) and path not in OPTIONAL:
            yield f"{_shown(path)} removed", _changed(legal, path, lambda parent, key: parent.pop(key))
        if isinstance(value, dict) and not named:
            yield f"{_shown(path)} with another key", _changed(legal, (*path, "surplus"), _set(None))
        others = [other for key, other in OTHERS if path and key == path[-1]]
        others += WORDS.get(str(path[-1]), ()) if path else ()
        for other in [*VALUES, *others]:
            if path and json.dumps(other) != json.dumps(value) and not free(legal, path, other):
                yield f"{_shown(path)} = {json.dumps(other)}", _changed(legal, path, _set(other))
    for other in VALUES:
        yield f"the document is {json.dumps(other)}", other  # type: ignore[misc]
    for kind, (part, change) in NAMES.items():
        if legal.get(part) is not None and (part != "images" or legal["texts"]):
            changed = copy.deepcopy(legal)
            change(changed)
            yield kind, changed
    for kind, change in STRUCTURES.items() if legal["images"] and "steps" in legal["images"] else ():
        if kind == "a crop of more than there is" and legal["images"]["steps"][0]["do"] != "crop":
            continue
        changed = copy.deepcopy(legal)
        change(changed)
        yield kind, changed


def free(legal: dict[str, Any], path: Path, value: Any) -> bool:
    """Say whether a value is as legal as the one that it is exchanged for: names, numbers, and what people read."""
    key = path[-1] if isinstance(path[-1], str) else path[-2]
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    if path in (("texts",), ("images",)):
        others = legal["images"] if path == ("texts",) else legal["texts"]
        nothing = legal["embeddings"] is None and "scores" not in legal
        return value is None and (others is not None or nothing)
    if path == ("embeddings",):
        return value is None
    if path[0] in ("sounds", "transcripts") and len(path) > 1:
        return _free_of_sounds(legal, path, value, whole)
    if path[:2] in (("embeddings", "outputs"), ("scores", "outputs")):
        return len(path) > 2 and isinstance(value, str) and value != ""
    if path[:2] == ("embeddings", "pooling"):
        return len(path) > 2 and value in POOLING
    if path[:2] == ("scores", "labels"):
        return len(path) > 2 and isinstance(value, str)
    if key in WORDS:
        return isinstance(value, str) and value in WORDS[key]
    if path[:2] == ("texts", "prompts"):
        return isinstance(value, str) if len(path) > 2 else value == {} and legal["texts"]["default_prompt"] is None
    if key == "default_prompt":
        return value is None or value in list(legal["texts"]["prompts"])
    if key == "normalize":
        return isinstance(value, bool)
    if key == "vocab_size":
        ids = [legal["texts"][name] for name in ("first_id", "last_id", "pad_id")]
        return whole and max(i for i in ids if i is not None) < value < 2**31
    if key in ("ids", "mask", "prompt", "types", "positions", "input", "missing"):
        return isinstance(value, str) and value != ""
    if key in ("first_id", "last_id", "pad_id"):
        return (value is None and key != "pad_id") or (whole and 0 <= value < 300)
    if "max_tokens" in path[:-1]:
        return value is None or (whole and 2 <= value < 2**31)
    if key == "mean" and isinstance(path[-1], int):
        return number and value < 2**31
    if key == "std" and isinstance(path[-1], int):
        return number and 0 < value < 2**31
    if key == "shorter_side":  # a crop of 224 follows
        return whole and 224 <= value < 2**31
    if key in ("height", "width") and path[0] == "images":  # of a crop that a resize follows
        followed = any(step["do"] == "resize" for step in legal["images"]["steps"][path[2] + 1 :])
        return followed and whole and 1 <= value < 2**31
    return key == "width" and whole and 1 <= value < 2**31


def _free_of_sounds(legal: dict[str, Any], path: Path, value: Any, whole: bool) -> bool:
    """Say the same of a value below `sounds` or `transcripts`."""
    key = path[-1] if isinstance(path[-1], str) else path[-2]
    named = isinstance(value, str) and value != ""
    number = whole and 0 <= value < 2**31
    if path[1] in ("entry_points", "caches") and len(path) > 2:
        return named
    if path[1] in ("languages", "tasks"):
        unstated = path[1] == "tasks" or legal["transcripts"]["language"] is None
        return number if len(path) > 2 else value == {} and unstated
    if key in ("suppress", "suppress_first"):
        return value == [] if path[-1] == key else number
    if key == "language":
        return value is None or value in list(legal["transcripts"]["languages"])
    if key in ("start", "end", "pad", "no_timestamps"):
        return number or (value is None and key == "no_timestamps")
    if key in ("rate", "bands"):
        return number and value > 0
    if key == "hop":
        return number and value > 0 and legal["sounds"]["samples"] % value == 0
    if key == "least":
        return number and 0 < value <= legal["sounds"]["samples"]
    if key == "max_tokens":
        return number and value > 1
    return key in ("input", "output", "entry_point", "missing") and named


def _places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _set(value: Any) -> Callable[[Any, Any], None]:
    def change(parent: Any, key: Any) -> None:
        parent[key] = value

    return change


def _changed(legal: dict[str, Any], path: Path, change: Callable[[Any, Any], Any]) -> dict[str, Any]:
    changed = copy.deepcopy(legal)
    parent: Any = changed
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return changed


def _shown(path: Path) -> str:
    return ".".join(map(str, path)) or "the document"


# Networks: which documents are theirs. Entry points as the manifest states them.


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def entry(inputs: list[dict[str, Any]], *outputs: dict[str, Any], **most: int | None) -> dict[str, Any]:
    """Describe an entry point; an axis that is not bounded has none."""
    dims = (dim for spec in inputs for dim in spec["shape"] if isinstance(dim, str))
    axes = {axis: {"min": 1, "max": most.get(axis)} for dim in dims for axis in dim.split(" + ")}
    return {"inputs": inputs, "outputs": list(outputs), "axes": axes}


def ids(rows: str, tokens: int | str = "tokens", mask: int | str = "") -> list[dict[str, Any]]:
    return [tensor("input_ids", "int32", rows, tokens), tensor("attention_mask", "int32", rows, mask or tokens)]


def seen(rows: str, *sides: int | str) -> dict[str, Any]:
    return tensor("images", "float32", rows, *(sides or (224, 224)), 3)


def embeds(name: str, rows: str, width: int = 32) -> dict[str, Any]:
    return tensor(name, "float32", rows, width)


def of(document: dict[str, Any], limits: dict[str, int | None] | None, **outputs: str) -> dict[str, Any]:
    """Give a document with these limits and outputs."""
    if limits:
        document["texts"]["max_tokens"] = limits
    document["embeddings"] = document["embeddings"] | {"outputs": outputs} if outputs else None
    return document


PICTURES = [CROP, COLOUR]
UNSTATED = {"input": "images", "missing": "no document says"}
CAUSAL = TEXTS | {"first_id": None, "last_id": None, "padding": WORDS["padding"][1]}
STEP = [*ids("batch", "tokens", "past + tokens"), tensor("past_keys", "float32", "batch", "past", 16)]
FEATURES = tensor("input_features", "float32", "batch", 80, 3000)
STATES = tensor("last_hidden_state", "float32", "batch", 1500, 8)
CROSS = [tensor(f"cross_{kind}_0", "float32", "batch", 2, 1500, 4) for kind in ("keys", "values")]
PAST = [tensor(f"past_{kind}_0", "float32", "batch", 2, "past", 4) for kind in ("keys", "values")]
KEPT = [tensor(f"{kind}_0", "float32", "batch", 2, "tokens", 4) for kind in ("keys", "values")]
STEPPED = [
    tensor("logits", "float32", "batch", 1, 281),
    *(one | {"shape": ["batch", 2, "past + 1", 4]} for one in KEPT),
]
WRITTEN = tensor("input_ids", "int32", "batch", "tokens")
LOGITS = tensor("logits", "float32", "batch", "tokens", 281)
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one text encoder": (
        of(document(None), {"encode": 64}, encode="embeddings"),
        {"encode": entry(ids("batch", "words"), embeds("embeddings", "batch"), words=64)},
    ),
    "two towers, and their scores": (
        of(document(PICTURES), {"encode_text": 64}, encode_text="text_embeds", encode_image="image_embeds"),
        {
            "encode_text": entry(
                ids("texts"), tensor("states", "float32", "texts", 8), embeds("text_embeds", "texts"), tokens=77
            ),
            "encode_image": entry([seen("images")], embeds("image_embeds", "images")),
            "similarity": entry([seen("images"), *ids("texts")], tensor("logits", "float32", "images", "texts")),
        },
    ),
    "pictures of any size, texts of one": (
        of(document(PICTURES, TEXTS | {"inputs": {"ids": "input_ids"}}), {"pair": 16}, pair="pair"),
        {"pair": entry([seen("n", "height", "width"), ids("n", 16)[0]], embeds("pair", "n"), height=448, width=448)},
    ),
    "a decoder": (
        of(document(None, CAUSAL), {"prefill": 30, "decode": None}),
        {
            "compare": entry([tensor("things", "float32", "things", 4)], tensor("scores", "float32", "things")),
            "prefill": entry(
                [*ids("batch"), tensor("positions", "int32", "batch", "tokens")],
                tensor("logits", "float32", "batch", "tokens", 300),
                tokens=30,
            ),
            "decode": entry(STEP, tensor("logits", "float32", "batch", "tokens", 300)),
        },
    ),
    "a classifier of pictures that nobody states": (
        of(document(None, None), None) | {"images": UNSTATED},
        {"classify": entry([seen("batch", 3, 8)], tensor("logits", "float32", "batch", 10))},
    ),
    "two towers, pictures that nobody states": (
        of(document(None) | {"images": UNSTATED}, {"encode_text": 64}, encode_text="t", encode_image="i"),
        {
            "encode_text": entry(ids("texts"), embeds("t", "texts"), tokens=64),
            "encode_image": entry([seen("images")], embeds("i", "images")),
        },
    ),
    "a classifier of two texts": (
        of(
            document(None, TEXTS | {"inputs": {**TEXTS["inputs"], "types": "token_types"}, "pairs": WORDS["pairs"][0]}),
            {"score": 64},
        )
        | {"scores": SCORES | {"outputs": {"score": "logits"}}},
        {
            "score": entry(
                [*ids("batch"), tensor("token_types", "int32", "batch", "tokens")],
                tensor("logits", "float32", "batch", 2),
                tokens=64,
            )
        },
    ),
    "a network that writes what it hears": (
        of(document(None, None), None, encode_audio="embeddings") | {"sounds": SOUNDS, "transcripts": TRANSCRIPTS},
        {
            "log_mel": entry([tensor("samples", "float32", "batch", 480000)], FEATURES),
            "encode_audio": entry([FEATURES], STATES, embeds("embeddings", "batch")),
            "cross_kv": entry([STATES], *CROSS),
            "decode_prefill": entry([WRITTEN, *CROSS], LOGITS, *KEPT, tokens=48),
            "decode_step": entry([tensor("input_ids", "int32", "batch", 1), *PAST, *CROSS], *STEPPED, past=47),
        },
    ),
    "an encoder of sounds that nobody states": (
        of(document(None, None), None, encode_audio="embeddings")
        | {"sounds": {"input": "input_features", "missing": "no document says"}},
        {"encode_audio": entry([FEATURES], STATES, embeds("embeddings", "batch"))},
    ),
    "neither texts nor pictures": (
        of(document(None, None), None),
        {"compare": entry([tensor("things", "float32", "things", 4)], tensor("scores", "float32", "things"))},
    ),
}
MISFITS: dict[str, dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]]] = {
    "one text encoder": {
        "another mask": lambda d, e: d["texts"]["inputs"].update(mask="mask"),
        "no mask": lambda d, e: d["texts"]["inputs"].pop("mask"),
        "pictures too": lambda d, e: d.update(images=document(PICTURES)["images"]),
        "another output": lambda d, e: d["embeddings"]["outputs"].update(encode="pooled"),
        "another entry point": lambda d, e: d["embeddings"].update(outputs={"embed": "embeddings"}),
        "another width": lambda d, e: d["embeddings"].update(width=31),
        "an output of another type": lambda d, e: e["encode"]["outputs"][0].update(dtype="float16"),
        "an output of more axes": lambda d, e: e["encode"]["outputs"][0]["shape"].append(1),
        "another limit": lambda d, e: d["texts"]["max_tokens"].update(encode=65),
        "no limit": lambda d, e: d["texts"]["max_tokens"].update(encode=None),
        "another one's limit": lambda d, e: d["texts"].update(max_tokens={"embed": 64}),
        "one limit more": lambda d, e: d["texts"]["max_tokens"].update(embed=64),
        "ids of another type": lambda d, e: e["encode"]["inputs"][0].update(dtype="int64"),
        "ids of another rank": lambda d, e: e["encode"]["inputs"][0]["shape"].pop(),
        "one row": lambda d, e: e["encode"]["inputs"][0]["shape"].__setitem__(0, 1),
        "an input that is not made": lambda d, e: e["encode"]["inputs"].append(tensor("types", "int32", "batch")),
    },
    "two towers, and their scores": {
        "one output less": lambda d, e: d["embeddings"]["outputs"].pop("encode_image"),
        "another one's output": lambda d, e: d["embeddings"]["outputs"].update(encode_image="text_embeds"),
        "scores as an embedding": lambda d, e: d["embeddings"]["outputs"].update(similarity="logits"),
        "no texts": lambda d, e: d.update(texts=None),
        "no pictures": lambda d, e: d.update(images=None),
        "another size": lambda d, e: e["encode_image"]["inputs"][0]["shape"].__setitem__(2, 225),
        "channels first": lambda d, e: e["encode_image"]["inputs"][0].update(shape=["images", 3, 224, 224]),
        "a limit of scores": lambda d, e: d["texts"]["max_tokens"].update(similarity=64),
    },
    "pictures of any size, texts of one": {
        "more than the text's size": lambda d, e: d["texts"]["max_tokens"].update(pair=17),
        "more than the pictures' size": lambda d, e: e["pair"]["axes"]["width"].update(max=223),
        "a mask": lambda d, e: d["texts"]["inputs"].update(mask="attention_mask"),
    },
    "a decoder": {
        "other ids": lambda d, e: d["texts"]["inputs"].update(ids="ids"),
        "another mask": lambda d, e: d["texts"]["inputs"].update(mask="mask"),
        "another limit": lambda d, e: d["texts"]["max_tokens"].update(prefill=31),
        "one limit less": lambda d, e: d["texts"]["max_tokens"].pop("decode"),
        "one limit more": lambda d, e: d["texts"]["max_tokens"].update(compare=30),
    },
    "a classifier of pictures that nobody states": {
        "another input": lambda d, e: d["images"].update(input="pixels"),
    },
    "two towers, pictures that nobody states": {
        "another input": lambda d, e: d["images"].update(input="pixels"),
        "no pictures": lambda d, e: d.update(images=None),
    },
    "a network that writes what it hears": {
        "another window": lambda d, e: d["sounds"].update(samples=320000),
        "other bands": lambda d, e: d["sounds"]["spectrogram"].update(bands=128),
        "another hop": lambda d, e: d["sounds"]["spectrogram"].update(hop=320),
        "other samples": lambda d, e: d["sounds"].update(input="waveform"),
        "samples of another type": lambda d, e: e["log_mel"]["inputs"][0].update(dtype="float16"),
        "another program of the spectrogram": lambda d, e: d["sounds"]["spectrogram"].update(entry_point="mel"),
        "one that gives none": lambda d, e: d["sounds"]["spectrogram"].update(entry_point="cross_kv"),
        "another spectrogram": lambda d, e: d["sounds"]["spectrogram"].update(output="features"),
        "another encoder": lambda d, e: d["transcripts"]["entry_points"].update(hear="encode"),
        "a step as the beginning": lambda d, e: d["transcripts"]["entry_points"].update(begin="decode_step"),
        "the beginning as a step": lambda d, e: d["transcripts"]["entry_points"].update(next="decode_prefill"),
        "nothing kept": lambda d, e: d["transcripts"]["entry_points"].update(keep="encode_audio"),
        "one cache less": lambda d, e: d["transcripts"]["caches"].pop("past_keys_0"),
        "one cache more": lambda d, e: d["transcripts"]["caches"].update(past_keys_1="keys_1"),
        "a cache of what is not given": lambda d, e: d["transcripts"]["caches"].update(past_keys_0="keys"),
        "scores as a cache": lambda d, e: d["transcripts"]["caches"].update(past_keys_0="logits"),
        "a start that is not scored": lambda d, e: d["transcripts"].update(start=281),
        "a language that is not scored": lambda d, e: d["transcripts"]["languages"].update({"<|fr|>": 281}),
        "a suppressed token that is not scored": lambda d, e: d["transcripts"]["suppress"].append(281),
        "scores of any number": lambda d, e: e["decode_step"]["outputs"][0]["shape"].__setitem__(2, "batch"),
        "more tokens": lambda d, e: d["transcripts"].update(max_tokens=49),
    },
    "an encoder of sounds that nobody states": {
        "another input": lambda d, e: d["sounds"].update(input="samples"),
    },
    "a classifier of two texts": {
        "one label more": lambda d, e: d["scores"]["labels"].append("more"),
        "another output": lambda d, e: d["scores"]["outputs"].update(score="scores"),
        "another entry point": lambda d, e: d["scores"].update(outputs={"classify": "logits"}),
        "no types": lambda d, e: d["texts"]["inputs"].pop("types"),
        "other types": lambda d, e: d["texts"]["inputs"].update(types="token_type_ids"),
        "types of another rank": lambda d, e: e["score"]["inputs"][2]["shape"].pop(),
        "another limit": lambda d, e: d["texts"]["max_tokens"].update(score=65),
    },
}


def fitting() -> Iterator[tuple[str, dict[str, Any], dict[str, Any], bool]]:
    """Give documents and entry points, and whether these are the document's."""
    for name, pair in NETWORKS.items():
        yield f"{name}: as it is", *copy.deepcopy(pair), True
        for what, change in MISFITS.get(name, {}).items():
            changed, entries = copy.deepcopy(pair)
            change(changed, entries)
            yield f"{name}: {what}", changed, entries, False
