"""A picture and a question in, an answer out: two runs by ONNX, from Python, by the example and on the command line."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
sys.path.append(str(Path(__file__).parents[1] / "examples" / "edge_glass"))
from in_process import export
from test_edge_glass import CHECKPOINT, folder_of

from bgevis.converter import open_artifacts
from bgevis.converter.cli import main
from bgevis.validation.errors import InputError

EYES, MOUTH = "s1_perceiver_cliptext", "s2_vlm_lora"


@pytest.fixture(scope="module")
def golden(oracles):
    file = oracles / "edge_glass" / "e2e" / "golden.npz"
    if not file.exists():
        pytest.skip(f"no conformance data in {file.parent}")
    return np.load(file)


@pytest.fixture(scope="module")
def runs(golden, oracles, tmp_path_factory):
    """The programs of both stages."""
    where = tmp_path_factory.mktemp("stages")
    folder = folder_of(oracles, EYES, where / "stage1")
    tokenizers = oracles / "edge_glass" / "backbones"
    eyes = export(folder / CHECKPOINT, where / "eyes", ("onnx",), tokenizer=str(tokenizers / "tiny-clip-text"))
    stage2 = oracles / "edge_glass" / MOUTH
    said = {"configs": (str(stage2 / "config.json"),), "tokenizer": str(tokenizers / "tiny-qwen2-tied")}
    return eyes, export(stage2 / "checkpoint_best" / "pytorch_model.bin", where / "mouth", ("onnx",), **said)


def test_the_example_answers_as_upstream(runs, golden):
    """With onnxruntime alone, from pixels to tokens."""
    example = importlib.import_module("answer")
    want = golden[f"{EYES}__{MOUTH}__tokens"]
    images = golden["images"].transpose(0, 2, 3, 1)
    found = example.answer(*runs, images, golden["question_ids"], want.shape[1])
    assert found.tolist() == want.tolist()


def test_the_example_prepares_pictures_as_upstream(oracles, tmp_path):
    example = importlib.import_module("answer")
    golden = np.load(oracles / "edge_glass" / "preprocess" / "golden.npz")
    for picture, want in zip(golden["image_u8"], golden["pixel_values"].transpose(0, 2, 3, 1), strict=True):
        Image.fromarray(picture).save(tmp_path / "picture.png")
        found = example.pixels(str(tmp_path / "picture.png"), want.shape[0])[0]
        assert np.abs(found - want).max() < 1e-5


def test_widths_rank_pictures(runs, golden):
    """Of texts that CLIP's first token reads, all are one; the widths are those that were trained."""
    example = importlib.import_module("retrieve")
    found = example.ranked(runs[0], np.array([[3, 5, 7]]), golden["images"].transpose(0, 2, 3, 1))
    assert sorted(found) == [8, 16, 32, 48]
    assert all(sorted(order) == [0, 1] for order in found.values())


def test_pictures_are_answered_together_and_alone(runs, golden):
    images, prompts = list(golden["images"].transpose(0, 2, 3, 1)), ["what is it?", "a fox", "what is it?"]
    with open_artifacts(runs[0]) as eyes, open_artifacts(runs[1]) as mouth:
        seen = [*images, images[0]]
        together = mouth.generate(prompts, images=seen, vision=eyes, max_new_tokens=6)
        tokens = eyes.picture_tokens(seen)
        alone = [
            mouth.generate(prompt, images=own, max_new_tokens=6) for prompt, own in zip(prompts, tokens, strict=True)
        ]
        assert [one.ids for one in together] == [one.ids for one in alone]
        assert together[0].ids == together[2].ids
        cut = mouth.generate(prompts[1], images=tokens[1], max_new_tokens=12, ends=[], upstream_cut=True)
        whole = mouth.generate(prompts[1], images=tokens[1], max_new_tokens=12, ends=[])
        count = len(mouth._preprocessor.texts.whole(prompts[1]))
        assert cut.ids == whole.ids[count:]
        assert 0 < count < len(whole.ids)
        for wrong, said in (
            ({}, "goes on with a text about a picture; give images="),
            ({"images": [tokens[0], tokens[1]]}, "expected one for each of 1 prompts, got 2"),
            ({"images": tokens[0][:, :5]}, "they are another image encoder's"),
            ({"images": images[0]}, "only an image encoder can see it"),
            ({"images": np.zeros((4, 4, 3), np.float32), "vision": eyes}, "as pixels, .* takes"),
            ({"images": images[0], "vision": mouth}, "makes no tokens of pictures"),
        ):
            with pytest.raises(InputError, match=said):
                mouth.generate(prompts[0], **wrong)
        with pytest.raises(InputError, match="of texts alone it has no perplexity"):
            mouth.perplexity(["a fox"])
        with pytest.raises(InputError, match="ask it by generate, with images="):
            next(iter(mouth.generate_iter("a fox")))


def test_the_command_line_shows_the_network_a_picture(runs, oracles, tmp_path):
    """A file as the example prepares it; without one it is asked for."""
    picture, asked = tmp_path / "picture.png", ["generate", str(runs[1]), "what is it?", "--max-new-tokens", "5"]
    Image.fromarray(np.load(oracles / "edge_glass/preprocess/golden.npz")["image_u8"][1]).save(picture)
    done = CliRunner().invoke(main, [*asked, "--json", "--image", str(picture), "--vision", str(runs[0])])
    assert done.exit_code == 0, done.output
    pixels = importlib.import_module("answer").pixels(str(picture), 28)[0]
    with open_artifacts(runs[0]) as eyes, open_artifacts(runs[1]) as mouth:
        want = mouth.generate("what is it?", images=pixels, vision=eyes, max_new_tokens=5)
    assert json.loads(done.output)["ids"] == list(want.ids)
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 3
    assert "--image and --vision" in done.output
