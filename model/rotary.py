"""Rotary positions: the angles by which queries and keys are turned, and the words in which config.json states them.

Source: Su et al. 2021 (arXiv:2104.09864); rope types as transformers 5.24 computes them (modeling_rope_utils.py).
Nothing is trained: the frequencies follow from a few numbers, and stand in a program as a constant.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.errors import InputError
from .documents import Document, Settled, shown

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

THETA = 10000.0
"""What transformers takes where no document says it."""

TYPES = ("default", "linear", "yarn", "llama3")
"""Of which the frequencies are the same for every text; "dynamic" and "longrope" change them with its length."""


@dataclass(frozen=True)
class Rope:
    """How far a token is turned for each place that it stands further on.

    Args:
        theta: the base: the k-th of n pairs turns by theta^(-k/n) a place.
        rope_type: one of `TYPES`: what is done to that for texts longer than those of the first training.
        factor: how many times as long.
        original: the longest text of the first training; for yarn and llama3.
        attention_factor: what cosines and sines are multiplied by; of yarn.
        beta_fast: turns within `original` from which on a pair keeps its frequency; of yarn.
        beta_slow: turns up to which it is slowed by the whole factor; of yarn.
        truncate: whether the pairs between which it changes are whole numbers; of yarn.
        low_freq_factor: wavelengths longer than `original` by it are slowed by the whole factor; of llama3.
        high_freq_factor: those shorter than `original` by it are not slowed; of llama3.
    """

    theta: float = THETA
    rope_type: str = "default"
    factor: float = 1.0
    original: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0

    def to_json(self) -> dict[str, Any]:
        """Give `rope_parameters` of a config.json."""
        stated: dict[str, Any] = {"rope_theta": self.theta, "rope_type": self.rope_type}
        if self.rope_type != "default":
            stated["factor"] = self.factor
        if self.rope_type in ("yarn", "llama3"):
            stated["original_max_position_embeddings"] = self.original
        if self.rope_type == "yarn":
            for name in ("attention_factor", "beta_fast", "beta_slow", "truncate"):
                stated[name] = getattr(self, name)
        if self.rope_type == "llama3":
            stated |= {"low_freq_factor": self.low_freq_factor, "high_freq_factor": self.high_freq_factor}
        return stated

    def frequencies(self, width: int) -> np.ndarray:
        """Give the angle of each pair for one place, (width / 2,) float32.

        Upstream computes them in float32 on whatever device it runs, which rounds powers in its own way; here each
        step is rounded correctly.
        """
        exponents = (np.arange(0, width, 2, dtype=np.float32) / np.float32(width)).astype(np.float64)
        turns = (np.float32(1) / np.power(float(self.theta), exponents).astype(np.float32)).astype(np.float32)
        if self.rope_type == "linear":
            return turns / np.float32(self.factor)
        if self.rope_type == "yarn":
            return self._yarn(turns, width)
        return self._llama3(turns) if self.rope_type == "llama3" else turns

    def _yarn(self, turns: np.ndarray, width: int) -> np.ndarray:
        """Slow the slow pairs and keep the fast ones (Peng et al. 2023, arXiv:2309.00071)."""

        def pair(rotations: float) -> float:
            """Give the pair that turns so many times within the longest text of the first training."""
            return width * math.log(self.original / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        high += 0.001 if low == high else 0
        ramp = ((np.arange(width // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)).clip(0, 1)
        kept = np.float32(1) - ramp
        slowed = np.float32(1) / (np.float32(self.factor) * (np.float32(1) / turns))
        return slowed * (np.float32(1) - kept) + turns * kept

    def _llama3(self, turns: np.ndarray) -> np.ndarray:
        """Slow what is longer than the first training's texts, and what is between them by a share (Llama 3.1)."""
        lengths = np.float32(2 * math.pi) / turns
        longest, shortest = self.original / self.low_freq_factor, self.original / self.high_freq_factor
        slowed = np.where(lengths > longest, turns / np.float32(self.factor), turns)
        share = (np.float32(self.original) / lengths - np.float32(self.low_freq_factor)) / np.float32(
            self.high_freq_factor - self.low_freq_factor
        )
        between = (np.float32(1) - share) * slowed / np.float32(self.factor) + share * slowed
        return np.where((lengths >= shortest) & (lengths <= longest), between, slowed).astype(np.float32)


