"""The contract pack: does it say what the network means, and does each common mistake of a runner show?"""

import copy
import dataclasses
import functools
import importlib.util
import io
import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import preprocess_documents
import pytest
from PIL import Image, ImageOps
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from vocabularies import filled

from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import entry_points
from bgevis.converter.options import Options
from bgevis.converter.pack import pictures, samples, tokenizer
from bgevis.converter.pack.preprocessor import MODALITIES, Preprocessor, check
from bgevis.converter.pack.replay import Pack
from bgevis.converter.progress import Silent
from bgevis.converter.source.identify import identify
from bgevis.converter.stages import load
from bgevis.converter.stages import pack as write
from bgevis.converter.stages.reference import read_state
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.reference import Original
from bgevis.validation import goldens
from bgevis.validation.entry_point import Axis, EntryPoint, PaddingMask, Pixels, TensorSpec, TokenIds
from bgevis.validation.errors import EnvironmentFailure, InputError
from bgevis.validation.outputs import Embedding, Scores

WORDS = (
    "[PAD]",
    "[unused]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "cafe",
    "caf",
    "##é",
    "nasa",
    "NASA",
    "東",
    "京",
    "a",
)


def packed(checkpoint: Path, out: Path, tokenizer_folder: Path | None = None):
    """Load a checkpoint and write its pack; give the run."""
    options = Options(checkpoint=str(checkpoint), tokenizer=str(tokenizer_folder or ""))
    run = load.perform(out, options, Silent())
    write.perform(run, options, Silent())
    return run


@pytest.fixture(scope="module")
def visualized(oracles, tmp_path_factory):
    folder = oracles / "visualized_bge"
    run = packed(folder / "base/Visualized_base_tiny.pth", tmp_path_factory.mktemp("v") / "run", folder / "tokenizer")
    return run.path


@pytest.fixture(scope="module")
def pack(visualized):
    return Pack(visualized)


@pytest.fixture(scope="module")
def identified(oracles):
    return identify(oracles / "visualized_bge/base/Visualized_base_tiny.pth", Options())


@pytest.fixture(scope="module")
def entries(visualized):
    return entry_points(RunDirectory(visualized).manifest())


@pytest.fixture(scope="module")
def reference(identified):
    return identified.family.reference(identified.config, Original(read_state(identified.checkpoint, Silent())))


# The arithmetic that docs/pack.md states, without Pillow.


def bicubic(t: float, a: float = -0.5) -> float:
    t = abs(t)
    if t < 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return (((t - 5) * t + 8) * t - 4) * a if t < 2 else 0.0


def bilinear(t: float) -> float:
    return max(0.0, 1 - abs(t))


def one_pass(samples_: np.ndarray, m: int, a: float | None = -0.5, antialias: bool = True) -> np.ndarray:
    """Resample the first axis to m, as docs/pack.md says; without `a`, by the bilinear filter."""
    n = len(samples_)
    if n == m:
        return samples_
    scale = n / m
    stretch = max(scale, 1) if antialias else 1
    support = (1 if a is None else 2) * stretch
    curve = bilinear if a is None else functools.partial(bicubic, a=a)
    out = []
    for x in range(m):
        center = (x + 0.5) * scale
        first, last = max(0, math.trunc(center - support + 0.5)), min(n, math.trunc(center + support + 0.5))
        w = [curve((i - center + 0.5) * (1 / stretch)) for i in range(first, last)]
        total = sum(w)
        k = [math.trunc(v / total * 2**22 + (0.5 if v / total >= 0 else -0.5)) for v in w]
        several = samples_[first:last].astype(np.int64)
        out.append(np.clip((np.tensordot(k, several, 1) + 2**21) >> 22, 0, 255))
    return np.array(out).astype(np.uint8)


def resized(array: np.ndarray, width: int, height: int, **how) -> np.ndarray:
    less = array.shape[0] - height
    if less > 0 and less > 2 * (array.shape[1] - width):
        return one_pass(one_pass(array, height, **how).swapaxes(0, 1), width, **how).swapaxes(0, 1)
    return one_pass(one_pass(array.swapaxes(0, 1), width, **how).swapaxes(0, 1), height, **how)


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [("RGB", (61, 37), (16, 16)), ("RGB", (9, 13), (32, 47)), ("L", (150, 1), (20, 3)), ("RGB", (50, 31), (50, 16))],
)
@pytest.mark.parametrize("a", [-0.5, None])
def test_the_documented_arithmetic_is_pillows(mode, before, after, a):
    shape = (before[1], before[0], 3) if mode == "RGB" else before[::-1]
    array = np.random.default_rng(5).integers(0, 256, shape).astype(np.uint8)
    kind = Image.Resampling.BILINEAR if a is None else Image.Resampling.BICUBIC
    want = np.asarray(Image.fromarray(array).resize(after, kind))
    np.testing.assert_array_equal(resized(array, *after, a=a), want)


