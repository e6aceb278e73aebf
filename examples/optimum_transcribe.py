"""Transcribe by optimum-onnx: `python optimum_transcribe.py FOLDER SAMPLES [LANGUAGE]`.

FOLDER is what `--layout transformers-js` wrote, opened as it is; SAMPLES a file of float32, one channel at the
network's rate. Prints the text, then that which is written without a cache: the same.
"""

import sys

import numpy as np
from optimum.onnxruntime import ORTModelForSpeechSeq2Seq
from transformers import AutoProcessor

folder, file, *language = sys.argv[1:]
model, processor = ORTModelForSpeechSeq2Seq.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
rate = processor.feature_extractor.sampling_rate
given = processor(np.fromfile(file, np.float32), sampling_rate=rate, return_tensors="pt")
options = {"language": language[0], "task": "transcribe"} if language else {}
for use_cache in (True, False):
    ids = model.generate(**given, **options, use_cache=use_cache)
    print(processor.batch_decode(ids, skip_special_tokens=True)[0])
