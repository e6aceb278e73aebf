#!/bin/sh
# The built wheel in environments of its own, away from the checkout: are all its parts in it, does it work? And for
# those who only embed: is what `[onnx,embed]` installs small, does it embed, and say what is not there?
#   sh tests/installed.sh DIST_FOLDER VENV_WITH_DEPENDENCIES
set -eu
dist=$1 deps=$2
here=$(cd "$(dirname "$0")/.." && pwd)
most=250 # MB that an environment for embedding may take
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$deps/bin/python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$dist"/*.whl
# The dependencies come from the other environment; the wheel's own files must not.
"$deps/bin/python" -c 'import site; print(site.getsitepackages()[0])' > "$work/path"
site=$("$work/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
cp "$work/path" "$site/dependencies.pth"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import bgevis.converter, sys
assert bgevis.converter.__file__.startswith(sys.prefix), bgevis.converter.__file__
PY
convert="$work/venv/bin/bgevis-convert"
"$convert" --version
"$convert" families
"$convert" fixture bert --size tiny --out tiny.safetensors
"$work/venv/bin/python" - <<'PY'
from pathlib import Path
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
Path("vocab.txt").write_text("\n".join([*words, *(f"[unused{i}]" for i in range(300 - len(words)))]) + "\n")
PY
"$convert" all tiny.safetensors --out run
"$convert" validate run
"$convert" embed run --text "a b" --text c -o full.npy
echo "the installed wheel works"

"$deps/bin/python" -m venv "$work/embed"
for wheel in "$dist"/*.whl; do
    "$work/embed/bin/pip" install --quiet --disable-pip-version-check -c "$here/constraints.txt" "$wheel[onnx,embed]"
done
took=$(du -sm "$work/embed" | cut -f1)
[ "$took" -le "$most" ] || { echo "[onnx,embed] takes $took MB, more than $most"; exit 1; }
small="$work/embed/bin/bgevis-convert"
"$small" embed run --text "a b" --text c -o small.npy
"$small" inspect tiny.safetensors > /dev/null
"$work/embed/bin/python" - <<'PY'
import importlib.util, sys
import numpy as np
from bgevis.converter import EnvironmentFailure, load_module, open_artifacts
for heavy in ("jax", "flax", "torch", "tensorflow"):
    assert importlib.util.find_spec(heavy) is None, heavy
assert np.abs(np.load("small.npy") - np.load("full.npy")).max() < 1e-6
assert np.abs(open_artifacts("run").embed(["a b", "c"]) - np.load("full.npy")).max() < 1e-6
try:
    load_module("run")
    sys.exit("without JAX there is no module")
except EnvironmentFailure as error:
    assert "pip install 'bgevis-convert[convert]'" in str(error), error
PY
for command in "all tiny.safetensors --format onnx --out new.safetensors" "validate run --format onnx" "restore run --from onnx --out new.safetensors"; do
    code=0
    # shellcheck disable=SC2086 - words
    "$small" $command 2> said || code=$?
    [ "$code" = 4 ] && grep -q "which is not installed: pip install 'bgevis-convert\[convert\]'" said ||
        { echo "bgevis-convert $command, without the extra convert: exit code $code"; cat said; exit 1; }
    [ ! -e new.safetensors ] || { echo "bgevis-convert $command left something behind"; exit 1; }
done
[ -f run/provenance.json ] || { echo "the proof is gone"; exit 1; }
echo "[onnx,embed] takes $took MB and embeds"
