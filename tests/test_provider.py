"""Providers of embeddings: ArrowEngine's interface, LangChain's, and the classes that other clients ask for."""

import asyncio
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from in_process import export
from tiny_folder import tiny_folder
from tiny_towers import TINY, with_tokenizer, written

from bgevis.converter import EmbeddingProvider, MultimodalEmbeddingProvider, classify, open_artifacts, similarity
from bgevis.converter.use import clients, provider
from bgevis.validation.errors import EnvironmentFailure, InputError

TEXTS = ["one two", "three a", "two"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sentences")
    prompts = (("query", "three "), ("passage", "a one "))
    return export(tiny_folder(folder, prompts=prompts), folder / "run", ("onnx",))


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("towers")
    file = written(folder, TINY)
    with_tokenizer(folder, TINY.text, TINY.text.bos_token_id)
    return export(file, folder / "run", ("onnx",))


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), np.uint8)


def test_texts_become_what_the_artifacts_give(sentences):
    """But for blank ones, which are zeros, alone and among others."""
    given, opened = EmbeddingProvider(sentences), open_artifacts(sentences)
    found = given.encode_batch(["one two", " \n", "two"], batch_size=2)
    assert (found.shape, found.dtype) == ((3, opened.width), np.float32)
    np.testing.assert_allclose(found[[0, 2]], opened.embed(["one two", "two"]), atol=1e-6)
    assert not found[1].any()
    assert (given.encode(""), given.encode("one two")) == (
        pytest.approx(np.zeros(given.dimension)),
        pytest.approx(found[0], abs=1e-6),
    )
    assert given.encode_batch([]).shape == (0, given.get_embedding_dimension())
    with pytest.raises(InputError, match=r"text 2 is 3 \(int\)"):
        given.encode_batch(["one", "", 3])


def test_vectors_are_compared_as_arrow_engine_does(sentences):
    given = EmbeddingProvider(sentences)
    one, other = np.float32([3, 4]), np.float32([4, -3])
    assert given.similarity(one, 2 * one) == pytest.approx(1)
    assert given.similarity(one, other) == pytest.approx(0)
    assert given.similarity(one, np.zeros(2)) == 0
    assert given.similarity(one, 2 * one, "dot") == 50
    assert given.similarity(one, np.zeros(2), "euclidean") == pytest.approx(1 / 6)
    assert given.similarity([one, other], one).tolist() == [[pytest.approx(1)], [0]]
    assert given.similarity_matrix([one, other]).tolist() == [[25, 0], [0, 25]]
    assert given.similarity_matrix([one, other], one).tolist() == [25, 0]
    with pytest.raises(InputError, match="method is 'manhattan', expected one of cosine, dot, euclidean"):
        given.similarity(one, other, "manhattan")
    with pytest.raises(InputError, match="embeddings of 2 and 3 numbers"):
        given.similarity(one, np.zeros(3))


def test_langchain_s_names_put_the_folder_s_prompts_before_texts(sentences):
    given, opened = EmbeddingProvider(sentences), open_artifacts(sentences)
    documents, query = given.embed_documents(TEXTS), given.embed_query("two")
    assert isinstance(documents[0][0], float)
    np.testing.assert_allclose(documents, opened.embed(TEXTS, prompt_name="passage"), atol=1e-6)
    np.testing.assert_allclose(query, opened.embed("two", prompt_name="query"), atol=1e-6)
    assert np.abs(opened.embed("two") - query).max() > 1e-3
    assert asyncio.run(given.aembed_query("two")) == pytest.approx(query)
    assert asyncio.run(given.aembed_documents(TEXTS))[2] == pytest.approx(documents[2])


def test_nothing_is_opened_before_it_is_asked_for_and_nothing_twice(sentences, towers, monkeypatch):
    opened = []

    def watched(path, *arguments, **options):
        opened.append(path)
        return open_artifacts(path, *arguments, **options)

    monkeypatch.setattr(provider, "open_artifacts", watched)
    with MultimodalEmbeddingProvider(sentences, towers, clip_model_path=str(towers)) as given:
        assert given.get_available_modalities() == ["text", "vision", "clip"]
        assert opened == []
        assert given.encode("one").shape == (given.dimension,)
        assert opened == [sentences]
        assert given.vision_dimension == given.clip_dimension == TINY.projection_dim
        given.encode_image(pictures(1)[0])
        assert opened == [sentences, towers]
    with pytest.raises(InputError, match="is not a run directory"):
        EmbeddingProvider(sentences.parent / "elsewhere")


def test_texts_and_pictures_of_one_space(towers):
    given, opened = MultimodalEmbeddingProvider(clip_model_path=towers), open_artifacts(towers)
    seen = pictures(3)
    assert given.get_available_modalities() == ["text", "vision", "clip"]
    found = given.encode_multimodal(text=TEXTS, images=seen)
    assert {kind: each.shape for kind, each in found.items()} == {"text": (3, 12), "image": (3, 12)}
    assert given.encode_multimodal(images=seen[0])["image"].shape == (12,)
    scores = given.compute_cross_modal_similarity(TEXTS, list(seen))
    np.testing.assert_allclose(scores, similarity(opened, list(seen), TEXTS).T, atol=1e-4)
    order = np.argsort(-scores, axis=1)
    assert given.find_best_image_matches(TEXTS[1], list(seen), top_k=2) == order[1, :2].tolist()
    assert given.find_best_text_matches(seen[2], TEXTS) == np.argsort(-scores[:, 2]).tolist()
    chances = given.zero_shot_classification(seen[0], TEXTS, template="a {}")
    assert sum(chances.values()) == pytest.approx(1)
    assert list(chances.values()) == pytest.approx(classify(opened, [seen[0]], TEXTS, template="a {}")[0].tolist())