def test_the_nearest_sample_is_documented_too():
    """At borders between samples: 10.5 * (400 / 42) is 100, and adding up comes to a little less."""
    for n in (1, 2, 40, 225, 400):
        for m in (1, 3, 16, 42, 63, 224):
            place, wanted = 0.5 * (n / m), []
            for _ in range(m):
                wanted.append(int(place))
                place += n / m
            row = Image.fromarray((np.arange(n)[None] % 251).astype(np.uint8))
            got = np.asarray(row.resize((m, 1), Image.Resampling.NEAREST))[0]
            np.testing.assert_array_equal(got, np.array(wanted) % 251, f"{n} to {m}")


def test_alpha_is_documented_too():
    array = np.random.default_rng(6).integers(0, 256, (40, 31, 4)).astype(np.uint8)
    array[:5, :, 3] = 0
    want = np.asarray(Image.fromarray(array).resize((16, 21), Image.Resampling.BICUBIC).convert("RGB"))
    product = array[..., :3].astype(np.int64) * array[..., 3:] + 128
    premultiplied = np.concatenate([((product >> 8) + product) >> 8, array[..., 3:]], -1).astype(np.uint8)
    small = resized(premultiplied, 16, 21).astype(np.int64)
    colour, alpha = small[..., :3], small[..., 3:]
    divided = np.where(alpha % 255 == 0, colour, np.minimum(255 * colour // np.maximum(alpha, 1), 255))
    np.testing.assert_array_equal(divided, want)


def test_over_white_is_documented_too():
    """Every colour with every alpha."""
    colour, alpha = (axis.astype(np.uint8) for axis in np.mgrid[0:256, 0:256])
    image = Image.fromarray(np.stack([colour, colour, colour, alpha], -1))
    rules = {"steps": [{"do": "colour", "to": "RGB", "alpha": "over white"}, preprocess_documents.NORMALIZE]}
    c, a = colour.astype(np.int64), alpha.astype(np.int64)
    p = c * a + 255 * (255 - a) + 128
    np.testing.assert_array_equal(pictures.pixels(image, rules)[..., 1], ((p >> 8) + p) >> 8)


ORDERED = int(PIL.__version__.split(".")[0]) >= 13
"""Whether Pillow takes the axes in the order of docs/pack.md by itself."""
CLIP_STEPS = preprocess_documents.LEGAL["converted first"]["images"]["steps"]


def clip(picture: Image.Image, **settings) -> np.ndarray:
    """Give the bytes that transformers' own image processor makes, (height, width, 3)."""
    module = pytest.importorskip(
        "transformers.models.clip.image_processing_pil_clip", reason="transformers has no CLIPImageProcessorPil"
    )
    made = module.CLIPImageProcessorPil(do_rescale=False, do_normalize=False, **settings)
    (bytes_,) = made(picture, return_tensors="np")["pixel_values"]
    return bytes_.transpose(1, 2, 0)


def odd_pictures() -> dict[str, Image.Image]:
    """Draw sizes and modes that a reader could go wrong with."""
    random = np.random.default_rng(9)
    found = {}
    for width, height in ((300, 400), (400, 300), (333, 517), (517, 333), (256, 257), (40, 31)):
        scene = Image.fromarray(samples.scene(width, height))
        noise = Image.fromarray(random.integers(0, 256, (height, width, 4)).astype(np.uint8))
        size = f"{width} x {height}"
        found |= {f"{size} colour": scene, f"{size} grey": scene.convert("L")}
        found |= {f"{size} alpha": noise, f"{size} grey and alpha": noise.convert("LA")}
    return found


@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        (CLIP_STEPS, {"size": {"shortest_edge": 256}}),
        ([CLIP_STEPS[0], {**CLIP_STEPS[1], "shorter_side": 224}, *CLIP_STEPS[2:]], {}),
        (
            [CLIP_STEPS[0], preprocess_documents.EXACT | preprocess_documents.BILINEAR, CLIP_STEPS[-1]],
            {"size": {"height": 224, "width": 224}, "resample": Image.Resampling.BILINEAR, "do_center_crop": False},
        ),
    ],
    ids=["shorter side, crop", "CLIP's own", "squashed, bilinear"],
)
def test_the_words_are_transformers(steps, settings, oracles):
    """Bit for bit: what a family states that was trained with this processor."""
    kept = {path.name: Image.open(path) for path in sorted((oracles / "images").iterdir())}
    assert len(kept) == 15
    for name, picture in (kept | odd_pictures()).items():
        got, want = pictures.pixels(picture, {"steps": steps}), clip(picture, **settings)
        if ORDERED or not turned_around(picture, steps):
            np.testing.assert_array_equal(got, want, name)


def turned_around(picture: Image.Image, steps) -> bool:
    """Say whether an older Pillow takes the axes in the other order."""
    return pictures.down_first(picture.size, pictures._size(picture, steps[1]))


@pytest.mark.skipif(not ORDERED, reason="Pillow before 13 takes another order")
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_the_order_of_the_axes_is_pillows(mode):
    random = np.random.default_rng(11)
    step = preprocess_documents.EXACT | preprocess_documents.BICUBIC
    firsts = set()
    for _ in range(200):
        width, height, *new = map(int, random.integers(3, 60, 4))
        picture = Image.fromarray(random.integers(0, 256, (height, width, 4)).astype(np.uint8)).convert(mode)
        got = pictures.pixels(picture, {"steps": [step | {"width": new[0], "height": new[1]}]})
        np.testing.assert_array_equal(got, np.asarray(picture.resize(new, Image.Resampling.BICUBIC)))
        firsts.add(pictures.down_first(picture.size, (new[0], new[1])))
    assert firsts == {True, False}


