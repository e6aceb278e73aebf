"""A finished run directory as a model of sentence-transformers, for code that takes one: evaluators, indexes, MTEB.

It is made of one module, in which the run's own tokenizer and program do the work. modules.json does not name it: since
version 6 sentence-transformers imports what modules.json names only from itself, or with `trust_remote_code`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...validation.errors import EnvironmentFailure, InputError
from .artifacts import Artifacts, open_artifacts

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder, SentenceTransformer

OLDEST = 6
"""Version of sentence-transformers whose modules are handed the prompt beside the texts."""

ACTIVATIONS = {"identity": "Identity", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax"}
"""What preprocess.json calls what makes scores, and torch.nn."""


def sentence_transformer(directory: Path | str, format: str | None = None) -> "SentenceTransformer":  # noqa: A002 - as on the command line
    """Open a run directory that embeds texts: `encode`, prompts by name, `similarity` and the rest are its own.

    Args:
        directory: the run directory.
        format: see `open_artifacts`.

    Raises:
        InputError: see `open_artifacts`; or the network embeds no texts.
        EnvironmentFailure: sentence-transformers 6 or newer, or the format's runtime, is not installed.
    """
    library = _library()
    artifacts = open_artifacts(directory, format)
    stated = artifacts.rules
    if not stated["embeddings"] or not stated["texts"]:
        raise InputError(f"{directory}: this network embeds no texts; open it with open_artifacts")
    return library.SentenceTransformer(
        modules=[_module(artifacts, _embedded)],
        device="cpu",
        prompts=dict(stated["texts"]["prompts"]),
        default_prompt_name=stated["texts"]["default_prompt"],
        similarity_fn_name=stated["embeddings"]["similarity"],
    )


def cross_encoder(directory: Path | str, format: str | None = None) -> "CrossEncoder":  # noqa: A002 - as on the command line
    """Open a run directory of a reranker or classifier: `predict` gives its scores, by its folder's activation.

    Args:
        directory: the run directory.
        format: see `open_artifacts`.

    Raises:
        InputError: see `open_artifacts`; or the network gives no scores.
        EnvironmentFailure: see `sentence_transformer`.
    """
    library = _library()
    artifacts = open_artifacts(directory, format)
    if "scores" not in artifacts.rules:
        raise InputError(f"{directory}: this network gives no scores of texts; open it with open_artifacts")
    from torch import nn

    name = ACTIVATIONS[artifacts.rules["scores"]["activation"]]
    activation = nn.Softmax(dim=-1) if name == "Softmax" else getattr(nn, name)()
    return library.CrossEncoder(modules=[_module(artifacts, _scored)], device="cpu", activation_fn=activation)


def _library() -> Any:
    """Import sentence-transformers.

    Raises:
        EnvironmentFailure: it is missing or too old.
    """
    try:
        import sentence_transformers
    except ModuleNotFoundError as error:
        raise EnvironmentFailure("sentence-transformers is not installed: pip install sentence-transformers") from error
    if int(sentence_transformers.__version__.partition(".")[0]) < OLDEST:
        raise EnvironmentFailure(
            f"sentence-transformers {OLDEST} or newer is needed, found {sentence_transformers.__version__}: "
            "pip install -U sentence-transformers"
        )
    return sentence_transformers


def _embedded(artifacts: Artifacts, texts: Sequence[Any], prompt: str) -> Mapping[str, Any]:
    return {"sentence_embedding": artifacts.embed(texts, prompt=prompt)}


def _scored(artifacts: Artifacts, texts: Sequence[Any], prompt: str) -> Mapping[str, Any]:
    if prompt:
        raise InputError("prompts before pairs of texts are not done here; go without a prompt")
    rows = [text if isinstance(text, str) else tuple(text) for text in texts]
    return {"scores": artifacts.score(rows, activation="identity").reshape(len(rows), -1)}


def _module(artifacts: Artifacts, compute: Any) -> Any:
    """Make the one module of a model: what is read of texts is computed in `forward`, by the run's own program."""
    import torch
    from sentence_transformers.base.modules import InputModule

    class Run(InputModule):
        """The network of a run directory."""

        def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **more: Any) -> dict[str, Any]:
            """Pass texts on, with the prompt that comes before each."""
            del more
            return {"texts": list(inputs), "prompt": prompt or ""}

        def forward(self, features: dict[str, Any], **more: Any) -> dict[str, Any]:
            """Compute what the network gives of the texts."""
            del more
            made = compute(artifacts, features["texts"], features["prompt"])
            return features | {name: torch.from_numpy(array) for name, array in made.items()}

        def get_embedding_dimension(self) -> int | None:
            """Give how many numbers an embedding has; None for a classifier."""
            return None if "scores" in artifacts.rules else artifacts.width

        @property
        def max_seq_length(self) -> int | None:
            """The most tokens that are read of a text; the run directory says it."""
            return min((n for n in artifacts.rules["texts"]["max_tokens"].values() if n), default=None)

        def save(self, output_path: str, *arguments: Any, **more: Any) -> None:
            """Refuse: the run directory is what is handed on.

            Raises:
                InputError: always.
            """
            raise InputError(f"copy the run directory {artifacts.path} as a whole; {output_path} was not written")

    return Run()
