"""Damaged run directories: what every runner must refuse with exit code 1 and one message, whatever it is written in.

A corruption is named, belongs to the parts of a run that it changes, and is done to a copy. After an *open* one the
digests no longer fit. A *sealed* one is what somebody would do who may write to the folder: manifest and provenance
are made anew to fit, so that only the files' contents tell, and only those who replay them notice.

    @pytest.mark.parametrize("name", corruptions.names("cases", "ready", "onnx"))
    def test_refused(name, run, tmp_path):
        damaged = corruptions.corrupted(run, name, tmp_path / "run", "onnx")

Parts: `cases` (expected outputs and budgets: everybody reads them), `several` (more than one entry point), `ready`
(padded ids and normalised pixels), `raw` (raw/index.json), `texts` (the tokenizer and raw ids), `pairs` (two texts that
are read together, and what makes scores), `pixels` (raw pixels, the table of values, preprocess.json), `pictures` (PNG
and JPEG files), `sounds` (WAV files, what they become and what preprocess.json says of them), `written` (texts of
tokens, and tokens that are chosen), and the format that is run.
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from bgevis.converter.certificate.provenance import statement

FORMATS = ("onnx", "saved_model", "stablehlo")

Change = Callable[["Run"], None]


@dataclass(frozen=True)
class Corruption:
    """A change to a copy of a run, what must be read to notice it, and whether the digests are made to fit."""

    parts: frozenset[str]
    change: Change
    sealed: bool


CORRUPTIONS: dict[str, Corruption] = {}


def names(*parts: str) -> list[str]:
    """Name the corruptions that whoever reads these parts, a format among them, must refuse."""
    known = set().union(*(c.parts for c in CORRUPTIONS.values())) | set(FORMATS)
    assert set(parts) <= known, f"parts are {sorted(known)}"
    readable = {*parts, "format"} if set(parts) & set(FORMATS) else set(parts)
    return [name for name, corruption in CORRUPTIONS.items() if corruption.parts <= readable]


def corrupted(run: Path, name: str, to: Path, format_: str) -> Path:
    """Give a corrupted copy of a run directory, without the parts that no runner reads."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("orbax", "reports", "taps", "probes"))
    before = _digests(to)
    corruption = CORRUPTIONS[name]
    corruption.change(Run(to, format_))
    assert _digests(to) != before, f"{name} changed nothing"
    if corruption.sealed:
        seal(to)
    return to


def seal(run: Path) -> None:
    """Make manifest and provenance fit the files, as the tool would have written them."""
    manifest = json.loads((run / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        if (run / name).is_file():
            data = (run / name).read_bytes()
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    Run(run, "").write("manifest.json", manifest)
    digest = hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    (run / "provenance.json").write_text(json.dumps(statement(manifest, digest), indent=1) + "\n")


def _digests(run: Path) -> dict[str, bytes]:
    files = (path for path in run.rglob("*") if path.is_file())
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).digest() for path in files}