def test_a_picture_smaller_than_its_crop_is_refused():
    """Upstreams pad it, each in a way of its own: no picture that is resized first needs it."""
    rules = preprocess_documents.LEGAL["cropped only"]["images"]
    with pytest.raises(InputError, match="a picture of 300 x 223 is smaller than the crop of 224 x 224"):
        pictures.pixels(np.zeros((223, 300, 3), np.uint8), rules)
    assert pictures.pixels(np.zeros((224, 300, 3), np.uint8), rules).shape == (224, 224, 3)


def test_pictures_become_what_upstream_makes_of_them(oracles, visualized, pack):
    """Grey, palette, alpha, one bit, 16 bits, CMYK, EXIF, one sample, thin lines."""
    folder = oracles / "visualized_bge/base"
    stored = np.load(folder / "goldens.npz")["images/pixels"]
    names, compared = json.loads((folder / "goldens_meta.json").read_text())["images"], 0
    for name, want in zip(names, stored, strict=True):
        if (oracles / "images" / name).exists():
            got = pictures.images([oracles / "images" / name], pack.preprocessor.rules["images"])[0]
            np.testing.assert_array_equal(got, want.transpose(1, 2, 0), name)
            compared += 1
    assert compared == 15


def test_texts_become_what_upstream_makes_of_them(oracles, pack):
    meta = json.loads((oracles / "visualized_bge/base/goldens_meta.json").read_text())
    short = [(t, ids) for t, ids in zip(meta["texts"], meta["input_ids"], strict=True) if len(ids) < 48]
    assert len(short) >= 15
    assert pack.preprocessor.ids("encode_text", [text for text, _ in short]) == [ids for _, ids in short]


def test_the_goldens_are_what_tokenizer_and_rules_give(pack):
    assert all(row.passed for row in pack.rows())
    assert len(pack.rows()) == 4  # ids for two entry points, bytes, normalised bytes


def test_pictures_are_small_and_of_any_size():
    for size in (8, 30, 224, 336):
        for picture in samples.pictures(size):
            assert len(picture.content) < 6000 + size * 8, picture.name


# Mistakes with pictures. Each gives normalised pixels, (size, size, 3).


@dataclasses.dataclass(frozen=True)
class Way:
    """How a runner prepares pictures; the defaults are right."""

    filter: Image.Resampling = Image.Resampling.BICUBIC
    a: float = -0.5
    antialias: bool = True
    squash: bool = False
    longer: str = "floor"
    offset: str = "even"
    crop_first: bool = False
    convert_first: bool = False
    between: str = "bytes"
    channels: tuple[int, int, int] = (0, 1, 2)
    transpose: bool = False
    mean: tuple[float, ...] = ()
    divide: float = 255
    order: str = "right"
    exif: bool = False
    blend: bool = False
    deep: str = "clip"

    def pixels(self, content: bytes, rules) -> np.ndarray:
        image, size = Image.open(io.BytesIO(content)), rules["size"]
        if self.exif:
            image = ImageOps.exif_transpose(image)
        if self.deep == "scale" and image.mode == "I;16":
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if self.blend and image.has_transparency_data:
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
        if self.convert_first:
            image = image.convert("RGB")
        image = self._resize(self._square(image) if self.crop_first else image, size)
        array = np.asarray(self._crop(image, size).convert("RGB"))[..., self.channels]
        array = array.swapaxes(0, 1) if self.transpose else array
        step = rules["steps"][-1]
        mean, std = (np.array(v, np.float32) for v in (self.mean or step["mean"], step["std"]))
        return (array.astype(np.float32) / np.float32(self.divide) - mean) / std

    def _square(self, image):
        side = min(image.size)
        return self._crop(image, side)

    def _resize(self, image, size):
        width, height = image.size
        short, long = min(width, height), max(width, height)
        if short == size and not self.squash:
            return image
        exact = size * long / short
        other = {"floor": math.floor, "round": round, "ceil": math.ceil}[self.longer](exact)
        new = (size, size) if self.squash else (size, other) if width == short else (other, size)
        if image.mode != "RGB" or (self.a, self.antialias, self.between) == (-0.5, True, "bytes"):
            return in_order(image, new, self.filter, self.order)
        if self.between == "floats":
            channels = [c.convert("F").resize(new, self.filter) for c in image.split()]
            return Image.fromarray(np.clip(np.rint(np.stack(channels, -1)), 0, 255).astype(np.uint8))
        return Image.fromarray(resized(np.asarray(image), *new, a=self.a, antialias=self.antialias))

    def _crop(self, image, size):
        def at(side):
            half = (side - size) / 2
            return {"even": round(half), "floor": math.floor(half), "up": math.floor(half + 0.5)}[self.offset]

        left, top = at(image.width), at(image.height)
        return image.crop((left, top, left + size, top + size))


