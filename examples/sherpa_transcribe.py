"""Transcribe by sherpa-onnx: `python sherpa_transcribe.py FOLDER SOUND.wav [LANGUAGE]`.

FOLDER is what `--layout sherpa-onnx` wrote, opened as it is; the sound has 16 bits a sample. Prints the text.
"""

import sys
import wave

import numpy as np
import sherpa_onnx

folder, file, *language = sys.argv[1:]
recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
    encoder=f"{folder}/encoder_with_layers.onnx",
    decoder=f"{folder}/decoder_with_offset.onnx",
    tokens=f"{folder}/tokens.txt",
    language="".join(language) or "en",
)
with wave.open(file) as sound:
    samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 32768
    rate = sound.getframerate()
stream = recognizer.create_stream()
stream.accept_waveform(rate, samples)
recognizer.decode_stream(stream)
print(stream.result.text)
