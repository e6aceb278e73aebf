"""`inspect` and `why`: answers for a person, from a checkpoint's index and from the ledger. Reads no weights."""

import difflib
import math
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...model.documents import USED
from ...model.family import config_to_json, dotted
from ...validation.errors import InputError
from ...validation.files import read_json
from ..certificate.ledger import Ledger
from ..checkpoint import Checkpoint
from ..directory import Manifest, RunDirectory
from ..manifest import LEDGER
from ..options import Options
from ..source.identify import identify, open_given

WIDEST = 48
"""Characters of a field and its value, before where it is from."""


def describe(path: Path, options: Options) -> dict[str, Any]:
    """Say what a checkpoint holds; an unknown family is an answer, not a failure."""
    checkpoint = open_given(path)
    for config in options.configs:  # what is named must be there; what is unknown is an answer
        try:
            read_json(Path(config))
        except (OSError, ValueError) as error:
            raise InputError(f"--config {config}: {getattr(error, 'strerror', None) or error}") from error
    try:
        identified = identify(path, options)
        checkpoint = identified.checkpoint
        family: dict[str, Any] = {
            "family": identified.family.name,
            "config": config_to_json(identified.config),
            "origins": dict(identified.configured.origins),
            "documents": identified.found.described(),
            "unread": dict(identified.unread),
            "parameters": _parameters(checkpoint, identified.family.constants(identified.config)),
            **({"adapter": identified.adapter.told} if identified.adapter else {}),
        }
    except InputError as error:
        family = {"family": None, "reason": str(error)}
    return {
        "file": str(path),
        "container": checkpoint.container,
        "wrappers": list(checkpoint.wrappers),
        "ignored": list(checkpoint.ignored),
        **family,
        **_contents(checkpoint),
    }


def _parameters(checkpoint: Checkpoint, computed: Collection[str]) -> dict[str, Any]:
    """Count what was trained, once where names share it, by the first part of the names; and what only lies beside it.

    Buffers are no parameters: tables that are computed, integers, the statistics of torch's batch norms.
    """
    trained: Counter[str] = Counter()
    buffers, seen = 0, set()
    for name, tensor in checkpoint.tensors.items():
        place = (tensor.storage, tensor.offset)
        count = math.prod(tensor.shape)
        if name in computed or name.endswith(STATISTICS) or "int" in tensor.dtype or tensor.dtype == "bool":
            buffers += count
        elif place not in seen or not count:
            trained[name.partition(".")[0]] += count
        seen.add(place)
    return {"trained": trained.total(), "buffers": buffers, "by_module": dict(trained)}


STATISTICS = ("running_mean", "running_var")


def _contents(checkpoint: Checkpoint) -> dict[str, Any]:
    tensors = checkpoint.tensors
    storages = {tensor.storage for tensor in tensors.values()}
    return {
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "dtypes": dict(Counter(tensor.dtype for tensor in tensors.values())),
        "storages": len(storages),
        "tensors": {name: {"shape": list(t.shape), "dtype": t.dtype} for name, t in tensors.items()},
    }


def show(described: dict[str, Any]) -> str:
    """Write a description for a person; numbered layers are folded into one line."""
    lines = [
        f"file       {described['file']}",
        f"container  {described['container']}" + "".join(f", wrapped in {w}" for w in described["wrappers"]),
        f"tensors    {len(described['tensors'])} in {described['storages']} storages, {_megabytes(described)}",
        f"dtypes     {', '.join(f'{count} {dtype}' for dtype, count in described['dtypes'].items())}",
    ]
    if described["ignored"]:
        lines.append(f"ignored    {', '.join(described['ignored'][:8])}")
    if described["family"] is None:
        lines.append(f"family     unknown: {described['reason']}")
    else:
        lines.append(f"family     {described['family']}")
        lines += [f"           {line}" for line in _fields(described["config"], described["origins"])]
        lines.append(f"parameters {_counted(described['parameters'])}")
        lines += [f"adapter    {described['adapter']}"] if "adapter" in described else []
        lines += [f"document   {place}: {_read(document)}" for place, document in described["documents"].items()]
        lines += [f"beside     {name}: {reason}" for name, reason in described["unread"].items()]
    return "\n".join([*lines, "", *_folded(described["tensors"])])


def _counted(parameters: dict[str, Any]) -> str:
    parts = [f"{name} {count:,}" for name, count in parameters["by_module"].items()]
    inner = f" ({', '.join(parts)})" if 1 < len(parts) <= 12 else ""
    return f"{parameters['trained']:,}{inner}, and {parameters['buffers']:,} numbers in buffers"


def _megabytes(described: dict[str, Any]) -> str:
    return f"{described['bytes'] / 1e6:.1f} MB"


def _fields(config: dict[str, Any], origins: dict[str, str]) -> list[str]:
    """Write each field of a configuration, and where its value came from."""
    told = [(f"{name} = {value}", origins[name]) for name, value in dotted(config)]
    width = min(max(len(left) for left, _ in told), WIDEST)
    return [f"{left:{width}}  {origin}" for left, origin in told]