def test_floats_between_0_and_1_are_the_bytes_that_they_are_nearest_to(towers):
    given, seen = MultimodalEmbeddingProvider(clip_model_path=towers), pictures(2)
    wanted, floats = given.encode_image(seen), seen / np.float32(255)
    for found in (given.encode_image(floats), given.encode_image([floats[0], floats[1].astype(np.float64)])):
        assert np.array_equal(found, wanted)
    for wrong, said in (
        (floats * 255, "reaches from 0 to 255, expected 0 to 1"),
        (floats * np.nan, "reaches from nan"),
    ):
        with pytest.raises(InputError, match=said):
            given.encode_image(wrong)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda it: it.encode_audio(np.zeros(9, np.float32)), "no run directory for this: give audio_model_path"),
        (lambda it: it.zero_shot_classification(pictures(1)[0], ["a", "a"]), "has a name twice"),
        (lambda it: it.encode("one", normalize=False), "makes its vectors as long as 1"),
        (lambda it: it.encode_image("not-there.png"), "not-there.png"),
        (lambda it: it.find_best_image_matches("one", list(pictures(2)), 0), "k is 0"),
    ],
)
def test_what_is_refused(ask, message, towers):
    with pytest.raises(InputError, match=message):
        ask(MultimodalEmbeddingProvider(clip_model_path=towers))


def test_a_provider_of_nothing_is_refused():
    with pytest.raises(InputError, match="give one of text_model_path, vision_model_path, audio_model_path"):
        MultimodalEmbeddingProvider()


CLIENTS = {
    "mteb": clients.mteb_encoder,
    "llama-index-core": clients.llama_index_embedding,
    "chromadb": clients.chroma_function,
    "lancedb": clients.lancedb_function,
}


@pytest.mark.parametrize("package", CLIENTS)
def test_a_client_that_is_missing_is_told(package, sentences, monkeypatch):
    for module in ("mteb", "llama_index", "chromadb", "lancedb"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentFailure, match=f"{package} is not installed: pip install '{package}"):
        CLIENTS[package](sentences)


class Pydantic:
    """What of pydantic's and Chroma's base classes the adapters rely on."""

    def __init__(self, *_, **fields):
        self.__dict__.update(fields)
        if hasattr(self, "model_post_init"):
            self.model_post_init(None)

    @classmethod
    def create(cls, **fields):
        return cls(**fields)

    def sanitize_input(self, texts):
        return texts


@pytest.fixture
def stand_ins(monkeypatch):
    """Modules with the little that the adapters take of each library; `make handoff` runs the libraries themselves."""
    mine = type("AbsEncoder", (), {"get_prompt_name": lambda self, task, asked: task})
    modules = {
        "mteb.models": {"ModelMeta": SimpleNamespace(create_empty=lambda given: SimpleNamespace(**given))},
        "mteb.models.abs_encoder": {"AbsEncoder": mine},
        "mteb.models.model_meta": {"ScoringFunction": str},
        "llama_index.core.embeddings": {"BaseEmbedding": Pydantic},
        "chromadb.api.types": {"EmbeddingFunction": Pydantic},
        "chromadb.utils.embedding_functions": {"register_embedding_function": lambda made: made},
        "lancedb.embeddings": {"EmbeddingFunction": Pydantic, "register": lambda name: lambda made: made},
    }
    parents = {name[:at]: {} for name in modules for at, letter in enumerate(name) if letter == "."}
    for name, content in (parents | modules).items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    yield
    clients._chroma.cache_clear()
    clients._lancedb.cache_clear()


def test_each_client_s_class_gives_what_the_artifacts_give(stand_ins, sentences, towers):
    opened = open_artifacts(sentences)
    query, documents = opened.embed(["two"], prompt_name="query"), opened.embed(TEXTS, prompt_name="passage")
    chroma, lance, llama = (CLIENTS[name](sentences) for name in ("chromadb", "lancedb", "llama-index-core"))
    for found in (chroma(TEXTS), lance.compute_source_embeddings(TEXTS), llama._get_text_embeddings(TEXTS)):
        np.testing.assert_allclose(found, documents, atol=1e-6)
    of_query = [llama._get_query_embedding("two")], lance.compute_query_embeddings("two"), chroma.embed_query(["two"])
    for found in of_query:
        np.testing.assert_allclose(found, query, atol=1e-6)
    assert lance.ndims() == opened.width
    again = chroma.build_from_config(chroma.get_config())
    np.testing.assert_allclose(again(TEXTS), documents, atol=1e-6)

    encoder, asked = clients.mteb_encoder(sentences), SimpleNamespace(value="document")
    batches = [{"text": TEXTS[:2]}, {"text": TEXTS[2:]}]
    np.testing.assert_allclose(encoder.encode(batches, task_metadata="", prompt_type=asked), documents, atol=1e-6)
    of_the_task = encoder.encode([{"text": ["two"]}], task_metadata="query", prompt_type=asked)
    np.testing.assert_allclose(of_the_task, query, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(batches, task_metadata=""), opened.embed(TEXTS), atol=1e-6)
    seen = list(pictures(2))
    by_mteb = clients.mteb_encoder(towers).encode([{"image": seen}], task_metadata="")
    np.testing.assert_allclose(by_mteb, open_artifacts(towers).embed(images=seen), atol=1e-6)
    assert encoder.mteb_model_meta.modalities == ["text"]
