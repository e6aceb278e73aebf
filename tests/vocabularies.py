"""Lists of words as long as a tiny network's: a tokenizer of far fewer tokens than its network is refused."""

from collections.abc import Sequence

TINY = 300
"""Tokens of the networks of the size `tiny`."""


def filled(words: Sequence[str], size: int = TINY) -> list[str]:
    """Give words, and after them as many that no text has as make `size`."""
    return [*words, *(f"[unused{i}]" for i in range(size - len(words)))]
