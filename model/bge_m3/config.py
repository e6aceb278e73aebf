"""What a bge-m3 network is, in numbers, and how it is read from shapes and documents."""

from dataclasses import dataclass, fields

from ...validation.errors import GateError, InputError
from ..bert import config as bert
from ..bert.config import M3, BertConfig
from ..documents import Configured
from ..family import Source

SPARSE, COLBERT = "sparse_linear", "colbert_linear"
BESIDE = {f"{head}.": f"{head}.pt" for head in (SPARSE, COLBERT)}
"""What stands before the names of a head's tensors -> its file beside the encoder's, as FlagEmbedding saves it."""


@dataclass(frozen=True)
class M3Config(BertConfig):
    """An XLM-RoBERTa encoder with a weight and a vector of each token beside the vector of a text."""

    colbert_dim: int = 1024
    """Width of a token's vector; no document states it."""


TINY = BertConfig(300, 32, 2, 4, 64, 42, 1, **M3)


def _sized(size: BertConfig, colbert_dim: int) -> M3Config:
    return M3Config(**{field.name: getattr(size, field.name) for field in fields(size)}, colbert_dim=colbert_dim)


SIZES = {"base": _sized(bert.SIZES["m3"], 1024), "tiny": _sized(TINY, 24)}
"""BAAI/bge-m3. And a tiny one."""


def configure(source: Source) -> Configured:
    """Read the encoder, as any, and the heads' widths.

    Raises:
        InputError: the encoder is none of XLM-RoBERTa's kind, or not computed here.
        GateError: a head is of another shape.
    """
    found = bert.configure(source)
    encoder = found.config
    if encoder.model_type == "bert":
        raise InputError(
            f"{found.origins['model_type']} says bert; the heads {SPARSE} and {COLBERT} are bge-m3's, which is of "
            "XLM-RoBERTa's kind"
        )
    width = source.shapes.get(f"{COLBERT}.weight", (0,))[0]
    wanted = {SPARSE: 1, COLBERT: width}
    for head, outputs in wanted.items():
        for name, shape in {f"{head}.weight": (outputs, encoder.hidden_size), f"{head}.bias": (outputs,)}.items():
            if source.shapes.get(name) != shape or not outputs:
                raise GateError(f"tensor {name} must be of shape {shape}, got {source.shapes.get(name, 'nothing')}")
    origins = {**found.origins, "colbert_dim": f"shape of {COLBERT}.weight"}
    return Configured(_sized(encoder, width), origins, found.options)
