"""Checkpoints of sizes that nothing else here has, from file to proven artifacts: right ones pass, wrong ones do not.

The sizes are odd on purpose: heads that are no power of two, widths and ratios that no published network has, few
patches, half precision. None of them is a published size while it is converted: what shapes do not show comes from
the configuration files beside the checkpoint alone.
"""

import dataclasses
import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from in_process import convert, in_this_process, judge
from safetensors.numpy import load_file, save_file

from bgevis.converter.directory import RunDirectory, sha256
from bgevis.converter.manifest import family_and_config
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.stages import export
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters.base import exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.model.bert import FAMILY as BERT
from bgevis.model.bert.config import BertConfig
from bgevis.model.clip import config as clip
from bgevis.model.clip.config import ClipConfig, TextConfig
from bgevis.model.family import Rule, families
from bgevis.model.pictures import Pictures
from bgevis.model.visualized_bge.config import VisionConfig, VisualizedBGEConfig
from bgevis.validation.errors import ConvertError

THREE_HEADS = BertConfig(
    211, 42, 3, 3, 106, 50, 1, layer_norm_eps=1e-7, hidden_act="silu", cls_token_id=5, sep_token_id=6
)
SEVEN_HEADS = BertConfig(
    307, 56, 2, 7, 90, 37, 1, 1e-5, "gelu_new", "xlm-roberta", pad_token_id=1, cls_token_id=0, sep_token_id=2
)
TOWER = VisionConfig(30, 6, 60, 3, 3, 133, pretrained_grid=7, embed_dim=17)
FIVE_HEADS = BertConfig(190, 60, 3, 5, 77, 64, 2, layer_norm_eps=1e-12, cls_token_id=3, sep_token_id=4)

TWO_TOWERS = ClipConfig(
    TextConfig(42, 3, 3, 58, 1e-7, "silu", 131, 23, 2, 7, 90, 90, 23),
    clip.VisionConfig(30, 2, 5, 44, 1e-6, "quick_gelu", image_size=18, patch_size=6),
    17,
    Pictures((18,), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
)

SIZES = {
    "bert, 3 heads of 14, float16": ("bert", THREE_HEADS, "float16"),
    "xlm-roberta, 7 heads of 8, bfloat16": ("bert", SEVEN_HEADS, "bfloat16"),
    "visualized_bge, 25 patches of 6, bfloat16": ("visualized_bge", VisualizedBGEConfig(FIVE_HEADS, TOWER), "bfloat16"),
    "clip, 3 heads of 14 and 5 of 6, float16": ("clip", TWO_TOWERS, "float16"),
}
FAST = ("onnx",)
EVERY = tuple(name for name, exporter in exporters().items() if not exporter.layout)


@pytest.fixture(scope="module", autouse=True)
def pipeline_here():
    with in_this_process():
        yield


def checkpoint(folder: Path, family: str, config, dtype: str, suffix: str = ".safetensors") -> Path:
    """Write a checkpoint, with what its shapes do not show beside it."""
    sizes = importlib.import_module(f"bgevis.model.{family}.config").SIZES
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes, "held out", config)
        write_fixture(family, "held out", 77, dtype, folder / f"model{suffix}")
    if family == "clip":
        return folder / f"model{suffix}"  # with its config.json
    text = config.text if family == "visualized_bge" else dataclasses.replace(config, max_seq_length=config.max_tokens)
    (folder / "config.json").write_text(json.dumps(BERT.documents(text)["config.json"]))
    words = [f"w{i}" for i in range(text.vocab_size)]
    words[text.cls_token_id], words[text.sep_token_id] = "[CLS]", "[SEP]"
    (folder / "vocab.txt").write_text("\n".join(words))
    if family == "visualized_bge":
        vision = config.vision
        cfg = {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "pt_hw_seq_len": vision.pretrained_grid,
        }
        (folder / "eva_config.json").write_text(json.dumps({"vision_cfg": cfg}))
    return folder / f"model{suffix}"


@pytest.mark.parametrize("formats", [FAST, pytest.param(EVERY, marks=pytest.mark.prove)], ids=["fast", "every"])
@pytest.mark.parametrize("size", SIZES)
def test_a_size_that_nobody_published_is_converted_and_proved(tmp_path, size, formats):
    family, config, dtype = SIZES[size]
    file = checkpoint(tmp_path, family, config, dtype, ".pth" if formats is EVERY else ".safetensors")
    run = convert(file, tmp_path / "run", formats, no_tokenizer=True)
    manifest = json.loads((run / "manifest.json").read_text())
    assert set(manifest["verdicts"].values()) == {"pass"}
    stated = {"max_seq_length": config.max_tokens} if family == "bert" else {}
    assert family_and_config(RunDirectory(run))[1] == dataclasses.replace(config, **stated)
    assert (run / "provenance.json").exists()


BOTH = [
    "bert, 3 heads of 14, float16",
    pytest.param("visualized_bge, 25 patches of 6, bfloat16", marks=pytest.mark.prove),
]


@pytest.fixture(scope="module", params=BOTH)
def scene(request, tmp_path_factory):
    """A checkpoint and its finished run."""
    folder = tmp_path_factory.mktemp("held_out")
    file = checkpoint(folder, *SIZES[request.param])
    return file, convert(file, folder / "run", ("onnx",), no_tokenizer=True), SIZES[request.param][0]