def in_order(image, size, way, order):
    """Resize by one pass for each axis, in an order or in the right one."""
    if image.size == size:
        return image
    down = {"right": pictures.down_first(image.size, size), "across first": False, "down first": True}[order]
    mode = image.mode
    image = image.convert({"RGBA": "RGBa", "LA": "La"}.get(mode, mode))
    return (
        image.resize((image.width, size[1]) if down else (size[0], image.height), way).resize(size, way).convert(mode)
    )


MISTAKES = {
    "nearest": Way(filter=Image.Resampling.NEAREST),
    "bilinear": Way(filter=Image.Resampling.BILINEAR),
    "box": Way(filter=Image.Resampling.BOX),
    "lanczos": Way(filter=Image.Resampling.LANCZOS),
    "another bicubic": Way(a=-0.75),
    "no antialias": Way(antialias=False),
    "squashed": Way(squash=True),
    "longer side rounded": Way(longer="round"),
    "longer side up": Way(longer="ceil"),
    "crop rounded down": Way(offset="floor"),
    "crop rounded up": Way(offset="up"),
    "cropped before resizing": Way(crop_first=True),
    "down first": Way(order="down first"),
    "floats between the passes": Way(between="floats"),
    "channels swapped": Way(channels=(2, 1, 0)),
    "grey": Way(channels=(1, 1, 1)),
    "rows for columns": Way(transpose=True),
    "mean of another network": Way(mean=(0.485, 0.456, 0.406)),
    "one mean for all": Way(mean=(0.5, 0.5, 0.5)),
    "not divided": Way(divide=1),
    "divided by 256": Way(divide=256),
}
RARE = {
    "across first": (Way(order="across first"), {"column"}),
    "converted before resizing": (Way(convert_first=True), {"palette", "clear", "alpha", "deep"}),
    "blended": (Way(blend=True), {"clear", "alpha"}),
    "scaled to 8 bits": (Way(deep="scale"), {"deep"}),
    "EXIF applied": (Way(exif=True), {"turned"}),
}


def wrong(way: Way, pack: Pack) -> set[str]:
    rules = pack.preprocessor.rules["images"]
    right = {name: pictures.images([pack.picture(name)], rules)[0] for name in pack.pictures}
    return {n for n in right if np.abs(way.pixels(pack.picture(n), rules) - right[n]).max() > 1e-5}


def test_the_right_way_is_told_from_none(pack):
    assert wrong(Way(), pack) == set()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_core_pictures_tell_the_mistake(mistake, pack):
    told = wrong(MISTAKES[mistake], pack)
    assert any(pack.pictures[name]["core"] for name in told)
    if "crop" in mistake or "longer" in mistake:
        assert "dot" not in told


@pytest.mark.parametrize("mistake", RARE)
def test_other_pictures_tell_what_only_they_can(mistake, pack):
    way, names = RARE[mistake]
    assert wrong(way, pack) == names


@pytest.mark.parametrize("size", [8, 32, 56])
def test_roundings_are_told_apart_at_any_size(size):
    """What depends on the picture's size, for the two that are embedded and the two that are only cropped."""
    contents = {picture.name: picture.content for picture in samples.pictures(size)}
    rules = {"size": size, "steps": [{"mean": [0.5] * 3, "std": [0.25] * 3}]}
    for way, names in (
        (Way(offset="floor"), {"wide", "odd_3"}),
        (Way(offset="up"), {"tall", "odd_1"}),
        (Way(longer="round"), {"wide", "tall"}),
        (Way(squash=True), {"wide", "tall", "odd_1", "odd_3"}),
    ):
        for name in names:
            right, got = Way().pixels(contents[name], rules), way.pixels(contents[name], rules)
            assert np.abs(right - got).max() > 0.1, (way, name)


# Each word beside another: the right way of one set of rules is a mistake under the other.

CLIP_WAY = Way(offset="floor", convert_first=True, blend=True)
ROUNDED_WAY = Way(longer="round", filter=Image.Resampling.BILINEAR)
SQUASHED_WAY = Way(squash=True, filter=Image.Resampling.BILINEAR, convert_first=True)
WORDS_APART = {
    "crop by the half to even": ("converted first", CLIP_WAY, {"offset": "even"}),
    "bilinear": ("converted first", CLIP_WAY, {"filter": Image.Resampling.BILINEAR}),
    "longer side rounded": ("converted first", CLIP_WAY, {"longer": "round"}),
    "squashed": ("converted first", CLIP_WAY, {"squash": True}),
    "alpha dropped": ("converted first", CLIP_WAY, {"blend": False}),
    "longer side cut off": ("rounded", ROUNDED_WAY, {"longer": "floor"}),
    "crop cut off": ("rounded", ROUNDED_WAY, {"offset": "floor"}),
    "crop rounded up": ("rounded", ROUNDED_WAY, {"offset": "up"}),
    "bicubic": ("rounded", ROUNDED_WAY, {"filter": Image.Resampling.BICUBIC}),
    "converted last": ("squashed", SQUASHED_WAY, {"convert_first": False}),
    "not squashed": ("squashed", SQUASHED_WAY, {"squash": False}),
}


