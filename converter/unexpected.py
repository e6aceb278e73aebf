"""What nobody foresaw, in one message: which stage, which entry point, and which line of this package."""

import os
import traceback
from pathlib import Path

from ..validation.errors import ENTRY, Unexpected, raised

DEBUG = "BGEVIS_DEBUG"
"""Set in the environment: errors come with all that is known about them."""

ROOT = Path(__file__).parents[1]
NETWORKS = ("model", "validation")
"""Folders whose lines are named before all others: there a network is computed and compared."""
FOLDERS = (*NETWORKS, "exporters", "converter")


def unexpected(stage: str, error: Exception) -> Unexpected:
    """Say what a stage or a command raised, and where."""
    notes = getattr(error, "__notes__", ())
    entry = next((f", {note}," for note in notes if note.startswith(ENTRY)), "")
    said = f"{stage} failed unexpectedly{entry}{_place(error)}: {raised(error)}"
    if os.environ.get(DEBUG):
        return Unexpected(f"{said}\n{''.join(traceback.format_exception(error))}")
    return Unexpected(f"{said}\nrun again with --debug to see where")


def _place(error: Exception) -> str:
    """Name the last line of this package that raised, or called what raised."""
    lines = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    own = [(file.relative_to(ROOT), line) for file, line in lines if file.is_relative_to(ROOT)]
    for folders in (NETWORKS, FOLDERS):
        if told := [f" at {file}:{line}" for file, line in own if file.parts[0] in folders]:
            return told[-1]
    return ""
