"""Names -> ledger: what becomes of every tensor of a checkpoint, by the family's rules, before any weight is read."""

import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ...model.derived import LowRank, Made, Part
from ...model.family import FIELD, Drop, Merge, Rule, Rules, Split, Tie, pattern
from .ledger import Entry

Word = Rule | Tie | Drop | Split | Merge
ROLES = ("base", "A", "B", "lengths")


@dataclass(frozen=True)
class Assignment:
    """What the rules say: one entry per tensor that a rule knows, and everything that is wrong, all at once."""

    entries: Mapping[str, Entry]
    problems: tuple[str, ...]


def assign(names: Iterable[str], rules: Rules, leaves: Iterable[str]) -> Assignment:
    """Give each tensor its fate, and hold the result against the model's leaves.

    Tensors that are split or merged give derived ones, whose names go through the rules as those of the checkpoint do.

    Checked here: each tensor is known to exactly one rule, each leaf is filled exactly once, each tie has its
    target, each merge its ingredients and its scale, and each rule was of use (a drop rule may be idle: it names
    what a checkpoint may hold).
    """
    found = _Assigning(rules, dict.fromkeys(names))
    for name in found.waiting:
        found.assign(name)
    problems = [*found.problems, *found.unmerged()]
    problems += _check_targets(found.entries, set(leaves), rules)
    problems += [
        f"rule {_told(rule)}: matches no tensor of the checkpoint"
        for rule in rules
        if rule not in found.used and isinstance(rule, (Rule, Split, Merge))
    ]
    return Assignment(found.entries, tuple(problems))


@dataclass
class _Assigning:
    """Names on their way through the rules; derived ones join the end of `waiting`, so that it grows meanwhile."""

    rules: Rules
    known: dict[str, None]
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    used: set[Word] = field(default_factory=set)
    made: dict[str, Made] = field(default_factory=dict)
    merges: dict[tuple[Merge, str], dict[str, str]] = field(default_factory=dict)
    """Merge and the name that it makes -> the ingredients that are there, by role."""

    def __post_init__(self) -> None:
        self.waiting = list(self.known)

    def assign(self, name: str) -> None:
        """Find the one rule of a name and do what it says."""
        matches = list(_matches(name, self.rules))
        self.used |= {rule for rule, _, _ in matches}
        if not matches:
            whose = f", which {self.made[name].ingredients[0]} gives" if name in self.made else ""
            self.problems.append(f"tensor {name}{whose}: no rule of the family knows it; it would be lost")
            return
        if len(matches) > 1:
            sources = ", ".join(_patterns(rule)[role] for rule, role, _ in matches)
            self.problems.append(f"tensor {name}: claimed by {len(matches)} rules: {sources}")
            return
        rule, role, fields = matches[0]
        self.entries[name] = replace(_entry(rule, role, fields), made=self.made.get(name))
        if isinstance(rule, Split):
            extents = rule.extents or ("",) * len(rule.targets)
            for index, target in enumerate(rule.targets):
                self._derive(_filled(target, fields), Part(name, index, rule.layout, rule.axis, extents))
        elif isinstance(rule, Merge):
            self._merge(rule, role, name, _filled(rule.target, fields))

    def _derive(self, name: str, made: Made) -> None:
        if name in self.known:
            self.problems.append(f"tensor {name}: {made.ingredients[0]} would give it, but it is there already")
            return
        self.known[name] = None
        self.made[name] = made
        self.waiting.append(name)

    def _merge(self, rule: Merge, role: str, name: str, target: str) -> None:
        """Note an ingredient; the last one that comes makes the merged tensor."""
        there = self.merges.setdefault((rule, target), {})
        if role in there:
            self.problems.append(f"tensor {name}: {there[role]} is already the {role} of {target}")
            return
        there[role] = name
        if len(there) < len(_patterns(rule)):
            return
        base, a, b = (there[role] for role in ROLES[:3])
        if rule.alpha is None:
            self.problems.append(
                f"tensor {target}: the configuration does not state alpha, so the scale of {b} · {a} is unknown; "
                "give the adapter's configuration with --config"
            )
        more = rule.dtype, there.get("lengths", ""), rule.lengths
        self._derive(target, LowRank(base, a, b, rule.layouts, rule.alpha or 0.0, rule.rslora, *more))

    def unmerged(self) -> Iterator[str]:
        """Say which ingredients are missing."""
        for (rule, target), there in self.merges.items():
            for role, source in _patterns(rule).items():
                if role not in there:
                    held = ", ".join(there.values())
                    yield f"tensor {target}: cannot be merged: the checkpoint has {held}, but no {role} ({source})"


