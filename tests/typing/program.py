"""A user's program that touches every public name; type checkers must find nothing in it."""

from __future__ import annotations

import json
from pathlib import Path

from langchain_core.documents import Document
from llama_index.core.schema import TextNode

from bge_m3_integrations import (
    BANDS,
    BGEM3,
    PRESETS,
    And,
    Band,
    BGEM3Error,
    CacheWarning,
    Calibration,
    CalibrationWarning,
    CheckpointError,
    Compare,
    EmbeddingBatch,
    EmbeddingCache,
    EncodingError,
    FilterError,
    FilterWarning,
    Hit,
    HybridIndex,
    InputError,
    KeywordError,
    MeasuredOn,
    MemoryStore,
    MissingExtraError,
    Not,
    Or,
    Percentile,
    PoolingWarning,
    Probability,
    QueryRouter,
    Ranked,
    ReciprocalRank,
    Record,
    RerankDocument,
    ScaledSum,
    Scores,
    StoreError,
    TruncationWarning,
    WeightedSum,
    WeightProfile,
    Weights,
    WorkerError,
    band,
    clean_text,
    read_profiles,
    save_profile,
)
from bge_m3_integrations import evaluation as ev
from bge_m3_integrations import langchain as lc
from bge_m3_integrations import llama_index as li
from bge_m3_integrations.compat import BGEM3EmbeddingFunction, BGEM3FlagModel
from bge_m3_integrations.testing import FakeEncoder

ERRORS: tuple[type[Exception], ...] = (
    BGEM3Error,
    CheckpointError,
    EncodingError,
    FilterError,
    InputError,
    KeywordError,
    MissingExtraError,
    StoreError,
    WorkerError,
)
WARNINGS: tuple[type[Warning], ...] = (
    CacheWarning,
    CalibrationWarning,
    FilterWarning,
    PoolingWarning,
    TruncationWarning,
)


def encode(folder: Path) -> EmbeddingBatch:
    """Everything that an engine offers."""
    engine = BGEM3("BAAI/bge-m3", device="cpu", dtype="bfloat16", cache=EmbeddingCache(folder))
    batch = engine.encode(["a text"], kind="query", modes=["dense", "sparse"], max_length=512)
    first, width = batch[0], int(batch.dense.shape[1])
    norm = float((batch.dense[0] * batch.dense[0]).sum())
    weights = {token: weight * 2 for token, weight in first.sparse.items()}
    vectors = engine.encode_documents(["a text"]).colbert.row(0)
    ids, values = batch.sparse.row(0)
    counted: int = engine.count_tokens("a text") + engine.length_function("a text")
    counts: list[int] = engine.count_tokens(["a text", "another"])
    alike: float = engine.similarity("a", "b")
    table = engine.similarity(["a"], ["b", "c"], mode="colbert")
    pieces = engine.encoder.id_to_token(list(weights) + engine.token_ids("text"))
    print(width, norm, counted, counts, alike, table[0, 1], pieces, vectors[0], ids[0], values[0])
    future = engine.submit(["a text"], kind="document")
    print(future.result().tokens, clean_text("a  text"), engine.stats.forwards)
    engine.close()
    return engine.encode_queries(["a text"])


def score(engine: BGEM3) -> list[Ranked]:
    """Scores are used without an assertion that they are there."""
    scores: Scores = engine.score(["query"], ["one", "two"], weights="keyword")
    best = float(scores.dense[0, 0]) + float(scores.hybrid[0, 1]) + float(scores.sparse[0, 0])
    pairs = engine.score_pairs([("query", "one")], weights=Weights(dense=1.0, sparse=0.3))
    print(best, pairs.colbert[0], pairs.components.modes, json.dumps(scores.to_dict()))
    if scores.colbert is None:
        print("ColBERT was not asked for")
    ranked = engine.rerank("query", ["one", "two"], limit=1, weights=PRESETS["training"])
    print([(one.index, one.score, one.components["dense"], one.to_dict()) for one in ranked])
    return ranked


