"""Let texts go on by onnxruntime-genai: `python genai_generate.py FOLDER TOKENS PROMPT...`.

FOLDER is what `--layout onnxruntime-genai` wrote, opened as it is. Prints the ids of each prompt and what follows, as
JSON, greedily, TOKENS of them at most.
"""

import json
import sys

import onnxruntime_genai

folder, tokens, *prompts = sys.argv[1:]
model = onnxruntime_genai.Model(folder)
tokenizer = onnxruntime_genai.Tokenizer(model)
for prompt in prompts:
    ids = tokenizer.encode(prompt)
    options = onnxruntime_genai.GeneratorParams(model)
    options.set_search_options(max_length=len(ids) + int(tokens))
    generator = onnxruntime_genai.Generator(model, options)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    print(json.dumps([int(i) for i in generator.get_sequence(0)]))
