"""What open_clip itself makes of a checkpoint, raw pictures and ids: `python open_clip_judge.py CKPT RUN OUT.npz`.

Run where open_clip is installed. Its transforms need torchvision, whose wheel may be built for another PyTorch: then
its operators cannot be registered, which no transform of open_clip's uses.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

checkpoint, run, out = map(Path, sys.argv[1:])

register = torch.library.register_fake


def registered(name: Any, *arguments: Any, **options: Any) -> Callable[..., Any]:
    """Leave out what torchvision registers for operators that are not there."""
    if str(name).startswith("torchvision::"):
        return lambda function: function
    return register(name, *arguments, **options)


torch.library.register_fake = registered

from open_clip import CLIP  # noqa: E402 - not before torchvision can be imported
from open_clip.transform import PreprocessCfg, image_transform_v2  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

stated = json.loads((checkpoint.parent / "open_clip_config.json").read_text())
model = CLIP(**stated["model_cfg"])
model.load_state_dict(load_file(checkpoint))
size = stated["model_cfg"]["vision_cfg"]["image_size"]
transform = image_transform_v2(PreprocessCfg(**{"size": size} | stated["preprocess_cfg"]), is_train=False)
raw = json.loads((run / "goldens/raw/index.json").read_text())
found = {}
with torch.inference_mode():
    for picture in raw["images"]:
        pixels = transform(Image.open(run / "goldens/raw" / picture["file"]))[None]
        found[f"image {picture['name']}"] = model.eval().encode_image(pixels, normalize=True).numpy()
    for text in raw["texts"]:
        ids = torch.tensor(text["ids"]["encode_text"])
        padded = torch.nn.functional.pad(ids, (0, model.context_length - len(ids)))[None]
        found[f"text {text['name']}"] = model.encode_text(padded, normalize=True).numpy()
np.savez(out, **found)