def weigh(index: HybridIndex, folder: Path) -> None:
    """Weights by names, profiles and functions."""
    here = MeasuredOn(fingerprint=index.engine.fingerprint, collection="mine")
    profile = WeightProfile("mine", Weights(1, 1, 0), ScaledSum(), here)
    save_profile(profile, folder / "profiles.toml")
    print(read_profiles(folder / "profiles.toml")["mine"].measured_on.evidence)
    print(index.search("query", weights=profile)[0].weighting)
    print(index.search("query", weights=lambda query: "keyword" if "#" in query else profile))
    router: QueryRouter = index.router(Weights(1, 1, 1))
    print(index.search("query E4021", weights=router)[0].weighting)
    print(index.weighting("keyword").weights, index.weighting(str.upper, "keyword"))


def measure(index: HybridIndex, folder: Path) -> None:
    """Data sets, runs, comparisons and reports."""
    data = ev.load_dataset(folder)
    made = ev.evaluate(index, data, weights={"mine": (1, 1, 0)}, metrics=["mrr@10"])
    if isinstance(made, ev.Evaluation) and isinstance(data, ev.Dataset):
        run: ev.Run = made["mine"]
        found: ev.Comparison = ev.compare(made["default"], run, metric="hit@5")
        mean: ev.Interval = run.measure("ndcg@10")
        print(found, found.p_value, mean.low, made.best.name)
        made.save_report(folder / "report.html")
        scores: ev.CandidateScores = ev.score_candidates(index, data)
        print(scores.run("a", Weights(1, 1, 1)).rankings)
    elif isinstance(made, ev.PairEvaluation):
        print(made.auc["dense"].mean)
    if isinstance(data, ev.Dataset):
        tuned: ev.Tuning = ev.tune(index, data, metric="mrr@10", prior=index.learned_weights)
        print(tuned.worth_it, tuned.against_default.difference.low)
        tuned.save(folder / "profiles.toml", "tuned")
    print(ev.tune(index, ev.load_clicks(folder / "clicks.csv"), prior=False).weights)
    print(index.learn_weights(documents=60).gains["learned"])
    pairs = ev.LabelledPairs("pairs", [("query", "document"), ("query", "other")], [1, 0])
    print(ev.evaluate(index, pairs).to_dict())
    by_pairs: ev.PairTuning = ev.tune_pairs(index, pairs)
    print(by_pairs.profile("pairs").weights)


def calibrate(index: HybridIndex, folder: Path) -> None:
    """Calibrations, thresholds on their scale, and A/B tests."""
    data = ev.load_dataset(folder)
    if isinstance(data, ev.Dataset):
        made: Calibration = ev.calibrate(index, data, weights="keyword", fusion=ScaledSum())
        index.calibration = made
        chosen: Probability = made.threshold(precision=0.8)
        hit = index.search("query", weights="keyword", score_threshold=chosen)[0]
        if hit.probability is not None and hit.percentile is not None:
            found: Band = band(hit.probability)
            print(found.name, found.meaning, hit.percentile / 100, BANDS[0].least)
        made.save(folder / "calibration.json")
        ev.save_calibration_report(Calibration.load(folder / "calibration.json"), "report.html")
        print(made, made.measured.collection, json.dumps(made.to_dict()))
    print(index.search("query", score_threshold=Percentile(99)))
    index.calibration = None
    test = ev.ABTest(index, {"a": "default", "b": (1, 0, 1)}, log=folder / "log.jsonl", name="w")
    answer: ev.ABAnswer = test.search("query", key="user", limit=5)
    test.feedback(answer.id, [answer.hits[0].id])
    print(answer.arm, test.arm_of("user"), ev.assign("user", {"a": 1, "b": 2}, experiment="w"))
    report: ev.ABReport = ev.ab_report(folder / "log.jsonl")
    one: ev.ABComparison = report.comparisons[0]
    print(report, one.difference, one.interval, one.sentence, json.dumps(report.to_dict()))


def explained(engine: BGEM3, index: HybridIndex, folder: Path) -> None:
    """Words that made a score."""
    made = engine.explain("query", "document", weights="keyword", without="query")
    print(made, made.parts["dense"], made.lexical[0].query.text, made.alignments[0].cosine)
    made.save_html(folder / "why.html")
    hit = index.search("query")[0]
    print(index.explain("query", hit).to_dict(), index.explain_difference("query", hit, "id"))
    print(engine.explain_difference("query", "a", "b").parts[0].difference)


