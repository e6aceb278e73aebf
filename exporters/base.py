"""What an exporter is: one format's writer and opener, declared in a module or folder of this package."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..validation.entry_point import EntryPoint
from ..validation.errors import GateError
from ..validation.goldens import Intermediates
from ..validation.locate import Taps
from ..validation.packages import need
from ..validation.runner import Arrays, Runner
from .precisions import FLOAT32
from .releases import Need
from .weights import WeightsFile

if TYPE_CHECKING:
    from ..model.family import HuggingFace, Towers, Transcriber
    from ..model.network import Network

PROGRAMS = "programs"
"""The folder of the run directory that holds the weights file and every program that points into it."""

WEIGHTS = "weights.safetensors"

Description = dict[str, Any]
"""Where an entry point's program is, as the manifest states it: paths relative to the run directory."""


class UnreadableWeight(GateError):
    """A weight that an artifact's own reader refuses to give, because the bytes were altered."""

    def __init__(self, leaf: str, reason: str):
        super().__init__(f"{leaf} cannot be read: {reason}")
        self.leaf = leaf


@dataclass(frozen=True)
class Plan:
    """What to export."""

    network: "Network"
    static: tuple[Mapping[str, int], ...] = field(default=(), kw_only=True)
    """Static-shape variants to add, e.g. ({"batch": 1, "tokens": 32},), for formats that have them."""
    opset: int | None = field(default=None, kw_only=True)
    ops: str = field(default="xla", kw_only=True)
    """What a SavedModel computes with: "xla", one compiled program, or "tensorflow", ordinary operators."""
    via: str = field(default="", kw_only=True)
    """The route to ONNX: our own lowering, or "tf2onnx"."""


@dataclass(frozen=True)
class Request(Plan):
    """What to export, of which weights, and where to.

    The exporter writes below `out`, an empty directory that will be moved into place as a whole
    (`Exporter.folder`) or merged into the programs folder.
    """

    weights: WeightsFile
    out: Path
    progress: Callable[[int], None] = lambda nbytes: None
    """Called with the number of bytes written since the last call."""
    directory: Path = Path()
    """The run directory, for what takes the pack's tokenizer.json and preprocess.json."""
    tensors: Callable[[], Iterator[tuple[str, np.ndarray]]] | None = None
    """For formats of the source's tensors (`Exporter.source`): gives them in its order, one in memory at a time."""
    documents: Mapping[str, Any] = field(default_factory=dict)
    """For the same: the documents that lie beside such a source, by place."""
    hugging_face: "HuggingFace | None" = None
    """For layouts that Hugging Face's clients open; None for families that they do not know."""
    transformers_js: "Towers | Transcriber | None" = None
    """For the layout of Transformers.js; None for families that it does not know."""
    onnxruntime_genai: "Transcriber | None" = None
    """For the layout of onnxruntime-genai; None for families that it does not know."""
    sherpa_onnx: "Transcriber | None" = None
    """For the layout of sherpa-onnx; None for families that it does not know."""


@dataclass(frozen=True)
class Session:
    """How a runtime is opened. As it stands here, artifacts are proved: with the runtime's own defaults.

    Args:
        threads: of one run; None for the runtime's default.
        providers: onnxruntime's execution providers, the first that there is; the CPU's if none are named.
        kept: whether programs stay open that have run, for calls that take turns between entry points.
    """

    threads: int | None = None
    providers: tuple[Any, ...] = ()
    kept: bool = False


@dataclass(frozen=True)
class Artifact:
    """What to open: a finished run directory, by its manifest."""

    directory: Path
    entry_points: Mapping[str, EntryPoint]
    programs: Mapping[str, Description]
    """Entry point -> this exporter's description of its program."""
    network: Callable[[], "Network"]
    """The NNX model, for formats that hold weights without a program (Orbax)."""
    session: Session = Session()
    leaves: Callable[[Iterator[tuple[str, np.ndarray]]], Iterator[tuple[str, np.ndarray]]] = iter
    """Turns the source's tensors into the leaves that they fill, for formats that hold those (`Exporter.source`)."""