@pytest.mark.parametrize("size", [16, 224])
@pytest.mark.parametrize("mistake", WORDS_APART)
def test_each_word_is_told_from_its_neighbours(mistake, size):
    name, way, wrongly = WORDS_APART[mistake]
    rules = sized(preprocess_documents.LEGAL[name]["images"], size)
    told = set()
    for picture in samples.pictures(size, pictures.longer_side(rules)):
        right = pictures.images([picture.content], rules)[0]
        np.testing.assert_allclose(way.pixels(picture.content, rules), right, rtol=0, atol=1e-5, err_msg=picture.name)
        got = dataclasses.replace(way, **wrongly).pixels(picture.content, rules)
        if np.abs(got - right).max() > 0.02:
            told.add(picture.name)
    rare = {"alpha dropped": {"clear", "alpha"}, "converted last": {"palette", "clear", "alpha", "deep"}}
    assert told == rare[mistake] if mistake in rare else told & set(write.SEEN)


def sized(rules, size):
    """Give the same rules for a network that sees squares of another size."""
    steps = copy.deepcopy(rules["steps"])
    for step in steps:
        step.update({key: size for key in ("shorter_side", "height", "width") if key in step})
    return {**rules, "size": size, "steps": steps}


@pytest.fixture(scope="module")
def embedded(pack, reference, entries):
    """The raw pictures' golden, from the original in float64 and float32."""
    case = next(case for case in pack.cases(entries) if case.entry_point == "encode_image")
    exact = reference.in_dtype("float64").run("encode_image", case.inputs)
    return goldens.golden(entries["encode_image"], case, exact, reference.run("encode_image", case.inputs))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_embeddings_tell_the_mistake(mistake, pack, reference, embedded):
    """For clients that only give embeddings."""
    rules = pack.preprocessor.rules["images"]
    images = np.stack([MISTAKES[mistake].pixels(pack.picture(name), rules) for name in write.SEEN])
    got = reference.run("encode_image", {"images": images})["embeddings"]
    allowed = embedded.budgets["embeddings"].allowed
    assert np.abs(got - embedded.outputs["embeddings"]).max() > 10 * allowed


def test_the_jpeg_is_decoded_alike_by_all(pack):
    """Flat blocks of 8 x 8, each colour far from where an exact decoder and a rounding one differ."""
    image = Image.open(io.BytesIO(pack.picture("blocks")))
    image.draft("YCbCr", None)
    planes = np.asarray(image.convert("YCbCr") if image.mode != "YCbCr" else image).astype(float)
    y, cb, cr = planes[..., 0], planes[..., 1] - 128, planes[..., 2] - 128
    exact = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    stored = np.asarray(Image.open(io.BytesIO(pack.picture("blocks"))).convert("RGB"))
    assert np.abs(np.clip(exact, 0, 255) - stored).max() < 0.2
    assert np.array_equal(stored[::8, ::8].repeat(8, 0).repeat(8, 1), stored)


# Mistakes with texts.


def changed(text: str, **model) -> Tokenizer:
    document = json.loads(text)
    document["model"] |= model
    return Tokenizer.from_str(json.dumps(document))


def normalized(text: str, **options) -> Tokenizer:
    found = Tokenizer.from_str(text)
    found.normalizer = normalizers.BertNormalizer(**({"lowercase": True} | options))
    return found


def split_at_spaces(text: str) -> Tokenizer:
    found = Tokenizer.from_str(text)
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return found


