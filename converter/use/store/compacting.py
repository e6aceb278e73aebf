"""Merging small fragments, and clearing away what no state names."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from .fragments import MAPPED, Gone, Pair, Source, abandoned, batches
from .lists import Lists
from .manifest import FOREIGN, Fragment, Manifest, locked
from .state import State
from .tables import SOURCES

LARGE = 1 << 18
"""Rows from which on a fragment is left as it is."""


def groups(fragments: Iterable[Fragment]) -> list[list[Fragment]]:
    """Gather small fragments of a table and model that follow each other, until they are large together."""
    found: list[list[Fragment]] = []
    last: dict[tuple[str, str], list[Fragment]] = {}
    for each in fragments:
        group = last.setdefault((each.table, each.model), [])
        if each.rows < LARGE:
            group.append(each)
        if each.rows >= LARGE or sum(one.rows for one in group) >= LARGE:
            found.append(last.pop((each.table, each.model)))
    found += last.values()
    return [group for group in found if len(group) > 1]


def merged(store: Path, group: Sequence[Fragment], index: Path) -> int:
    """Put one fragment in the place of several, and their index to rights; say how many fewer there are."""
    files, places = [each.file for each in group], {}
    with Pair(store, group[0].table, group[0].width) as pair:
        try:
            for each in group:
                places[Source(each.file).mapped] = (Source(pair.file).mapped, pair.rows)
                for rows in batches(store / each.file, each):
                    pair.write(rows)
        except Gone:
            return 0  # another one merges them
        whole = Fragment(pair.file, pair.rows, pair.finish(), group[0].model, group[0].width)
        with locked(store):
            manifest = Manifest.read(store)
            if not set(files) <= {each.file for each in manifest.fragments}:
                return 0
            pair.place()
            manifest.merged(files, whole).write(store)
            held = Lists.read(index)
            if held and places.keys() & set(held.files):
                held.moved(places).write(index)
    return len(files) - 1


def swept(store: Path) -> None:
    """Delete files that no state names and no writer holds."""
    with locked(store):
        state = State(store, Manifest.read(store), {})
        sources = [source for table in SOURCES for source in state.sources(table)]
        named = {source.file for source in sources} | {f"{MAPPED}/{source.mapped}" for source in sources}
        lost = [file for table in SOURCES for file in (store / table).glob("*.parquet") if file.name != FOREIGN]
        for file in [*lost, *(store / MAPPED).glob("*.arrow")]:
            if str(file.relative_to(store)) not in named:
                file.unlink(missing_ok=True)
        for file in abandoned(store):
            file.unlink(missing_ok=True)
