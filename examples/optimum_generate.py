"""Let texts go on by optimum-onnx: `python optimum_generate.py FOLDER TOKENS PROMPT...`.

FOLDER is what `--layout transformers-js` wrote, opened as it is. Prints the ids of each prompt and what follows, as
JSON, greedily, TOKENS of them at most.
"""

import json
import sys

from optimum.onnxruntime import ORTModelForCausalLM
from transformers import AutoTokenizer

folder, tokens, *prompts = sys.argv[1:]
model, tokenizer = ORTModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
for prompt in prompts:
    given = tokenizer(prompt, return_tensors="pt")
    print(json.dumps(model.generate(**given, max_new_tokens=int(tokens), do_sample=False)[0].tolist()))