def search(engine: BGEM3, folder: Path) -> list[Hit]:
    """An index in memory and one in a folder."""
    index = HybridIndex(engine, MemoryStore(modes=["dense"]), modes=["dense"])
    ids: list[str] = index.add(
        ["a text", {"text": "a dict", "metadata": {"n": 1}}, Record("id", "a record", {"n": 2})],
        batch_size=16,
        progress=True,
    )
    print(len(index), index.ingest(["a text"]).unchanged, index.get(ids)[0], index.count({"n": 1}))
    with HybridIndex.open(folder, engine, colbert="float16", filter_fields=["n"]) as kept:
        hits = kept.search(
            "query", limit=5, weights=(0.4, 0.2, 0.4), where={"n": {"$gte": 1}}, exact=True
        )
        hits += kept.search("query", fusion=ReciprocalRank(k=30), candidates={"sparse": 50})
        hits += kept.search("query", fusion=ScaledSum(), where=lambda metadata: metadata["n"] > 1)
        found = And([Compare("n", "$eq", 1), Or([Not(Compare("n", "$eq", 2))])])
        hits += kept.search_batch(["query"], fusion=WeightedSum(), where=found)[0]
        hits += kept.search_diverse("query", fetch=20, limit=3)
        print(kept.rerank("query", [RerankDocument("a text", id="id"), "another"])[0].score)
        kept.delete(ids=["id"])
        kept.optimize(isolated=True)
    for hit in hits:
        print(hit.id, hit.text, hit.metadata["n"], hit.score, hit.components["dense"], hit.hybrid)
        print(json.dumps(hit.to_dict()), hit.record.to_dict(), hit.relevance, hit.weights.dense)
    return list(set(hits))


async def search_asynchronously(index: HybridIndex) -> list[Hit]:
    """The asynchronous twins."""
    await index.engine.aencode(["a text"], kind="document")
    return [*await index.asearch("query", limit=3), *(await index.asearch_batch(["query"]))[0]]


def with_langchain(engine: BGEM3, folder: Path) -> list[Document]:
    """LangChain's classes."""
    embeddings = lc.BGEM3Embeddings(model="BAAI/bge-m3", device="cpu")
    store = lc.BGEM3VectorStore(engine, path=folder, weights="keyword")
    store.add_texts(["a text"], metadatas=[{"n": 1}])
    retriever = lc.BGEM3Retriever(index=store.index, k=5, include_scores=True)
    reranker = lc.BGEM3Reranker(engine=engine, top_n=3)
    documents = list(reranker.compress_documents(retriever.invoke("query"), "query"))
    documents += store.similarity_search("query", k=3, filter={"n": 1})
    documents += store.as_retriever(search_kwargs={"k": 2}).invoke("query")
    lc.BGEM3ByteStore(folder / "cache").mset([("key", b"value")])
    tool = lc.retriever_tool(retriever, name="search", description="Searches.")
    print(embeddings.embed_query("query")[0], tool.name, lc.BGEM3Translator())
    record = lc.to_record(documents[0])
    return [*documents, lc.to_document(record)]


def with_llama_index(engine: BGEM3, index: HybridIndex) -> int:
    """LlamaIndex's classes."""
    embedding = li.BGEM3Embedding(engine=engine)
    sparse = li.BGEM3SparseEmbedding(engine=engine)
    store = li.BGEM3VectorStore(index)
    nodes = (
        li.BGEM3Index.from_vector_store(store).as_retriever(similarity_top_k=2).retrieve("query")
    )
    nodes += li.BGEM3Retriever(index, similarity_top_k=3).retrieve("query")
    best = li.BGEM3Reranker(engine=engine, top_n=2).postprocess_nodes(nodes, query_str="query")
    record = li.node_to_record(TextNode(text="a text"))
    print(li.record_to_node(record), li.to_filter(None), sparse.get_query_embedding("query"))
    return len(embedding.get_query_embedding("query")) + len(best)


def with_other_names() -> BGEM3:
    """The classes of FlagEmbedding and pymilvus, and the encoder for tests."""
    model = BGEM3FlagModel("BAAI/bge-m3", use_fp16=True)
    print(model.encode(["a text"])["dense_vecs"], BGEM3EmbeddingFunction(device="cpu").dim)
    return BGEM3(FakeEncoder(dim=8))
