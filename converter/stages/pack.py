"""The stage that writes the pack's part that needs no network: tokenizer, rules, raw samples and what they become."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from ...model.family import Config, Family, TextRules
from ...validation.cases import LONGEST
from ...validation.domains import Domain, Positions, PromptTokens, TokenTypes
from ...validation.entry_point import EntryPoint, PaddingMask, Pixels, TokenIds
from ...validation.errors import InputError
from ...validation.packages import need
from ..directory import SOURCE, Manifest, RunDirectory
from ..manifest import family_and_config
from ..options import Options
from ..pack import (
    FORMAT_VERSION,
    INDEX,
    INDEX_VERSION,
    PIXELS,
    PREPROCESS,
    RAW,
    SAMPLES,
    TOKENIZER,
    VALUES,
    tokenizer,
)
from ..pack.pictures import longer_side, open_, pixels, values
from ..pack.preprocessor import Preprocessor
from ..pack.samples import LONG, PAIRED, pictures, sounds, texts
from ..pack.steps import CUT, SCORED
from ..pack.tokenizer import token_ids
from ..pack.transcripts import Transcripts
from ..printable import digits
from ..progress import WARNING, Progress

LOGITS = (-20.0, -3.0, -0.5, 0.0, 0.25, 2.0, 30.0)
"""Of which the raw goldens say what scores are made."""
PAIR = ("plain", "casing")
SEEN = ("wide", "tall")
"""The pictures that are embedded: together they tell every mistake of the resampling."""
HEARD = ("plain", "stereo", "quiet", "silent", "exact")
"""The sounds whose spectrograms are made: together they tell every mistake of the front end."""
EMBEDDED = ("stereo", "exact")
"""Those that are embedded, which costs every runtime a pass each."""


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Write tokenizer.json, preprocess.json and the raw samples."""
    manifest = run.manifest()
    family, config = family_and_config(run)
    entries = family.entry_points(config)
    with run.stage("pack", reads(run, options)) as staged:
        rules = preprocessing(family, config, manifest)
        _write(staged.out / PREPROCESS, rules)
        Preprocessor(staged.out).hold_to({entry.name: entry for entry in entries})
        if named_tokenizer(rules):
            _tokenizer(run, entries, rules["texts"]).save(str(staged.out / TOKENIZER), pretty=False)
        samples(staged.out, staged.out, rules, entries)
        for text in notes(rules):
            progress.note(WARNING + text)


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the pack depends on."""
    return run.reads("pack", run.manifest()["tokenizer"])


def notes(rules: dict[str, Any]) -> list[str]:
    """Say what is not in the pack."""
    kinds = {"texts": rules["texts"], "pictures": rules["images"], "sounds": rules.get("sounds")}
    kinds["transcripts"] = rules.get("transcripts")
    return [f"no raw {kind}: {said['missing']}" for kind, said in kinds.items() if said and "missing" in said]


def preprocessing(family: Family, config: Config, manifest: Manifest) -> dict[str, Any]:
    """Make the document preprocess.json."""
    entries, sounds = family.entry_points(config), family.sounds(config)
    raw = hearing(entries, sounds) or [entry for entry in concerned(entries) if _from_raw(entry)]
    embeddings = _embedding_rules(raw, family.embeddings(config))
    reading = concerned(entries, embedding=embeddings is not None)
    written = family.transcripts(config)
    return {
        "format_version": FORMAT_VERSION,
        "texts": _text_rules(reading, manifest, family.texts(config) if family.texts else TextRules()),
        "images": manifest["images"] or _unstated(entries),
        "embeddings": embeddings,
        **({"sounds": dict(sounds)} if sounds else {}),
        **({"transcripts": {**_tokenizer_rules(manifest), **written}} if written else {}),
        **({"scores": _score_rules(entries, family.scores(config))} if family.scores else {}),
    }


def _score_rules(entries: Sequence[EntryPoint], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a classifier's logits are, and what makes scores of them."""
    (entry,) = entries
    (output,) = entry.outputs
    return {"outputs": {entry.name: output.name}, "dtype": output.dtype, **stated}


def _embedding_rules(entries: Sequence[EntryPoint], stated: Mapping[str, Any]) -> dict[str, Any] | None:
    """Say what the embeddings are; None where these entry points, which take what is raw, give none."""
    outputs = {entry.name: entry.embedding for entry in entries if entry.embedding}
    if not outputs or "pooling" not in stated:  # nothing is known of how they come about
        return None
    first = next(iter(outputs.values()))
    stated = dict(stated)
    similarity = stated.pop("similarity", "cosine")
    return {
        "outputs": {name: output.name for name, output in outputs.items()},
        "width": first.shape[-1],
        "dtype": first.dtype,
        **stated,
        "similarity": "dot" if stated.get("normalize") and similarity == "cosine" else similarity,
    }