def _matches(name: str, rules: Rules) -> Iterator[tuple[Word, str, Mapping[str, str]]]:
    """Give the rules that know a name, with its role for the rule, and the fields in the name."""
    for rule in rules:
        for role, source in _patterns(rule).items():
            match = pattern(source).fullmatch(name)
            if match:
                yield rule, role, match.groupdict()


@functools.cache
def _patterns(rule: Word) -> Mapping[str, str]:
    """Give the names that a rule knows, by their roles for it."""
    if not isinstance(rule, Merge):
        return {"": rule.source}
    lengths = [rule.magnitude] if rule.magnitude else []
    return dict(zip(ROLES, (rule.source, rule.a, rule.b, *lengths), strict=False))


def _filled(target: str, fields: Mapping[str, str]) -> str:
    return FIELD.sub(lambda field: fields[field[1]], target)


def _told(rule: Rule | Split | Merge) -> str:
    if isinstance(rule, Merge):
        return f"{rule.source} + {rule.b} · {rule.a} -> {rule.target}"
    return f"{rule.source} -> {rule.target if isinstance(rule, Rule) else ' | '.join(rule.targets)}"


def _entry(rule: Word, role: str, fields: Mapping[str, str]) -> Entry:
    match rule:
        case Drop():
            return Entry("dropped", rule=rule.source, reason=rule.reason)
        case Tie():
            return Entry("tied", rule=rule.source, target=_filled(rule.target, fields), reason=rule.reason)
        case Rule():
            return Entry("mapped", rule=_told(rule), target=_filled(rule.target, fields), layout=rule.layout)
        case Split():
            return Entry("split", rule=_told(rule), layout=rule.layout)
        case Merge():
            target, layout = _filled(rule.target, fields), (*rule.layouts, rule.lengths)[ROLES.index(role)]
            return Entry("merged", rule=_told(rule), target=target, layout=layout)


def tied(names: Iterable[str], rules: Rules) -> Iterator[tuple[Tie, str]]:
    """Give the ties that names take part in, each with the name."""
    for rule in (rule for rule in rules if isinstance(rule, Tie)):
        for name in names:
            if pattern(rule.source).fullmatch(name) or pattern(rule.target).fullmatch(name):
                yield rule, name


def _check_targets(entries: Mapping[str, Entry], leaves: set[str], rules: Rules) -> Iterator[str]:
    sources: dict[str, list[str]] = {}
    for name, entry in entries.items():
        if entry.status == "mapped":
            sources.setdefault(entry.target, []).append(name)
        elif entry.status == "tied" and entries.get(entry.target, entry).status not in ("mapped", "split"):
            yield f"tensor {name}: tied to {entry.target}, which the checkpoint does not hold as a mapped tensor"
    for leaf in sorted(leaves - set(sources)):
        expected = _expected(leaf, rules)
        yield f"parameter {leaf}: no tensor of the checkpoint fills it" + (f"; {expected} would" if expected else "")
    for leaf, filling in sources.items():
        if leaf not in leaves:
            yield f"tensor {filling[0]}: its rule targets {leaf}, which the model does not have"
        if len(filling) > 1:
            yield f"parameter {leaf}: filled {len(filling)} times, by {', '.join(filling)}"


def _expected(leaf: str, rules: Rules) -> str:
    """Name the tensor that would fill a leaf, in the first spelling that a rule knows; "" if no rule does."""
    for rule in (rule for rule in rules if isinstance(rule, Rule)):
        if match := pattern(_as_in_source(rule)).fullmatch(leaf):
            return _named(rule.source, match.groupdict())
    return ""


def _as_in_source(rule: Rule) -> str:
    """Write a rule's target with the words that its fields may be, which only its source says."""
    words = {field[1]: field[0] for field in FIELD.finditer(rule.source)}
    return FIELD.sub(lambda field: words.get(field[1], field[0]), rule.target)


def _named(source: str, fields: Mapping[str, str]) -> str:
    """Fill a source; what no field says is its first word."""
    return FIELD.sub(lambda field: fields.get(field[1]) or (field[2] or "").split("|")[0], source)