class Run:
    """A run directory that is about to be damaged."""

    def __init__(self, path: Path, format_: str):
        self.path = path
        self.format = format_

    def read(self, name: str) -> Any:
        """Read a JSON file."""
        return json.loads((self.path / name).read_text())

    def write(self, name: str, document: Any) -> None:
        """Write a JSON file as the tool does. NaN and infinities are written as Python writes them."""
        (self.path / name).write_text(json.dumps(document, indent=1, sort_keys=name == "manifest.json") + "\n")

    @property
    def entries(self) -> list[str]:
        """The entry points that have goldens."""
        return list(self.read("goldens/index.json"))

    @property
    def goldens(self) -> list[Path]:
        """The goldens of every entry point."""
        return [self.path / "goldens" / f"{entry}.safetensors" for entry in self.entries]

    @property
    def programs(self) -> list[Path]:
        """The files of the format's programs."""
        described = [e["programs"][self.format] for e in self.read("manifest.json")["entry_points"].values()]
        if self.format == "saved_model":
            return [self.path / "saved_model" / "saved_model.pb"]
        paths = [path for d in described for path in (d["path"], d.get("jax_export"), *d.get("static", {}).values())]
        return [self.path / path for path in paths if path]

    @property
    def weights(self) -> Path:
        """The file of the format's weights."""
        if self.format == "saved_model":
            return self.path / "saved_model" / "variables" / "variables.data-00000-of-00001"
        return self.path / "programs" / "weights.safetensors"

    @property
    def pictures(self) -> list[Path]:
        """The files of the raw pictures that every runner can decode."""
        index = self.read("goldens/raw/index.json")
        return [self.path / "goldens" / "raw" / i["file"] for i in index["images"] if i["core"]]

    def arrays(self, file: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
        """Change the arrays of a safetensors file."""
        arrays = load_file(file)
        change(arrays)
        file.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

    def header(self, file: Path, change: Callable[[str, dict[str, Any]], None]) -> None:
        """Change what the header of a safetensors file says of each tensor; its bytes stay."""
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        for name in [name for name in header if name != "__metadata__"]:
            change(name, header[name])
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])

    def inputs(self, name: str, change: Callable[[np.ndarray], None]) -> None:
        """Change a ready input of every case."""
        for file in self.goldens:

            def every(arrays: dict[str, np.ndarray]) -> None:
                for key, array in arrays.items():
                    if key.endswith(f"/inputs/{name}"):
                        change(array)

            self.arrays(file, every)

    def outputs(self, change: Callable[[np.ndarray, float], None]) -> None:
        """Change the expected outputs of every case; `change` is given the array and what is allowed."""
        index = self.read("goldens/index.json")
        for entry, file in zip(self.entries, self.goldens, strict=True):

            def every(arrays: dict[str, np.ndarray], entry: str = entry) -> None:
                for case, described in index[entry]["cases"].items():
                    for output, budget in described["budgets"].items():
                        change(arrays[f"{case}/outputs/{output}"], budget["allowed"])

            self.arrays(file, every)

    def budgets(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the budget of every output of every case."""
        index = self.read("goldens/index.json")
        for entry in index.values():
            for case in entry["cases"].values():
                for budget in case["budgets"].values():
                    change(budget)
        self.write("goldens/index.json", index)

    def raw(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the index of the raw goldens."""
        index = self.read("goldens/raw/index.json")
        change(index)
        self.write("goldens/raw/index.json", index)

    def manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the manifest."""
        manifest = self.read("manifest.json")
        change(manifest)
        self.write("manifest.json", manifest)


def corruption(name: str, parts: str, *, sealed: bool = False) -> Callable[[Change], Change]:
    """Declare a corruption."""

    def declare(change: Change) -> Change:
        assert name not in CORRUPTIONS
        CORRUPTIONS[name] = Corruption(frozenset(parts.split()), change, sealed)
        return change

    return declare


# Damage to files: the digest tells, whatever the file is.

Files = Callable[[Run], list[Path]]
KINDS: dict[str, tuple[str, Files]] = {
    "goldens/index.json": ("cases", lambda run: [run.path / "goldens" / "index.json"]),
    "the goldens": ("cases", lambda run: run.goldens),
    "the programs": ("format", lambda run: run.programs),
    "the weights": ("format", lambda run: [run.weights]),
    "tokenizer.json": ("texts", lambda run: [run.path / "tokenizer.json"]),
    "preprocess.json": ("pixels", lambda run: [run.path / "preprocess.json"]),
    "raw/index.json": ("raw", lambda run: [run.path / "goldens" / "raw" / "index.json"]),
    "the raw pixels": ("pixels", lambda run: [run.path / "goldens" / "raw" / "pixels.safetensors"]),
    "the pictures": ("pictures", lambda run: run.pictures),
}


def _flip(file: Path) -> None:
    """Flip the lowest bit of the byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a bit flipped in": _flip,
    "cut short:": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "a byte added to": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "missing:": Path.unlink,
}
HARSH: dict[str, Callable[[Path], Any]] = {
    "nothing in": lambda file: file.write_bytes(b""),
    "a folder in place of": _folder,
}