def _text_rules(entries: Sequence[EntryPoint], manifest: Manifest, rules: TextRules) -> dict[str, Any] | None:
    ids = token_ids(entries)
    if ids is None or tokenizer.writes(entries):
        return None
    given = [(entry, spec) for entry in entries if (spec := entry.input_of(TokenIds))]
    reading = [entry for entry, spec in given if spec.name == given[0][1].name]
    masks = (spec for entry in reading for spec in entry.inputs if _means_padding(spec.domain))
    prompts = (spec for entry in reading for spec in entry.inputs if isinstance(spec.domain, PromptTokens))
    types = (spec for entry in reading for spec in entry.inputs if isinstance(spec.domain, TokenTypes))
    where = [spec for entry in reading for spec in entry.inputs if isinstance(spec.domain, Positions)]
    if any(spec.shape[-1] != given[0][1].shape[-1] for spec in where):  # of more than the text, such as a picture
        where = []
    names = {"ids": given[0][1], "mask": next(masks, None), "prompt": next(prompts, None), "types": next(types, None)}
    names["positions"] = next(iter(where), None)
    return {
        **_tokenizer_rules(manifest),
        "inputs": {key: spec.name for key, spec in names.items() if spec},
        "vocab_size": ids.vocab_size,
        "first_id": ids.first,
        "last_id": ids.last,
        "pad_id": ids.pad,
        "max_tokens": {entry.name: _least(limit(entry), rules.limit) for entry in reading},
        "truncation": tokenizer.TRUNCATION[rules.side],
        "padding": tokenizer.WHOLE if isinstance(given[0][1].shape[-1], int) else tokenizer.PADDING[ids.padded],
        "prompts": dict(rules.prompts),
        "default_prompt": rules.default_prompt or None,
        **({"pairs": CUT[rules.pairs]} if rules.pairs else {}),
    }


def _tokenizer_rules(manifest: Manifest) -> dict[str, str | None]:
    """Name the tokenizer, or say why there is none."""
    missing = manifest["tokenizer"].get("missing")
    return {"tokenizer": None, "missing": missing} if missing else {"tokenizer": TOKENIZER}


def named_tokenizer(rules: Mapping[str, Any]) -> str | None:
    """Give the tokenizer's file that preprocess.json names: of texts that are read, or of those that come out."""
    named = rules["texts"] or rules.get("transcripts") or {}
    return named.get("tokenizer")


def _unstated(entries: Sequence[EntryPoint]) -> dict[str, str] | None:
    """Say of pictures that nobody states how they are prepared; None for a network that sees none."""
    seen = (pixels.name for entry in concerned(entries) if (pixels := entry.input_of(Pixels)))
    why = "neither the family nor a document beside the checkpoint says how pictures are prepared"
    return next(({"input": name, "missing": why} for name in seen), None)


def limit(entry: EntryPoint) -> int | None:
    """Give how many tokens an entry point takes; None where there is no limit."""
    ids = entry.input_of(TokenIds)
    assert ids
    return entry.most(ids.shape[-1])


def concerned(entries: Sequence[EntryPoint], *, embedding: bool = True) -> list[EntryPoint]:
    """Give the entry points that the pack is for: what embeds raw inputs, else what takes no others, else all."""
    raw = [entry for entry in entries if _from_raw(entry)]
    raw = [entry for entry in raw if entry.embedding and embedding] or raw
    names: dict[type[Domain], str] = {}
    for entry in raw:
        names = _names(entry) | names
    # Inputs have one name in the pack: what the first entry point calls them.
    return [entry for entry in raw if _names(entry).items() <= names.items()] or list(entries)


def hearing(entries: Sequence[EntryPoint], sounds: Mapping[str, Any] | None) -> list[EntryPoint]:
    """Give the entry points that take nothing but what sounds become."""
    if sounds is None:
        return []
    made = {sounds["input"], sounds.get("spectrogram", {}).get("output")}
    return [entry for entry in entries if {spec.name for spec in entry.inputs} <= made]


def _names(entry: EntryPoint) -> dict[type[Domain], str]:
    """Name the inputs by the kind of what they hold."""
    return {type(spec.domain): spec.name for spec in entry.inputs if spec.domain}


