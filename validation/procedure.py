"""Procedures: loops over entry points that every Runner runs. Greedy generation: prefill, then decode.

The golden is token ids, to be met exactly, with the margin between the best logit and the second beside each. It ends
before the first token that the reference itself cannot decide: whose margin float32 could cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from . import dims
from .budget import measure
from .cases import prompts
from .domains import PaddingMask, Positions, RandomMask, TokenIds, behind
from .entry_point import EntryPoint, TensorSpec
from .errors import raised
from .goldens import INPUTS, read_arrays
from .kept import valid
from .report import Row
from .runner import Arrays, Runner

FOLDER = "procedures"
"""Beside the goldens of the entry points."""

Entries = Mapping[str, EntryPoint]


@dataclass(frozen=True)
class Greedy:
    """Greedy generation: a prompt through `prefill`, then each best token through `decode`.

    Both give logits; their ids, masks and positions are told by their domains. Where `decode` counts more places than
    the prompt has tokens, something stands before these, such as a picture, and counts. What else `decode` takes is an
    input of `prefill` by the same name, and stays as it is; a mask at random that nobody gives hides nothing. An
    encoder gives no logits: beside what it makes of the prompt, `decode` reads `start` and then all that was chosen.

    Args:
        name: what reports call it.
        prefill: the entry point of the prompt.
        decode: the entry point of one more token.
        caches: input of `decode` -> the output that it is fed with, of `prefill` at first and then of `decode`, or the
            input of `prefill`; what `decode` does not give anew stays as it was at first.
        ends: ids that end a row.
        steps: most tokens that are generated.
        prompt: tokens of the longer prompt.
        before: entry points that make the rest of what `prefill` takes, each of the one before; the first is given.
        forced: the prompt of all rows, if it is always this one.
        suppressed: ids that are never chosen.
        suppressed_first: ids that are not chosen first.
        penalty: what scores of tokens that were said, in the prompt too, are divided by; negative ones are multiplied.
        start: what `decode` begins with where `prefill` is an encoder; None where `prefill` gives logits.
        cut: upstream's own loop takes as many tokens away from the beginning of an answer as the prompt has; that is
            done only where somebody asks for it.
    """

    name: str
    prefill: str
    decode: str
    caches: Mapping[str, str]
    ends: tuple[int, ...] = ()
    steps: int = 8
    prompt: int = 9
    before: tuple[str, ...] = ()
    forced: tuple[int, ...] = ()
    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    penalty: float = 1.0
    start: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class Generated:
    """What was generated.

    Args:
        inputs: the prompt.
        ids: (rows, steps); behind its end a row holds padding.
        margins: (rows, steps), of the best logit over the second; infinite behind the end.
        logits: (steps, rows, classes), of each choice; empty where it was stored.
    """

    inputs: Arrays
    ids: np.ndarray
    margins: np.ndarray
    logits: np.ndarray


def prompt(entries: Entries, greedy: Greedy) -> Arrays:
    """Draw the prompts: two of different length where `decode` has a mask for the padding; and what comes before."""
    mask, ids = entries[greedy.decode].input_of(PaddingMask), _spec(entries[greedy.prefill])
    drawn = prompts(entries[greedy.prefill], mask is not None, greedy.prompt)
    if greedy.forced:
        drawn = {**drawn, ids.name: np.tile(np.array(greedy.forced, ids.dtype), (len(drawn[ids.name]), 1))}
    if not greedy.before:
        return drawn
    made = {spec.name for name in greedy.before for spec in entries[name].outputs}
    first = prompts(entries[greedy.before[0]], False, greedy.prompt)
    return {**first, **{name: array for name, array in drawn.items() if name not in made}}


@dataclass(frozen=True)
class Chosen:
    """What was chosen in one step, by row.

    Args:
        ids: behind its end a row gets padding.
        margins: of the best logit over the second; infinite behind the end.
        logits: (rows, classes), as the network gave them.
        ended: whether the row has ended, with this token or before.
    """

    ids: np.ndarray
    margins: np.ndarray
    logits: np.ndarray
    ended: np.ndarray


def generate(runner: Runner, entries: Entries, greedy: Greedy, inputs: Arrays, steps: int) -> Generated:
    """Generate token after token, each by the runner's own choice, until each row has ended."""
    found = list(islice(chosen(runner, entries, greedy, inputs), steps))
    ids, margins = (np.stack([getattr(each, name) for each in found], 1) for name in ("ids", "margins"))
    return Generated(inputs, ids, margins, np.stack([each.logits for each in found]))