def _each(files: Files, damage: Callable[[Path], Any]) -> Change:
    def change(run: Run) -> None:
        for file in files(run):
            damage(file)

    return change


def _damages() -> Iterator[tuple[str, str, Change]]:
    for kind, (parts, files) in KINDS.items():
        damages = DAMAGES if kind in ("the goldens", "the programs", "the weights") else {"a bit flipped in": _flip}
        for words, damage in damages.items():
            yield f"{words} {kind}", parts, _each(files, damage)
    for words, damage in HARSH.items():
        yield f"{words} the goldens", "cases", _each(KINDS["the goldens"][1], damage)


for _name, _parts, _change in _damages():
    corruption(_name, _parts)(_change)


def _swap(first: Path, second: Path) -> None:
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


@corruption("the goldens of two entry points swapped", "several")
def _(run: Run) -> None:
    _swap(*run.goldens[:2])


@corruption("two pictures swapped", "pictures")
def _(run: Run) -> None:
    _swap(*run.pictures[:2])


@corruption("budgets ten times as large", "cases")
def _(run: Run) -> None:
    run.budgets(lambda budget: budget.update(allowed=10 * budget["allowed"]))


@corruption("expected outputs altered", "cases")
def _(run: Run) -> None:
    run.outputs(_off)


# Damage to the manifest and the provenance.


def _goldens_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in manifest["files"].items() if name.endswith(".safetensors")}


@corruption("other digests in the manifest", "cases")
def _(run: Run) -> None:
    run.manifest(lambda manifest: [e.update(sha256="0" * 64) for e in _goldens_of(manifest).values()])


@corruption("other sizes in the manifest", "cases", sealed=False)
def _(run: Run) -> None:
    run.manifest(lambda manifest: [e.update(bytes=e["bytes"] + 1) for e in _goldens_of(manifest).values()])


@corruption("files that the manifest does not name", "cases", sealed=True)
def _(run: Run) -> None:
    run.manifest(lambda manifest: [manifest["files"].pop(name) for name in _goldens_of(manifest)])


@corruption("the manifest made to fit other goldens, the provenance not", "cases")
def _(run: Run) -> None:
    before = (run.path / "provenance.json").read_bytes()
    run.budgets(lambda budget: budget.update(allowed=10 * budget["allowed"]))
    seal(run.path)
    (run.path / "provenance.json").write_bytes(before)


@corruption("another checkpoint's name in the manifest", "cases")
def _(run: Run) -> None:
    run.manifest(lambda manifest: manifest["source"].update(file="another.pth"))


@corruption("cut short: the manifest", "cases")
def _(run: Run) -> None:
    DAMAGES["cut short:"](run.path / "manifest.json")
    (run.path / "manifest.json").write_bytes((run.path / "manifest.json").read_bytes()[:-1])


@corruption("missing: the manifest", "cases")
def _(run: Run) -> None:
    (run.path / "manifest.json").unlink()


@corruption("a manifest of another format", "cases", sealed=True)
def _(run: Run) -> None:
    run.manifest(lambda manifest: manifest.update(format_version=2))


@corruption("missing: the provenance", "cases")
def _(run: Run) -> None:
    (run.path / "provenance.json").unlink()


@corruption("a provenance of another manifest", "cases")
def _(run: Run) -> None:
    document = run.read("provenance.json")
    subject = next(s for s in document["subject"] if s["name"] == "manifest.json")
    subject["digest"]["sha256"] = subject["digest"]["sha256"][::-1]
    run.write("provenance.json", document)


@corruption("a provenance of no manifest", "cases")
def _(run: Run) -> None:
    document = run.read("provenance.json")
    document["subject"] = [s for s in document["subject"] if s["name"] != "manifest.json"]
    run.write("provenance.json", document)


