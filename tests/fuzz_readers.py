"""Fuzz the checkpoint readers, guided by coverage: what no rule of mutation thinks of, a new branch leads to.

    pip install atheris
    python tests/fuzz_readers.py CORPUS -max_total_time=600

CORPUS is a folder that keeps what reached new code. The first byte of an input says what the rest is: a whole file,
the pickle of a PyTorch zip, whose checksum is right then, or the header of a safetensors file. A crash is any
exception but InputError, or a tensor outside of the file; what was found is an `@example` of
`test_fuzz_checkpoint.py`.

Source: https://github.com/google/atheris
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bgevis.converter.checkpoint"]):
    import bgevis.converter.checkpoint  # noqa: F401 - before the tests import it without instruments

from test_fuzz_checkpoint import check, hostile, state_dict, torch_file

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-readers-"))
FORMS = (
    lambda body: body,
    lambda body: hostile.torch_zip(body, 2),
    lambda body: len(body).to_bytes(8, "little") + body + bytes(64),
)


def one(data: bytes) -> None:
    """Open one file."""
    if not data:
        return
    path = FOLDER / "model.pth"
    path.write_bytes(FORMS[data[0] % len(FORMS)](data[1:]))
    check(path)


def seed(corpus: Path) -> None:
    """Start from files that open."""
    corpus.mkdir(parents=True, exist_ok=True)
    values = {"zip": state_dict(), "flat": {"w": state_dict()["a.weight"]}}
    seeds = {name: b"\0" + torch_file(FOLDER, value) for name, value in values.items()}
    seeds["legacy"] = b"\0" + torch_file(FOLDER, values["zip"], _use_new_zipfile_serialization=False)
    seeds["pickle"] = b"\1" + hostile.tensor()
    seeds["header"] = b'\2{"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
    for name, data in seeds.items():
        (corpus / name).write_bytes(data)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            seed(Path(argument))
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