def _read(document: dict[str, Any]) -> str:
    """Say what became of a document's fields; those that change the result, and those passed over, by name."""
    fields = document.get("fields")
    if not fields:
        return str(document["status"])
    used = [name for name, fate in fields.items() if fate == USED]
    other = [f"{name} ({fate})" for name, fate in fields.items() if fate.startswith(("ignored", "--"))]
    harmless = len(fields) - len(used) - len(other)
    parts = [f"used {', '.join(used)}" if used else "", f"{harmless} change nothing" if harmless else "", *other]
    return "; ".join(part for part in parts if part)


def _folded(tensors: dict[str, Any]) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for name, tensor in tensors.items():
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        groups.setdefault((pattern, f"{tuple(tensor['shape'])} {tensor['dtype']}"), []).append(name)
    return [f"{len(names):5} x {pattern}  {shape}" for (pattern, shape), names in groups.items()]


def explain(directory: Path, name: str) -> dict[str, Any]:
    """Say what became of a tensor, what fills a parameter, or where a field of the configuration came from.

    A field of a document is named alone or with it, as config.json:hidden_act.

    Raises:
        InputError: neither ledger nor manifest knows such a name; the nearest ones are named.
    """
    manifest = RunDirectory(directory).manifest()
    if stated := _stated(manifest, name):
        return stated
    ledger = Ledger.read(directory / LEDGER)
    source = name if name in ledger.entries else ledger.leaves.get(name)
    if source is None:
        problems = [problem for problem in ledger.problems if f" {name}:" in problem]
        if problems:
            return {"tensor": name, "status": "unknown", "problems": problems}
        fields = [field for field, _ in dotted(manifest["config"])]
        near = difflib.get_close_matches(name, [*ledger.entries, *ledger.leaves, *fields], 3, 0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InputError(f"{directory / LEDGER} knows no tensor or parameter {name!r}, nor any document a field{hint}")
    entry = ledger.entries[source]
    answer = {"tensor": source, "status": entry.status, "rule": entry.rule, "shape": list(entry.shape)}
    answer |= {"dtype": entry.dtype, "sha256": entry.sha256}
    if entry.made:
        answer |= {"formula": entry.made.formula(ledger.axes), "ingredients": list(entry.made.ingredients)}
    if entry.status == "mapped":
        tied = [other for other, e in ledger.entries.items() if e.status == "tied" and e.target == source]
        return answer | {"parameter": entry.target, "layout": entry.layout, "ties": tied}
    if entry.status in ("split", "merged"):
        gives = [other for other, made in ledger.derived() if source in made.ingredients]
        return answer | {"layout": entry.layout, "gives": gives}
    return answer | {"reason": entry.reason} | ({"equals": entry.target} if entry.target else {})


def _stated(manifest: Manifest, name: str) -> dict[str, Any] | None:
    """Answer for a field of the configuration, of a document, or for a file of the checkpoint's folder."""
    config = dict(dotted(manifest["config"]))
    documents = manifest.get("documents", {})
    place, _, field = name.rpartition(":")
    found = {
        f"{where}: {field}": document["fields"][field]
        for where, document in documents.items()
        if place in ("", where) and field in document.get("fields", {})
    }
    if name in config:
        origin = manifest.get("origins", {}).get(name, "made by an older version, which did not say")
        return {"field": name, "status": "stated", "value": config[name], "origin": origin, "documents": found}
    files = {file: document["status"] for file, document in documents.items()} | manifest.get("unread", {})
    if found or name in files:
        return {"field": name, "status": "stated", "documents": found or {name: files[name]}}
    return None


def tell(answer: dict[str, Any]) -> str:
    """Write an explanation for a person."""
    if answer["status"] == "stated":
        value = [f"  value     {answer['value']}", f"  from      {answer['origin']}"] if "value" in answer else []
        documents = [f"  {where}: {fate}" for where, fate in answer["documents"].items()]
        return "\n".join([answer["field"], *value, *documents])
    if answer["status"] == "unknown":
        return "\n".join(answer["problems"])
    lines = [f"{answer['tensor']}  {tuple(answer['shape'])} {answer['dtype']}"]
    lines += [f"  is        {answer['formula']}"] if "formula" in answer else []
    match answer["status"]:
        case "mapped":
            lines += [f"  becomes   {answer['parameter']}", f"  layout    {answer['layout']}"]
            lines += [f"  repeated  as {len(answer['ties'])} other tensors"] if answer["ties"] else []
        case "split":
            lines += [f"  split     into {', '.join(answer['gives'])}", f"  layout    {answer['layout']}"]
        case "merged":
            lines += [f"  merged    into {', '.join(answer['gives'])}", f"  layout    {answer['layout']}"]
        case "tied":
            lines += [f"  equals    {answer['equals']}", f"  because   {answer['reason']}"]
        case _:
            lines += ["  dropped", f"  because   {answer['reason']}"]
    lines += [f"  rule      {answer['rule']}"]
    return "\n".join(lines + ([f"  sha256    {answer['sha256']}"] if answer["sha256"] else []))
