"""Language models on one thread: a prompt and a step with caches, ours and PyTorch's, and smaller numbers of ours.

    python -m benchmarks.causal [--size 0.5b] [--write-docs]

Weights are seeded. All compute on one thread, in turn; what is measured is the CPU time of that thread, which
neighbours move least.
"""

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
PRECISIONS = {"ours": "onnx", "ours, int8": "onnx-int8"}
TARGETS = {"ours": 1.0, "ours, int8": 0.5}
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
    import onnxruntime

    from bgevis.exporters.base import Request, exporters
    from bgevis.exporters.weights import WeightsFile

    network = made.family.network(made.config)
    network.entry_points = {entry: network.entry_points[entry]}
    out = made.folder / f"{entry}-{format_}"
    out.mkdir()
    (out / made.weights.name).hardlink_to(made.weights)
    exporters()[format_].write(Request(network, WeightsFile(out / made.weights.name), out))
    (program,) = out.glob("*.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def eager(made: Contenders, entry: str) -> Run:
    """Run transformers' class, as `generate` does: with a cache."""
    return lambda inputs: made.reference.run(entry, inputs)


def measured(model: Model, rounds: int) -> list[tuple[str, dict[str, float]]]:
    """Measure both entry points."""
    import torch

    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        made = Contenders(model, Path(folder))
        for entry, inputs in inputs_of(made).items():
            runs: dict[str, Run] = {name: ours(made, entry, format_) for name, format_ in PRECISIONS.items()}
            runs["PyTorch, eager"] = eager(made, entry)
            found.append((entry, race(runs, inputs, rounds)))
            click.echo(f"{entry}: {found[-1][1]}", err=True)
    return found


def report(model: Model, found: list[tuple[str, dict[str, float]]]) -> str:
    """Lay out times and targets."""
    names = list(found[0][1])
    lines = [(entry, *(f"{1000 * times[name]:.0f} ms" for name in names)) for entry, times in found]
    targets = [
        document.held(f"{entry}: {name}", times[name] / times["PyTorch, eager"], target)
        for entry, times in found
        for name, target in TARGETS.items()
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
