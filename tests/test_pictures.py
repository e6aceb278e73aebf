"""Image processors' documents: read field by field, done as transformers does them, or refused by name."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bgevis.converter.pack import pictures as pack
from bgevis.converter.pack import steps
from bgevis.model.documents import Document
from bgevis.model.family import Source
from bgevis.model.pictures import CLASSES, MEAN, PART, PLACE, STD, WHOLE, Pictures, rules, settle_pictures, squashed
from bgevis.validation.errors import InputError

SIZE = 32
THIRDS = {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.2, 0.25, 0.3]}
SMALL = {"size": {"height": SIZE, "width": SIZE}}
CROP = {"crop_size": {"height": SIZE, "width": SIZE}}
CLIP = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIZE}, **CROP}
DOCUMENTS = {
    "CLIP": CLIP,
    "CLIP, as it was saved once": {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIZE, "crop_size": SIZE},
    "CLIP, fast": CLIP | {"image_processor_type": "CLIPImageProcessorFast", "resample": 2} | THIRDS,
    "CLIP, larger than the crop, null": CLIP | {"size": {"shortest_edge": 47}, "do_convert_rgb": None},
    "CLIP, a number that is a square": CLIP | {"size": 41, "default_to_square": True},
    "CLIP, not normalised": CLIP | {"do_normalize": False},
    "SigLIP": {"image_processor_type": "SiglipImageProcessor", "do_convert_rgb": None, **SMALL},
    "ViT": {"image_processor_type": "ViTImageProcessor", **SMALL},
    "ViT, a number": {"feature_extractor_type": "ViTFeatureExtractor", "size": SIZE, **THIRDS},
    "DeiT": {"image_processor_type": "DeiTImageProcessor", "size": {"height": 37, "width": 37}, **CROP},
    "BLIP, one number for all channels": {"image_processor_type": "BlipImageProcessor", **SMALL, "image_mean": 0.4},
    "DINOv2": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 36}, **CROP, **THIRDS},
}
ODD = ((300, 400), (333, 517), (1, 57), (57, 1), (31, 33), (32, 32), (640, 97))


def source(place: str, content) -> Source:
    return Source({}, documents={place: Document(place, place, content)})


def settled(content, place: str = PLACE, usual: str = "CLIPImageProcessor") -> dict:
    """Read a document for a network of small pictures, and hold it to the words of preprocess.json."""
    given = source(place, content)
    found = given.settled("pictures.")
    settle_pictures(found, given, SIZE, usual)
    given.documents[place].finish()
    made = rules(Pictures(**found.values), SIZE)
    steps.images("images", made)
    return dict(made)


def noise(width: int, height: int, mode: str = "RGB") -> bytes:
    """Draw a picture that every mistake of a resampling shows in."""
    samples = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(samples).convert(mode).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    """Open a document by transformers' own class, in its form for Pillow."""
    library = pytest.importorskip("transformers")

    def opened(content):
        folder = tmp_path_factory.mktemp("processor")
        (folder / PLACE).write_text(json.dumps(content))
        return library.AutoImageProcessor.from_pretrained(str(folder), backend="pil", local_files_only=True)

    return opened


