"""A proven run, copied to where others fetch it from: any place that fsspec has a file system for.

At no moment does the place state what is not there: its statement is taken away and its manifest emptied before
anything is sent, and both come last. Every file is read back and held to its digest, so that what has arrived is
what was proved.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...validation.errors import EnvironmentFailure, GateError, InputError, raised
from ...validation.files import parse_json
from ..certificate import provenance
from ..checkpoint.format_error import shown
from ..directory import (
    CHUNK,
    FORMAT_VERSION,
    MANIFEST,
    PROVENANCE,
    Manifest,
    RunDirectory,
    misshapen,
    refuse_outside,
    sha256,
)

LEAVING = "leaving"
"""In the manifest of a place that is being written: files of this run or an earlier one that may be there."""


def publish(
    run: RunDirectory, url: str, advance: Callable[[int], None] = lambda nbytes: None, *, force: bool = False
) -> int:
    """Copy a run directory to `url`; give the number of files that had to be sent.

    What the place already has, by its own manifest and size, is not sent again, but read back all the same. Another
    checkpoint's run is replaced only with `force`.

    Raises:
        EnvironmentFailure: the file system is not installed, or refuses.
        GateError: the run is not proven, was altered, or did not arrive as it was sent.
        InputError: no such kind of URL, or something else is in the place.
    """
    if not (run.path / PROVENANCE).exists():
        raise GateError(f"{run.path} is not proven to its end: run `bgevis-convert parity` and `validate` on it first")
    provenance.check(run)
    manifest = run.manifest()
    for damage in run.damaged():
        raise GateError(damage)
    digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    last = {name: sha256(run.path / name) for name in (MANIFEST, PROVENANCE)}
    try:
        place = _Place(url)
        place.refuse_own(run.path)
        there = place.manifest(manifest["source"], force)
        old = {*there["files"], *there.get(LEAVING, [])}
        place.refuse_links(old | set(digests))
        place.empty(manifest, old | set(digests))
        new = [name for name, digest in digests.items() if place.digest(there, name) != digest]
        for name in new:
            place.send(run, name)
        for name, digest in digests.items():
            if place.sha256(name, advance) != digest:
                raise GateError(f"{url}/{name} did not arrive as it was sent; run the command again")
        for name in sorted(old - set(digests)):
            place.remove(name)
        for name, digest in last.items():
            place.send(run, name)
            if place.sha256(name, advance) != digest:
                raise GateError(f"{url}/{name} did not arrive as it was sent; run the command again")
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{url}: {error}") from error
    except (OSError, NotImplementedError) as error:
        raise EnvironmentFailure(f"{url}: {error or raised(error)}; run the command again to go on") from error
    return len(new)


class _Place:
    """A folder in a file system of fsspec's."""

    def __init__(self, url: str):
        try:
            import fsspec
            from fsspec.implementations.local import LocalFileSystem
        except ModuleNotFoundError as error:
            raise EnvironmentFailure(
                "publish needs the Python package fsspec, which is not installed: pip install 'bgevis-convert[remote]'"
            ) from error
        try:
            self.fs, self.root = fsspec.url_to_fs(url)
        except ImportError as error:  # fsspec knows the scheme, the package for it is missing
            raise EnvironmentFailure(f"{url}: {error}") from error
        except Exception as error:  # each file system has its own way to say that it has no such place
            raise InputError(f"{url}: {raised(error)}") from error
        if not self.root.strip("/"):
            raise InputError(f"{url} names no folder; name the one that the run shall be")
        self.url = url
        self.local = Path(self.root) if isinstance(self.fs, LocalFileSystem) else None
        """The folder, where the place is one of this machine."""

    def refuse_own(self, directory: Path) -> None:
        """Refuse the run's own directory, by whatever name, and what lies in it or around it."""
        if self.local is None:
            return
        own, there = directory.resolve(), self.local.resolve()
        if own == there or own in there.parents or there in own.parents:
            raise InputError(f"{self.url} is the run directory {directory} itself, or in it, or around it")

    def refuse_links(self, files: set[str]) -> None:
        """Refuse to write through a link."""
        if self.local is None:
            return
        for file in (MANIFEST, PROVENANCE, *sorted(files)):
            for path in (Path(file), *Path(file).parents[:-1]):
                if (self.local / path).is_symlink():
                    raise InputError(f"{self.local / path} is a link: what it leads to would be replaced")

    def manifest(self, source: Mapping[str, Any], force: bool) -> Manifest:
        """Read what the place says that it holds; no files for an empty one."""
        if not self.fs.exists(self._path(MANIFEST)):
            if self.fs.exists(self.root) and self.fs.ls(self.root, detail=False):
                raise InputError(f"{self.url} holds something that is not a run directory; choose another place")
            return {"files": {}}
        try:
            manifest: Manifest = parse_json(self.fs.cat_file(self._path(MANIFEST)))
            refuse_outside(Path(self.url), [*manifest["files"], *manifest.get(LEAVING, [])])
            if manifest["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version is {manifest['format_version']}")
            if LEAVING not in manifest and (problem := misshapen(manifest)):
                raise ValueError(problem)
            before = manifest["source"]
            another = before["sha256"] != source["sha256"]
            name = str(before["file"])
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.url}/{MANIFEST} is not a run's manifest ({error}); choose another place"
            ) from error
        if another and not force:
            raise InputError(
                f"{self.url} holds the run of another checkpoint, {shown(name)}; choose another place, or say --force "
                "to replace it"
            )
        return manifest

    def empty(self, manifest: Manifest, leaving: set[str]) -> None:
        """State that the place holds no run, but may hold these files of one."""
        self.fs.makedirs(self.root, exist_ok=True)
        self.remove(PROVENANCE)
        stated = {"format_version": FORMAT_VERSION, "source": manifest["source"], "files": {}, LEAVING: sorted(leaving)}
        self.fs.pipe_file(self._path(MANIFEST), json.dumps(stated).encode())

    def digest(self, manifest: Manifest, name: str) -> str | None:
        """Give the digest that the place states for a file that has the stated size."""
        entry = manifest["files"].get(name)
        if not entry or not self.fs.exists(self._path(name)) or self.fs.size(self._path(name)) != entry["bytes"]:
            return None
        return str(entry["sha256"])

    def send(self, run: RunDirectory, name: str) -> None:
        """Copy a file of the run into its place."""
        self.fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
        self.fs.put_file(str(run.path / name), self._path(name))

    def sha256(self, name: str, advance: Callable[[int], None]) -> str:
        """Read a file back; give its digest."""
        digest = hashlib.sha256()
        with self.fs.open(self._path(name), "rb") as file:
            while part := file.read(CHUNK):
                digest.update(part)
                advance(len(part))
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        if self.fs.exists(self._path(name)):
            self.fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"
