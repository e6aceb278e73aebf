"""Replays the static StableHLO programs of a run directory in IREE, a compiler of its own, without a framework.

    python replay.py DIR [--xla] [--keep FOLDER]

Needs `iree-compile` and `iree-run-module` (pip install iree-base-compiler iree-base-runtime) and Python's standard
library. The weights stay in programs/weights.safetensors, which IREE reads as its parameters: the programs take them
as arguments, and one edit of the compiler's text turns each of these into a parameter by the manifest's name.

Exit codes: 0 all agree, 1 anything differs or is damaged, 2 usage, 4 IREE is missing.
"""

import argparse
import array
import hashlib
import json
import math
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TYPES = {"F32": ("float32", "f32", 4), "I32": ("int32", "i32", 4), "F64": ("float64", "f64", 8)}
SCOPE = "weights"
"""The name under which the compiled programs look for their parameters."""

SECONDS = 0.5
"""How long each program is timed."""

MAIN = re.compile(r"util\.func public @main\((?P<arguments>.*?)\) -> ")
ARGUMENT = re.compile(r"(%\w+): tensor<([^<>]*)>")


class Wrong(Exception):
    """The run directory is damaged, or a program computes something else."""


class Pack:
    """The files of a run directory, each read only as the manifest and the provenance state it."""

    def __init__(self, path: Path):
        self.path = path
        data = read(path / "manifest.json")
        provenance = parse(path / "provenance.json", read(path / "provenance.json"))
        stated = [s["digest"]["sha256"] for s in provenance["subject"] if s["name"] == "manifest.json"]
        if stated != [hashlib.sha256(data).hexdigest()]:
            raise Wrong("provenance.json does not state manifest.json as it is: one of them was altered")
        self.manifest = parse(path / "manifest.json", data)
        if self.manifest["format_version"] != 1:
            raise Wrong("manifest.json is not of format 1, which this program reads")

    def bytes(self, name: str) -> bytes:
        """Read a file."""
        if name not in self.manifest["files"]:
            raise Wrong(f"manifest.json does not name {name}")
        data, stated = read(self.path / name), self.manifest["files"][name]
        if len(data) != stated["bytes"] or hashlib.sha256(data).hexdigest() != stated["sha256"]:
            raise Wrong(f"{name} was altered: its size or sha256 is not that of manifest.json")
        return data

    def json(self, name: str) -> dict:
        """Read a JSON file."""
        return parse(self.path / name, self.bytes(name))

    def tensors(self, name: str) -> dict[str, tuple[str, list[int], memoryview]]:
        """Read a safetensors file: name -> type, shape, bytes."""
        data = memoryview(self.bytes(name))
        length = int.from_bytes(data[:8], "little")
        if length > len(data) - 8:
            raise Wrong(f"{name} is no safetensors file: its header is longer than the file")
        header, body = parse(self.path / name, bytes(data[8 : 8 + length])), data[8 + length :]
        found = {}
        for tensor, entry in header.items():
            if tensor == "__metadata__":
                continue
            if entry["dtype"] not in TYPES:
                raise Wrong(f"{name}: {tensor} is of the type {entry['dtype']}")
            start, end = entry["data_offsets"]
            size = math.prod(entry["shape"]) * TYPES[entry["dtype"]][2]
            if not 0 <= start <= end <= len(body) or end - start != size:
                raise Wrong(f"{name}: {tensor} does not lie where its header says")
            found[tensor] = entry["dtype"], entry["shape"], body[start:end]
        return found


def read(path: Path) -> bytes:
    """Read a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Wrong(f"{path} cannot be read: {error.strerror}") from error


def parse(path: Path, data: bytes) -> dict:
    """Parse a JSON object, strictly: no NaN, no infinity, no double key."""

    def number(text: str) -> float:
        if not math.isfinite(float(text)):
            raise ValueError(f"{text} is no number")
        return float(text)

    def members(pairs: list) -> dict:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands there twice")
        return dict(pairs)

    try:
        document = json.loads(data, parse_float=number, parse_constant=number, object_pairs_hook=members)
    except ValueError as error:
        raise Wrong(f"{path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise Wrong(f"{path} is not a JSON object")
    return document


def tool(name: str) -> str:
    """Find a program of IREE: beside this Python, or on the PATH."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if not found:
        print(f"error: {name} is missing: pip install iree-base-compiler iree-base-runtime", file=sys.stderr)
        sys.exit(4)
    return found


