"""Many devices and many machines, simulated on one."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def sharded(*arguments: object) -> dict:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "sharded.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_orbax_restores_onto_more_and_fewer_devices_than_it_was_saved_from(visualized, tmp_path, tell):
    eight = sharded(visualized, "--devices", 8, "--save", tmp_path / "eight")
    assert eight["devices"] == 8
    assert eight["largest_share"] < 0.2, "hardly anything was cut"
    for devices in (2, 4):
        fewer = sharded(visualized, "--devices", devices, "--checkpoint", tmp_path / "eight")
        assert fewer["devices"] == devices
        assert fewer["worst"] <= 1
    tell(f"pass: Orbax restored onto 8 devices from none, onto 2 and 4 from 8, at most {eight['worst']:.2f} of allowed")
