"""Language models on one thread: a prompt and a step with caches, ours, PyTorch's and other exporters' files.

    python -m benchmarks.causal [--size 0.5b] [--write-docs]

Weights are seeded. All compute on one thread, in turn; what is measured is the CPU time of that thread, which
neighbours move least.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import document
from .models import BUILD, Model
from .towers import Contenders, race

PROMPT = 128
ROUNDS = 7
EAGER = "PyTorch, eager"
PRECISIONS = {"ours": "onnx", "ours, int8": "onnx-int8", "ours, int4": "onnx-int4"}
BUILT = {"genai's builder": "fp32", "genai's builder, int4": "int4"}
TARGETS = {"prefill": {"ours": 1.0}, "decode": {"ours": 1.0, "ours, int8": 0.5, "ours, int4": 0.5}}
"""Of PyTorch's time in float32."""

Run = Callable[[Mapping[str, np.ndarray]], Any]


def inputs_of(made: Contenders) -> dict[str, dict[str, np.ndarray]]:
    """Draw a prompt, and a step after it, with what PyTorch keeps of it."""
    ids = np.random.default_rng(0).integers(0, made.config.vocab_size, (1, PROMPT)).astype(np.int64)
    prompt = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(PROMPT)[None]}
    kept = made.reference.run("prefill", prompt)
    step = {
        "input_ids": ids[:, :1],
        "attention_mask": np.ones((1, PROMPT + 1), np.int64),
        "position_ids": np.array([[PROMPT]]),
        **{f"past_{name}": array for name, array in kept.items() if name != "logits"},
    }
    return {"prefill": prompt, "decode": step}


def ours(made: Contenders, entry: str, format_: str) -> Run:
    """Open a program of ours on one thread; it gives the scores and what is kept."""
    from bgevis.exporters.base import Request, exporters
    from bgevis.exporters.weights import WeightsFile

    network = made.family.network(made.config)
    network.entry_points = {entry: network.entry_points[entry]}
    out = made.folder / f"{entry}-{format_}"
    out.mkdir()
    (out / made.weights.name).hardlink_to(made.weights)
    exporters()[format_].write(Request(network, WeightsFile(out / made.weights.name), out))
    (program,) = out.glob("*.onnx")
    return session(program, lambda name: name)