def run(*command: object) -> str:
    """Run a program of IREE and give what it prints."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise Wrong(f"{Path(str(command[0])).name} failed: {next((x for x in lines if 'error' in x), lines[0])[:300]}")
    return done.stdout


def compile_(program: Path, weights: dict[str, str], inputs: int, work: Path) -> Path:
    """Compile a program so that it looks its weights up by name; `weights` gives the type of each, "300x32xf32"."""
    text, compiled = work / "program.mlir", work / "program.vmfb"
    compiler = tool("iree-compile")
    run(compiler, program, "--iree-input-type=stablehlo", "--compile-to=input", "-o", text)
    text.write_text(with_parameters(text.read_text(), weights, inputs))
    options = ["--iree-input-type=none", "--iree-hal-target-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host"]
    run(compiler, text, *options, "-o", compiled)
    return compiled


def with_parameters(text: str, weights: dict[str, str], inputs: int) -> str:
    """Turn the first arguments of the function `main` into parameters."""
    main = MAIN.search(text)
    arguments = ARGUMENT.findall(main["arguments"]) if main else []
    if len(arguments) != len(weights) + inputs:
        stated = f"{len(weights)} weights and {inputs} inputs"
        raise Wrong(f"a program has {len(arguments)} arguments; by the manifest it has {stated}")
    declared, loaded = [], []
    for i, ((value, shape), (name, stated)) in enumerate(zip(arguments, weights.items(), strict=False)):
        if shape != stated:
            raise Wrong(f"a program takes {name} as {shape}, the weights file has {stated}")
        parameter = f'#flow.parameter.named<"{SCOPE}"::"{name}">'
        declared.append(f"  util.global private @weight_{i} = {parameter} : tensor<{shape}>\n")
        loaded.append(f"    {value} = util.global.load @weight_{i} : tensor<{shape}>\n")
    kept = ", ".join(f"{value}: tensor<{shape}>" for value, shape in arguments[len(weights) :])
    line, after = text.rindex("\n", 0, main.start()) + 1, text.index("\n", main.end()) + 1
    signature = text[line:after].replace(main["arguments"], kept)
    return text[:line] + "".join(declared) + signature + "".join(loaded) + text[after:]


def shaped(dtype: str, shape: list[int]) -> str:
    """Write a type as the compiler does."""
    return "x".join([*map(str, shape), TYPES[dtype][1]])


class Case:
    """The static case of an entry point, checked against its signature, its inputs written to files for IREE."""

    def __init__(self, entry: str, signature: dict, label: str, index: dict, goldens: dict, work: Path):
        self.name = f"static {label}"
        self.sizes = {axis: int(size) for axis, size in (part.split("=") for part in label.split(","))}
        described = index.get(entry, {}).get("cases", {}).get(self.name)
        if described is None:
            raise Wrong(f"goldens/index.json: {entry} has no case '{self.name}'")
        self.arguments = []
        for i, spec in enumerate(signature["inputs"]):
            dtype, shape, data = self.tensor(goldens, f"inputs/{spec['name']}", spec, spec["dtype"])
            file = work / f"input{i}.bin"
            file.write_bytes(data)
            self.arguments.append(f"--input={shaped(dtype, shape)}=@{file}")
        self.expected = []
        for spec in sorted(signature["outputs"], key=lambda spec: spec["name"]):
            _, _, data = self.tensor(goldens, f"outputs/{spec['name']}", spec, "float64")
            allowed = described["budgets"].get(spec["name"], {}).get("allowed")
            if not isinstance(allowed, float) or allowed <= 0:
                raise Wrong(f"goldens/index.json: {entry}, case '{self.name}': {allowed!r} is no budget")
            want = array.array("d", bytes(data))
            if not all(map(math.isfinite, want)):
                raise Wrong(f"the goldens of {entry}, case '{self.name}': {spec['name']} is not finite")
            self.expected.append((spec["name"], want, allowed, self.meant(goldens, spec)))

    def tensor(self, goldens: dict, name: str, spec: dict, dtype: str) -> tuple[str, list[int], memoryview]:
        """Give a tensor of the case, which must have the type and the shape of the signature."""
        if f"{self.name}/{name}" not in goldens:
            raise Wrong(f"the goldens hold no {self.name}/{name}")
        found = goldens[f"{self.name}/{name}"]
        shape = [self.sizes[size] if isinstance(size, str) else size for size in spec["shape"]]
        if TYPES[found[0]][0] != dtype or found[1] != shape:
            raise Wrong(f"{self.name}/{name} is {found[0]} {found[1]}, not {dtype} {shape}")
        return found

    def meant(self, goldens: dict, spec: dict) -> Callable[[int], bool]:
        """Say of which numbers of an output a mask among the inputs says that they mean something."""
        valid = spec["kind"].get("valid", "")
        if not valid:
            return lambda i: True
        _, (rows, length), data = goldens[f"{self.name}/inputs/{valid.removeprefix('~')}"]
        mask = array.array("i", bytes(data))
        shape = [self.sizes[size] if isinstance(size, str) else size for size in spec["shape"]]
        axis = 2 if spec["kind"]["is"] == "cache" else 1  # of keys and values the heads come first
        each, row = math.prod(shape[axis + 1 :]), math.prod(shape) // rows
        before, wanted = length - shape[axis], not valid.startswith("~")
        return lambda i: bool(mask[i // row * length + before + i // each % shape[axis]]) == wanted

    def compare(self, entry: str, files: list[Path]) -> float:
        """Give the greatest difference as a part of what is allowed."""
        worst = 0.0
        for file, (name, want, allowed, meant) in zip(files, self.expected, strict=True):
            got = array.array("f", file.read_bytes())
            if len(got) != len(want):
                raise Wrong(f"{entry}, case '{self.name}': {name} has {len(got)} numbers, expected {len(want)}")
            for i, (one, other) in enumerate(zip(got, want, strict=True)):
                if not meant(i):
                    continue
                if not abs(one - other) <= allowed:  # so written, NaN is a difference too
                    raise Wrong(
                        f"{entry}, case '{self.name}': {name}[{i}] is {one:.9g}, expected {other:.9g}; "
                        f"{abs(one - other):.3g} apart, {allowed:.3g} allowed"
                    )
                worst = max(worst, abs(one - other) / allowed)
        return worst


@dataclass
class Program:
    """A static program of an entry point, and the case that it is for."""

    entry: str
    signature: dict
    described: dict
    path: str
    case: Case
    goldens: dict
    work: Path


def programs(pack: Pack, work: Path) -> list[Program]:
    """Read and check everything that the pack has on the static programs, before anything is compiled."""
    index, entries, found = pack.json("goldens/index.json"), pack.manifest["entry_points"], []
    if set(index) != set(entries) or not entries:
        raise Wrong(f"goldens/index.json has cases of {sorted(index)}, manifest.json has {sorted(entries)}")
    for entry, signature in entries.items():
        described = signature["programs"].get("stablehlo", {})
        if not described.get("static"):
            raise Wrong(f"the run has no static program of {entry}: export with --static batch=1,tokens=32 or the like")
        goldens = pack.tensors(f"goldens/{entry}.safetensors")
        for label, path in described["static"].items():
            pack.bytes(path)
            folder = work / f"{entry}.{label}"
            folder.mkdir(parents=True, exist_ok=True)
            case = Case(entry, signature, label, index, goldens, folder)
            found.append(Program(entry, signature, described, path, case, goldens, folder))
    return found


def replay(pack: Pack, work: Path, *, xla: bool) -> int:
    """Compile, run and compare every static program; give their number."""
    found, stored = programs(pack, work), pack.tensors("programs/weights.safetensors")
    for program in found:
        unknown = [leaf for leaf in program.described["weights"] if leaf not in stored]
        if unknown:
            raise Wrong(f"programs/weights.safetensors holds no {unknown[0]}")
        weights = {leaf: shaped(*stored[leaf][:2]) for leaf in program.described["weights"]}
        module = compile_(pack.path / program.path, weights, len(program.signature["inputs"]), program.work)
        outputs = [program.work / f"output{i}.bin" for i in range(len(program.case.expected))]
        common = [f"--module={module}", "--function=main", "--device=local-task", *program.case.arguments]
        common.append(f"--parameters={SCOPE}={pack.path / 'programs' / 'weights.safetensors'}")
        run(tool("iree-run-module"), *common, *(f"--output=@{file}" for file in outputs))
        worst = program.case.compare(program.entry, outputs)
        told = f"  {program.entry}, {program.case.name}: {worst:.0%} of what is allowed"
        told += f"; IREE {seconds_in_iree(common) * 1e3:.2f} ms"
        print(told + (f", XLA {seconds_in_xla(program, stored, pack) * 1e3:.2f} ms" if xla else ""), flush=True)
    return len(found)


def seconds_in_iree(common: list[str]) -> float:
    """Time a compiled program with IREE's own benchmark."""
    flags = ["--benchmark_format=json", f"--benchmark_min_time={SECONDS}s"]
    (result,) = json.loads(run(tool("iree-benchmark-module"), *common, *flags))["benchmarks"]
    return result["real_time"] * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}[result["time_unit"]]