def without_special(text: str) -> Tokenizer:
    document = json.loads(text)
    document["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(document | {"post_processor": json.loads(text)["post_processor"]}))


def truncated(text: str, length: int) -> Tokenizer:
    found = Tokenizer.from_str(text)
    found.enable_truncation(length)
    return found


TEXT_MISTAKES = {
    "case kept": (lambda t: normalized(t, lowercase=False, strip_accents=True), {"casing"}),
    "accents kept": (lambda t: normalized(t, strip_accents=False), {"accents", "casing"}),
    "ideographs in words": (lambda t: normalized(t, handle_chinese_chars=False), {"cjk"}),
    "control characters kept": (lambda t: normalized(t, clean_text=False), {"spaces"}),
    "split at white space only": (split_at_spaces, {"plain", "numbers"}),
    "long words in pieces": (lambda t: changed(t, max_input_chars_per_word=1000), {"unknown"}),
    "special tokens as text": (without_special, {"special"}),
    "truncated too early": (lambda t: truncated(t, 63), {"long"}),
    "not truncated": (lambda t: truncated(t, 100_000), {"long"}),
    "truncated from the left": (lambda t: _left(t), {"long"}),
}


def _left(text: str) -> Tokenizer:
    found = Tokenizer.from_str(text)
    found.enable_truncation(64, direction="left")
    return found


@pytest.mark.parametrize("mistake", TEXT_MISTAKES)
def test_texts_tell_the_mistake(mistake, visualized, pack):
    make, names = TEXT_MISTAKES[mistake]
    wrong = make((visualized / "tokenizer.json").read_text())
    wrong.no_padding()
    told = {n for n, text in pack.texts.items() if wrong.encode(text["text"]).ids != text["ids"]["encode_text"]}
    assert names <= told


def test_the_tokenizer_is_the_networks(visualized, pack):
    """Whoever opens tokenizer.json as it is gets the network's truncation and padding."""
    found = Tokenizer.from_file(str(visualized / "tokenizer.json"))
    assert found.truncation["max_length"] == 64
    assert found.padding["length"] is None
    assert (found.padding["pad_id"], found.padding["pad_token"]) == (0, "[PAD]")
    texts = list(pack.texts.values())
    batch = found.encode_batch([text["text"] for text in texts])
    assert len({len(encoded.ids) for encoded in batch}) == 1
    for text, encoded in zip(texts, batch, strict=True):
        assert [i for i, m in zip(encoded.ids, encoded.attention_mask, strict=True) if m] == text["ids"]["encode_text"]


def test_each_entry_point_has_its_limit(visualized, pack):
    limits = json.loads((visualized / "preprocess.json").read_text())["texts"]["max_tokens"]
    assert limits == {"encode_text": 64, "encode_multimodal": 48}
    ids = pack.texts["long"]["ids"]
    for entry, limit in limits.items():
        assert len(ids[entry]) == limit
        assert (ids[entry][0], ids[entry][-1]) == (101, 102)


# Which tokenizer.


@pytest.fixture
def tiny(tmp_path):
    write_fixture("bert", "tiny", 0, "float32", tmp_path / "ckpt.safetensors")
    return tmp_path / "ckpt.safetensors"


def vocabulary(folder: Path, words=WORDS, **settings) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(filled(words)) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_without_a_tokenizer_the_pack_says_why(tiny, tmp_path):
    run = packed(tiny, tmp_path / "run")
    rules = json.loads((run.path / "preprocess.json").read_text())
    assert rules["texts"]["tokenizer"] is None
    assert "--tokenizer DIR" in rules["texts"]["missing"]
    assert run.manifest()["tokenizer"] == {"files": {}, "missing": rules["texts"]["missing"]}
    assert rules["embeddings"] == {
        "outputs": {"encode_text": "embeddings"}, "width": 32, "dtype": "float32", "pooling": ["cls"],
        "normalize": True, "similarity": "dot",
    }  # fmt: skip
    assert Pack(run.path).rows() == []
    assert "tokenizer.json" not in run.manifest()["files"]
    with pytest.raises(InputError, match="has no tokenizer: neither"):
        Pack(run.path).preprocessor.ids("encode_text", ["a"])


def test_special_ids_come_from_the_tokenizer(tiny, tmp_path):
    run = packed(tiny, tmp_path / "run", vocabulary(tmp_path / "words"))
    texts = json.loads((run.path / "preprocess.json").read_text())["texts"]
    assert (texts["first_id"], texts["last_id"], texts["pad_id"]) == (3, 4, 0)
    assert Pack(run.path).preprocessor.ids("encode_text", ["CAFÉ 東京 NASA", ""]) == [[3, 6, 11, 12, 9, 4], [3, 4]]


def test_settings_of_a_word_list_count(tiny, tmp_path):
    run = packed(tiny, tmp_path / "run", vocabulary(tmp_path / "words", do_lower_case=False))
    assert Pack(run.path).preprocessor.ids("encode_text", ["café NASA"]) == [[3, 7, 8, 10, 4]]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "is no tokenizer"), ("not json", "is not valid JSON"), (json.dumps({"model": 3}), "is no tokenizer")],
)
def test_a_tokenizer_that_cannot_be_read(tiny, tmp_path, content, message):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=message):
        packed(tiny, tmp_path / "run", folder)


def test_a_tokenizer_of_another_network(tiny, tmp_path):
    """Where it lies beside the checkpoint too, unless the user says that none is wanted."""
    folder = vocabulary(tmp_path / "words", (*WORDS, *(f"w{i}" for i in range(300))))
    with pytest.raises(InputError, match="gives ids up to 313, but the network knows 300 tokens"):
        packed(tiny, tmp_path / "run", folder)
    vocabulary(tiny.parent, (*WORDS, *(f"w{i}" for i in range(300))))
    with pytest.raises(InputError, match=r"gives ids up to 313, .* say --no-tokenizer"):
        packed(tiny, tmp_path / "run")
    run = load.perform(tmp_path / "run", Options(checkpoint=str(tiny), no_tokenizer=True), Silent())
    assert "--no-tokenizer" in run.manifest()["tokenizer"]["missing"]


def test_a_tokenizer_that_changed_since(tiny, tmp_path):
    folder = vocabulary(tmp_path / "words")
    run = packed(tiny, tmp_path / "run", folder)
    vocabulary(folder, (*WORDS, "more"))
    with pytest.raises(InputError, match="is not the one that was loaded"):
        write.perform(run, Options(), Silent())


def test_the_real_tokenizer_loses_the_training_limits(minilm):
    """The published file truncates and pads to 128."""
    published = Tokenizer.from_file(str(minilm / "tokenizer.json"))
    assert published.truncation
    assert published.padding
    found = tokenizer.read(minilm, TokenIds(30522, 0, 101, 102))
    assert found.truncation is None
    assert found.padding is None
    assert len(found.encode("word " * 200).ids) == 202
    assert found.encode("Hello world!").ids == [101, 7592, 2088, 999, 102]


