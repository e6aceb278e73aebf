"""The steps that make one vector of a text's states, against sentence-transformers' own modules."""

import dataclasses
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from bgevis.model import pooling, steps
from bgevis.model.bert import FAMILY
from bgevis.model.reference import Original
from bgevis.model.steps import ACTIVATIONS, MODES, Dense, LayerNorm, Normalize, Pooling, Truncate
from bgevis.model.upstream import SentenceModules

WIDTH = 12
LENGTHS = (9, 5, 1, 7)


def drawn(before: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Give states and a mask, padded after the texts or before them."""
    states = np.random.default_rng(3).standard_normal((len(LENGTHS), max(LENGTHS), WIDTH)).astype(np.float32)
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int32)
    return states, mask[:, ::-1].copy() if before else mask


def weights(listed: steps.Steps) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Draw the tensors of steps, as leaves and as upstream stores them."""
    part, rng = steps.part(listed), np.random.default_rng(5)
    source = {n: rng.standard_normal(s).astype(np.float32) for n, s in part.checkpoint_shapes.items()}
    leaves = {rule.target: source[rule.source].T for rule in part.rules}
    return leaves, {name: torch.from_numpy(array) for name, array in source.items()}


def agree(listed: steps.Steps, prompt: np.ndarray | None = None, before: bool = False) -> None:
    leaves, source = weights(listed)
    states, mask = drawn(before)
    got = np.asarray(pooling.embedded(listed, leaves, states, mask, prompt))
    upstream = SentenceModules(Original(source), WIDTH, listed)
    given = [torch.from_numpy(array) for array in (states, mask, *(() if prompt is None else (prompt,)))]
    wanted = upstream(*given).numpy()
    cut = next((step.width for step in listed if isinstance(step, Truncate)), None)
    np.testing.assert_allclose(got, wanted[:, :cut], atol=3e-6)
    assert got.shape == (len(LENGTHS), steps.width(listed, WIDTH))


@pytest.mark.parametrize("modes", [*((mode,) for mode in MODES), MODES, MODES[::-1]], ids="+".join)
def test_every_pooling(modes):
    agree((Pooling(modes),))
    agree((Pooling(modes), Normalize()))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "cls"])
def test_padding_before_the_texts(mode):
    """The first token with its prompt is that of texts that begin at once."""
    agree((Pooling((mode,)),), before=True)


@pytest.mark.parametrize(("mode", "before"), [*itertools.product(MODES, (False, True))])
def test_a_prompt_that_is_left_out(mode, before):
    prompt = np.array([3, 0, 0, 6], np.int32)
    agree((Pooling((mode,), include_prompt=False),), prompt, before)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "max"])
def test_a_text_that_is_nothing_but_prompt(mode):
    """Of which the largest numbers are none."""
    agree((Pooling((mode,), include_prompt=False),), np.array([9, 5, 1, 8], np.int32))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation):
    agree((Pooling(("mean",)), Dense("2.", WIDTH, 7, activation=activation)))
    x = np.array(
        [-1e4, -50, -20.5, -3.5, -3, -1, -0.5, -1e-3, 0, 1e-3, 0.5, 1, 3, 5.9, 6, 6.1, 20.5, 50, 1e4], np.float32
    )
    got, wanted = (
        np.asarray(pooling.ACTIVATIONS[activation](jnp.asarray(x))),
        getattr(nn, activation)()(torch.from_numpy(x)).numpy(),
    )
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("width", [WIDTH, 5])
def test_every_dense(bias, residual, width):
    agree((Pooling(("mean",)), Dense("2_Dense/", WIDTH, width, bias, "Tanh", residual), Normalize()))


def test_steps_one_after_another():
    listed = (
        *(
            Pooling(("cls", "max")),
            Normalize(),
            LayerNorm("3/", 2 * WIDTH),
            Dense("4/", 2 * WIDTH, 8, activation="GELU"),
        ),
        *(Dense("5/", 8, 6, activation="Identity"), Normalize(), Truncate(4)),
    )
    agree(listed)
    assert not steps.unit(listed)
    assert steps.steps_from_json([steps.step_to_json(step) for step in listed]) == listed


def test_tokens_normalised_before_they_are_pooled(tmp_path):
    """As modules.json states it: a Normalize and a Dense of the states, each saying what it takes."""
    listed = (Dense("1_Dense/", WIDTH, 8), Normalize(), Pooling(("mean", "max")), Normalize())
    leaves, source = weights(listed)
    config = dataclasses.replace(FAMILY.sizes["tiny"], hidden_size=WIDTH, pipeline=listed)
    documents = FAMILY.documents(config)
    for place, content in documents.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(json.dumps(content))
    states, mask = drawn()
    upstream = SentenceModules(Original(source, documents, tmp_path), WIDTH, ())
    wanted = upstream(torch.from_numpy(states), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(np.asarray(pooling.embedded(listed, leaves, states, mask)), wanted, atol=3e-6)
    skipped = np.asarray(pooling.embedded((listed[0], *listed[2:]), leaves, states, mask))
    assert np.abs(skipped - wanted).max() > 0.01


def test_the_table_and_the_functions_are_of_the_same_names():
    assert set(pooling.ACTIVATIONS) == set(ACTIVATIONS)
    assert set(pooling.MODES) == set(MODES)