def chosen(runner: Runner, entries: Entries, greedy: Greedy, inputs: Arrays) -> Iterator[Chosen]:
    """Choose token after token, each when it is asked for, until each row has ended."""
    prefill, decode = entries[greedy.prefill], entries[greedy.decode]
    ids, given = _ids(prefill), dict(inputs)
    for name in greedy.before:
        given |= runner.run(name, {spec.name: given[spec.name] for spec in entries[name].inputs})
    counts = _counts(prefill, given)
    outputs = runner.run(prefill.name, {spec.name: given[spec.name] for spec in prefill.inputs})
    state = {**given, **outputs}

    def step(text: np.ndarray, counts: np.ndarray) -> np.ndarray:
        fed = _fed(decode, greedy, given, state, text, counts)
        outputs = runner.run(decode.name, fed)
        state.update(outputs)
        return _last(decode, fed, outputs)

    whole = greedy.start is not None
    said = given[_spec(prefill).name]
    said = np.where(counts, said, said[np.arange(len(said)), np.argmax(counts, 1)][:, None])
    if whole:
        text, counts = np.full((len(counts), 1), greedy.start), np.ones((len(counts), 1), bool)
        scores, said = step(text, counts), text
    else:
        scores = _last(prefill, given, outputs)
    ended, first = np.zeros(len(counts), bool), True
    while True:
        best, margin = _best(_allowed(scores, greedy, said, first=first))
        best, first = np.where(ended, ids.pad, best), False
        before, ended = ended, ended | np.isin(best, greedy.ends)
        yield Chosen(best, np.where(before, np.inf, margin), scores, ended)
        if ended.all():
            return
        said = np.concatenate([said, best[:, None]], axis=1)
        text = said if whole else best[:, None]
        counts = np.concatenate([counts, np.ones((len(counts), 1), bool)], axis=1)
        scores = step(text, counts)


def _allowed(logits: np.ndarray, greedy: Greedy, said: np.ndarray, *, first: bool) -> np.ndarray:
    """Take away what may not be chosen, and lower what was said already, (rows, classes)."""
    never = [*greedy.suppressed, *(greedy.suppressed_first if first else ())]
    if not never and greedy.penalty == 1.0:
        return logits
    allowed = logits.copy()
    allowed[:, never] = -np.inf
    if greedy.penalty != 1.0:
        old = np.take_along_axis(logits, said, 1)
        lowered = np.where(old < 0, old * greedy.penalty, old / greedy.penalty)
        np.put_along_axis(allowed, said, lowered, 1)
    return allowed


def _spec(entry: EntryPoint) -> TensorSpec:
    spec = entry.input_of(TokenIds)
    if spec is None:
        raise ValueError(f"{entry.name} takes no TokenIds: greedy generation cannot feed it")
    return spec


def _ids(entry: EntryPoint) -> TokenIds:
    domain = _spec(entry).domain
    assert isinstance(domain, TokenIds)
    return domain


def _counts(entry: EntryPoint, inputs: Arrays) -> np.ndarray:
    """Say which tokens of the prompt count, (rows, tokens)."""
    spec = entry.input_of(PaddingMask)
    if spec is not None and isinstance(spec.domain, PaddingMask):
        return inputs[spec.name].astype(bool) != spec.domain.inverted
    ids = entry.input_of(TokenIds)
    assert ids
    return np.ones(inputs[ids.name].shape, bool)


