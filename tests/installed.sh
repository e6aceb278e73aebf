#!/bin/sh
# The built wheel in an environment of its own, away from the checkout: are all its parts in it, does it work?
#   sh tests/installed.sh DIST_FOLDER VENV_WITH_DEPENDENCIES
set -eu
dist=$1 deps=$2
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
"$convert" all tiny.safetensors --out run
"$convert" validate run
echo "the installed wheel works"
