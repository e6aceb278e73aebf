"""Which family a checkpoint belongs to, and its configuration. Reads no weights."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...model import traced
from ...model.adapter import Adapter, adapted
from ...model.documents import Configured, Given
from ...model.family import Config, Family, Source, config_to_json, dotted, families
from ...validation.errors import InputError
from ..checkpoint import Checkpoint, open_checkpoint
from ..checkpoint.arrow import CONTAINER as ARROW
from ..checkpoint.sharded import SINGLE_FILES
from ..options import Options, spelled
from . import adapter, architecture
from .documents import Found, read_documents
from .folder import ON_ANOTHER, explain_empty, rest
from .metadata import METADATA, tokenizer_of, with_metadata
from .module import configured as traced_config
from .module import trace
from .slow import converted

HUB = re.compile(r"[\w.-]+/[\w.-]+")
"""What looks like a model's name on the hub."""


@dataclass(frozen=True)
class Identified:
    """An opened checkpoint with the family that it belongs to."""

    checkpoint: Checkpoint
    family: Family
    configured: Configured
    found: Found
    unread: Mapping[str, str]
    """What else lies beside the checkpoint, and why nothing was read from it."""
    network: str = ""
    """Of a traced network, what network.json holds."""
    adapter: Adapter | None = None
    """What changes the family's layers, if anything does."""

    @property
    def config(self) -> Config:
        """The family's configuration."""
        return self.configured.config


def identify(path: Path, options: Options) -> Identified:
    """Open a checkpoint, find its family and complete its configuration. Reads no weights, but where it traces.

    Raises:
        InputError: it belongs to no family or to several, or not all of its folder is accounted for.
    """
    checkpoint = open_given(path)
    _refuse_placeholders(checkpoint)
    inside = adapter.unmerged(checkpoint)
    if (options.adapter or inside) and (options.module or options.transformers):
        raise InputError(
            f"{'--adapter' if options.adapter else path}: adapters are merged into checkpoints of families"
        )
    if options.module:
        return _traced(path, checkpoint, options)
    if inside and options.adapter:
        raise InputError(f"--adapter {options.adapter}: {path} holds an adapter already, which is not merged")
    found = read_folder(path, options, checkpoint.container, unmerged=inside)
    checkpoint = adapter.plain(checkpoint) if inside else checkpoint
    every = options.given
    given = {field: each for field, each in every.items() if not inside or field not in adapter.OPTIONS}
    found = with_metadata(found, checkpoint, given)
    checkpoint = _with_beside(_with_modules(checkpoint, found), path if path.is_dir() else path.parent)
    unread = rest(path, checkpoint, found.digests)
    if options.transformers:
        return _architecture(path, checkpoint, found, options, unread)
    checkpoint, family = _recognised(checkpoint, found, given, options.family, options.tower)
    told = source(checkpoint, found, given)
    if inside:
        every = {**family.adapter(told), **every}
        told = replace(told, asked=adapter.asked(checkpoint, found.documents.get(adapter.CONFIG), every))
    configured = family.configure(told)
    if options.adapter or (inside and adapter.read_by(checkpoint, family.rules(configured.config))):
        folder = Path(options.adapter) if options.adapter else None
        document = found.documents.get(adapter.CONFIG)
        checkpoint, made = adapter.joined(checkpoint, folder, document, every, options.dtype)
        if folder:
            unread |= adapter.rest(folder, checkpoint)
        _settled(family, configured, found, given)
        return Identified(checkpoint, adapted(family, made), configured, found, unread, adapter=made)
    _settled(family, configured, found, given)
    return Identified(checkpoint, family, configured, found, unread)


def _refuse_placeholders(checkpoint: Checkpoint) -> None:
    """Refuse what a trainer leaves whose processes each hold a part of the weights.

    Raises:
        InputError: tensors are empty.
    """
    empty = [name for name, tensor in checkpoint.tensors.items() if tensor.shape == (0,)]
    if 2 * len(empty) > len(checkpoint.tensors):  # buffers are whole
        raise InputError(
            f"{checkpoint.path}: {len(empty)} of {len(checkpoint.tensors)} tensors are empty, such as {empty[0]} of "
            "shape (0,): DeepSpeed's ZeRO-3 leaves such and has the weights in other files; run the zero_to_fp32.py "
            "that lies beside them and give what it writes"
        )


def _traced(path: Path, checkpoint: Checkpoint, options: Options) -> Identified:
    """Trace the user's own module. Nothing of the folder is read but the checkpoint.

    Raises:
        InputError: an option that is for families, or what is given cannot be traced.
    """
    for option, stated in (("--family", options.family), ("--config", options.configs), ("--ignore", options.ignore)):
        if stated:
            raise InputError(f"{option} is for checkpoints of families; --module says which network this is")
    for given in options.given.values():
        raise InputError(f"{given.option} is for checkpoints of families; --module says which network this is")
    text = trace(checkpoint, options, Path.cwd())
    unread = rest(path, checkpoint, ())
    return Identified(
        checkpoint, traced.family(text), traced_config(options.module, text), Found({}, None, {}), unread, text
    )


