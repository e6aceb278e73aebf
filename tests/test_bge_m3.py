"""bge-m3 with its three heads: from the files beside the encoder to lexical weights and scores."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from in_process import convert, in_this_process
from safetensors.numpy import load_file, save_file

from bgevis.converter.options import Options
from bgevis.converter.source.identify import identify
from bgevis.converter.use.artifacts import open_artifacts
from bgevis.converter.use.fixture import write_fixture
from bgevis.converter.use.hybrid import colbert_score, lexical_score, lexical_weights
from bgevis.validation.errors import GateError, InputError

WITHIN = 2e-6


@pytest.fixture(scope="module", autouse=True)
def pipeline_here():
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def folder(oracles) -> Path:
    return oracles / "bge_m3" / "m3_three_heads"


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    shutil.copytree(folder, place / "ckpt", copy_function=shutil.copyfile)
    (place / "ckpt").chmod(0o755)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 64  # which FlagEmbedding was told
    (place / "ckpt" / "tokenizer_config.json").write_text(json.dumps(settings))
    layouts = ("sentence-transformers",)
    return convert(place / "ckpt" / "model.safetensors", place / "run", ("onnx",), layouts=layouts)


def test_all_three_are_flag_embeddings(run, folder):
    """From raw texts, alone and in batches: vectors, weights by token, a vector of each token but the first."""
    artifacts, goldens = open_artifacts(run), np.load(folder / "golden.npz")
    batches = [json.loads((folder / name).read_text()) for name in ("texts.json", "lexical_weights.json")]
    for at, (texts, weights) in enumerate(zip(*batches, strict=True)):
        for size in (1, 32):
            found = artifacts.encode(texts, batch_size=size)
            assert np.abs(found.dense_vecs - goldens[f"b{at}_dense"]).max() < WITHIN
            assert [len(each) for each in found.colbert_vecs] == goldens[f"b{at}_colbert_lengths"].tolist()
            assert np.abs(np.concatenate(found.colbert_vecs) - goldens[f"b{at}_colbert_concat"]).max() < WITHIN
            for have, want in zip(found.lexical_weights, weights, strict=True):
                assert have.keys() == want.keys()
                assert max((abs(have[token] - want[token]) for token in want), default=0.0) < WITHIN
        assert np.array_equal(artifacts.embed(texts), artifacts.encode(texts).dense_vecs)


def test_programs_give_three_outputs_in_their_order(run):
    """Dense, sparse, ColBERT's: fastembed-rs reads them by order."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(run / "programs" / "encode_text.onnx"))
    assert [output.name for output in session.get_outputs()] == ["dense_vecs", "sparse_vecs", "colbert_vecs"]
    ids = np.array([[0, 7, 9, 2], [0, 7, 2, 1]])
    dense, sparse, colbert = session.run(None, {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)})
    assert (dense.ndim, sparse.shape, colbert.shape[:2]) == (2, (2, 4, 1), (2, 3))
    assert not colbert[1, 2].any()
    clients = onnxruntime.InferenceSession(str(run / "sentence_transformers" / "onnx" / "model.onnx"))
    names = [output.name for output in clients.get_outputs()]
    assert names == ["dense_vecs", "sparse_vecs", "colbert_vecs", "last_hidden_state"]
    *heads, states = clients.run(None, {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)})
    for have, want in zip(heads, (dense, sparse, colbert), strict=True):
        assert np.abs(have - want).max() < WITHIN
    assert np.abs(states[:, 0] / np.linalg.norm(states[:, 0], axis=1, keepdims=True) - dense).max() < WITHIN


def test_scores_are_flag_embeddings(run, folder):
    goldens, (texts, _) = np.load(folder / "golden.npz"), json.loads((folder / "texts.json").read_text())
    pairs = [(texts[0], texts[4]), (texts[1], texts[4])]
    found = open_artifacts(run).compute_score(pairs, (0.4, 0.2, 0.4))
    for name, values in found.items():
        assert np.abs(values - goldens[f"score_{name}"]).max() < WITHIN


def test_heads_that_are_not_both_there_are_not_read(folder, tmp_path):
    """Then it is the dense encoder alone, and the one that lies there is named with the reason."""
    shutil.copytree(folder, tmp_path / "one")
    (tmp_path / "one" / "sparse_linear.pt").unlink()
    found = identify(tmp_path / "one" / "model.safetensors", Options())
    assert found.family.name == "bert"
    assert "dense embeddings" in found.unread["colbert_linear.pt"]
    both = identify(folder / "model.safetensors", Options())
    assert not {"colbert_linear.pt", "sparse_linear.pt"} & both.unread.keys()
    assert {"colbert_linear.pt", "sparse_linear.pt"} <= both.checkpoint.named_files.keys()


def test_the_dense_side_alone_is_had_by_its_family(folder):
    found = identify(folder / "model.safetensors", Options(family="bert"))
    assert [spec.name for entry in found.family.entry_points(found.config) for spec in entry.outputs] == ["embeddings"]


def test_heads_of_another_shape_are_named(tmp_path):
    write_fixture("bge_m3", "tiny", 3, "float32", tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, "sparse_linear.weight": np.zeros((2, 32), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(GateError, match=r"sparse_linear.weight must be of shape \(1, 32\), got \(2, 32\)"):
        identify(tmp_path / "model.safetensors", Options())


def test_an_encoder_without_heads_says_so(oracles, tmp_path):
    run = convert(oracles / "mpnet" / "mpnet_st" / "model.safetensors", tmp_path / "run", ("onnx",))
    with pytest.raises(InputError, match="no weights and vectors of tokens"):
        open_artifacts(run).encode(["a"])


def test_weights_are_the_largest_of_each_token():
    weights = lexical_weights([0, 5, 6, 5, 7, 2], np.array([9.0, 0.25, 0.5, 0.75, 0.0, 9.0]), {0, 1, 2, 3})
    assert weights == {"5": 0.75, "6": 0.5}
    assert lexical_score(weights, {"6": 2.0, "8": 1.0}) == 1.0
    assert colbert_score(np.eye(2), np.array([[0.5, 0.0], [0.0, 0.25]])) == 0.375
