"""Give a run directory to a client that takes providers, and print what it found: CLIENT RUN FOLDER QUERY TEXT..."""

import asyncio
import json
import sys

from bgevis.converter import EmbeddingProvider, chroma_function, lancedb_function, llama_index_embedding, mteb_encoder

QUERY, TEXTS = sys.argv[4], sys.argv[5:]


def langchain(run, folder):
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(EmbeddingProvider(run))
    store.add_texts(TEXTS)
    found = store.similarity_search_with_score(QUERY, k=3)
    (awaited,) = asyncio.run(store.asimilarity_search(QUERY, k=1))
    assert awaited.page_content == found[0][0].page_content
    return {each.page_content: score for each, score in found}


def llama_index(run, folder):
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS], embed_model=llama_index_embedding(run))
    return {each.text: each.score for each in index.as_retriever(similarity_top_k=3).retrieve(QUERY)}


def chroma(run, folder):
    import chromadb

    made = chromadb.PersistentClient(folder).create_collection("texts", embedding_function=chroma_function(run))
    made.add(ids=[str(place) for place in range(len(TEXTS))], documents=TEXTS)
    again = chromadb.PersistentClient(folder).get_collection("texts")  # which finds the function by its name
    found = again.query(query_texts=[QUERY], n_results=3)
    return dict(zip(found["documents"][0], (1 - d for d in found["distances"][0]), strict=True))


def lancedb(run, folder):
    import lancedb
    from lancedb.pydantic import LanceModel, Vector

    function, base = lancedb_function(run), lancedb.connect(folder)

    class Row(LanceModel):
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    base.create_table("texts", schema=Row).add([{"text": text} for text in TEXTS])
    found = base.open_table("texts").search(QUERY).metric("cosine").limit(3).to_list()
    return {row["text"]: 1 - row["_distance"] for row in found}


def mteb(run, folder):
    import mteb

    found = mteb.mock_run(mteb_encoder(run)).items()
    return {name: type(result).__name__ for name, result in found if result is not None}


if __name__ == "__main__":
    client, run, folder = sys.argv[1:4]
    print(json.dumps(globals()[client](run, folder)))
