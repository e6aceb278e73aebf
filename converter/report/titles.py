"""What people call the formats, and what else is judged."""

from ...exporters.precisions import PRECISIONS

TITLES = {
    "parity": "JAX model",
    "arrow": "Arrow",
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "orbax": "Orbax",
    "saved_model": "SavedModel",
    "onnxruntime_genai": "onnxruntime-genai",
    "sentence_transformers": "sentence-transformers",
    "sherpa_onnx": "sherpa-onnx",
    "stablehlo": "StableHLO",
    "transformers_js": "Transformers.js",
    "run directory": "Run directory",
}


def title(key: str) -> str:
    """Give the name that people know a format by, of its key in the manifest; then its precision."""
    for precision in PRECISIONS:
        format_ = key.removesuffix(f"_{precision.replace('-', '_')}")
        if format_ != key and format_ in TITLES:
            return f"{TITLES[format_]} {precision}"
    return TITLES.get(key, key)
