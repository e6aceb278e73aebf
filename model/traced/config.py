"""What the manifest says of a traced network."""

from dataclasses import dataclass

from ..pictures import Pictures
from ..steps import Steps

NAME = "traced"
TRANSFORMERS = "transformers"
"""The family's name for a class of transformers that no family knows."""

SCORE = "score"
"""The entry point of a class of transformers that classifies texts, or pairs of them."""

PREFILL, ENCODE, DECODE = "prefill", "encode", "decode"
"""The entry points of a class that generates text: the first pass, with or without an encoder, and each step."""

GENERATE = "generate"
"""What reports call the generation of text by these."""

PAST = "past_"
"""Before the name of an output of a step: the input that the next one takes it as."""

STATES = "last_hidden_state"
"""What a class of transformers calls the states of its last layer."""

NETWORK = "network.json"
"""Where the traced network lies in a run directory."""


@dataclass(frozen=True)
class TracedConfig:
    """Where the module comes from, and which network was traced.

    Args:
        module: "package.module:function".
        network: sha256 of network.json.
    """

    module: str
    network: str


@dataclass(frozen=True)
class TransformersConfig:
    """A class of transformers, what stands around it in the folder, and which network was traced.

    Args:
        architecture: the class.
        network: sha256 of network.json.
        pipeline: what makes one vector of the states; nothing for a network whose states are given as they are.
        max_seq_length: the longest text, special tokens included; 0: as long as the network takes.
        truncation_side: see `model/pipeline.py`, as for the following ones.
        labels: of a class that classifies texts, what its numbers are of; nothing for others.
        activation: see `model/classifier/config.py`.
        pairs: likewise.
        pictures: how pictures are prepared; None for a network that sees none, or of which nobody says.
        image_size: their height and width then.
    """

    architecture: str
    network: str
    pipeline: Steps = ()
    max_seq_length: int = 0
    truncation_side: str = "right"
    do_lower_case: bool = False
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str = ""
    similarity: str = "cosine"
    labels: tuple[str, ...] = ()
    activation: str = "identity"
    pairs: str = ""
    pictures: Pictures | None = None
    image_size: int = 0

    @property
    def text_limit(self) -> int | None:
        """Longest text that is embedded; None where nothing limits it."""
        return self.max_seq_length or None