def settle_rope(settled: Settled, document: Document | None, positions: int) -> Rope:
    """Settle the fields of `Rope`, whichever of its places config.json has them in.

    transformers writes `rope_parameters` since 5; before, `rope_theta` stood beside a `rope_scaling` that was null.

    Args:
        settled: nothing yet.
        document: config.json.
        positions: the longest text, where the first training's is not stated.

    Raises:
        InputError: a type that changes with the text's length, or a field of it is missing or wrong.
    """
    places = [name for name in ("rope_scaling", "rope_parameters") if document and document.fields.get(name)]
    if document:
        for name in ("rope_scaling", "rope_parameters"):
            if name not in places[:1]:
                document.note(name, "null: not stated" if name not in places else "rope_scaling comes before it")
    part = document.part(places[0], listed=False) if document and places else None
    silent = (THETA, "default of transformers")
    settled.choose("theta", float, (part, "rope_theta"), (document, "rope_theta"), otherwise=silent, low=1)
    plain = ("default", "no rope type is stated")
    kind = settled.choose("rope_type", str, (part, "rope_type"), (part, "type"), otherwise=plain, choices=TYPES)
    of_type = f"rope type {shown(kind)} has none"
    if kind == "default":
        settled.put("factor", 1.0, of_type)
    else:
        settled.choose("factor", float, (part, "factor"), advice=f"rope type {shown(kind)} needs it", low=1)
    if kind in ("yarn", "llama3"):
        longest = (positions, "max_position_embeddings")
        name = "original_max_position_embeddings"
        settled.choose("original", int, (part, name), (document, name), otherwise=longest, low=1)
    else:
        settled.put("original", 0, of_type)
    usual = {name: getattr(Rope, name) for name in ("beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor")}
    for name, value in usual.items():
        if name.startswith("beta") != (kind == "yarn") or kind not in ("yarn", "llama3"):
            settled.put(name, value, of_type)
            continue
        otherwise = (value, "default of transformers") if kind == "yarn" else None
        advice = f"rope type {shown(kind)} needs it"
        settled.choose(name, float, (part, name), otherwise=otherwise, advice=advice, low=1e-6)
    if kind == "yarn":
        told = (0.1 * math.log(settled.values["factor"]) + 1.0, "of the factor: 0.1 ln(factor) + 1")
        settled.choose("attention_factor", float, (part, "attention_factor"), otherwise=told, low=0)
        settled.choose("truncate", bool, (part, "truncate"), otherwise=(True, "default of transformers"))
    else:
        settled.put("attention_factor", 1.0, of_type)
        settled.put("truncate", True, of_type)
    if part:
        part.accept({name: of_type for name in ("factor", "original_max_position_embeddings") if kind == "default"})
    if kind == "llama3" and settled.values["low_freq_factor"] >= settled.values["high_freq_factor"]:
        raise InputError(f"{settled.origins['low_freq_factor']}: low_freq_factor must be less than high_freq_factor")
    return Rope(**settled.values)


def turns(
    rope: Rope, width: int, position_ids: "Int[Array, '*rows tokens']"
) -> "tuple[Float[Array, '*rows tokens half'], Float[Array, '*rows tokens half']]":
    """Give cosines and sines of the angles at places, for heads of a width: in float32, whatever else is computed in.

    Half precision knows no place beyond some hundred.
    """
    import jax.numpy as jnp

    angles = position_ids.astype(jnp.float32)[..., None] * rope.frequencies(width)
    scale = rope.attention_factor
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if scale == 1.0 else (cos * scale, sin * scale)
