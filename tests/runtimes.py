"""Which releases open what this tool writes? Tries real ones, each in an environment of its own, and says so as JSON.

    python tests/runtimes.py onnxruntime==1.17.3 onnxruntime==1.23.2 tensorflow-cpu==2.16.2

The tables of `bgevis-convert doctor` come from such a run. An environment takes up to 2 GB while it is tried and is
deleted afterwards.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

TRY_ONNX = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime

onnxruntime.set_default_logger_severity(4)

def opens(model):
    try:
        onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error).split("\\n")[0]
    return ""

def runs(program, cases):
    try:
        session = onnxruntime.InferenceSession(str(program), providers=["CPUExecutionProvider"])
        kinds = {i.name: np.int64 if "int64" in i.type else np.float32 for i in session.get_inputs()}
        worst = 0.0
        for case in cases:
            arrays = np.load(case)
            given = {name: arrays[name].astype(kind) for name, kind in kinds.items()}
            got = session.run([str(arrays["output"])], given)[0]
            worst = max(worst, float(np.abs(got - arrays["want"]).max() / arrays["allowed"]))
        return "ok" if worst <= 1 else f"differs by {worst:.2f} of what is allowed"
    except Exception as error:
        return str(error).split("\\n")[0]

work = Path(sys.argv[1])
limits = {}
for kind in ("ir", "opset"):
    limits[kind] = max([int(m.stem) for m in (work / kind).iterdir() if not opens(m)], default=0)
programs = {}
for program in sorted(work.glob("onnx/*/*/*.onnx")):
    variant, opset = program.parts[-3:-1]
    said = runs(program, sorted((work / "cases" / variant / program.stem).iterdir()))
    programs.setdefault(opset, {}).setdefault(said, []).append(f"{variant} {program.stem}")
print("RESULT", json.dumps({"limits": limits, "programs": programs}))
"""

TRY_TENSORFLOW = """
import json, sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

work, found = Path(sys.argv[1]), {}
for folder in sorted((work / "saved_model").iterdir()):
    try:
        loaded = tf.saved_model.load(str(folder))
        said = {}
        for name, signature in loaded.signatures.items():
            specs = signature.structured_input_signature[1]
            for case in sorted((work / "cases" / folder.name.split()[0] / name).iterdir()):
                arrays = np.load(case)
                given = {n: tf.constant(arrays[n], spec.dtype) for n, spec in specs.items()}
                got = signature(**given)[str(arrays["output"])].numpy()
                share = float(np.abs(got - arrays["want"]).max() / arrays["allowed"])
                if share > 1:
                    said[name] = f"differs by {share:.2f} of what is allowed"
        found[folder.name] = said or "ok"
    except Exception as error:
        found[folder.name] = " ".join(str(error).split())[:300]
print("RESULT", json.dumps({"xla_call_module": xla.call_module_maximum_supported_version(), "models": found}))
"""

TRY_JAX = """
import json, sys
from pathlib import Path
import numpy as np
import jax
from jax import export

work, found = Path(sys.argv[1]), {}
for program in sorted(work.glob("stablehlo/*/*.jax_export")):
    variant, name = program.parts[-2], program.stem
    try:
        exported = export.deserialize(bytearray(program.read_bytes()))
        weights = dict(np.load(program.with_suffix(".npz")))
        worst = 0.0
        for case in sorted((work / "cases" / variant / name).iterdir()):
            arrays = np.load(case)
            given = [arrays[n] for n in arrays.files if n not in ("want", "allowed", "output")]
            got = np.asarray(exported.call(weights, *given)[str(arrays["output"])])
            worst = max(worst, float(np.abs(got - arrays["want"]).max() / arrays["allowed"]))
        found[f"{variant} {name}"] = "ok" if worst <= 1 else f"differs by {worst:.2f} of what is allowed"
    except Exception as error:
        found[f"{variant} {name}"] = str(error).split("\\n")[0][:300]
newest = export.maximum_supported_calling_convention_version
print("RESULT", json.dumps({"calling_convention": newest, "programs": found}))
"""

OPSETS = (17, 18, 19, 20, 21, 22, 23, 24, 25, 26)
PROBED = {"ir": range(7, 15), "opset": range(15, 29)}


def prepare(work: Path) -> None:
    """Convert tiny networks: ONNX at every opset, SavedModel, and cases with what the reference gives."""
    import numpy as np
    import onnx
    from in_process import in_this_process
    from mutants.bench import Bench
    from variants import VARIANTS

    from bgevis.converter.manifest import WEIGHTS_PATH
    from bgevis.exporters.base import Request, exporters
    from bgevis.exporters.weights import WeightsFile
    from bgevis.validation.goldens import Goldens

    for kind, numbers in PROBED.items():
        (work / kind).mkdir()
        for number in numbers:
            value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
            graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
            opset, ir = (number, 8) if kind == "opset" else (15, number)
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir)
            (work / kind / f"{number}.onnx").write_bytes(model.SerializeToString())
    with in_this_process():
        for variant in VARIANTS:
            bench = Bench(variant, work / "bench")
            weights = WeightsFile(bench.run.path / WEIGHTS_PATH)
            for opset in OPSETS:
                out = work / "onnx" / variant / str(opset)
                out.mkdir(parents=True)
                exporters()["onnx"].write(Request(bench.net, weights, out, opset=opset))
                (out / "weights.safetensors").write_bytes(weights.path.read_bytes())
            stablehlo = work / "stablehlo" / variant
            stablehlo.mkdir(parents=True)
            programs = exporters()["stablehlo"].write(Request(bench.net, weights, stablehlo))
            for entry, program in programs.items():
                np.savez(stablehlo / f"{entry}.npz", **{leaf: weights[leaf] for leaf in program["weights"]})
            for ops in ("xla", "tensorflow"):
                out = work / "saved_model" / f"{variant} {ops}"
                out.mkdir(parents=True)
                exporters()["saved-model"].write(Request(bench.net, weights, out, ops=ops))
            for golden in Goldens(bench.run.path / "goldens").cases():
                folder = work / "cases" / variant / golden.case.entry_point
                folder.mkdir(parents=True, exist_ok=True)
                output = bench.net.entry_points[golden.case.entry_point].outputs[0].name
                allowed = np.float64(golden.budgets[output].allowed)
                wanted = {"output": output, "want": golden.outputs[output], "allowed": allowed}
                arrays = golden.case.inputs | wanted
                np.savez(folder / f"{len(list(folder.iterdir()))}.npz", **arrays)


def attempt(requirement: str, work: Path) -> dict:
    """Install one release and let it try everything."""
    scripts = {"tensorflow": TRY_TENSORFLOW, "onnxruntime": TRY_ONNX, "jax": TRY_JAX}
    script = next(script for name, script in scripts.items() if requirement.startswith(name))
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-cache-dir"]
        wanted = [requirement, "setuptools<81", "flatbuffers", "absl-py"] + (["numpy<2"] if older(requirement) else [])
        installed = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        if installed.returncode:
            return {"not installed": installed.stderr.strip().splitlines()[-1:]}
        done = subprocess.run(
            [python, "-c", script, str(work)], capture_output=True, text=True, check=False, cwd=folder
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        return json.loads(lines[0].removeprefix("RESULT ")) if lines else {"failed": done.stderr.splitlines()[-3:]}


def older(requirement: str) -> bool:
    """Say whether a release was built before numpy 2."""
    name, _, version = requirement.partition("==")
    minor = int(version.split(".")[1])
    return name == "onnxruntime" and minor < 19


def main(requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for requirement in requirements:
            print(json.dumps({requirement: attempt(requirement, Path(folder))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
