"""The checkpoint's tensors and those that are made of them, by name, one in memory at a time."""

from typing import TYPE_CHECKING

import numpy as np

from .ledger import Ledger

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


class Tensors:
    """Reads what a ledger names: behind it nobody need know which tensors the checkpoint holds itself."""

    def __init__(self, checkpoint: "Checkpoint", ledger: Ledger):
        self._checkpoint, self._axes = checkpoint, ledger.axes
        self._made = dict(ledger.derived())

    def read(self, name: str) -> np.ndarray:
        """Give a tensor: a view of the file, or made anew of its ingredients."""
        if name not in self._made:
            return self._checkpoint.read(name)
        made = self._made[name]
        return made.make({ingredient: self.read(ingredient) for ingredient in made.ingredients}, self._axes)

    def release(self, name: str) -> None:
        """Drop a tensor's pages, or those of its ingredients, from this process."""
        if name not in self._made:
            self._checkpoint.release(name)
            return
        for ingredient in self._made[name].ingredients:
            self.release(ingredient)
