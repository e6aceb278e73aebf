"""What people call the formats, and what else is judged."""

TITLES = {
    "parity": "JAX model",
    "onnx": "ONNX",
    "onnx_bfloat16": "ONNX bfloat16",
    "onnx_float16": "ONNX float16",
    "onnx_int8": "ONNX int8",
    "onnx_int8_reduced": "ONNX int8-reduced",
    "openvino": "OpenVINO",
    "orbax": "Orbax",
    "saved_model": "SavedModel",
    "sentence_transformers": "sentence-transformers",
    "stablehlo": "StableHLO",
    "run directory": "Run directory",
}


def title(key: str) -> str:
    """Give the name that people know a format by, of its key in the manifest."""
    return TITLES.get(key, key)
