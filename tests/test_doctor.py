"""Which releases open the artifacts: said from what the files ask, refused for a named one that does not."""

import json
import re
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from in_process import convert, in_this_process

from bgevis.converter.cli import main
from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.progress import Silent
from bgevis.converter.stages import export
from bgevis.converter.use.fixture import write_fixture
from bgevis.exporters import releases
from bgevis.exporters.base import exporters
from bgevis.exporters.onnx import OPSETS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doctor")
    write_fixture("bert", "tiny", 3, "float32", folder / "tiny.safetensors")
    with in_this_process():
        run = convert(folder / "tiny.safetensors", folder / "run", ("onnx",))
        export.perform(RunDirectory(run), Options(), Silent(), exporters()["stablehlo"])
    return run


def asked(directory, *targets):
    """Run the command as people do."""
    given = [part for target in targets for part in ("--target", target)]
    return CliRunner().invoke(main, ["doctor", str(directory), *given])


def test_it_says_what_each_file_asks_and_that_what_is_installed_opens_it(finished):
    said = asked(finished)
    assert said.exit_code == 0
    assert "programs/encode_text.onnx: opset 23, IR version 11; onnxruntime 1.23 or newer" in said.output
    assert "programs/encode_text.mlirbc: StableHLO 1.0.0; stablehlo 1.0.0 or newer" in said.output
    assert f"onnxruntime {onnxruntime.__version__} (installed) opens programs/encode_text.onnx" in said.output


@pytest.mark.parametrize("target", ["onnxruntime==1.23.2", "ort==1.31", "stablehlo==1.13.0", "jax==0.10.2"])
def test_a_release_that_opens_them(finished, target):
    assert asked(finished, target).exit_code == 0


@pytest.mark.parametrize("target", ["onnxruntime==1.17.0", "onnxruntime-node==1.22", "stablehlo==0.19.2", "jax==0.4.1"])
def test_a_release_that_does_not_is_refused(finished, target):
    said = asked(finished, target)
    assert said.exit_code == 1
    assert f"{target.replace('==', ' ')} cannot open programs/encode_text" in said.output
    assert "Traceback" not in said.output


def test_a_runtime_that_nothing_is_for_is_refused(finished):
    said = asked(finished, "tensorflow==2.21")
    assert said.exit_code == 1
    assert "holds nothing that this runtime opens" in said.output


@pytest.mark.parametrize("target", ["onnxruntime", "onnxruntime==new", "torchscript==2.0", "onnxruntime=1.17"])
def test_a_target_that_is_not_understood_is_said(finished, target):
    said = asked(finished, target)
    assert said.exit_code == 2
    assert f"--target {target}: " in said.output


@pytest.mark.parametrize("version", [v for v, taken in releases.ONNXRUNTIME.items() if taken.ran in OPSETS])
def test_what_it_says_to_do_is_what_the_release_takes(finished, tmp_path, version):
    run = shutil.copytree(finished, tmp_path / "run")
    refused = asked(run, f"onnxruntime=={version}")
    if refused.exit_code == 0:
        return
    opset = int(refused.output.partition("--opset ")[2].split("`")[0])
    export.perform(RunDirectory(run), Options(opset=opset), Silent(), exporters()["onnx"])
    assert asked(run, f"onnxruntime=={version}").exit_code == 0


@pytest.mark.parametrize(("opset", "target"), [(18, "onnxruntime==1.17"), (20, "onnxruntime==1.16")])
def test_all_that_it_says_to_do_is_done_and_it_is_said_once(finished, tmp_path, opset, target):
    """Of float32 that is old enough and int8 that is not; of both that are not."""
    run = shutil.copytree(finished, tmp_path / "run")
    export.perform(RunDirectory(run), Options(opset=opset), Silent(), exporters()["onnx"])
    export.perform(RunDirectory(run), Options(), Silent(), exporters()["onnx-int8"])
    refused = asked(run, target)
    assert refused.exit_code == 1
    assert refused.output.count("encode_text.int8.onnx: it asks") == 1
    advice = re.findall(r"`bgevis-convert (export [^`]*)`", refused.output)
    made = [["onnx-int8"], ["onnx", "onnx-int8"]][opset == 20]
    assert [words.split()[1:3] for words in advice] == [[name, str(run)] for name in made]
    for words in advice:
        assert CliRunner().invoke(main, words.split()).exit_code == 0
    assert asked(run, target).exit_code == 0


def test_the_programs_themselves_are_asked_not_the_manifest(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    file = run / "programs" / "encode_text.onnx"
    model = onnx.load(file, load_external_data=False)
    model.ir_version = 99
    model.graph.node[-1].domain = "com.example"
    file.write_bytes(model.SerializeToString())
    said = asked(run, "onnxruntime==1.31")
    assert said.exit_code == 1
    assert "IR version 99, com.example." in said.output
    assert "no release that was tried" in said.output


def test_what_cannot_be_read_is_one_message(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "programs" / "encode_text.onnx").write_bytes(b"not a program")
    said = asked(run)
    assert said.exit_code == 1
    assert "is not an ONNX program" in said.output


def test_the_table_is_right_about_the_installed_onnxruntime(tmp_path):
    taken = releases.row(releases.ONNXRUNTIME, onnxruntime.__version__)
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])

    def opens(opset, ir):
        imports = [onnx.helper.make_opsetid("", opset)]
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir)
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    opens(taken.opset, taken.ir)
    with pytest.raises(Exception, match=r"[Oo]pset"):
        opens(taken.opset + 1, taken.ir)
    with pytest.raises(Exception, match="IR version"):
        opens(taken.opset, taken.ir + 1)


def test_the_tables_go_up(finished):
    for table in (releases.TENSORFLOW, releases.JAX, {v: t.ran for v, t in releases.ONNXRUNTIME.items()}):
        versions, taken = list(table), list(table.values())
        assert versions == sorted(versions, key=releases.release)
        assert taken == sorted(taken)


def test_the_page_says_what_the_tables_say():
    page = (Path(__file__).parents[1] / "docs" / "runtimes.md").read_text()
    for version, taken in releases.ONNXRUNTIME.items():
        assert f"| {version} | {taken.ir} | {taken.opset} | {taken.ran} |" in page
    for version, taken in (*releases.TENSORFLOW.items(), *releases.JAX.items()):
        assert f"| {version} | {taken} |" in page


def test_json_is_for_programs(finished):
    said = CliRunner().invoke(main, ["doctor", str(finished), "--json"])
    rows = json.loads(said.output)["files"]
    assert {row["runtime"] for row in rows} == {"onnxruntime", "stablehlo", "jax"}