def _architecture(
    path: Path, checkpoint: Checkpoint, found: Found, options: Options, unread: Mapping[str, str]
) -> Identified:
    """Trace the class of transformers that the folder is of."""
    folder = path if path.is_dir() else path.parent
    place = Path(options.tokenizer) if options.tokenizer else folder
    text, configured = architecture.trace(source(checkpoint, found, options.given), checkpoint, folder, place)
    family = traced.family(text, traced.TRANSFORMERS)
    _settled(family, configured, found, options.given)
    return Identified(checkpoint, family, configured, found, unread, text)


def _with_modules(checkpoint: Checkpoint, found: Found) -> Checkpoint:
    """Join the weights of the folders that modules.json names, unless the checkpoint is all of the model's."""
    for name, place, folder in found.modules():
        files = [folder / file for file in SINGLE_FILES if (folder / file).is_file()]
        if files and not any(tensor.startswith(f"{name}.") for tensor in checkpoint.tensors):
            checkpoint = checkpoint.joined(f"{place}/", open_checkpoint(files[0]))
    return checkpoint


def _with_beside(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Join the files that a family has beside its checkpoint, where all of them lie there."""
    for family in families().values():
        files = {prefix: folder / name for prefix, name in family.beside.items()}
        there = any(tensor.startswith(tuple(files)) for tensor in checkpoint.tensors)
        if files and not there and all(file.is_file() for file in files.values()):
            for prefix, file in files.items():
                checkpoint = checkpoint.joined(prefix, open_checkpoint(file))
    return checkpoint


def open_given(path: Path) -> Checkpoint:
    """Open a checkpoint as the user gave it: a file, or a folder with one.

    Raises:
        InputError: it cannot be read; of a folder without one, with what lies there in its place.
    """
    if not path.exists() and HUB.fullmatch(str(path)):
        raise InputError(
            f"{path} is no file and no folder here; a model of the hub is fetched first: "
            f"hf download {path} --local-dir {path.name}"
        )
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: the name is not UTF-8, in which files of this tool name it; rename it") from error
    try:
        return open_checkpoint(path)
    except InputError as error:
        inside = explain_empty(path) if path.is_dir() and not any((path / n).is_file() for n in SINGLE_FILES) else ""
        if not inside:
            raise
        raise InputError(
            f"{path} is a folder without a checkpoint's file ({SINGLE_FILES[0]}, ...); {inside}"
        ) from error


def read_folder(path: Path, options: Options, container: str, *, unmerged: bool = False) -> Found:
    """Read the documents of a checkpoint's folder as the command line says, and that of an adapter where there is one.

    `unmerged` says that the adapter is in the checkpoint.
    """
    folder = path if path.is_dir() else path.parent
    beside = (METADATA,) if container.startswith(ARROW) else ()
    configs = [Path(config) for config in options.configs]
    if options.adapter:
        configs.append(adapter.document(Path(options.adapter)))
    elif unmerged and (folder / adapter.CONFIG).is_file() and not any(c.name == adapter.CONFIG for c in configs):
        configs.append(folder / adapter.CONFIG)
    tokenizer = Path(options.tokenizer) if options.tokenizer else None
    if tokenizer and options.no_tokenizer:
        raise InputError("--tokenizer names one, and --no-tokenizer wants none: say one of them")
    if not tokenizer and tokenizer_of(folder) != folder:
        tokenizer = tokenizer_of(folder)
    if not options.no_tokenizer:
        made = converted(tokenizer or folder)
        tokenizer = made if made != folder else tokenizer
    return read_documents(
        folder,
        configs,
        tokenizer,
        options.ignore,
        tokens=not options.no_tokenizer,
        beside=beside,
    )


def source(checkpoint: Checkpoint, found: Found, given: dict[str, Given]) -> Source:
    """Put together what a family is told."""
    return Source(
        {name: tensor.shape for name, tensor in checkpoint.tensors.items()},
        {name: tensor.dtype for name, tensor in checkpoint.tensors.items()},
        found.documents,
        checkpoint.facts,
        given,
        found.tokens,
        checkpoint.wrappers,
    )


def _recognised(
    checkpoint: Checkpoint, found: Found, given: dict[str, Given], named: str, tower: str
) -> tuple[Checkpoint, Family]:
    """Find the one family that a checkpoint belongs to, and take away the prefix that its names stand behind."""
    known = families()
    named = named and spelled("family", named, {name: name for name in known})
    fitting: list[tuple[Checkpoint, Family, str]] = []
    towers: list[str] = []
    asked = [known[named]] if named else sorted(known.values(), key=lambda family: not family.holds)
    for family in asked:
        if not tower and any(family.name in whole.holds for _, whole, _ in fitting):
            continue  # its network is a part of one that was found
        several = [
            (stripped, reason)
            for prefix in _prefixes(checkpoint, family.anchors)
            for stripped in _behind(checkpoint, prefix, tower)
            if (reason := family.recognise(source(stripped, found, given)))
        ]
        prefixes = [stripped.wrappers[-1] if stripped is not checkpoint else "" for stripped, _ in several]
        towers += prefixes
        if tower:
            several = [each for each, prefix in zip(several, prefixes, strict=True) if prefix.startswith(f"{tower}.")]
        if len(several) > 1:
            places = ", ".join(prefix or "no prefix" for prefix in prefixes)
            wanted = next(prefix for prefix in prefixes if prefix).rstrip(".")
            raise InputError(
                f"{checkpoint.path} holds {len(several)} networks of the family {family.name}, behind {places}: "
                f"choose one with --tower, as in --tower {wanted}"
            )
        fitting += [(stripped, family, reason) for stripped, reason in several]
    if len(fitting) == 1:
        return fitting[0][:2]
    if tower and not fitting:
        raise InputError(
            f"--tower {tower}: {checkpoint.path} holds no network behind it (those that are there: "
            f"{', '.join(prefix or 'one without a prefix' for prefix in towers) or 'none'})"
        )
    if named and not fitting:
        return checkpoint, known[named]
    for prefix in [] if fitting or tower else _meeting(checkpoint, known.values()):
        checkpoint.behind(prefix)  # says which names meet
    if fitting:
        reasons = "; ".join(f"{family.name} ({reason})" for _, family, reason in fitting)
        raise InputError(f"{checkpoint.path} fits {len(fitting)} families: {reasons}; choose one with --family NAME")
    if any(".lora_" in name for name in checkpoint.tensors):
        raise InputError(f"{checkpoint.path} holds {ON_ANOTHER}")
    example = ", ".join(list(checkpoint.tensors)[:4]) or "no tensors at all"
    raise InputError(
        f"{checkpoint.path} belongs to no family that this tool knows ({', '.join(known)}); "
        f"it holds {len(checkpoint.tensors)} tensors: {example}, ...; an architecture of transformers is traced with "
        "--transformers, a module of your own with --module"
    )


def _prefixes(checkpoint: Checkpoint, anchors: Sequence[str]) -> Iterator[str]:
    """Give what stands before one of the names of which a family always has one; nothing, when no name ends so."""
    found = ((name, name.removesuffix(anchor)) for name in checkpoint.tensors for anchor in anchors)
    prefixes = [prefix for name, prefix in found if prefix != name and prefix[-1:] in ("", ".")]
    yield from dict.fromkeys(prefixes if anchors else [""])


def _meet(checkpoint: Checkpoint, prefix: str) -> bool:
    """Say whether a name would be another tensor's without the prefix."""
    return any(
        n.removeprefix(prefix) in checkpoint.tensors for n in checkpoint.tensors if prefix and n.startswith(prefix)
    )


def _meeting(checkpoint: Checkpoint, known: Iterable[Family]) -> Iterator[str]:
    """Give the prefixes that may be wrappers, but without which names would meet."""
    several = dict.fromkeys(prefix for family in known for prefix in _prefixes(checkpoint, family.anchors))
    yield from (prefix for prefix in several if _meet(checkpoint, prefix))


def _behind(checkpoint: Checkpoint, prefix: str, tower: str) -> Iterator[Checkpoint]:
    """Give the checkpoint without a prefix; none, where names would meet then: it may be no wrapper."""
    if not prefix or tower:
        yield checkpoint.within(prefix) if prefix else checkpoint
    elif not _meet(checkpoint, prefix):
        yield checkpoint.behind(prefix)


def _settled(family: Family, configured: Configured, found: Found, given: dict[str, Given]) -> None:
    """See that nothing that was said is left: neither a field of a document nor an option."""
    for document in found.documents.values():
        if document.read:
            document.finish()
    for place in found.passed:
        if not found.documents[place].read:
            raise InputError(
                f"--config {found.documents[place].origin}: the family {family.name} reads nothing from a {place}"
            )
    fields = dict(dotted(config_to_json(configured.config)))
    for field, each in given.items():
        if field not in fields and field not in configured.options:
            known = ", ".join((*fields, *configured.options))
            raise InputError(f"{each.option}: the family {family.name} has no {field} (fields: {known})")
    missing = fields.keys() ^ configured.origins.keys()
    assert not missing, f"{family.name}: no origin of {missing}"