@pytest.mark.parametrize("name", DOCUMENTS)
def test_pictures_become_what_upstream_makes_of_them(upstream, name):
    made, processor = settled(DOCUMENTS[name]), upstream(DOCUMENTS[name])
    files = [noise(*size) for size in ODD]
    files += [noise(50, 41, mode) for mode in ("L", "RGBA", "P", "1", "LA")] if processor.do_convert_rgb else []
    for file in files:
        wanted = processor(Image.open(io.BytesIO(file)), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        assert np.abs(pack.images([file], made)[0] - wanted).max() <= 1e-6


def test_every_picture_that_people_have_becomes_what_upstream_makes_of_it(oracles, upstream):
    """CMYK, 16 bits, palettes with and without a transparent colour, an orientation in EXIF."""
    made, processor = settled(DOCUMENTS["CLIP"]), upstream(DOCUMENTS["CLIP"])
    files = sorted(Path(oracles / "images").glob("*.*"))
    assert len(files) >= 15
    for file in files:
        wanted = processor(Image.open(file), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        assert np.abs(pack.images([file], made)[0] - wanted).max() <= 1e-6, file.name


@pytest.mark.parametrize("name", CLASSES)
def test_silence_means_what_upstreams_class_takes(name):
    library = pytest.importorskip("transformers")
    cls, usual = getattr(library, f"{name}Pil"), CLASSES[name]
    assert (int(cls.resample), tuple(cls.image_mean), tuple(cls.image_std)) == (usual.resample, usual.mean, usual.std)
    assert tuple(cls.size.values()) == usual.size
    assert tuple((cls.crop_size or {}).values()) == usual.crop if hasattr(cls, "crop_size") else not usual.crop
    assert bool(getattr(cls, "do_center_crop", None)) == usual.cropped
    assert bool(getattr(cls, "do_convert_rgb", None)) == usual.rgb
    assert cls.default_to_square == usual.square
    assert (cls.do_resize, cls.do_rescale, cls.do_normalize) == (True, True, True)


def test_the_whole_processors_document_comes_first():
    """As transformers 5 saves it: the image processor is a part of processor_config.json."""
    other = Document(PLACE, PLACE, DOCUMENTS["SigLIP"])
    whole = Document(WHOLE, WHOLE, {"processor_class": "CLIPProcessor", PART: DOCUMENTS["CLIP"]})
    given = Source({}, documents={PLACE: other, WHOLE: whole})
    found = given.settled()
    settle_pictures(found, given, SIZE)
    assert found.values["resize"] == (SIZE,)
    assert (whole.read, other.read) == (True, False)
    whole.finish()


REFUSED = {
    "a class that does more": ({"image_processor_type": "FlavaImageProcessor"}, "image_processor_type is 'FlavaImage"),
    "no filter": (CLIP | {"resample": None}, "resample is null, expected 2 or 3"),
    "a filter that is not done": (CLIP | {"resample": 1}, "resample is 1, expected 2 or 3"),
    "pictures of another size": (CLIP | {"crop_size": 31}, "its pictures are 31 x 31, but the network takes 32 x 32"),
    "pictures of any size": (CLIP | {"do_center_crop": False}, "of any size"),
    "a frame": (CLIP | {"size": {"shortest_edge": 20}}, "framed in black"),
    "a longest edge": (CLIP | {"size": {"shortest_edge": 32, "longest_edge": 64}}, r"size\.longest_edge = 64"),
    "another scale": (CLIP | {"rescale_factor": 1 / 127.5}, "rescale_factor is"),
    "no scale": (CLIP | {"do_rescale": False}, "do_rescale is false"),
    "four channels": (CLIP | {"image_std": [1, 1, 1, 1]}, "image_std is .* expected three numbers"),
    "a field that nobody knows": (CLIP | {"do_flip": True}, "do_flip = true"),
    "padding": (CLIP | {"do_pad": True}, "do_pad = true"),
    "no size in a size": (CLIP | {"size": {"width": 32}}, r"size\.height is missing"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_done_is_refused_by_name(what):
    content, words = REFUSED[what]
    with pytest.raises(InputError, match=words):
        settled(content)


def test_a_resize_in_float32_is_torchvisions(oracles):
    """Of pictures that shrink to a square; nothing is a byte on the way."""
    file = oracles / "edge_glass" / "preprocess" / "golden.npz"
    if not file.exists():
        pytest.skip(f"no conformance data in {file.parent}")
    golden = np.load(file)
    wanted = golden["pixel_values"].transpose(0, 2, 3, 1)
    stated = squashed(wanted.shape[1], MEAN, STD)
    steps.images("images", stated)
    assert np.abs(pack.images([*golden["image_u8"]], stated) - wanted).max() < 1e-5