@dataclass(frozen=True)
class Exporter:
    """One format. Nothing heavy is imported before `write` or `open` runs.

    Args:
        name: as on the command line, "saved-model".
        key: as in the manifest, "saved_model".
        folder: where in the run directory it lives.
        modules: what must be importable; validation/packages.py names the extra that brings each.
        write: makes the files and describes the program of each entry point.
        trace: does what of `write` needs no weights, for it to find done; None if that is nothing.
        open: gives a Runner that computes in the format's own runtime, with that runtime's defaults.
        serve: gives the same of files that were held to their digests, without asking again whether they are valid, by
            the modules `serves` alone; None if that is `open`.
        read_weights: reads every weight back out of the artifact, as (leaf name, array in the leaf's shape).
        probe: opens with some leaves multiplied, for the probes; None for formats whose operators are
            those that JAX lowers the model to.
        taps: gives the intermediate values that the goldens have and an entry point's program computes, and what it
            computes; with some leaves multiplied. None for formats whose programs do not show their modules.
        locate: says in which module an entry point's program parts from the goldens, and why, or "" where all
            agree; with some leaves multiplied. None like `taps`.
        ways: what else must be importable for a way of writing that `--via` names; the extra is called as the way.
        compiles: its runtime compiles the program anew for each shape.
        weights_only: the files hold no program; what runs is the NNX model, which parity runs on every case.
        source: it holds the source's tensors under their own names, in place of leaves, and the pack's tokenizer.
        host: the format whose process writes this one too, right after it, if both are written: what that one
            made in memory is used again.
        effort: how long writing and proving takes, compared with other formats: what takes longest starts first.
        layout: a folder for one kind of clients, with the pack's files in it; written only when asked for.
        without: entry points that its clients compute by themselves, so that there is no program of them.
        describes: which field of a family says what the clients need, and of a request, where it is found.
        optional: written only when asked for.
        precision: what the programs compute or store in. Other than float32, they are held to its floors.
        rounding: for weights that are not the source's: says of each leaf what is wrong with how its stored
            numbers were rounded, "" if nothing is. None where the weights are the source's, bit for bit.
        also: formats whose programs its runtime runs too, if the run directory holds them.
        more: gives further Runners of the artifact and of the programs of `also`, by format, each with the
            precision that it is held to.
        needs: says what each file asks of the runtime that opens it.
        tunable: what of a `Session` its opener obeys, by name.
    """

    name: str
    key: str
    folder: str
    modules: tuple[str, ...]
    write: Callable[[Request], dict[str, Description]]
    open: Callable[[Artifact], Runner]
    read_weights: Callable[[Artifact], Iterator[tuple[str, np.ndarray]]]
    serve: Callable[[Artifact], Runner] | None = None
    serves: tuple[str, ...] = ()
    trace: Callable[[Plan], object] | None = None
    probe: Callable[[Artifact, Mapping[str, float]], Runner] | None = None
    taps: Callable[[Artifact, str, Intermediates, Mapping[str, float]], tuple[Taps, Arrays]] | None = None
    locate: Callable[[Artifact, str, Intermediates, Mapping[str, float]], str] | None = None
    ways: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compiles: bool = True
    weights_only: bool = False
    source: bool = False
    host: str = ""
    effort: int = 0
    layout: bool = False
    without: tuple[str, ...] = ()
    describes: str = "hugging_face"
    optional: bool = False
    precision: str = FLOAT32
    rounding: Callable[[Artifact], Iterator[tuple[str, str]]] | None = None
    also: tuple[str, ...] = ()
    more: Callable[[Artifact, Mapping[str, Mapping[str, Description]]], Iterator[tuple[Runner, str]]] | None = None
    needs: Callable[[Artifact], Iterator[Need]] | None = None
    tunable: tuple[str, ...] = ()

    @property
    def needs_pack(self) -> bool:
        """Say whether it takes files of the pack."""
        return self.layout or self.source

    def require(self, via: str = "", *, serving: bool = False) -> None:
        """Raise EnvironmentFailure if a package is missing, saying how to get it.

        Args:
            via: another way of writing.
            serving: whether only `serve` will be called.
        """
        for module in self.serves if serving and self.serve else self.modules:
            need(module, f"the {self.name} exporter")
        for module in self.ways.get(via, ()):
            need(module, f"the {self.name} exporter", via)


def exporters() -> dict[str, Exporter]:
    """Find the exporters: every module of this package that has an EXPORTER, or several as EXPORTERS."""
    package = importlib.import_module(__package__)
    found: dict[str, Exporter] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f".{info.name}", __package__)
        for exporter in (*getattr(module, "EXPORTERS", ()), getattr(module, "EXPORTER", None)):
            if exporter is None:
                continue
            if exporter.name in found:
                raise ValueError(f"two exporters are called {exporter.name}")
            found[exporter.name] = exporter
    return dict(sorted(found.items()))