# Sealed: every digest fits, and what the files say is wrong.


def _off(array: np.ndarray, allowed: float) -> None:
    """Move one number by so much that no right program can be near enough."""
    array.reshape(-1)[-1] += 3 * allowed


@corruption("expected outputs altered, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    run.outputs(_off)


@corruption("not a number among the expected outputs, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    run.outputs(lambda array, allowed: array.reshape(-1).__setitem__(0, np.nan))


@corruption("an infinite expected output, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    run.outputs(lambda array, allowed: array.reshape(-1).__setitem__(0, np.inf))


@corruption("only zeros expected, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    run.outputs(lambda array, allowed: array.fill(0))


@corruption("expected outputs of another type, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    for file in run.goldens:
        run.header(file, lambda name, entry: "/outputs/" in name and entry.update(dtype="I64"))


@corruption("expected outputs of another shape, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    for file in run.goldens:
        run.header(file, lambda name, entry: "/outputs/" in name and entry.update(shape=[*entry["shape"][::-1], 1]))


@corruption("tensors beyond the end of the goldens, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    for file in run.goldens:
        run.header(file, lambda name, entry: entry.update(data_offsets=[o + (1 << 40) for o in entry["data_offsets"]]))


@corruption("tensors of a negative size in the goldens, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    for file in run.goldens:
        run.header(file, lambda name, entry: entry.update(data_offsets=entry["data_offsets"][::-1]))


@corruption("a header longer than the goldens, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    for file in run.goldens:
        file.write_bytes((1 << 62).to_bytes(8, "little") + file.read_bytes()[8:])


@corruption("expected outputs under another name, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    for file in run.goldens:
        data = file.read_bytes()
        file.write_bytes(data.replace(b"/outputs/", b"/results/"))


@corruption("missing budgets, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    run.budgets(dict.clear)


for _words, _value in {"negative": -1.0, "null": None, "text": "1e9", "not a number": float("nan")}.items():
    corruption(f"{_words} as budget, sealed", "cases", sealed=True)(
        lambda run, value=_value: run.budgets(lambda budget: budget.update(allowed=value))
    )


@corruption("an infinite budget, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    run.budgets(lambda budget: budget.update(allowed="BUDGET"))
    file = run.path / "goldens" / "index.json"
    file.write_text(file.read_text().replace('"BUDGET"', "1e999"))  # JSON, and too large for a number


@corruption("no cases at all, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    _without(run, run.entries)


@corruption("no cases of one entry point, sealed", "several", sealed=True)
def _(run: Run) -> None:
    _without(run, run.entries[:1])


def _without(run: Run, entries: list[str]) -> None:
    """Take out the cases of some entry points wherever they are named."""
    index = run.read("goldens/index.json")
    for entry in entries:
        index[entry]["cases"].clear()
    run.write("goldens/index.json", index)
    if (run.path / "goldens" / "raw" / "index.json").exists():
        run.raw(lambda raw: [raw["cases"].pop(entry, None) for entry in entries])


@corruption("an entry point under another name, sealed", "cases", sealed=True)
def _(run: Run) -> None:
    index = run.read("goldens/index.json")
    run.write("goldens/index.json", {f"{name}_": entry for name, entry in index.items()})


@corruption("the programs of two entry points exchanged in the manifest, sealed", "several format", sealed=True)
def _(run: Run) -> None:
    def change(manifest: dict[str, Any]) -> None:
        first, second = list(manifest["entry_points"].values())[:2]
        one, two = first["programs"], second["programs"]
        one[run.format], two[run.format] = copy.deepcopy(two[run.format]), copy.deepcopy(one[run.format])

    run.manifest(change)


@corruption("weights of zero, sealed", "format", sealed=True)
def _(run: Run) -> None:
    data = run.weights.read_bytes()
    start = 0 if run.format == "saved_model" else 8 + int.from_bytes(data[:8], "little")
    run.weights.write_bytes(data[:start] + bytes(len(data) - start))


@corruption("other ids among the ready inputs, sealed", "ready", sealed=True)
def _(run: Run) -> None:
    def change(ids: np.ndarray) -> None:
        ids[:, 0] = ids[:, -1] + 1

    run.inputs("input_ids", change)


@corruption("channels swapped in the ready pixels, sealed", "ready pixels", sealed=True)
def _(run: Run) -> None:
    run.inputs("images", lambda pixels: pixels.__setitem__(slice(None), pixels[..., ::-1].copy()))


@corruption("other ids of the raw texts, sealed", "texts raw", sealed=True)
def _(run: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        for text in raw["texts"]:
            for ids in text["ids"].values():
                ids[0] += 1

    run.raw(change)


@corruption("another text under the same ids, sealed", "texts raw", sealed=True)
def _(run: Run) -> None:
    run.raw(lambda raw: [text.update(text=text["text"] + " seven") for text in raw["texts"] if text["name"] != "long"])


@corruption("other ids of the raw pairs, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    run.raw(lambda raw: [ids.__setitem__(1, ids[1] + 1) for pair in raw["pairs"] for ids in pair["ids"].values()])


@corruption("other types of the raw pairs, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    run.raw(lambda raw: [types.reverse() for pair in raw["pairs"] for types in pair["types"].values()])


@corruption("other scores of the same logits, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    run.raw(lambda raw: raw["scores"]["scores"].reverse())


@corruption("no scores of logits, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    run.raw(lambda raw: raw.update(scores={"logits": [], "scores": []}))


def _scores(run: Run, change: Callable[[dict[str, Any]], None]) -> None:
    document = run.read("preprocess.json")
    change(document)
    run.write("preprocess.json", document)


@corruption("another activation, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    words = {"identity": "tanh", "sigmoid": "tanh", "softmax": "sigmoid", "tanh": "sigmoid"}
    _scores(run, lambda document: document["scores"].update(activation=words[document["scores"]["activation"]]))


@corruption("an activation that nobody knows, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    _scores(run, lambda document: document["scores"].update(activation="relu"))


@corruption("one label less, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    _scores(run, lambda document: document["scores"]["labels"].pop())


@corruption("pairs cut in a way that nobody knows, sealed", "pairs raw", sealed=True)
def _(run: Run) -> None:
    _scores(run, lambda document: document["texts"].update(pairs="the first, then the second"))


@corruption("rows of the raw cases in another order, sealed", "raw", sealed=True)
def _(run: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        for cases in raw["cases"].values():
            for case in cases.values():
                for rows in case.values():
                    rows.reverse()

    run.raw(change)


@corruption("raw cases of unknown rows, sealed", "raw", sealed=True)
def _(run: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        for cases in raw["cases"].values():
            for case in cases.values():
                case.update({kind: [f"{row}_" for row in rows] for kind, rows in case.items()})

    run.raw(change)


@corruption("a picture in the place of another, sealed", "pictures raw", sealed=True)
def _(run: Run) -> None:
    core = run.pictures
    for file in core[1:]:
        if file.suffix == core[0].suffix:
            shutil.copyfile(core[0], file)


@corruption("raw pixels one step brighter, sealed", "pixels", sealed=True)
def _(run: Run) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for name in set(arrays) - {"values"}:
            arrays[name] = np.where(arrays[name] < 255, arrays[name] + 1, 254).astype(np.uint8)

    run.arrays(run.path / "goldens" / "raw" / "pixels.safetensors", change)


@corruption("another table of values, sealed", "pixels", sealed=True)
def _(run: Run) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["values"] = arrays["values"][:, ::-1]

    run.arrays(run.path / "goldens" / "raw" / "pixels.safetensors", change)


@corruption("a word in preprocess.json that nobody knows, sealed", "pixels", sealed=True)
def _(run: Run) -> None:
    document = run.read("preprocess.json")
    step = next(step for step in document["images"]["steps"] if step["do"] == "crop")
    step["offset"] = "ceil"
    run.write("preprocess.json", document)


@corruption("a key in preprocess.json that nobody knows, sealed", "pixels", sealed=True)
def _(run: Run) -> None:
    document = run.read("preprocess.json")
    document["images"]["steps"][0]["reducing_gap"] = 2
    run.write("preprocess.json", document)


@corruption("preprocess.json for another input, sealed", "pixels", sealed=True)
def _(run: Run) -> None:
    document = run.read("preprocess.json")
    document["texts"]["inputs"]["mask"] = "padding_mask"
    run.write("preprocess.json", document)


@corruption("another limit in preprocess.json, sealed", "pixels", sealed=True)
def _(run: Run) -> None:
    document = run.read("preprocess.json")
    document["texts"]["max_tokens"]["encode_text"] += 1
    run.write("preprocess.json", document)


@corruption("another mean in preprocess.json, sealed", "pixels", sealed=True)
def _(run: Run) -> None:
    document = run.read("preprocess.json")
    step = next(step for step in document["images"]["steps"] if step["do"] == "normalize")
    step["mean"] = [value + 0.01 for value in step["mean"]]
    run.write("preprocess.json", document)


# Sounds, and the texts that come out.


def _sounds(run: Run) -> list[Path]:
    return sorted((run.path / "goldens" / "raw" / "sounds").iterdir())


@corruption("two sounds swapped", "sounds")
def _(run: Run) -> None:
    _swap(*_sounds(run)[:2])


@corruption("two sounds swapped, sealed", "sounds", sealed=True)
def _(run: Run) -> None:
    _swap(*_sounds(run)[:2])


@corruption("every sound cut off, sealed", "sounds", sealed=True)
def _(run: Run) -> None:
    for file in _sounds(run):
        file.write_bytes(file.read_bytes()[:-2])


@corruption("a sample of every sound altered, sealed", "sounds", sealed=True)
def _(run: Run) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        for array in arrays.values():
            array[len(array) // 2] += 2e-6

    run.arrays(run.path / "goldens" / "raw" / "samples.safetensors", change)


@corruption("one sample more of every sound, sealed", "sounds", sealed=True)
def _(run: Run) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays |= {name: np.append(array, np.float32(0)) for name, array in arrays.items()}

    run.arrays(run.path / "goldens" / "raw" / "samples.safetensors", change)


@corruption("another sound in every case, sealed", "sounds", sealed=True)
def _(run: Run) -> None:
    def change(raw: dict[str, Any]) -> None:
        for cases in raw["cases"].values():
            for rows in cases.values():
                rows["sounds"].reverse()

    run.raw(change)


@corruption("a word of sounds that nobody knows, sealed", "sounds", sealed=True)
def _(run: Run) -> None:
    document = run.read("preprocess.json")
    document["sounds"]["resample"]["rolloff"] = 0.9
    run.write("preprocess.json", document)


@corruption("other bands in preprocess.json, sealed", "sounds", sealed=True)
def _(run: Run) -> None:
    document = run.read("preprocess.json")
    document["sounds"]["spectrogram"]["bands"] += 1
    run.write("preprocess.json", document)


@corruption("other texts of tokens, sealed", "written", sealed=True)
def _(run: Run) -> None:
    run.raw(lambda raw: [each.update(text=each["text"] + ".") for each in raw["transcripts"]])


@corruption("other tokens that must be chosen, sealed", "written", sealed=True)
def _(run: Run) -> None:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["ids"][:, 0] += 1

    run.arrays(run.path / "goldens" / "procedures" / "transcribe.safetensors", change)


@corruption("the tokens that are chosen suppressed, sealed", "written", sealed=True)
def _(run: Run) -> None:
    chosen = load_file(run.path / "goldens" / "procedures" / "transcribe.safetensors")["ids"]
    document = run.read("preprocess.json")
    document["transcripts"]["suppress"] = np.unique(chosen).tolist()
    run.write("preprocess.json", document)
