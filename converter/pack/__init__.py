"""The contract pack: tokenizer, preprocessing and raw goldens, for runtimes without Python. See docs/pack.md."""

TOKENIZER = "tokenizer.json"
PREPROCESS = "preprocess.json"
RAW = "goldens/raw"
INDEX = f"{RAW}/index.json"
PIXELS = f"{RAW}/pixels.safetensors"
SAMPLES = f"{RAW}/samples.safetensors"
VALUES = "values"
"""Beside the pictures in PIXELS: what normalising makes of each byte of each channel, (256, channels)."""

FORMAT_VERSION = 3
"""Of preprocess.json."""
INDEX_VERSION = 1
