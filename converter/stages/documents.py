"""What the run directory says of itself, made again and compared whole, before any artifact is executed.

Nothing here needs the checkpoint or PyTorch. What cannot be made again is what only the one who converted knows; see
docs/trust.md.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ...model.family import dotted
from ...model.traced import NETWORK
from ...validation.errors import GateError
from ...validation.files import read_json
from ...validation.report import EVERY, Report, Row
from ..certificate.ledger import Ledger
from ..directory import MANIFEST, STAGING, RunDirectory
from ..manifest import GOLDENS, LEDGER, PARITY, WEIGHTS_PATH, family_and_config
from ..options import Options
from ..pack import INDEX, PREPROCESS, RAW, SAMPLES, TOKENIZER, tokenizer
from ..pack.tokenizer import token_ids
from ..progress import Progress
from ..proof.documents import believable
from ..proof.restated import (
    difference,
    golden_problems,
    ledger_problems,
    manifest_problems,
    strays,
    weights_problems,
)
from ..proof.weights import file_rows
from ..proof.yardsticks import yardstick_problems
from .load import tool
from .pack import named_tokenizer, preprocessing, samples

REPORT = "reports/validate/documents.json"
RUN = "run directory"
"""What reports call it."""

SHARED = (LEDGER, WEIGHTS_PATH, TOKENIZER, PREPROCESS, NETWORK)
STRAYS = "files are the run's own"
LAYERS = re.compile(r"layer|depth|block")


def perform(run: RunDirectory, options: Options, progress: Progress) -> None:
    """Make again what can be, and compare."""
    with run.stage("documents", reads(run, options)) as staged:
        report = judge(run, options)
        file = staged.out / REPORT
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(report.to_json(), indent=1) + "\n")
        progress.note(report.summary())
        if not report.passed:
            raise GateError(f"validate {report.summary()}")


def reads(run: RunDirectory, options: Options) -> str:
    """Give the digest of what the stage depends on."""
    stages = run.manifest()["stages"]
    made = [
        file for name in ("verify", "build", "pack", "reference") for file in stages.get(name, {"files": []})["files"]
    ]
    return run.reads("documents", *made)


def judge(run: RunDirectory, options: Options) -> Report:
    """Give a row for each thing that is compared; the first problem ends it, since what follows builds on it."""
    rows: list[Row] = []
    with believable(run.path):
        for case, problems in _checks(run, options):
            problem = next(problems, "")
            if problem or case != STRAYS:  # `all` and `validate` say the same where nothing is wrong
                rows.append(Row(EVERY, case, "", not problem, problem))
            if problem:
                break
    return Report(RUN, tuple(rows))


def _checks(run: RunDirectory, options: Options) -> Iterator[tuple[str, Iterator[str]]]:
    """Give what is compared, and what is wrong with it."""
    if options.again:  # in `all` others are at work, whose files are there before the manifest names them
        yield STRAYS, strays(run)
    named = (*SHARED, PARITY) if options.again else SHARED  # in `all` parity is at work beside this
    shared = [file for file in run.manifest()["files"] if file.startswith(f"{GOLDENS}/") or file in named]
    yield "files as the manifest states them", run.damaged(shared)
    ledger = Ledger.read(run.path / LEDGER)
    yield "the network is of this size", _size_problems(run, ledger)
    yield LEDGER, _named(LEDGER, ledger_problems(run, ledger))
    yield MANIFEST, _named(MANIFEST, manifest_problems(run, ledger))
    yield WEIGHTS_PATH, _named(WEIGHTS_PATH, weights_problems(run, ledger))
    yield PREPROCESS, _named(PREPROCESS, _preprocessing_problems(run))
    yield TOKENIZER, _named(TOKENIZER, _tokenizer_problems(run))
    yield RAW, _raw_problems(run)
    alike = _same(run, "numpy")
    yield "goldens", (f"{place}: {problem}" for place, problem in golden_problems(run, alike))
    yield "yardsticks", _yardstick_problems(run, ledger)


def _yardstick_problems(run: RunDirectory, ledger: Ledger) -> Iterator[str]:
    """Where the NNX model is not the goldens', say of wrong weights first that they are wrong."""
    for problem in yardstick_problems(run):
        yield from (row.problem for row in file_rows(run.path, ledger) if not row.passed)
        yield problem


def _named(file: str, problems: Iterator[str]) -> Iterator[str]:
    return (f"{file}: {problem}" for problem in problems)


def _same(run: RunDirectory, *packages: str) -> bool:
    """Say whether this machine has the versions that made the run."""
    made, here = run.manifest()["tool"]["packages"], tool()["packages"]
    return all(made.get(package) == here.get(package) for package in packages)


def _size_problems(run: RunDirectory, ledger: Ledger) -> Iterator[str]:
    """Refuse a network of more layers than there are tensors before it is built."""
    for name, value in dotted(run.manifest()["config"]):
        if LAYERS.search(name) and isinstance(value, int) and value > len(ledger.entries):
            yield f"{MANIFEST}: config.{name} is {value}, but the ledger has {len(ledger.entries)} tensors"


def _preprocessing_problems(run: RunDirectory) -> Iterator[str]:
    manifest = run.manifest()
    family, config = family_and_config(run)
    stated = read_json(run.path / PREPROCESS)
    wanted = json.loads(json.dumps(preprocessing(family, config, manifest)))
    if found := difference(stated, wanted):
        yield found
        return
    there = TOKENIZER in manifest["files"]
    if there != bool(named_tokenizer(wanted)):
        yield f"{TOKENIZER} is {'there, but no text is read' if there else 'not among the files of the manifest'}"


def _tokenizer_problems(run: RunDirectory) -> Iterator[str]:
    """Hold truncation and padding to the network's; the words are what the checkpoint's folder said."""
    if TOKENIZER not in run.manifest()["files"]:
        return
    family, config = family_and_config(run)
    ids, file = token_ids(family.entry_points(config)), run.path / TOKENIZER
    assert ids  # else no tokenizer was wanted
    rules = read_json(run.path / PREPROCESS)["texts"]
    settled = tokenizer.read(run.path, ids, written=rules is None)
    if rules:
        tokenizer.settle(settled, next(iter(rules["max_tokens"].values())), rules["truncation"], ids, rules["padding"])
    stated, wanted = read_json(file), json.loads(settled.to_str())
    if not _same(run, "tokenizers"):  # which may write the rest otherwise
        stated, wanted = ({key: each.get(key) for key in ("truncation", "padding")} for each in (stated, wanted))
    if found := difference(stated, wanted):
        yield found


def _raw_problems(run: RunDirectory) -> Iterator[str]:
    """Make the raw samples again; the bytes of pictures are those of the same version of Pillow.

    What sounds become, processors may add up in other orders: their files are opened again where a format is proven.
    """
    family, config = family_and_config(run)
    with tempfile.TemporaryDirectory(dir=run.path / STAGING) as folder:
        out = Path(folder)
        samples(out, run.path, read_json(run.path / PREPROCESS), family.entry_points(config))
        wanted = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        for file in sorted(wanted ^ {file for file in run.manifest()["files"] if file.startswith(f"{RAW}/")}):
            yield f"{file} is {'missing' if file in wanted else 'none of the raw samples'}"
        if found := difference(read_json(run.path / INDEX), read_json(out / INDEX)):
            yield f"{INDEX}: {found}"
        for file in sorted(wanted - {INDEX, SAMPLES}) if _same(run, "pillow") else ():
            if (out / file).read_bytes() != (run.path / file).read_bytes():
                yield f"{file} is not what is drawn"