PREFIX = {"bert": "encoder.layer.1.", "visualized_bge": "bge_encoder.layer.1."}


def changed(scene, folder: Path, change) -> Path:
    """Write the checkpoint anew with other tensors, beside the same configuration."""
    file, _, family = scene
    for pattern in ("*.json", "1_Pooling/*.json", "vocab.txt"):
        for other in file.parent.glob(pattern):
            target = folder / other.relative_to(file.parent)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(other, target)
    tensors = load_file(file)
    change(tensors, PREFIX[family])
    save_file(tensors, folder / file.name)
    return folder / file.name


def transpose(tensors, prefix):
    name = f"{prefix}intermediate.dense.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


DEFECTS = {
    "missing": (lambda t, p: t.pop(f"{p}output.dense.bias"), "text.layers.1.down.bias"),
    "extra": (lambda t, p: t.update({f"{p}attention.self.gate.weight": np.ones(3, np.float32)}), "attention.self.gate"),
    "transposed": (transpose, "intermediate.dense.weight"),
    "not finite": (lambda t, p: t[f"{p}output.LayerNorm.bias"].__setitem__(3, np.inf), "output.LayerNorm.bias"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_of_the_checkpoint_is_named(scene, tmp_path, defect):
    change, name = DEFECTS[defect]
    file = changed(scene, tmp_path, change)
    with pytest.raises(ConvertError, match=name):
        convert(file, tmp_path / "run", ("onnx",), no_tokenizer=True)
    assert not (tmp_path / "run" / "provenance.json").exists()


def with_family(patch, name: str, **parts) -> None:
    """Put other parts into a family."""
    module = importlib.import_module(f"bgevis.model.{name}")
    patch.setattr(module, "FAMILY", dataclasses.replace(families()[name], **parts))


def test_a_wrong_rule_is_named(scene, tmp_path, monkeypatch):
    file, _, name = scene
    family = families()[name]

    def mistaken(config):
        part, rules = family.part(config), []
        for rule in part.rules:
            square = isinstance(rule, Rule) and re.fullmatch(r"text\..*\.\{part\}\.kernel", rule.target)
            changed = re.sub(r"\((\S+) (\S+)\)", r"(\2 \1)", rule.layout) if square else ""
            rules.append(dataclasses.replace(rule, layout=changed) if square else rule)
        assert tuple(rules) != part.rules
        return dataclasses.replace(part, rules=tuple(rules))

    with_family(monkeypatch, name, part=mistaken)
    with pytest.raises(ConvertError, match=r"text\.layers\.0\.attention\.(query|key|value)"):
        convert(file, tmp_path / "run", ("onnx",), no_tokenizer=True)


def wrong_epsilon(config):
    """Give the text encoder's norms another epsilon."""
    if isinstance(config, VisualizedBGEConfig):
        return dataclasses.replace(config, text=dataclasses.replace(config.text, layer_norm_eps=3e-7))
    return dataclasses.replace(config, layer_norm_eps=3e-7)


def test_a_wrong_epsilon_of_the_network_is_named(scene, tmp_path, monkeypatch):
    file, _, name = scene
    build = families()[name].network
    with_family(monkeypatch, name, network=lambda config: build(wrong_epsilon(config)))
    with pytest.raises(ConvertError, match=r"text\.embeddings\.norm|image_embeddings\.norm|low variance"):
        convert(file, tmp_path / "run", ("onnx",), no_tokenizer=True)


def test_a_wrong_epsilon_of_an_artifact_is_named(scene, tmp_path, monkeypatch):
    """As if an exporter had written it: the manifest agrees."""
    _, finished, name = scene
    run = shutil.copytree(finished, tmp_path / "run")
    build = families()[name].network
    with monkeypatch.context() as patch:
        with_family(patch, name, network=lambda config: build(wrong_epsilon(config)))
        export.perform(RunDirectory(run), Options(), Silent(), exporters()["onnx"])
    with pytest.raises(ConvertError, match=r"norm diverges first .*epsilon is 3e-07, not 1e-"):
        judge(run)


@pytest.mark.parametrize("format_name", ["onnx", "stablehlo"])
def test_one_flipped_bit_of_an_artifact_is_named(scene, tmp_path, format_name):
    """With all digests made to fit: a bit that is lost when the leaf is rounded to the checkpoint's half precision."""
    _, finished, _ = scene
    run = shutil.copytree(finished, tmp_path / "run")
    if format_name != "onnx":
        export.perform(RunDirectory(run), Options(), Silent(), exporters()[format_name])
    leaf = "text.layers.2.down.kernel"
    file = run / "programs" / "weights.safetensors"
    place = WeightsFile(file).tensors[leaf]
    content = bytearray(file.read_bytes())
    content[place.offset + place.nbytes // 2 + 1] ^= 0x10
    file.write_bytes(content)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["files"]["programs/weights.safetensors"]["sha256"] = sha256(file)
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "provenance.json").unlink(missing_ok=True)
    with pytest.raises(ConvertError, match=f"{leaf}: differs from the checkpoint"):
        judge(run, formats=(format_name,))
