"""Each hostile file gives one InputError that names it, at a bounded cost; nothing runs, is imported or written."""

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from bgevis.converter.checkpoint import open_checkpoint

HERE = Path(__file__).parent
SPEC = spec_from_file_location("hostile", HERE / "hostile.py")
hostile = module_from_spec(SPEC)
sys.modules["hostile"] = hostile
SPEC.loader.exec_module(hostile)

NAMES = [*hostile.FILES, *hostile.FOLDERS]
SPARE_BYTES = 64 << 20
SECONDS = 5
# Opens the files that it is given and reports what the interpreter did meanwhile
WATCH = """
import json, os, sys, time
from pathlib import Path
from bgevis.converter.checkpoint import open_checkpoint
from bgevis.validation.errors import InputError

HARMLESS = {"mmap.__new__", "os.listdir", "os.scandir", "object.__getattr__"}
events = None

def audit(event, arguments):
    if events is None or event in HARMLESS:
        return
    if event == "open" and (arguments[1] in ("r", "rb") or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return
    events.append(f"{event} {arguments!r}"[:300])

def memory():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10

sys.addaudithook(audit)
for line in sys.stdin:
    path = Path(json.loads(line))
    Path("/proc/self/clear_refs").write_text("5")
    before, modules, error, checkpoint, start = memory(), set(sys.modules), None, None, time.process_time()
    events = seen = []
    try:
        checkpoint = open_checkpoint(path)
    except BaseException as caught:
        error = caught
    events, seconds = None, time.process_time() - start
    peak = memory() - before
    print(json.dumps({
        "error": type(error).__name__, "code": getattr(error, "exit_code", None), "message": str(error),
        "events": seen, "imported": sorted(set(sys.modules) - modules), "seconds": seconds, "peak": peak,
    }), flush=True)
    del error, checkpoint
"""


def watched(paths: list[Path], cwd: Path, script: str = WATCH) -> list[dict]:
    """Open files in a process whose every move is watched."""
    lines = "".join(json.dumps(str(path)) + "\n" for path in paths)
    run = subprocess.run(
        [sys.executable, "-c", script], input=lines, capture_output=True, text=True, cwd=cwd, check=False
    )
    assert run.returncode == 0, f"the watching process died:\n{run.stdout[-500:]}\n{run.stderr[-2000:]}"
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> dict[str, dict]:
    """Open the whole corpus in one process."""
    root = tmp_path_factory.mktemp("hostile")
    paths = {}
    for name in NAMES:
        (root / name).mkdir()
        paths[name] = hostile.build(name, root / name)
    files = {name: sorted((root / name).iterdir()) for name in NAMES}
    results = zip(NAMES, watched(list(paths.values()), root), strict=True)
    assert sorted(path.name for path in root.iterdir()) == sorted(NAMES), "something was written"
    return {
        name: result | {"path": str(paths[name]), "folder": str(root / name), "files": files[name]}
        for name, result in results
    }


@pytest.mark.parametrize("name", NAMES)
def test_refused_and_nothing_else(opened, name):
    result = opened[name]
    assert (result["error"], result["code"]) == ("InputError", 3), result["message"]
    assert result["message"].startswith(result["folder"])
    assert result["message"].count(result["folder"]) == 1
    assert result["message"].isprintable()
    assert len(result["message"]) < 1200
    assert result["events"] == []
    assert result["imported"] == []
    assert sorted(Path(result["folder"]).iterdir()) == result["files"]
    assert result["seconds"] < SECONDS
    assert result["peak"] < Path(result["path"]).stat().st_size + SPARE_BYTES


def test_the_message_names_the_global_and_says_what_to_do(opened):
    message = opened["os_system"]["message"]
    assert "'os.system'" in message
    assert "nothing was executed" in message
    assert "torch.save(model.state_dict(), ...)" in message
    assert "safetensors" in message


def test_the_builders_can_write_good_files(tmp_path):
    """Each attack is a change of these, so it is refused for what it does and not for how it was built."""
    good = {
        "zip": hostile.archive(hostile.records()),
        "zip of protocol 4": hostile.torch_zip(hostile.dictionary(w=hostile.tensor()), 4),
        "beside something else": hostile.in_zip(b"}"),
        "legacy": hostile.legacy(),
        "safetensors": hostile.safetensors({"w": hostile.described()}),
    }
    for name, data in good.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert open_checkpoint(path).read("w").tolist() == [1, 2, 3, 4]
    hostile.shard(tmp_path)
    assert open_checkpoint(hostile.index(tmp_path, {"weight_map": {"a": "s1"}})).read("a").tolist() == [1, 2, 3, 4]


def test_the_watcher_sees_what_an_ordinary_unpickler_does(tmp_path):
    """Otherwise the silence above would prove nothing."""
    path = tmp_path / "plain.pkl"
    path.write_bytes(hostile.FILES["plain_pickle"]())
    unpickle = "import pickle\ndef open_checkpoint(path):\n    return pickle.loads(path.read_bytes())"
    script = WATCH.replace("from bgevis.converter.checkpoint import open_checkpoint", unpickle)
    [result] = watched([path], tmp_path, script)
    assert any(event.startswith("os.system") for event in result["events"])
    assert (tmp_path / "executed").exists()
