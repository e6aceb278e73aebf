"""Pictures and texts against each other, by what a network embeds them to: numpy on the result of `Artifacts.embed`.

What a network like CLIP has learned besides, the scale of its similarities and SigLIP's bias, is read from the run
directory's weights.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...exporters.weights import WeightsFile
from ...validation.errors import InputError
from ..directory import RunDirectory
from ..manifest import WEIGHTS_PATH, family_and_config
from ..pack.pictures import Source
from ..pack.similarities import unit
from ..pack.steps import SCORED
from ..printable import digits
from .artifacts import Artifacts
from .batches import BATCH

TEXT = "{}"
"""Where a label stands in a template."""


@dataclass(frozen=True)
class Match:
    """One of those that were searched.

    Args:
        place: which, from 0.
        similarity: to what was asked; more is nearer.
    """

    place: int
    similarity: float


def similarity(
    artifacts: Artifacts, images: Sequence[Source], texts: Sequence[str], *, batch_size: int = BATCH
) -> np.ndarray:
    """Score each picture against each text: (images, texts) float32, as the network's `similarity` does.

    Each picture and each text is embedded once. Of a network like CLIP these are its logits, cosines by the scale that
    it has learned, and SigLIP's bias; of another, cosines.

    Args:
        artifacts: opened.
        images: files, their bytes, arrays, or Pillow's pictures.
        texts: any strings.
        batch_size: most rows at once.

    Raises:
        InputError: the network does not embed both.
    """
    seen = unit(artifacts.embed(images=images, batch_size=batch_size))
    read = unit(artifacts.embed(texts, batch_size=batch_size))
    scale, bias, _ = _learned(artifacts)
    return np.asarray(scale * (seen @ read.T) + bias, np.float32)


def classify(
    artifacts: Artifacts,
    images: Sequence[Source],
    labels: Sequence[str],
    *,
    template: str = TEXT,
    batch_size: int = BATCH,
) -> np.ndarray:
    """Say how likely each label is for each picture: (images, labels) float32.

    Of CLIP the probabilities of a picture's labels sum to one; of SigLIP each is by itself.

    Args:
        artifacts: opened.
        images: see `similarity`.
        labels: two or more for CLIP.
        template: what stands around a label, "{}" being its place: "a photo of a {}".
        batch_size: most rows at once.

    Raises:
        InputError: the network has learned no scale by which similarities become probabilities, the template has no
            place for a label, or there are no labels.
    """
    if TEXT not in template:
        raise InputError(f"template is {template!r}, expected a text with {TEXT} where a label stands")
    if not labels:
        raise InputError("there are no labels, expected one at least")
    function = _learned(artifacts)[2]
    if not function:
        raise InputError(
            f"{artifacts.path}: this network has no scale by which similarities become probabilities; "
            "take similarity() or best_matches()"
        )
    texts = [template.replace(TEXT, label) for label in labels]
    return np.asarray(SCORED[function](similarity(artifacts, images, texts, batch_size=batch_size)), np.float32)


def best_matches(query: np.ndarray, embeddings: np.ndarray, k: int = 10) -> list[list[Match]]:
    """Find for each query the `k` nearest of some embeddings by cosine, the nearest first; all of fewer.

    Args:
        query: (queries, width), or one of (width,).
        embeddings: (rows, width), texts and pictures alike.
        k: how many, at least 1.

    Raises:
        InputError: widths differ, or `k` is less than 1.
    """
    asked = np.atleast_2d(query)
    if embeddings.ndim != 2 or asked.shape[1] != embeddings.shape[1]:
        raise InputError(f"a query of {asked.shape[1]} numbers cannot be held against embeddings of {embeddings.shape}")
    if k < 1:
        raise InputError(f"k is {k}, expected at least 1")
    near = unit(asked) @ unit(embeddings).T
    order = np.argsort(-near, axis=1, kind="stable")[:, :k]
    return [[Match(int(place), float(row[place])) for place in places] for row, places in zip(near, order, strict=True)]


def classified(
    artifacts: Artifacts, images: Sequence[str], labels: Sequence[str], template: str, batch: int, *, logits: bool
) -> Iterator[str]:
    """Give a line of JSON for each picture: its file, and of each label the probability, the most likely first."""
    texts = [template.replace(TEXT, label) for label in labels]
    if logits:
        found = similarity(artifacts, images, texts, batch_size=batch)
    else:
        found = classify(artifacts, images, labels, template=template, batch_size=batch)
    key = "similarity" if logits else "labels"
    for image, row in zip(images, found, strict=True):
        order = np.argsort(-row, kind="stable")
        yield json.dumps({"image": image, key: {labels[at]: digits(row[at]) for at in order}}, ensure_ascii=False)


def _learned(artifacts: Artifacts) -> tuple[float, float, str]:
    """Give scale, bias, and what makes probabilities of them; 1, 0 and nothing for a network that learned none."""
    run = RunDirectory(artifacts.path)
    family, _ = family_and_config(run)
    weights = WeightsFile(run.path / WEIGHTS_PATH)
    if not family.zero_shot or "logit_scale" not in weights.tensors:
        return 1.0, 0.0, ""
    bias = float(np.asarray(weights["logit_bias"]).reshape(())) if "logit_bias" in weights.tensors else 0.0
    return float(np.exp(np.asarray(weights["logit_scale"], np.float64).reshape(()))), bias, family.zero_shot
