"""Transcribe by onnxruntime-genai: `python genai_transcribe.py FOLDER SOUND.wav PROMPT`.

FOLDER is what `--layout onnxruntime-genai` wrote, opened as it is; PROMPT the special tokens that a text begins with:
"<|startoftranscript|><|en|><|transcribe|><|notimestamps|>". Prints the text.
"""

import sys

import onnxruntime_genai

folder, file, prompt = sys.argv[1:]
model = onnxruntime_genai.Model(folder)
processor = model.create_multimodal_processor()
generator = onnxruntime_genai.Generator(model, onnxruntime_genai.GeneratorParams(model))
generator.set_inputs(processor([prompt], audios=onnxruntime_genai.Audios.open(file)))
while not generator.is_done():
    generator.generate_next_token()
print(processor.decode(generator.get_sequence(0)))
