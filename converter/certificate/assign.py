"""Names -> ledger: what becomes of every tensor of a checkpoint, by the family's rules, before any weight is read."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...model.family import Drop, Rule, Rules, Tie
from .ledger import Entry

FIELD = re.compile(r"\{(\w*)(?::([^}]*))?\}")


@dataclass(frozen=True)
class Assignment:
    """What the rules say: one entry per tensor that a rule knows, and everything that is wrong, all at once."""

    entries: Mapping[str, Entry]
    problems: tuple[str, ...]


def assign(names: Iterable[str], rules: Rules, leaves: Iterable[str]) -> Assignment:
    """Give each tensor its fate, and hold the result against the model's leaves.

    Checked here: each tensor is known to exactly one rule, each leaf is filled exactly once, each tie has its
    target, and each rule was of use (a drop rule may be idle: it names what a checkpoint may hold).
    """
    names, leaves = list(names), set(leaves)
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    used: set[Rule | Tie | Drop] = set()
    for name in names:
        matches = list(_matches(name, rules))
        used |= {rule for rule, _ in matches}
        if not matches:
            problems.append(f"tensor {name}: no rule of the family knows it; it would be lost")
        elif len(matches) > 1:
            sources = ", ".join(rule.source for rule, _ in matches)
            problems.append(f"tensor {name}: claimed by {len(matches)} rules: {sources}")
        else:
            entries[name] = _entry(*matches[0])
    problems += _check_targets(entries, leaves)
    problems += [
        f"rule {rule.source} -> {rule.target}: matches no tensor of the checkpoint"
        for rule in rules
        if rule not in used and isinstance(rule, Rule)
    ]
    return Assignment(entries, tuple(problems))


def _matches(name: str, rules: Rules) -> Iterator[tuple[Rule | Tie | Drop, Mapping[str, str]]]:
    for rule in rules:
        match = _pattern(rule.source).fullmatch(name)
        if match:
            yield rule, match.groupdict()


def _entry(rule: Rule | Tie | Drop, fields: Mapping[str, str]) -> Entry:
    if isinstance(rule, Drop):
        return Entry("dropped", rule=rule.source, reason=rule.reason)
    target = FIELD.sub(lambda field: fields[field[1]], rule.target)
    if isinstance(rule, Tie):
        return Entry("tied", rule=rule.source, target=target, reason=rule.reason)
    return Entry("mapped", rule=f"{rule.source} -> {rule.target}", target=target, layout=rule.layout)


def _check_targets(entries: Mapping[str, Entry], leaves: set[str]) -> Iterator[str]:
    sources: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if entry.status == "mapped":
            sources.setdefault(entry.target, []).append(name)
        elif entry.status == "tied" and entries.get(entry.target, entry).status != "mapped":
            yield f"tensor {name}: tied to {entry.target}, which the checkpoint does not hold as a mapped tensor"
    for leaf in sorted(leaves - set(sources)):
        yield f"parameter {leaf}: no tensor of the checkpoint fills it"
    for leaf, filling in sources.items():
        if leaf not in leaves:
            yield f"tensor {filling[0]}: its rule targets {leaf}, which the model does not have"
        if len(filling) > 1:
            yield f"parameter {leaf}: filled {len(filling)} times, by {', '.join(filling)}"


@functools.cache
def _pattern(source: str) -> re.Pattern[str]:
    """Compile a rule's source: literal text, and fields as `model/family.py` describes them."""
    parts: list[str] = []
    end = 0
    for field in FIELD.finditer(source):
        parts.append(re.escape(source[end : field.start()]))
        name, words = field[1], field[2]
        pattern = r"\d+" if words is None else ".*" if words == "*" else "|".join(map(re.escape, words.split("|")))
        parts.append(f"(?P<{name}>{pattern})" if name else f"(?:{pattern})")
        end = field.end()
    parts.append(re.escape(source[end:]))
    return re.compile("".join(parts))
