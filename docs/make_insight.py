"""Write the tables of model/insight/README.md: `python docs/make_insight.py`. A test holds the page to them."""

from pathlib import Path

from bgevis.model.family import Source
from bgevis.model.insight import KINDS
from bgevis.model.insight.kind import Kind, Reading

PAGE = Path(__file__).parents[1] / "model" / "insight" / "README.md"
BEGIN, END = "<!-- made by docs/make_insight.py -->\n", "<!-- end -->\n"


def asked(kind: Kind) -> list[str]:
    """Name what nobody states of the class's tiny checkpoint, and what may be said of it."""
    source = Source(kind.part(kind.tiny).checkpoint_shapes)
    reading = Reading(source.shapes, source.settled())
    kind.read(reading)
    return [missing.partition(" (")[0] for missing in reading.missing]


def known(kind: Kind) -> str:
    """Say how such a checkpoint is recognised where no model_type is stated."""
    same = [each.name for each in KINDS.values() if each.marks == kind.marks and each.name != kind.name]
    if not kind.telling:
        return "model_type"
    return f"names; {', '.join(same)} has the same" if same else "names"


def table() -> str:
    """Write both tables."""
    lines = ["| class | entry points | asked for | recognised by |", "| --- | --- | --- | --- |"]
    for kind in KINDS.values():
        entries = ", ".join(f"`{entry.name}`" for entry in kind.entries(kind.tiny))
        fields = ", ".join(f"`{name}`" for name in asked(kind)) or "-"
        lines.append(f"| {kind.name} | {entries} | {fields} | {known(kind)} |")
    lines += ["", "| what it computes otherwise than one may think | classes |", "| --- | --- |"]
    oddities = dict.fromkeys(oddity for kind in KINDS.values() for oddity in kind.oddities)
    for oddity in oddities:
        lines.append(f"| {oddity} | {', '.join(kind.name for kind in KINDS.values() if oddity in kind.oddities)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Give the page with its tables made anew."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
