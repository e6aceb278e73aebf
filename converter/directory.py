"""The run directory: how stages hand over work, and why nothing half-written can pass for whole.

A stage writes aside, below `.tmp/`; its files are synced and moved into place one by one, and the manifest,
which states every file's size and digest, is replaced last. A stage that is re-run first takes its old
files and its verdict out of the manifest. Only files that the manifest names are ever deleted.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..validation.errors import ConvertError, EnvironmentFailure, GateError, InputError
from ..validation.files import read_json, regular

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STAGING = ".tmp"
PROVENANCE = "provenance.json"
"""What ties the manifest to the proof, see `provenance.py`. Any change of the manifest takes it away first."""
LOCK = ".lock"
SOURCE = ".source.json"
"""Where the checkpoint is on this machine. Not an artifact: it is in no manifest and may be deleted."""

CHUNK = 1 << 20

Manifest = dict[str, Any]


class RunDirectory:
    """A directory that belongs to this tool: it holds a manifest of this format.

    Raises:
        InputError: there is none, or it is of another format.
    """

    def __init__(self, path: Path):
        self.path = path
        self.manifest()

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> "RunDirectory":
        """Make the directory with its first manifest, or put that into one that is this tool's already.

        Raises:
            InputError: something else is in the place.
        """
        refuse_foreign(path)
        (path / STAGING).mkdir(parents=True, exist_ok=True)
        write_json(path / MANIFEST, path / STAGING / MANIFEST, manifest)
        return cls(path)

    def manifest(self) -> Manifest:
        """Read the manifest."""
        file = self.path / MANIFEST
        try:
            manifest = read_json(file)
            version = manifest["format_version"]
            problem = "" if version != FORMAT_VERSION else misshapen(manifest)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(
                f"{self.path} is not a run directory (no {MANIFEST}); make one with `bgevis-convert all CKPT --out DIR`"
            ) from error
        except KeyError as error:
            raise InputError(f"{file} is not a manifest: {error} is missing") from error
        except (ValueError, TypeError) as error:
            raise InputError(f"{file} is not a manifest: {error}") from error
        if version != FORMAT_VERSION:
            raise InputError(f"{file}: format_version is {version}, this program reads {FORMAT_VERSION}")
        if problem:
            raise InputError(f"{file} is not a manifest as this program writes it: {problem}")
        refuse_outside(self.path, {*manifest["files"], *(f for s in manifest["stages"].values() for f in s["files"])})
        return manifest

    def update(self, change: Callable[[Manifest], None]) -> None:
        """Change the manifest as one step, also against other processes of the same run."""
        (self.path / STAGING).mkdir(exist_ok=True)
        with (self.path / STAGING / "manifest.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            manifest = self.manifest()
            (self.path / PROVENANCE).unlink(missing_ok=True)
            change(manifest)
            write_json(self.path / MANIFEST, self.path / STAGING / MANIFEST, manifest)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the directory for one command, see `hold`."""
        return hold(self.path)

    @contextlib.contextmanager
    def stage(self, name: str, reads: str = "") -> Iterator["Staged"]:
        """Run a stage: yields an empty folder to write below, and commits what is in it.

        A GateError commits too, with the verdict "fail": its reports say what was wrong. After any other
        failure the manifest holds neither files nor a verdict of the stage.
        """
        staged = Staged(self.path / STAGING / name)
        try:
            shutil.rmtree(staged.out, ignore_errors=True)
            staged.out.mkdir(parents=True)
            self.update(lambda manifest: self._begin(manifest, name))
            yield staged
            self._commit(name, staged, reads, "pass")
        except GateError:
            self._commit(name, staged, reads, "fail")
            raise
        except OSError as error:
            raise environment_failure(error, self.path) from error
        finally:
            shutil.rmtree(staged.out, ignore_errors=True)

    def _commit(self, name: str, staged: "Staged", reads: str, verdict: str) -> None:
        out = staged.out
        files = _described(out)
        if files.keys() & self.manifest()["files"].keys():
            self.update(lambda manifest: _disown(manifest, files))  # an earlier stage's file is about to be replaced
        refuse_outside(self.path, files)
        for relative in files:
            _move(out / relative, self.path / relative)

        def record(manifest: Manifest) -> None:
            manifest["files"] |= files
            given = {"options": dict(staged.options)} if staged.options else {}
            manifest["stages"][name] = {"reads": reads, "files": sorted(files), "key": staged.key, **given}
            manifest["verdicts"][name] = verdict
            for entry, description in staged.programs.items():
                manifest["entry_points"][entry]["programs"][staged.key] = description
            manifest["proof"] = staged.proof or manifest.get("proof", {})

        self.update(record)

    def _begin(self, manifest: Manifest, name: str) -> None:
        """Take away what an earlier run of a stage left, and the verdict on all of the run, which holds no longer."""
        if not name.startswith("validate") and "validate" in manifest["verdicts"]:
            self._forget(manifest, "validate")
        self._forget(manifest, name)

    def _forget(self, manifest: Manifest, name: str) -> None:
        """Take a stage out of the manifest, then delete the files that it had made."""
        record = manifest["stages"].pop(name, {"files": []})
        if name == "validate":
            manifest["proof"] = {}
        manifest["verdicts"].pop(name, None)
        for relative in record["files"]:
            manifest["files"].pop(relative, None)
        for entry in manifest["entry_points"].values():
            entry["programs"].pop(record.get("key"), None)
        write_json(self.path / MANIFEST, self.path / STAGING / MANIFEST, manifest)
        for relative in record["files"]:
            file = self.path / relative
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: something else lies there
                for folder in list(Path(relative).parents)[:-1]:
                    (self.path / folder).rmdir()

    def forget(self, names: Iterable[str]) -> None:
        """Undo stages: their verdicts and the files that they made. Of none, nothing is touched."""
        names = list(names)
        if not names:
            return

        def change(manifest: Manifest) -> None:
            for name in names:
                self._forget(manifest, name)

        self.update(change)

    def is_current(self, name: str, reads: str) -> bool:
        """Say whether a stage has passed on exactly these inputs and its files are whole."""
        manifest = self.manifest()
        record = manifest["stages"].get(name)
        if not record or record["reads"] != reads or manifest["verdicts"].get(name) != "pass":
            return False
        return not any(True for _ in self.damaged(record["files"], manifest))

    def damaged(
        self,
        files: list[str] | None = None,
        manifest: Manifest | None = None,
        *,
        contents: bool = True,
        once: bool = False,
    ) -> Iterator[str]:
        """Name the files that are missing or differ from the manifest, and say how.

        Args:
            files: some of them; None for all.
            manifest: if it was read already.
            contents: False to compare sizes alone.
            once: whether a file that this process has read, and that nobody touched since, is not read again.
        """
        manifest = manifest or self.manifest()
        for relative in manifest["files"] if files is None else files:
            wanted, file = manifest["files"].get(relative), self.path / relative
            try:
                state = regular(file)
            except (FileNotFoundError, NotADirectoryError):
                yield f"{file} is missing"
                continue
            except ValueError as error:
                yield f"{file}: {error}"
                continue
            if not wanted:
                yield f"{file} is not in the manifest"
            elif state.st_size != wanted["bytes"]:
                yield f"{file} has {state.st_size} bytes, the manifest says {wanted['bytes']}"
            elif contents and (_sha256_of(file, state) if once else sha256(file)) != wanted["sha256"]:
                yield f"{file} was altered: its sha256 is not the manifest's"

    def reads(self, *parts: object) -> str:
        """Give one digest for what a stage depends on: files of the manifest by name, options by value."""
        manifest = self.manifest()
        named = [manifest["files"].get(part, part) if isinstance(part, str) else part for part in parts]
        read = [manifest["tool"], manifest["source"]["sha256"], manifest["config"], manifest.get("given")]
        text = json.dumps([*read, named], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Staged:
    """What a stage has made so far.

    Args:
        out: write here, in the places that the files have in the run directory.
        key: of the format that `programs` belong to, as in the manifest.
        programs: entry point -> description of its program, to be stated in the manifest.
        options: what shaped the programs, for those who make them again.
        proof: what was proved and by whom, to be stated in the manifest.
    """

    out: Path
    key: str = ""
    programs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Make a directory if there is none, and hold it for one command. An empty one is taken away again.

    Raises:
        EnvironmentFailure: another command is at work in it.
        InputError: something else is in the place.
    """
    refuse_foreign(path)
    path.mkdir(parents=True, exist_ok=True)
    own = path.stat()
    try:
        with (path / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise EnvironmentFailure(f"{path} is in use by another bgevis-convert; wait for it to end") from error
            shutil.rmtree(path / STAGING, ignore_errors=True)
            try:
                yield
            finally:
                if _still(path, own):
                    shutil.rmtree(path / STAGING, ignore_errors=True)
                    if not (path / MANIFEST).exists():
                        (path / LOCK).unlink()
    finally:
        with contextlib.suppress(OSError):  # not empty: it holds a run, or another command holds it
            if _still(path, own):
                path.rmdir()


def _still(path: Path, own: os.stat_result) -> bool:
    """Say whether a folder is the one that it was, and no other that somebody put into its place."""
    try:
        return os.path.samestat(path.stat(), own)
    except OSError:
        return False


def refuse_foreign(path: Path) -> None:
    """Raise InputError when `path` exists and is neither an empty directory nor a run directory."""
    if not path.exists():
        return
    if not path.is_dir():
        raise InputError(f"{path} exists and is not a directory; choose another --out")
    for name in (STAGING, LOCK, SOURCE, MANIFEST, PROVENANCE):
        if (path / name).is_symlink():
            raise InputError(f"{path / name} is a link: a run directory must hold its files itself")
    content = {p.name for p in path.iterdir()}
    if MANIFEST in content:
        RunDirectory(path)
    elif content - {STAGING, LOCK, SOURCE}:
        example = sorted(content)[0]
        raise InputError(f"{path} exists and is not a run directory (it holds {example}); choose another --out")


def refuse_outside(path: Path, files: Iterable[str]) -> None:
    """Raise InputError when a file of a run directory would lie elsewhere: by its name, or through a linked folder."""
    for relative in files:
        if Path(relative).is_absolute() or {"..", "."} & set(relative.split("/")) or not relative:
            raise InputError(f"{path / MANIFEST} names {relative!r}, which is not a file of the run directory")
    for folder in {folder for relative in files for folder in Path(relative).parents} - {Path()}:
        if (path / folder).is_symlink():
            raise InputError(f"{path / folder} is a link: a run directory must hold its files itself")


def misshapen(manifest: Manifest) -> str:
    """Say which part of a manifest is missing or not of its form; "" if none."""
    parts = ("tool", "source", "config", "entry_points", "files", "stages", "verdicts")
    if not isinstance(manifest["family"], str):
        return "family is not a text"
    for part in parts:
        if not isinstance(manifest[part], dict):
            return f"{part} is not an object"
    for name, entry in manifest["files"].items():
        if not (isinstance(entry["bytes"], int) and isinstance(entry["sha256"], str)):
            return f"files: {name} has no size and digest"
    for name, record in manifest["stages"].items():
        if not (isinstance(record["files"], list) and all(isinstance(file, str) for file in record["files"])):
            return f"stages: {name} has no list of files"
    for name, entry in manifest["entry_points"].items():
        if not isinstance(entry["programs"], dict):
            return f"entry_points: {name} has no programs"
    return ""


def _described(out: Path) -> dict[str, dict[str, Any]]:
    """Give size and digest of each file below `out` as the manifest states them; meanwhile they go to the disk."""
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    with ThreadPoolExecutor(1) as disk:
        synced = disk.map(sync, paths)
        files = {str(p.relative_to(out)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths}
        for _ in synced:
            pass  # here is raised what the disk refused
    return files


def sha256(file: Path, progress: Callable[[int], None] = lambda nbytes: None) -> str:
    """Give the digest of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb", buffering=0) as handle:
        buffer = bytearray(CHUNK)
        while count := handle.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            progress(count)
    return digest.hexdigest()


def megabytes(nbytes: int) -> str:
    """Write a size as people read it."""
    return f"{nbytes / 1e6:,.0f} MB" if nbytes > 1e7 else f"{nbytes / 1e6:.1f} MB"


def _sha256_of(file: Path, state: os.stat_result) -> str:
    """Give the digest of a file in a certain state, read once; nobody can set its ctime."""
    return _remembered(
        file.absolute(), (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    )


@functools.lru_cache(maxsize=1024)
def _remembered(file: Path, state: tuple[int, ...]) -> str:
    return sha256(file)


def environment_failure(error: OSError, path: Path) -> ConvertError:
    """Turn what the machine refused into one message."""
    place = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = megabytes(shutil.disk_usage(path if path.exists() else path.parent).free)
        return EnvironmentFailure(f"{place}: the disk is full ({free} free); free some space and run again to resume")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return EnvironmentFailure(f"{place}: no permission ({error.strerror})")
    return EnvironmentFailure(f"{place}: {error.strerror or error}")


def _disown(manifest: Manifest, files: Iterable[str]) -> None:
    for relative in files:
        manifest["files"].pop(relative, None)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    sync(target.parent)


def write_json(file: Path, aside: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document whole or not at all, see `write_atomically`."""
    write_atomically(file, json.dumps(document, indent=1, sort_keys=True) + "\n", aside)


def write_atomically(file: Path, text: str, aside: Path) -> None:
    """Write a file whole or not at all: aside, synced, renamed."""
    with aside.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Have a file, or the entries of a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