def test_word_list_and_json_agree(minilm, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_bytes((minilm / "tokenizer_config.json").read_bytes())
    domain = TokenIds(30522, 0, 101, 102)
    built, read = tokenizer.read(tmp_path, domain), tokenizer.read(minilm, domain)
    for text in samples.texts(512).values():
        assert built.encode(text).ids == read.encode(text).ids


# Which documents.


def stored(folder: Path, document) -> Path:
    (folder / "preprocess.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("name", preprocess_documents.LEGAL)
def test_only_documented_documents_are_read(name, tmp_path):
    """Every key taken away, every value exchanged, a key added everywhere; other languages read the same table."""
    assert Preprocessor(stored(tmp_path, preprocess_documents.LEGAL[name])).rules == preprocess_documents.LEGAL[name]
    assert [what for what, document in preprocess_documents.mutations(name) if accepted(document)] == []


def accepted(document) -> bool:
    try:
        check(document, "preprocess.json")
    except InputError:
        return False
    return True


def test_the_table_has_every_modality_there_and_not():
    for modality in MODALITIES:
        assert {document.get(modality) is None for document in preprocess_documents.LEGAL.values()} == {True, False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"offset": "ceil"},
            r'/preprocess.json: images.steps\[1\] \(crop\): offset is "ceil"; known: "half to even" or',
        ),
        ({"pad": 1}, r'images.steps\[1\] \(crop\) has the key "pad", which is not known; known: height, width, offset'),
        ({"do": "pad"}, r'images.steps\[1\]: do is "pad"; known: resize, crop, colour, normalize'),
        ({"height": 224.5}, r"images.steps\[1\] \(crop\): height is 224.5; known: a whole number from 1"),
    ],
)
def test_a_refusal_says_where_what_and_what_is_known(change, message, tmp_path):
    document = copy.deepcopy(preprocess_documents.LEGAL["converted last"])
    document["images"]["steps"][1].update(change)
    with pytest.raises(InputError, match=message):
        Preprocessor(stored(tmp_path, document))


def test_another_format_is_refused(tmp_path):
    again = "3; run `bgevis-convert pack DIR` again with this version"
    for version, what in {1: again, 2: again, 4: "3$"}.items():
        other = preprocess_documents.LEGAL["texts"] | {"format_version": version, "sound": None}
        with pytest.raises(InputError, match=f"format_version is {version}, this program reads {what}"):
            Preprocessor(stored(tmp_path, other))


def test_numbers_are_read_as_other_languages_read_them(tmp_path):
    text = json.dumps(preprocess_documents.LEGAL["converted last"])
    (tmp_path / "preprocess.json").write_text(text.replace("224", "224.0").replace("255", "2.55e2"))
    assert Preprocessor(tmp_path).rules == preprocess_documents.LEGAL["converted last"]
    for number in ("NaN", "Infinity", "1e999"):
        (tmp_path / "preprocess.json").write_text(text.replace("0.25", number))
        with pytest.raises(InputError, match="is no preprocessing"):
            Preprocessor(tmp_path)