def seconds_in_xla(program: Program, stored: dict, pack: Pack) -> float:
    """Time the same entry point at the same sizes in JAX, which must be installed for this."""
    import jax
    import numpy as np
    from jax import export

    def on_device(tensor: tuple[str, list[int], memoryview]) -> "jax.Array":
        return jax.device_put(np.frombuffer(tensor[2], TYPES[tensor[0]][0]).reshape(tensor[1]))

    call = jax.jit(export.deserialize(bytearray(pack.bytes(program.described["jax_export"]))).call)
    weights = {leaf: on_device(stored[leaf]) for leaf in program.described["weights"]}
    names = [f"{program.case.name}/inputs/{spec['name']}" for spec in program.signature["inputs"]]
    inputs = [on_device(program.goldens[name]) for name in names]
    jax.block_until_ready(call(weights, *inputs))  # compiles
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        jax.block_until_ready(call(weights, *inputs))
        count += 1
    return (time.perf_counter() - begin) / count


def main() -> int:
    """Replay a run directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="DIR", type=Path)
    parser.add_argument("--xla", action="store_true", help="print XLA's times beside IREE's; needs jax")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the compiled programs, inputs and outputs")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            pack = Pack(given.directory)
            count = replay(pack, given.keep or Path(folder), xla=given.xla)
    except Wrong as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        print(f"error: {given.directory} is not as docs/pack.md says ({error!r})", file=sys.stderr)
        return 1
    version = run(tool("iree-compile"), "--version").split("version")[1].split()[0]
    entries = len(pack.manifest["entry_points"])
    print(f"IREE {version}: {entries} entry points, {count} cases: all within what is allowed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
