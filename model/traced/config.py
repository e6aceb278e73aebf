"""What the manifest says of a traced network."""

from dataclasses import dataclass

NAME = "traced"
NETWORK = "network.json"
"""Where the traced network lies in a run directory."""


@dataclass(frozen=True)
class TracedConfig:
    """Where the module comes from, and which network was traced.

    Args:
        module: "package.module:function", or "transformers:BertModel".
        network: sha256 of network.json.
    """

    module: str
    network: str
