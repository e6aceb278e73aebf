"""`all --verify-rebuild`: convert a second time, under other conditions, and compare every file."""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ...validation.errors import ConvertError, EnvironmentFailure, GateError
from ..directory import MANIFEST, PROVENANCE, RunDirectory
from ..options import Options
from ..progress import Progress
from ..report.terminal import Lines
from ..run.tasks import SEED, convert_all


def verify(run: RunDirectory, options: Options, progress: Progress, jobs: int) -> None:
    """Convert again beside the run directory, compare, take the second one away.

    Raises:
        GateError: files differ; each is named.
        EnvironmentFailure: the second conversion could not be made.
    """
    progress.note("a second time, with another hash seed, folder, umask and number of processes")
    aside = Path(tempfile.mkdtemp(prefix=f".{run.path.name}.rebuild-", dir=run.path.absolute().parent))
    try:
        _convert(aside / "run", options, 3 - min(jobs, 2))
        files = compared(run, RunDirectory(aside / "run"))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    progress.note(f"{len(files)} files, every byte the same")


def _convert(out: Path, options: Options, jobs: int) -> None:
    """Run the pipeline in a process of its own."""
    absolute = replace(
        options,
        checkpoint=str(Path(options.checkpoint).absolute()),
        configs=tuple(str(Path(config).absolute()) for config in options.configs),
        tokenizer=str(Path(options.tokenizer).absolute()) if options.tokenizer else "",
        adapter=str(Path(options.adapter).absolute()) if options.adapter else "",
    )
    environment = os.environ | {"PYTHONHASHSEED": "4711", SEED: "4711", "TZ": "Pacific/Auckland"}
    command = [sys.executable, "-m", f"{__package__}.rebuild", str(out), absolute.to_json(), str(jobs)]
    done = subprocess.run(
        command, cwd=out.parent, env=environment, umask=0o077, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EnvironmentFailure(f"the second conversion failed: {last}")


def compared(run: RunDirectory, again: RunDirectory) -> list[str]:
    """Compare the bytes of every file that the second run made, and of manifest and provenance if both are complete.

    Raises:
        GateError: naming the files that differ.
    """
    first, second = run.manifest(), again.manifest()
    files = list(second["files"])
    if set(first["stages"]) == set(second["stages"]):
        files += [MANIFEST, PROVENANCE]
    differing = [file for file in files if not _same(run.path / file, again.path / file)]
    if differing:
        names = "\n  ".join(differing)
        raise GateError(f"a second conversion of the same checkpoint differs in {len(differing)} files\n  {names}")
    return files


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def main() -> int:
    """Convert as the command line says, without a word but the error."""
    out, options, jobs = sys.argv[1:]
    try:
        convert_all(Path(out), Options.from_json(options), Lines(Console(quiet=True)), int(jobs))
    except ConvertError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