@pytest.mark.parametrize(
    ("document", "described", "legal"),
    [pytest.param(*given, id=name) for name, *given in preprocess_documents.fitting()],
)
def test_a_document_is_held_to_the_network(document, described, legal, tmp_path):
    """What a document alone cannot show: names, sizes and limits; other languages read the same table."""
    preprocessor = Preprocessor(stored(tmp_path, document))
    with nullcontext() if legal else pytest.raises(InputError, match=r"preprocess\.json: "):
        preprocessor.hold_to(entry_points({"entry_points": described}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("first_id", 100, r"first and last tokens are \[100, 102\]"),
        ("vocab_size", 3999, "the network knows 3999 tokens"),
    ],
)
def test_a_document_is_held_to_the_tokenizer(key, value, message, visualized, tmp_path):
    document = json.loads((visualized / "preprocess.json").read_text())
    document["texts"][key] = value
    (tmp_path / "tokenizer.json").write_bytes((visualized / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match=message):
        Preprocessor(stored(tmp_path, document)).ids("encode_text", ["a"])


# Networks other than one embedding of texts.


def towers(end: int | None = 39, padded: str = "after", *, masked: bool = True) -> tuple[EntryPoint, ...]:
    """Two towers and their scores, each with axes of its own name."""
    tokens = TokenIds(40, 0, last=end, padded=padded)
    ids = (TensorSpec("input_ids", "int32", ("texts", "tokens"), tokens),)
    ids += (TensorSpec("attention_mask", "int32", ("texts", "tokens"), PaddingMask("input_ids")),) * masked
    seen = TensorSpec("images", "float32", ("images", 32, 32, 3), Pixels((0.5,) * 3, (0.5,) * 3, 8))
    text = TensorSpec("text_embeds", "float32", ("texts", 8), kind=Embedding())
    image = TensorSpec("image_embeds", "float32", ("images", 8), kind=Embedding())
    scores = TensorSpec("logits", "float32", ("images", "texts"), kind=Scores())
    texts, images = {"texts": Axis(), "tokens": Axis(1, 20)}, {"images": Axis()}
    return (
        EntryPoint("similarity", (seen, *ids), (scores,), texts | images),
        EntryPoint("encode_text", ids, (text,), texts, rows="texts"),
        EntryPoint("encode_image", (seen,), (image,), images, rows="images"),
    )


def written(folder: Path, entries: tuple[EntryPoint, ...], *, images=None, states=None) -> Preprocessor:
    """Write what the stage says of a network, and hold it to it."""
    family = SimpleNamespace(
        entry_points=lambda config: entries,
        sounds=lambda config: None,
        transcripts=lambda config: None,
        texts=None,
        scores=None,
        embeddings=lambda config: states or {"pooling": ["first end of text"], "normalize": True},
    )
    manifest = {"tokenizer": {"files": {}, "missing": "none"}, "images": images}
    made = Preprocessor(stored(folder, write.preprocessing(family, None, manifest)))
    made.hold_to({entry.name: entry for entry in entries})
    return made


def test_two_towers_embed_and_their_scores_are_not_spoken_of(tmp_path):
    rules = written(tmp_path, towers()).rules
    assert rules["embeddings"]["outputs"] == {"encode_text": "text_embeds", "encode_image": "image_embeds"}
    assert rules["texts"]["max_tokens"] == {"encode_text": 20}
    assert (rules["texts"]["first_id"], rules["texts"]["last_id"]) == (None, 39)


def test_scores_alone_are_what_the_pack_is_for(tmp_path):
    rules = written(tmp_path, towers()[:1]).rules
    assert rules["embeddings"] is None
    assert rules["texts"]["max_tokens"] == {"similarity": 20}


def test_pictures_that_nobody_states_are_refused_with_the_reason(tmp_path):
    made = written(tmp_path, towers())
    assert made.rules["images"] == {"input": "images", "missing": made.rules["images"]["missing"]}
    assert write.notes(made.rules)[1].startswith("no raw pictures: neither the family nor a document")
    with pytest.raises(InputError, match="does not say how pictures are prepared: neither the family nor"):
        made.image_inputs([Image.new("RGB", (40, 40))])
    assert written(tmp_path, towers()[1:2]).rules["images"] is None


def test_padding_stands_before_the_text_and_a_mask_only_where_one_is_taken(tmp_path):
    made = written(tmp_path, towers(padded="before")[1:2])
    assert made.text_inputs([[5, 39], [39]])["input_ids"].tolist() == [[5, 39], [0, 39]]
    assert made.text_inputs([[5, 39], [39]])["attention_mask"].tolist() == [[1, 1], [0, 1]]
    bare = written(tmp_path, towers(masked=False)[1:2])
    assert {name: array.tolist() for name, array in bare.text_inputs([[5, 39], [39]]).items()} == {
        "input_ids": [[5, 39], [39, 0]]
    }
    with pytest.raises(InputError, match="text 1 is of no tokens"):
        bare.text_inputs([[5], []])


@pytest.mark.parametrize(("padded", "direction"), [("after", "right"), ("before", "left")])
def test_tokenizer_json_pads_on_the_side_that_is_stated(padded, direction):
    found = Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, "a"))
    tokenizer.settle(found, 20, tokenizer.TRUNCATION["right"], TokenIds(2, 0, padded=padded), tokenizer.PADDING[padded])
    assert found.padding["direction"] == direction


def test_a_mask_the_other_way_round_is_not_made(tmp_path):
    """It is not the pack's; what takes it is not fed from raw texts, and the ids are still stated."""
    _, text, _ = towers()
    ids, mask = text.inputs
    inverted = dataclasses.replace(mask, domain=PaddingMask("input_ids", inverted=True))
    rules = written(tmp_path, (dataclasses.replace(text, inputs=(ids, inverted)),)).rules
    assert rules["embeddings"] is None
    assert rules["texts"]["inputs"] == {"ids": "input_ids"}


# What is in the way.


@pytest.mark.parametrize(("module", "package"), [("tokenizers", "tokenizers"), ("PIL", "pillow")])
def test_missing_packages_are_named(module, package, tmp_path, monkeypatch):
    write_fixture("visualized_bge", "tiny", 0, "float32", tmp_path / "ckpt.safetensors")
    vocabulary(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else found(name))
    with pytest.raises(EnvironmentFailure, match=rf"package {package}, .*pip install 'bgevis-convert\[embed\]'"):
        packed(tmp_path / "ckpt.safetensors", tmp_path / "run")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"no picture", "cannot be read as a picture"),
        (Path("/nowhere/picture.png"), "does not exist"),
        (np.zeros((4, 4, 2), np.uint8), r"must be \(height, width\) or \(height, width, 3 or 4\)"),
        (np.zeros((1, 200_000, 3), np.uint8), "crop it first"),
    ],
)
def test_pictures_that_cannot_be_used(source, message, pack):
    with pytest.raises(InputError, match=message):
        pictures.images([source], pack.preprocessor.rules["images"])


def test_a_tokenizer_of_far_fewer_tokens_is_another_networks(tiny, tmp_path):
    few = vocabulary(tmp_path / "few")
    (few / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=rf"vocab.txt has {len(WORDS)} tokens, but the network knows 300: .*--tokenizer DIR"
    ):
        packed(tiny, tmp_path / "run", few)
