"""How fast raw texts become embeddings: ours, sentence-transformers on PyTorch, and fastembed on our ONNX file.

Run from the root of the repository: `python -m benchmarks.embedding [FOLDER]`, where FOLDER is a text encoder as
sentence-transformers saves it; by default the real all-MiniLM-L6-v2. All are open in one process and take turns, each
as its users call it, with its own defaults but for the threads.
"""

import json
import os
import random
import shutil
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import document
from .measure import peak
from .models import BUILD, Model

ALIKE = 1e-4
"""Distance of two vectors of length 1 within which two tools compute the same network."""
WORDS = (2, 12)
"""Fewest and most words of a text, such as people search for."""

Embed = Callable[[list[str]], np.ndarray]


def ours(run: Path, folder: Path, threads: int) -> Embed:
    from bgevis.converter import open_artifacts

    return open_artifacts(run, "onnx", threads=threads).embed


def sentence_transformers(run: Path, folder: Path, threads: int) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, show_progress_bar=False)


def fastembed(run: Path, folder: Path, threads: int) -> Embed:
    """The program pools and normalises by itself: fastembed does neither. The tokenizer is the pack's, cut alike."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    beside, rules = run / "fastembed", json.loads((run / "preprocess.json").read_text())
    if not beside.exists():
        shutil.copytree(run / "programs", beside, copy_function=os.link)
        shutil.copy(run / "tokenizer.json", beside)
        tokenizer = json.loads((run / "tokenizer.json").read_text())
        words = {str(token["content"]) for token in tokenizer["added_tokens"] if token["special"]}
        special = {f"{word.strip('[]').lower()}_token": word for word in words if word.startswith("[")}
        limit = rules["texts"]["max_tokens"]["encode_text"]
        (beside / "special_tokens_map.json").write_text(json.dumps(special))
        (beside / "tokenizer_config.json").write_text(json.dumps({"model_max_length": limit, **special}))
        (beside / "config.json").write_text(json.dumps({"pad_token_id": rules["texts"]["pad_id"]}))
    TextEmbedding.add_custom_model(
        model="bgevis/ours",
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf="bgevis/ours"),
        dim=rules["embeddings"]["width"],
        model_file="encode_text.onnx",
    )
    model = TextEmbedding("bgevis/ours", specific_model_path=str(beside), threads=threads)
    return lambda texts: np.stack(list(model.embed(texts)))


CONTENDERS = {"ours": ours, "sentence-transformers": sentence_transformers, "fastembed": fastembed}


def texts_of(folder: Path, count: int) -> list[str]:
    """Draw texts of whole words of the tokenizer, the same each time."""
    draw, file = random.Random(0), folder / "tokenizer.json"
    vocabulary = json.loads(file.read_text())["model"]["vocab"] if file.exists() else []
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha()) or list(string.ascii_lowercase)
    return [" ".join(draw.choices(words, k=draw.randint(*WORDS))) for _ in range(count)]


def converted(folder: Path, name: str) -> Path:
    """Convert the folder to ONNX, without the proof, unless that was done."""
    run = BUILD / "embedding" / name
    if not (run / "programs" / "encode_text.onnx").exists():
        command = [sys.executable, "-m", "benchmarks.ours", str(folder), str(run), "onnx"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return run


def tiny() -> Path:
    """Write a network that is soon embedded, with a tokenizer."""
    folder = BUILD / "embedding" / "tiny-folder"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bgevis.converter", "fixture", "bert", "--size", "tiny", "--force", "--out"]
    subprocess.run([*command, str(folder / "model.safetensors")], check=True, stdout=subprocess.DEVNULL)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    more = [f"[unused{i}]" for i in range(Model("bert", "tiny").config.vocab_size - len(words))]
    (folder / "vocab.txt").write_text("\n".join([*words, *more]) + "\n")
    return folder


def race(opened: dict[str, Embed], texts: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Let each embed all texts, once a round, each time in another place of the order; hold their vectors together."""
    found = {name: embed(texts) for name, embed in opened.items()}
    first = next(iter(found.values()))
    results: dict[str, dict[str, Any]] = {
        name: {"seconds": [], "difference": float(np.abs(vectors - first).max())} for name, vectors in found.items()
    }
    names = list(opened)
    for turn in range(rounds):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            begun = time.perf_counter()
            opened[name](texts)
            results[name]["seconds"].append(time.perf_counter() - begun)
    return results


