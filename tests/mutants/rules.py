"""Mistakes in the rules: lost, doubled, dropped, swapped, wrongly laid out."""

import dataclasses
import itertools
import re
from collections.abc import Iterator

from bgevis.model import layout
from bgevis.model.family import Drop, Rule, Rules

from .bench import Bench, Mutant

WORDS = re.compile(r"\{(\w+):([^}*]*)\}")


def mutants(bench: Bench) -> Iterator[Mutant]:
    """Give every mistake in one rule, and every pair of rules with their targets swapped."""
    rules = expand(bench.rules)
    for rule in rules:
        rest = tuple(r for r in rules if r is not rule)
        if any(assigned(bench, rule)):
            yield _mutant(bench, "rule lost", rule.source, rest)
            yield _mutant(bench, "rule doubled", rule.source, (*rules, dataclasses.replace(rule)))
        if isinstance(rule, Rule):
            yield _mutant(bench, "rule made a drop", rule.source, (*rest, Drop(rule.source, "mistaken")))
            for text in other_layouts(bench, rule):
                changed = dataclasses.replace(rule, layout=text)
                yield _mutant(bench, "layout", f"{rule.target}: {text}", replaced(rules, rule, changed))
    used = [rule for rule in rules if isinstance(rule, Rule) and any(assigned(bench, rule))]
    for one, other in itertools.combinations(used, 2):
        swapped = replaced(rules, one, dataclasses.replace(one, target=other.target))
        swapped = replaced(swapped, other, dataclasses.replace(other, target=one.target))
        yield _mutant(bench, "rules swapped", f"{one.target} with {other.target}", swapped)


def _mutant(bench: Bench, group: str, name: str, rules: Rules) -> Mutant:
    return Mutant(group, f"{bench.variant}: {name}", lambda: bench.with_rules(rules))


def expand(rules: Rules) -> Rules:
    """Write a rule for several words as one rule for each."""
    several: list = []
    for rule in rules:
        found = WORDS.search(rule.source)
        if found is None:
            several.append(rule)
            continue
        name, words = found.groups()
        for word in words.split("|"):
            source = rule.source.replace(found[0], word)
            several.append(
                dataclasses.replace(rule, source=source, target=re.sub(rf"\{{{name}[^}}]*\}}", word, rule.target))
            )
    return tuple(several)


def assigned(bench: Bench, rule) -> Iterator[str]:
    """Give the tensors that a rule claims."""
    from bgevis.converter.certificate.assign import assign

    return iter(assign(bench.checkpoint.tensors, (rule,), ()).entries)


def replaced(rules: Rules, old, new) -> Rules:
    """Put a rule in another's place."""
    return tuple(new if rule.source == old.source else rule for rule in rules)


def other_layouts(bench: Bench, rule: Rule) -> Iterator[str]:
    """Give every other reading of the source's axes, in any order and grouping, that moves elements differently."""
    right, sizes = layout.parse(rule.layout), bench.family.axis_sizes(bench.config)
    axes = [axis for group in right.source for axis in group]
    seen = [right.positions(sizes).tobytes()]
    for order in itertools.permutations(axes):
        for lengths in sorted(set(itertools.permutations([len(group) for group in right.source]))):
            names = iter(order)
            groups = tuple(tuple(itertools.islice(names, length)) for length in lengths)
            wrong = layout.Layout(groups, right.target)
            if str(wrong) == str(right):
                continue
            positions = wrong.positions(sizes).tobytes()
            if positions not in seen:
                seen.append(positions)
                yield str(wrong)
