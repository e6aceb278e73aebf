"""The towers of CLIP in onnxruntime: ours and other exporters', and transformers' own classes in PyTorch.

    python -m benchmarks.towers [--quick] [--write-docs]

All compute on one thread, in turn; what is measured is the CPU time of that thread, which neighbours move least.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import document
from .models import Model
from .roads import inputs_of

MODELS = (("clip", "base"), ("clip", "base-16"))
SHAPES = (("encode_image", 1, 1), ("encode_image", 8, 1), ("encode_text", 8, 20))
"""Entry point, rows, longest text."""

ROUNDS = 7
PRECISIONS = {"ours": "onnx", "ours, int8": "onnx-int8"}

Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Contenders:
    """The programs of a network, each made when it is asked for and opened on one thread.

    Args:
        model: the network, with seeded weights.
        folder: where everything is written.
    """

    def __init__(self, model: Model, folder: Path):
        from safetensors.numpy import load_file

        from bgevis.converter.certificate.assign import assign
        from bgevis.converter.certificate.ledger import Ledger
        from bgevis.converter.use.fixture import write_fixture
        from bgevis.exporters.weights import plan, write
        from bgevis.model.family import families
        from bgevis.model.reference import Original, tensor_of

        self.folder, self.family, self.config = folder, families()[model.family], model.config
        write_fixture(model.family, model.size, 7, "float32", folder / "seeded.safetensors")
        tensors = load_file(folder / "seeded.safetensors")
        ledger = Ledger(
            "", self.family.axis_sizes(self.config), assign(tensors, self.family.rules(self.config), ()).entries
        )
        leaves = {leaf: ledger.leaf(name, tensors[name]) for leaf, name in ledger.leaves.items()}
        shapes = {leaf: (array.dtype, array.shape) for leaf, array in leaves.items()}
        self.weights = folder / "weights.safetensors"
        with self.weights.open("wb") as file:
            write(file, shapes, ((leaf, np.asarray(leaves[leaf], order="C")) for leaf in plan(shapes, {})[1]), {})
        original = Original({n: tensor_of(t) for n, t in tensors.items()}, self.family.documents(self.config), folder)
        self.reference = self.family.reference(self.config, original)

    def ours(self, entry: str, format_: str) -> Run:
        """Write a program of ours."""
        from bgevis.exporters.base import Request, exporters
        from bgevis.exporters.weights import WeightsFile

        network = self.family.network(self.config)
        network.entry_points = {entry: network.entry_points[entry]}
        out = self.folder / f"{entry}-{format_}"
        out.mkdir()
        (out / self.weights.name).hardlink_to(self.weights)
        exporters()[format_].write(Request(network, WeightsFile(out / self.weights.name), out))
        (program,) = out.glob("*.onnx")
        return _session(program)

    def torchscript(self, entry: str, inputs: Mapping[str, np.ndarray]) -> Run:
        """Export transformers' class by PyTorch's older exporter."""
        import torch

        network = _Entry.of(self.reference, entry)
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        axes = {
            name: {0: "batch"} | ({1: "tokens"} if array.dtype == np.int64 else {}) for name, array in inputs.items()
        }
        program = self.folder / f"{entry}-torchscript.onnx"
        torch.onnx.export(
            network, tuple(given.values()), program, dynamo=False, input_names=list(given), dynamic_axes=axes
        )
        return _session(program)

    def transformers(self, entry: str, inputs: Mapping[str, np.ndarray]) -> Run:
        """Export transformers' class of one tower by transformers' own exporter."""
        import torch
        from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection
        from transformers.exporters import OnnxConfig, OnnxExporter

        whole = self.reference.module
        kind = CLIPTextModelWithProjection if entry == "encode_text" else CLIPVisionModelWithProjection
        config = getattr(whole.config, "text_config" if entry == "encode_text" else "vision_config")
        tower = kind(type(config)(**{**config.to_dict(), "projection_dim": whole.config.projection_dim}))
        known = tower.state_dict().keys()
        tower.load_state_dict({name: t for name, t in whole.state_dict().items() if name in known})
        given = {name: torch.from_numpy(array) for name, array in _of_transformers(inputs).items()}
        exported = OnnxExporter().export(tower.eval(), given, config=OnnxConfig(dynamic=True))
        out = self.folder / f"{entry}-transformers"
        exported.save_pretrained(out)
        (program,) = out.glob("*.onnx")
        run = _session(program)
        return lambda inputs: run(_of_transformers(inputs))

    def eager(self, entry: str) -> Run:
        """Run transformers' class."""
        import torch

        network = _Entry.of(self.reference, entry)

        def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
            with torch.inference_mode():
                return network(*map(torch.from_numpy, inputs.values())).numpy()

        return run

    def exact(self, entry: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute in float64."""
        import torch

        exact = self.reference.in_dtype("float64")
        given = {
            n: torch.from_numpy(a).double() if a.dtype == np.float32 else torch.from_numpy(a) for n, a in inputs.items()
        }
        with torch.inference_mode(), exact.computing():
            (found,) = exact.entries[entry](**given).values()
        return found.numpy()


class _Entry:
    """Makes a module of an entry point, for those that export modules."""

    @staticmethod
    def of(reference: Any, entry: str) -> Any:
        """Give a module that takes the inputs in their order."""
        import torch

        names = {"encode_text": ("input_ids", "attention_mask"), "encode_image": ("images",)}[entry]

        class Entry(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = reference.module

            def forward(self, *given: torch.Tensor) -> torch.Tensor:
                (found,) = reference.entries[entry](**dict(zip(names, given, strict=True))).values()
                return found

        return Entry().eval()


def _of_transformers(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give the inputs as transformers' classes take them: pictures channels first."""
    if "images" not in inputs:
        return dict(inputs)
    return {"pixel_values": np.ascontiguousarray(inputs["images"].transpose(0, 3, 1, 2))}


def _session(program: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    wanted = next(name for name in ("text_embeds", "image_embeds", outputs[0]) if name in outputs)
    return lambda inputs: session.run([wanted], {name: inputs[name] for name in names})[0]


def race(runs: Mapping[str, Run], inputs: Mapping[str, np.ndarray], rounds: int) -> dict[str, float]:
    """Run all in turn; give the median of each one's CPU time, in seconds."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.thread_time()
            run(inputs)
            if turn:  # the first prepares what a runtime prepares
                taken[name].append(time.thread_time() - began)
    return {name: statistics.median(times) for name, times in taken.items()}


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """Give the largest error of an embedding, made of length one."""
    return float(np.abs(found / np.linalg.norm(found, axis=-1, keepdims=True) - exact).max())


def contenders(made: Contenders, entry: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Run]:
    """Open all; one whose exporter fails says why and takes no part."""
    makers: dict[str, Callable[[], Run]] = {
        **{name: lambda format_=format_: made.ours(entry, format_) for name, format_ in PRECISIONS.items()},
        "TorchScript": lambda: made.torchscript(entry, inputs),
        "transformers' exporter": lambda: made.transformers(entry, inputs),
        "PyTorch eager": lambda: made.eager(entry),
    }
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except Exception as problem:
            if name in PRECISIONS:
                raise
            click.echo(f"{name}: {type(problem).__name__}: {str(problem).splitlines()[0]}", err=True)
    return found


def measured(quick: bool, rounds: int, only: str) -> list[tuple[str, ...]]:
    """Give the rows of the table."""
    import torch

    torch.set_num_threads(1)
    rows = []
    for family, size in MODELS:
        model = Model(family, "tiny" if quick else size)
        if only not in ("", size):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            made = Contenders(model, Path(scratch))
            opened: dict[str, dict[str, Run]] = {}
            for entry, batch, tokens in SHAPES:
                inputs = inputs_of(model, entry, batch, max(tokens, 2))
                runs = opened.setdefault(entry, {}) or contenders(made, entry, inputs_of(model, entry, 3, 7))
                opened[entry] = runs
                times, exact = race(runs, inputs, rounds), made.exact(entry, inputs)
                errors = {name: error(run(inputs), exact) for name, run in runs.items()}
                peers = {name: taken for name, taken in times.items() if name not in PRECISIONS}
                fastest = min(peers, key=lambda name: peers[name])
                shape = f"{batch} pictures" if entry == "encode_image" else f"{batch} texts of at most {tokens} tokens"
                ratio = (f"{times[name] / times[fastest]:.2f}" for name in PRECISIONS)
                every = (f"{times[name] * 1e3:.1f}" if name in times else "-" for name in COLUMNS)
                lost = f"{errors['ours'] / errors['PyTorch eager']:.2f}"
                rows.append((str(model), shape, *every, fastest, *ratio, lost))
                click.echo(" | ".join(rows[-1]), err=True)
    return rows


COLUMNS = ("ours", "ours, int8", "TorchScript", "transformers' exporter", "PyTorch eager")
HEADINGS = ("network", "inputs", *COLUMNS, "fastest peer", "ours / it", "int8 / it", "error: ours / eager")


@click.command()
@click.option("--quick", is_flag=True, help="Tiny networks.")
@click.option("--rounds", default=ROUNDS, show_default=True, help="Runs of each that count.")
@click.option("--only", default="", help="One size.")
@click.option("--write-docs", is_flag=True, help="Rewrite the table in docs/performance.md.")
def main(quick: bool, rounds: int, only: str, write_docs: bool) -> None:
    """Measure both towers."""
    document.refuse_quick(quick or bool(only), write_docs)
    rows = measured(quick, rounds, only)
    text = f"{document.table(HEADINGS, rows)}\n\n{document.sentence(document.environment())}"
    click.echo(text)
    if write_docs:
        document.rewrite("towers", text)


if __name__ == "__main__":
    main()