def alone(name: str, given: Sequence[str]) -> int:
    """Embed once in a process of its own; give the bytes of memory that it had at most."""
    command = [sys.executable, "-m", "benchmarks.embedding", *given, "--alone", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


def said(results: dict[str, dict[str, Any]], where: dict[str, Any]) -> str:
    """Lay out the table; a ratio is the median of those of each round, whose runs were neighbours."""
    mine, rows = results["ours"]["seconds"], []
    for name, result in results.items():
        if "missing" in result:
            rows.append([name, f"not installed: {result['missing']}", "", "", ""])
            continue
        ratio = statistics.median(a / b for a, b in zip(mine, result["seconds"], strict=True))
        median, memory = statistics.median(result["seconds"]), result["peak"] / 1e9
        rows.append([name, f"{median:.2f}", f"{ratio:.2f}", f"{memory:.2f}", f"{result['difference']:.1e}"])
    table = document.table(("", "median s", "ours / it", "peak GB", "largest difference to ours"), rows)
    return f"Measured {document.sentence(where)} {where['texts']} texts, {where['threads']} threads.\n\n{table}"


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--texts", "count", default=10_000, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=os.cpu_count(), show_default=True, type=click.IntRange(1), help="Of each.")
@click.option("--contenders", multiple=True, type=click.Choice([*CONTENDERS]), help="Only these and ours; repeatable.")
@click.option("--quick", is_flag=True, help="See that everything works, on a tiny network; the numbers say nothing.")
@click.option("--write-docs", is_flag=True, help="Put the table into docs/performance.md.")
@click.option(
    "--alone", "only", type=click.Choice([*CONTENDERS]), help="Embed once by this one, and print its peak memory."
)
def main(
    folder: Path | None,
    count: int,
    rounds: int,
    threads: int,
    contenders: tuple[str, ...],
    quick: bool,
    write_docs: bool,
    only: str | None,
) -> None:
    """Time embedding of raw texts, side by side."""
    document.refuse_quick(quick, write_docs)
    if quick:
        folder, count, rounds = tiny() if only is None else BUILD / "embedding" / "tiny-folder", 64, 3
    folder = folder or Model("bert", "minilm-l6").packaged
    if folder is None:
        raise click.UsageError("name a FOLDER: the package of all-MiniLM-L6-v2 is not installed")
    run, texts = converted(folder, "tiny" if quick else folder.resolve().name), texts_of(folder, count)
    if only:
        CONTENDERS[only](run, folder, threads)(texts)
        click.echo(peak(os.getpid()))
        return
    opened: dict[str, Embed] = {}
    results: dict[str, dict[str, Any]] = {}
    for name in [n for n in CONTENDERS if n == "ours" or not contenders or n in contenders]:
        try:
            opened[name] = CONTENDERS[name](run, folder, threads)
        except ModuleNotFoundError as error:
            results[name] = {"missing": error.name}
    given = ["--quick"] if quick else [str(folder), "--texts", str(count)]
    results |= race(opened, texts, rounds)
    for name in opened:
        results[name]["peak"] = alone(name, [*given, "--threads", str(threads)])
        if results[name]["difference"] > ALIKE:
            raise click.ClickException(f"{name} gives other vectors: {results[name]['difference']:.1e} apart")
    where = document.environment() | {"threads": threads, "texts": count}
    click.echo(said(results, where))
    document.save("embedding-quick" if quick else "embedding", {"environment": where, "results": results})
    if write_docs:
        document.rewrite("embedding", said(results, where))


if __name__ == "__main__":
    main()
