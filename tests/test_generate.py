"""Texts that go on, from Python and the command line: upstream's own tokens, in batches, piece by piece."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bgevis.converter import open_artifacts, partitions
from bgevis.converter.cli import main
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.qwen.config import QWEN2_SIZES, QWEN3_SIZES
from bgevis.validation.errors import InputError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_tokenizer
from in_process import export

SIZES = {"qwen2": QWEN2_SIZES, "qwen3": QWEN3_SIZES}
PROMPTS = ["the fox", "A", "quick, the other one"]
TOKENS = 12


def checkpoint(folder: Path, family: str, **changes) -> Path:
    """Write a tiny network with a tokenizer."""
    config = replace(SIZES[family]["tiny"], **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES[family], "form", config)
        write_fixture(family, "form", 0, "float32", folder / "model.safetensors")
    tiny_tokenizer.continued(config).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["plain", "penalty"])
def made(request, tmp_path_factory):
    """A checkpoint and its ONNX programs; the second lowers the scores of what was said."""
    folder = tmp_path_factory.mktemp(request.param)
    family, changes = {"plain": ("qwen2", {}), "penalty": ("qwen3", {"repetition_penalty": 1.3})}[request.param]
    checkpoint(folder, family, **changes)
    return folder, export(folder, folder / "run", ("onnx",))


def test_upstream_goes_on_with_the_same_tokens(made):
    """Of a batch with padding as of each alone; the texts are the tokens'."""
    transformers = pytest.importorskip("transformers")
    folder, run = made
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    with open_artifacts(run) as artifacts:
        together = artifacts.generate(PROMPTS, max_new_tokens=TOKENS)
        alone = [artifacts.generate(prompt, max_new_tokens=TOKENS) for prompt in PROMPTS]
    for prompt, one, other in zip(PROMPTS, together, alone, strict=True):
        assert (one.ids, one.text, one.ended) == (other.ids, other.text, other.ended)
        assert np.allclose(one.margins, other.margins, atol=1e-4)
        given = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        wanted = model.generate(**given, max_new_tokens=TOKENS, do_sample=False)[0, given["input_ids"].shape[1] :]
        ids = [i for i in wanted.tolist() if i not in SIZES["qwen2"]["tiny"].eos_token_ids]
        assert list(one.ids) == ids
        assert one.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert len({one.ids for one in together}) == len(PROMPTS)


def test_a_text_comes_piece_by_piece(made):
    with open_artifacts(made[1]) as artifacts:
        pieces = list(artifacts.generate_iter(PROMPTS[0], max_new_tokens=TOKENS))
        assert "".join(pieces) == artifacts.generate(PROMPTS[0], max_new_tokens=TOKENS).text
    assert len(pieces) > 1


def test_a_text_ends_where_it_is_told_to(made):
    with open_artifacts(made[1]) as artifacts:
        whole = artifacts.generate(PROMPTS[0], max_new_tokens=TOKENS)
        end = whole.ids[3]
        short = artifacts.generate(PROMPTS[0], max_new_tokens=TOKENS, ends=[end])
    assert short.ended
    assert short.ids == whole.ids[: whole.ids.index(end)]


def test_the_network_s_positions_bound_a_text(made):
    with open_artifacts(made[1]) as artifacts:
        found = artifacts.generate("the", max_new_tokens=1000, ends=[])
    assert 2 + len(found.ids) - 1 == SIZES["qwen2"]["tiny"].max_tokens  # the last one is not read
    assert not found.ended


def test_perplexity_is_what_upstreams_loss_says(made):
    """Of texts of different length, and of one that is longer than the network reads, in two parts."""
    transformers = pytest.importorskip("transformers")
    folder, run = made
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    texts = ["the fox is quick", "a", "x" * 70]
    with open_artifacts(run) as artifacts:
        found = artifacts.perplexity(texts)
        assert artifacts.perplexity() > 1
    nats, count = 0.0, 0
    for text in texts:
        every = tokenizer(text)["input_ids"]
        for ids in (every[:64], every[64:]):
            if len(ids) > 1:
                given = model.dummy_inputs["input_ids"].new_tensor([ids])
                nats += model(given, labels=given).loss.item() * (len(ids) - 1)
                count += len(ids) - 1
    assert np.isclose(found, np.exp(nats / count), rtol=1e-5)


