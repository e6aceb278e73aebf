"""Converting and exporting without the proofs: `python -m benchmarks.ours CKPT OUT [--dtype=source] [FORMAT...]`."""

import os
import sys
from pathlib import Path

from bgevis.converter.directory import hold
from bgevis.converter.options import Options, chosen
from bgevis.converter.report.terminal import display
from bgevis.converter.run.tasks import run_tasks, tasks_for_exports


def main() -> None:
    checkpoint, out, *formats = sys.argv[1:]
    stored = "--dtype=source" in formats
    formats = [name for name in formats if not name.startswith("--")]
    options = Options(checkpoint=checkpoint, formats=tuple(formats), dtype="source" if stored else "float32")
    exporters = chosen(options)
    for exporter in exporters:
        exporter.require()
    with hold(Path(out)), display(as_json=False) as shown:
        errors = run_tasks(tasks_for_exports(exporters), Path(out), options, shown, jobs=min(2, os.cpu_count() or 1))
    if errors:
        sys.exit("\n".join(f"error: {error}" for error in errors))


if __name__ == "__main__":
    main()
