"""Texts that go on: token after token by a network's programs, greedily, as its procedure states it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ...model.family import Config, Family
from ...validation.domains import Positions
from ...validation.entry_point import EntryPoint, TensorSpec
from ...validation.errors import InputError
from ...validation.procedure import Chosen, Greedy, chosen
from ...validation.runner import Runner
from ..pack.preprocessor import Preprocessor
from ..printable import digits, printable

BROKEN = "\ufffd"
"""What the bytes of a character are decoded to before its last token is there."""


@dataclass(frozen=True)
class Completion:
    """What a text goes on with.

    Args:
        text: of it, special tokens left out.
        ids: its tokens, the end left out.
        margins: by how much each token's score leads over the next.
        ended: whether the network ended it; else it was long enough.
    """

    text: str
    ids: tuple[int, ...]
    margins: tuple[float, ...]
    ended: bool

    def __str__(self) -> str:
        return self.text


class Generator:
    """Greedy generation by a network's programs.

    Args:
        runner: runs them.
        family: of the network.
        config: of the network.
        preprocessor: makes ids of texts, and texts of ids.
        called: what messages call the network.
        ends: ids that end a text, in the place of those that its documents name.

    Raises:
        InputError: the network makes no texts of texts.
    """

    def __init__(
        self,
        runner: Runner,
        family: Family,
        config: Config,
        preprocessor: Preprocessor,
        called: str,
        ends: Sequence[int] | None,
    ):
        self.entries: Mapping[str, EntryPoint] = {entry.name: entry for entry in family.entry_points(config)}
        # Of sounds are made what `transcribe` says.
        texts = preprocessor.rules.get("texts")
        loops = [loop for loop in family.procedures(config) if texts or not loop.before]
        if not loops:
            raise InputError(f"{called}: this network makes no texts (it has no procedure of greedy generation)")
        self.greedy: Greedy = loops[0] if ends is None else replace(loops[0], ends=tuple(ends))
        self.runner, self.texts = runner, preprocessor.texts
        reading, writing = self.entries[self.greedy.prefill], self.entries[self.greedy.decode]
        self.prompt_limit = _tokens(reading)
        self.limit = _tokens(writing) if self.greedy.start is not None else self.prompt_limit
        self.picture: TensorSpec | None = None
        """What takes a picture's tokens, where the network reads one before each text."""
        if self.greedy.before:
            (self.picture,) = self.entries[self.greedy.before[0]].inputs
            self.limit = writing.axes["past"].high

    def ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """Give the ids of prompts.

        Raises:
            InputError: one has no token, or leaves no room for another.
        """
        name, before = self.greedy.prefill, self.texts.prompt()
        found, cut = self.texts.ids_and_cut(name, prompts, before)
        longest = self.texts.rules["max_tokens"][name]
        for at, row in enumerate(found):
            if at in cut:
                raise InputError(f"prompt {at} is longer than {longest} tokens, which the network reads; shorten it")
            if not row:
                raise InputError(f"prompt {at} is empty: a text goes on from at least one token")
        return found

    def steps(self, ids: Sequence[Sequence[int]], most: int, pictures: Sequence[np.ndarray] = ()) -> Iterator[Chosen]:
        """Choose token after token for some prompts together, `most` at most."""
        given = self.texts.padded(ids)
        longest = 1 if self.greedy.start is not None else max(map(len, ids))
        if self.picture:
            longest += len(pictures[0])
            given |= self._seen(given, np.stack(pictures), longest)
        if self.limit is not None:
            most = min(most, self.limit - longest + 1)
        return islice(chosen(self.runner, self.entries, self.greedy, given), most)

    def _seen(self, given: dict[str, np.ndarray], pictures: np.ndarray, places: int) -> dict[str, np.ndarray]:
        """Give the pictures' tokens, (rows, places, width), and the positions of these and of the texts.

        Raises:
            InputError: picture and text have more places together than the network reads.
        """
        assert self.picture
        if self.limit is not None and places > self.limit:
            raise InputError(f"picture and prompt have {places} tokens together; the network reads {self.limit}")
        made = {self.picture.name: pictures}
        for spec in self.entries[self.greedy.prefill].inputs:
            if isinstance(spec.domain, Positions):
                made[spec.name] = spec.domain.of(given[spec.domain.mask], places).astype(spec.dtype)
        return made

    def completed(
        self,
        ids: Sequence[Sequence[int]],
        most: int,
        pictures: Sequence[np.ndarray] = (),
        *,
        upstream_cut: bool = False,
    ) -> list[Completion]:
        """Go on with some prompts together.

        Args:
            ids: of the prompts; after pictures, all are equally long: padding would be read.
            most: tokens of each.
            pictures: tokens of a picture before each.
            upstream_cut: leave out as many tokens of an answer as its prompt has, as upstream's own loop does.
        """
        steps = list(self.steps(ids, most, pictures))
        found = []
        for row in range(len(ids)):
            own = [(int(step.ids[row]), float(step.margins[row]), bool(step.ended[row])) for step in steps]
            count = next((at for at, (*_, ended) in enumerate(own) if ended), len(own))
            first = len(ids[row]) if upstream_cut else 0
            tokens = [token for token, *_ in own[first:count]]
            margins = tuple(margin for _, margin, _ in own[first:count])
            found.append(Completion(self.texts.text(tokens), tuple(tokens), margins, count < len(own)))
        return found

    def stream(self, prompt: str, most: int) -> Iterator[str]:
        """Give the text that a prompt goes on with, piece by piece, as it is made; whole characters only."""
        tokens: list[int] = []
        told = ""
        for step in self.steps(self.ids([prompt]), most):
            if not step.ended[0]:
                tokens.append(int(step.ids[0]))
            text = self.texts.text(tokens)
            if len(text) > len(told) and not text.endswith(BROKEN):
                yield text[len(told) :]
                told = text
        if len(text := self.texts.text(tokens)) > len(told):
            yield text[len(told) :]


def written(prompt: str, found: Completion, *, as_json: bool) -> str:
    """Write a prompt and what it goes on with for a terminal, or as a line of JSON."""
    if as_json:
        margins = [digits(margin) for margin in found.margins]
        document = {"prompt": prompt, "text": found.text, "ids": found.ids, "margins": margins, "ended": found.ended}
        return json.dumps(document, ensure_ascii=False)
    return printable(prompt + found.text)


def _tokens(entry: EntryPoint) -> int | None:
    """Give the most tokens that an entry point takes; None where nothing bounds them."""
    axis = entry.axes.get("tokens")
    return axis.high if axis else None