@pytest.mark.parametrize(("own", "code"), [(10.4, 0), (10.6, 1), (float("nan"), 1)])
def test_one_format_is_held_to_another(own, code, made, monkeypatch):
    """Five percent above the other's are allowed; what is no number is not."""
    values = {"onnx-int8": own, "onnx": 10.0}

    class Opened:
        def __init__(self, directory, name):
            self.format = name

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def perplexity(self, texts):
            return values[self.format]

    monkeypatch.setattr("bgevis.converter.use.artifacts.open_artifacts", Opened)
    command = ["perplexity", str(made[1]), "--format", "onnx-int8", "--against", "onnx"]
    done = CliRunner().invoke(main, command)
    assert ("onnx-int8: " in done.stdout, done.exit_code) == (True, code)
    assert ("times the perplexity of onnx" in done.stderr) == (code == 1)


def test_a_format_is_not_held_to_itself(made, tmp_path):
    (tmp_path / "texts.txt").write_text("the fox\n\nthe other fox\n")
    command = ["perplexity", str(made[1]), "--texts", str(tmp_path / "texts.txt"), "--json"]
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, list(json.loads(done.stdout))) == (0, ["onnx"])
    for wrong in (["--against", "onnx"], ["--limit", "1.1"]):
        assert CliRunner().invoke(main, [*command, *wrong]).exit_code == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": ""}, "prompt 0 is empty"),
        ({"prompts": ["the", "a" * 80]}, "prompt 1 is longer than 64 tokens"),
        ({"prompts": "the", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompts": 3}, "expected"),
    ],
)
def test_wrong_prompts_are_told(made, given, message):
    with open_artifacts(made[1]) as artifacts, pytest.raises(InputError, match=message):
        artifacts.generate(**given)


def test_a_network_that_makes_no_texts_says_so(tmp_path):
    write_fixture("bert", "tiny", 0, "float32", tmp_path / "model.safetensors")
    run = export(tmp_path, tmp_path / "run", ("onnx",))
    with open_artifacts(run) as artifacts, pytest.raises(InputError, match="this network makes no texts"):
        artifacts.generate("the")
    with pytest.raises(InputError, match="the family bert does not say along which axes"):
        partitions(run, 2)


def test_layers_are_cut_by_heads_inner_width_and_vocabulary(made):
    """What the devices do not divide is on every one: two heads of keys are not cut in four."""
    found = partitions(made[1], 4, "x")
    attention, mlp = "text.blocks.0.attention.", "text.blocks.1.mlp."
    assert found[f"{attention}query.kernel"] == (None, "x", None)
    assert found[f"{attention}out.kernel"] == ("x", None, None)
    assert found[f"{attention}key.kernel"] == (None, None, None)
    assert partitions(made[1], 2, "x")[f"{attention}key.kernel"] == (None, "x", None)
    assert (found[f"{mlp}up.kernel"], found[f"{mlp}down.kernel"]) == ((None, "x"), ("x", None))
    assert (found["text.word.embedding"], found["text.norm.scale"]) == (("x", None), (None,))


def test_the_command_line_goes_on(made):
    with open_artifacts(made[1]) as artifacts:
        wanted = artifacts.generate(PROMPTS, max_new_tokens=TOKENS)
    command = ["generate", str(made[1]), "--max-new-tokens", str(TOKENS)]
    one = CliRunner().invoke(main, [*command, PROMPTS[0]])
    assert (one.exit_code, one.stdout) == (0, wanted[0].text + "\n")
    every = CliRunner().invoke(main, [*command, "--json", *PROMPTS])
    lines = [json.loads(line) for line in every.stdout.splitlines()]
    assert [(line["prompt"], tuple(line["ids"])) for line in lines] == [
        (prompt, found.ids) for prompt, found in zip(PROMPTS, wanted, strict=True)
    ]