def _last(entry: EntryPoint, inputs: Arrays, outputs: Arrays) -> np.ndarray:
    """Give the logits of each row's last token that counts, (rows, classes)."""
    spec = next((spec for spec in entry.outputs if spec.kind.distributions), None)
    if spec is None:
        raise ValueError(f"{entry.name} gives no Logits: nothing can be chosen by them")
    logits = outputs[spec.name]
    if logits.ndim == 2:
        return logits
    counts = valid(spec, inputs, logits.shape)
    if counts is None:
        return logits[:, -1]
    last = logits.shape[1] - 1 - np.argmax(counts[:, ::-1], axis=1)
    return logits[np.arange(len(logits)), last]


def _best(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    best = np.argmax(logits, axis=1)
    two = np.partition(logits, -2, axis=1)[:, -2:]
    return best, (two[:, 1] - two[:, 0]).astype(np.float64)


def _fed(
    decode: EntryPoint, greedy: Greedy, inputs: Arrays, state: Arrays, text: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    """Make the inputs of a step that reads the ids `text`; `mask` says which tokens so far count."""
    ids = decode.input_of(TokenIds)
    assert ids
    fed: dict[str, np.ndarray] = {ids.name: text.astype(ids.dtype)}
    fed |= {name: state[output] for name, output in greedy.caches.items()}
    known = [spec for spec in decode.inputs if spec.name in fed]
    sizes = dims.sizes_of((spec.shape, fed[spec.name].shape) for spec in known)
    counts: dict[str, np.ndarray] = {}
    for spec in decode.inputs:
        if isinstance(spec.domain, PaddingMask) and spec.domain.ids == ids.name:
            size = dims.size(spec.shape[-1], sizes)
            counts[spec.name] = behind(mask, size)[:, max(mask.shape[1] - size, 0) :]
            fed[spec.name] = (counts[spec.name] != spec.domain.inverted).astype(spec.dtype)
    for spec in decode.inputs:
        if spec.name not in fed:
            fed[spec.name] = _other(decode, spec, inputs, counts, sizes)
    return {spec.name: fed[spec.name] for spec in decode.inputs}


def _other(
    decode: EntryPoint, spec: TensorSpec, inputs: Arrays, counts: Arrays, sizes: Mapping[str, int]
) -> np.ndarray:
    if isinstance(spec.domain, Positions) and spec.domain.mask in counts:
        return spec.domain.of(counts[spec.domain.mask], 1).astype(spec.dtype)
    if spec.name not in inputs and isinstance(spec.domain, RandomMask):  # nothing is hidden
        return np.full(spec.resolve(sizes), not spec.domain.inverted, spec.dtype)
    if spec.name not in inputs:
        raise ValueError(f"{decode.name} takes {spec.name}, which no cache fills and prefill does not take")
    return inputs[spec.name]


def record(exact: Runner, float32: Runner, entries: Entries, greedy: Greedy) -> Generated:
    """Generate by the reference in float64, as far as float32 could not have chosen otherwise."""
    inputs = prompt(entries, greedy)
    wanted, other = (generate(each, entries, greedy, inputs, greedy.steps) for each in (exact, float32))
    certain = 0
    for step in range(min(wanted.ids.shape[1], other.ids.shape[1])):
        allowed = measure(wanted.logits[step], other.logits[step]).allowed
        same = np.array_equal(wanted.ids[:, step], other.ids[:, step])
        if not same or wanted.margins[:, step].min() <= 2 * allowed:
            break
        certain = step + 1
    return Generated(inputs, wanted.ids[:, :certain], wanted.margins[:, :certain], wanted.logits[:certain])


def write(folder: Path, greedy: Greedy, generated: Generated) -> None:
    """Write what was generated below the goldens in `folder`."""
    arrays = {INPUTS + name: array for name, array in generated.inputs.items()}
    arrays |= {"ids": generated.ids.astype(np.int64), "margins": generated.margins}
    (folder / FOLDER).mkdir(exist_ok=True)
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    (folder / FOLDER / f"{greedy.name}.safetensors").write_bytes(save(contiguous))


def read(folder: Path, greedy: Greedy) -> Generated:
    """Read what `write` wrote.

    Raises:
        InputError: it is missing or altered beyond reading.
    """
    arrays = read_arrays(folder / FOLDER / f"{greedy.name}.safetensors")
    inputs = {name.removeprefix(INPUTS): array for name, array in arrays.items() if name.startswith(INPUTS)}
    none = np.zeros((0, 0))
    return Generated(inputs, arrays.get("ids", none), arrays.get("margins", none), np.zeros((0, 0, 0)))


def problems(entries: Entries, greedy: Greedy, golden: Generated, alike: bool = True) -> Iterator[str]:
    """Say what a golden cannot prove: other prompts than those that are drawn, or no token that is certain."""
    for name, array in prompt(entries, greedy).items():
        stored = golden.inputs.get(name)
        if stored is None or (stored.shape, stored.dtype) != (array.shape, array.dtype):
            form = "missing" if stored is None else f"{stored.dtype} {stored.shape}"
            yield f"{greedy.name}: {name} is {form}, expected {array.dtype} {array.shape}"
        elif alike and not np.array_equal(stored, array):
            yield f"{greedy.name}: {name} holds other numbers than are drawn"
    rows = len(next(iter(golden.inputs.values()), ()))
    if golden.ids.shape[:1] != (rows,) or golden.ids.shape != golden.margins.shape:
        yield f"{greedy.name}: the ids are of shape {golden.ids.shape}, the margins of {golden.margins.shape}"
    elif golden.ids.shape[1] == 0:
        yield f"{greedy.name}: no token is certain: float32 and float64 do not choose the same one"
    elif golden.margins.min() <= 0:
        yield f"{greedy.name}: a token has the margin {golden.margins.min():.3g} over the next: it was not chosen"


def judge(runner: Runner, entries: Entries, greedy: Greedy, golden: Generated, steps: int) -> Row:
    """Generate as many tokens as a golden has, `steps` at most, and compare the ids."""
    steps = min(steps, golden.ids.shape[1])
    place = (greedy.name, f"greedy generation, {steps} tokens", "ids")
    try:
        found = generate(runner, entries, greedy, golden.inputs, steps)
    except Exception as error:
        return Row(*place, False, raised(error))
    return Row(*place, not (problem := _parts(found.ids, golden, steps)), problem)


def judge_rounded(
    runner: Runner,
    float32: tuple[Runner, Runner],
    entries: Entries,
    greedy: Greedy,
    golden: Generated,
    steps: int,
    room: float,
) -> Row | None:
    """Judge a program in smaller numbers by the tokens that rounding could not have chosen otherwise.

    Args:
        runner: the program.
        float32: the same network in float32, exact and on weights that rounding has moved.
        entries: by name.
        greedy: what is generated.
        golden: what the reference generates.
        steps: most tokens.
        room: how many times as far as the moved weights the program may move a logit.

    Returns:
        None where not even the first token leads by more than rounding may cost.
    """
    steps = min(steps, golden.ids.shape[1])
    exact, moved = (generate(each, entries, greedy, golden.inputs, steps) for each in float32)
    certain = 0
    for step in range(min(exact.ids.shape[1], moved.ids.shape[1])):
        cost = float(np.max(np.abs(exact.logits[step].astype(np.float64) - moved.logits[step])))
        same = all(np.array_equal(each.ids[:, step], golden.ids[:, step]) for each in (exact, moved))
        if not same or golden.margins[:, step].min() <= 2 * room * cost:
            break
        certain = step + 1
    return judge(runner, entries, greedy, golden, certain) if certain else None


def _parts(found: np.ndarray, golden: Generated, steps: int) -> str:
    """Say at which token another one was chosen."""
    got: Sequence[Sequence[int]] = found.tolist()
    for step in range(steps):
        for row, want in enumerate(golden.ids[:, step].tolist()):
            have = got[row][step] if step < len(got[row]) else None
            if have != want:
                margin = golden.margins[row, step]
                return f"token {step} of row {row} is {have}, expected {want} (which leads by {margin:.3g})"
    return ""