def _from_raw(entry: EntryPoint) -> bool:
    """Say whether texts and pictures are all that an entry point takes, each once."""
    made = TokenIds | Pixels | PromptTokens | TokenTypes | Positions
    readable = (isinstance(spec.domain, made) or _means_padding(spec.domain) for spec in entry.inputs)
    once = len(_names(entry)) == len(entry.inputs)
    return once and all(readable) and any(entry.input_of(kind) for kind in (TokenIds, Pixels))


def _means_padding(domain: Domain | None) -> bool:
    """Say whether an input is the mask that the pack makes, 1 where a token counts."""
    return isinstance(domain, PaddingMask) and not domain.inverted


def _least(*limits: int | None) -> int | None:
    """Give the lowest of the limits that there are."""
    return min((limit for limit in limits if limit is not None), default=None)


def _tokenizer(run: RunDirectory, entries: Sequence[EntryPoint], rules: dict[str, Any] | None) -> Any:
    """Read the tokenizer that `load` found, and set truncation and padding to what is done to texts that are read."""
    note = run.path / SOURCE
    folder = Path(json.loads(note.read_text())["tokenizer"]) if note.exists() else None
    ids = token_ids(entries)
    assert ids  # there are rules for texts
    wanted, written = run.manifest()["tokenizer"], rules is None
    if folder is None or not folder.is_dir() or tokenizer.state(folder, ids, written=written) != wanted:
        where = folder or "its place, which this directory does not know,"
        raise InputError(f"the tokenizer in {where} is not the one that was loaded; run `bgevis-convert load` again")
    found = tokenizer.read(folder, ids, written=written)
    if rules is None:
        return found
    family, config = family_and_config(run)
    if family.texts and family.texts(config).lowercase:
        tokenizer.lower(found)
    tokenizer.settle(found, next(iter(rules["max_tokens"].values())), rules["truncation"], ids, rules["padding"])
    return found


def samples(out: Path, pack: Path, rules: dict[str, Any], entries: Sequence[EntryPoint]) -> None:
    """Write the raw samples below `out`, and what tokenizer and rules, which lie in `pack`, make of them."""
    folder = out / RAW
    folder.mkdir(parents=True)
    index: dict[str, Any] = {"format_version": INDEX_VERSION, "texts": [], "images": []}
    if rules["texts"] and rules["texts"]["tokenizer"]:
        index["texts"] = _texts(Preprocessor(pack), rules["texts"]["max_tokens"])
        if "pairs" in rules["texts"]:
            index["pairs"] = _pairs(Preprocessor(pack), rules["texts"]["max_tokens"])
    if rules["images"] and "missing" not in rules["images"]:
        index["images"] = _images(folder, rules["images"])
    if "scores" in rules:
        index["scores"] = _scores(rules["scores"])
    heard = hearing(entries, rules.get("sounds"))
    if heard and "missing" not in rules["sounds"]:
        index["sounds"] = _sounds(folder, Preprocessor(pack))
        index["cases"] = {entry.name: {"raw sounds": {"sounds": list(_audible(entry))}} for entry in heard}
        if "transcripts" in rules and named_tokenizer(rules):
            index["transcripts"] = _transcripts(pack, Preprocessor(pack).transcripts)
    else:
        limits = rules["texts"]["max_tokens"] if rules["texts"] else {}
        several = concerned(entries)
        index["cases"] = {e.name: found for e in several if (found := _cases(e, index, limits.get(e.name)))}
    _write(out / INDEX, index)


def _transcripts(pack: Path, writer: Transcripts) -> list[dict[str, Any]]:
    """Give tokens of the raw texts as a network would choose them, and the texts that these become.

    Of each, the prompt and the end are left out; the last text ends within a character.
    """
    opened, prompt = tokenizer.load(pack / TOKENIZER), writer.prompt(next(iter(writer.rules["languages"]), None))
    found = []
    for name, text in texts(None).items():
        ids = opened.encode(text, add_special_tokens=False).ids
        for called, several in ((name, ids), *([(f"{name}, cut", ids[:-1])] if name == "cjk" else [])):
            chosen = [*prompt, *several, writer.rules["end"]]
            found.append({"name": called, "ids": chosen, "text": writer.text(chosen)})
    return found


def _audible(entry: EntryPoint) -> Sequence[str]:
    return EMBEDDED if entry.embedding else HEARD