def session(program: Path, ours: Callable[[str], str]) -> Run:
    """Open a program on one thread; `ours` gives our name of one of its inputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    opened = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    names = {value.name: ours(value.name) for value in opened.get_inputs()}
    logits = [value.name for value in opened.get_outputs()].index("logits")
    return lambda inputs: opened.run(None, {name: inputs[of] for name, of in names.items() if of in inputs})[logits]


def kept(name: str) -> str:
    """Give our name of a cache, of `past_key_values.3.key` or `past_key_values.layers.3.keys`; others stay."""
    found = re.fullmatch(r"past_key_values\.(?:layers\.)?(\d+)\.(key|value)s?", name)
    return f"past_{found[2]}s_{found[1]}" if found else name


def by_transformers(made: Contenders, entry: str, inputs: Mapping[str, np.ndarray]) -> Run:
    """Export transformers' class by transformers' own exporter."""
    import torch
    from transformers import DynamicCache
    from transformers.exporters import OnnxConfig, OnnxExporter

    given: dict[str, Any] = {n: torch.from_numpy(a) for n, a in inputs.items() if not n.startswith("past_")}
    if len(given) < len(inputs):
        layers = range(made.config.num_hidden_layers)
        pairs = [[torch.from_numpy(inputs[f"past_{kind}_{i}"]) for kind in ("keys", "values")] for i in layers]
        given["past_key_values"] = DynamicCache(pairs)
    exported = OnnxExporter().export(made.reference.module, given, config=OnnxConfig(dynamic=True))
    out = made.folder / f"{entry}-transformers"
    exported.save_pretrained(out)
    (program,) = out.glob("*.onnx")
    return session(program, kept)


def by_genai(made: Contenders, precision: str, inputs: Mapping[str, np.ndarray]) -> Run:
    """Let onnxruntime-genai's builder read the checkpoint, if it is there; it makes one program of both entries."""
    from tokenizers import Tokenizer, models

    out = made.folder / f"genai-{precision}"
    if not out.exists():
        source = made.folder / "checkpoint"
        source.mkdir(exist_ok=True)
        for name, document_ in made.family.documents(made.config).items():
            (source / name).write_text(json.dumps(document_))
        if not (source / "model.safetensors").exists():
            (source / "model.safetensors").hardlink_to(made.folder / "seeded.safetensors")
        Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(source / "tokenizer.json"))  # the builder copies one
        words = ["-i", source, "-o", out, "-p", precision, "-e", "cpu", "-c", made.folder / "cache"]
        build = [sys.executable, "-W", "ignore", "-m", "onnxruntime_genai.models.builder", *map(str, words)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    size, heads = made.config.head_dim, made.config.num_key_value_heads
    empty = np.zeros((1, heads, 0, size), np.float32)
    none = {f"past_{kind}_{i}": empty for i in range(made.config.num_hidden_layers) for kind in ("keys", "values")}
    run = session(out / "model.onnx", kept)
    return lambda inputs: run({**none, **inputs})


def eager(made: Contenders, entry: str) -> Run:
    """Run transformers' class, as `generate` does: with a cache."""
    return lambda inputs: made.reference.run(entry, inputs)["logits"]


def contenders(made: Contenders, entry: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Run]:
    """Open all; one whose exporter fails says why and takes no part, nor does one that computes something else."""
    runs = {name: ours(made, entry, format_) for name, format_ in PRECISIONS.items()}
    runs[EAGER] = eager(made, entry)
    others: dict[str, Callable[[], Run]] = {
        "transformers' exporter": lambda: by_transformers(made, entry, inputs),
        **{name: lambda precision=precision: by_genai(made, precision, inputs) for name, precision in BUILT.items()},
    }
    wanted = runs[EAGER](inputs)
    for name, make in others.items():
        try:
            runs[name] = make()
            off = float(np.abs(runs[name](inputs) - wanted).max() / np.abs(wanted).max())
            if off > (0.5 if "int4" in name else 1e-3):
                raise ValueError(f"its logits are off by {off:.2g}")
        except Exception as problem:
            runs.pop(name, None)
            click.echo(f"{entry}, {name}: {type(problem).__name__}: {str(problem).splitlines()[0]}", err=True)
    return runs


def measured(model: Model, rounds: int) -> list[tuple[str, dict[str, float]]]:
    """Measure both entry points."""
    import torch

    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        made = Contenders(model, Path(folder))
        for entry, inputs in inputs_of(made).items():
            found.append((entry, race(contenders(made, entry, inputs), inputs, rounds)))
            click.echo(f"{entry}: {found[-1][1]}", err=True)
    return found


def report(model: Model, found: list[tuple[str, dict[str, float]]]) -> str:
    """Lay out times and targets."""
    names = list(dict.fromkeys(name for _, times in found for name in times))
    lines = [
        (entry, *(f"{1000 * times[name]:.0f} ms" if name in times else "-" for name in names)) for entry, times in found
    ]
    targets = [
        document.held(f"{entry}: {name}", times[name] / times[EAGER], target)
        for entry, times in found
        for name, target in TARGETS[entry].items()
    ]
    told = {"prefill": f"a prompt of {PROMPT} tokens", "decode": f"one token after {PROMPT}"}
    title = f"{model}, {', '.join(f'`{entry}`: {what}' for entry, what in told.items())}; one thread, its CPU time."
    return "\n\n".join([title, document.table(("", *names), lines), document.table(document.TARGETS, targets)])


@click.command()
@click.option("--size", default="0.5b", show_default=True, help="Of Qwen2.")
@click.option("--rounds", default=ROUNDS, show_default=True)
@click.option("--write-docs", is_flag=True, help="Put the tables into docs/performance.md.")
def main(size: str, rounds: int, write_docs: bool) -> None:
    """Time a language model's prompt and step, side by side."""
    BUILD.mkdir(parents=True, exist_ok=True)
    model = Model("qwen2", size)
    said = f"{document.sentence(document.environment())}\n\n{report(model, measured(model, rounds))}"
    click.echo(said)
    if write_docs:
        document.rewrite("causal", said)


if __name__ == "__main__":
    main()