def _sounds(folder: Path, preprocessor: Preprocessor) -> list[dict[str, Any]]:
    """Write the sounds' files and the samples that they become; describe each."""
    rules, described, arrays = preprocessor.sounds.rules, [], {}
    (folder / "sounds").mkdir()
    for sound in sounds(rules["rate"], rules["samples"]):
        file = f"sounds/{sound.name}.wav"
        (folder / file).write_bytes(sound.content)
        arrays[sound.name] = made = preprocessor.sounds.samples(sound.content)
        windows = len(preprocessor.sounds.windows(sound.content))
        described.append(
            {"name": sound.name, "file": file, "samples": len(made), "windows": windows, "tells": sound.tells}
        )
    (folder / Path(SAMPLES).name).write_bytes(save(arrays))
    return described


def _texts(preprocessor: Preprocessor, limits: dict[str, int | None]) -> list[dict[str, Any]]:
    longest = None if None in limits.values() else max(limit for limit in limits.values() if limit)
    reader, prompt = preprocessor.texts, preprocessor.texts.prompt()
    read = {
        name: (text, {entry: reader.encoded(entry, [text], prompt)[0] for entry in limits})
        for name, text in texts(longest).items()
    }
    return [
        {"name": name, "text": text, "ids": ids}
        for name, (text, ids) in read.items()
        if not any(reader.refused(entry, [row]) for entry, row in ids.items())
    ]


def _pairs(preprocessor: Preprocessor, limits: dict[str, int | None]) -> list[dict[str, Any]]:
    """Give pairs of the texts, each with the ids that it becomes, and which text each is of."""
    longest = None if None in limits.values() else max(limit for limit in limits.values() if limit)
    raw = texts(longest)
    described = []
    for first, second in PAIRED:
        if first not in raw or second not in raw:
            continue
        rows = {entry: preprocessor.texts.rows(entry, [(raw[first], raw[second])])[0] for entry in limits}
        name, pair = f"{first}, {second}", [raw[first], raw[second]]
        ids, types = ({entry: getattr(row, part) for entry, row in rows.items()} for part in ("ids", "types"))
        described.append({"name": name, "texts": pair, "ids": ids, "types": types})
    return described


def _scores(rules: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Give logits, rows of one for each label, and the scores that are made of them, to nine digits."""
    logits = np.resize(LOGITS, (len(LOGITS), len(rules["labels"])))
    scores = SCORED[rules["activation"]](logits)
    return {"logits": logits.tolist(), "scores": [[digits(score) for score in row] for row in scores]}


def _images(folder: Path, rules: dict[str, Any]) -> list[dict[str, Any]]:
    need("PIL", "the raw goldens of a network that sees pictures")
    described, arrays = [], {VALUES: values(rules)}
    (folder / "images").mkdir()
    for picture in pictures(rules["size"], longer_side(rules)):
        (folder / "images" / picture.file).write_bytes(picture.content)
        image = open_(picture.content)
        arrays[picture.name] = pixels(picture.content, rules)
        described.append(
            {
                "name": picture.name,
                "file": f"images/{picture.file}",
                "core": picture.core,
                "mode": image.mode,
                "width": image.width,
                "height": image.height,
                "tells": picture.tells,
            }
        )
    (folder / Path(PIXELS).name).write_bytes(save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
    return described


def _cases(entry: EntryPoint, index: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Choose what is embedded: as little as tells the mistakes, since each row costs every runtime a pass."""
    reads_text, sees = entry.input_of(TokenIds) is not None, entry.input_of(Pixels) is not None
    names = [text["name"] for text in index["texts"] if all(text["ids"].values())]  # the empty one may be no token
    if not _from_raw(entry) or (reads_text and not names) or (sees and not index["images"]):
        return {}
    if reads_text and sees:
        several = [name for name in PAIR if name in names] or names
        return {"raw pairs": {"texts": (several * len(SEEN))[: len(SEEN)], "images": list(SEEN)}}
    if sees:
        return {"raw pictures": {"images": list(SEEN)}}
    cases = {"raw texts": {"texts": [name for name in names if name != LONG]}}
    pairs = [pair["name"] for pair in index.get("pairs", ())]
    if whole := [name for name in pairs if LONG not in name.split(", ")]:
        cases["raw pairs of texts"] = {"pairs": whole}
    if limit and limit <= LONGEST and len(pairs) > len(whole):
        cases["raw long pairs of texts"] = {"pairs": [name for name in pairs if name not in whole]}
    if LONG in names and limit and limit <= LONGEST:
        cases["raw long text"] = {"texts": [LONG]}
    return cases


def _write(file: Path, document: dict[str, Any]) -> None:
    file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
