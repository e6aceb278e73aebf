"""Whisper against outputs that upstream's code computed: the front end, the encoder, caches, steps, greedy texts."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from bgevis.converter.directory import RunDirectory
from bgevis.converter.options import Options
from bgevis.converter.proof import yardsticks
from bgevis.converter.use.fixture import write_fixture
from bgevis.model.sound import Sound, basis, exact_log_mel, log_mel, mel_filters
from bgevis.model.whisper.config import ARROW, BARE, HEADLESS, SIZES, WITH_HEAD
from bgevis.validation import procedure
from bgevis.validation.errors import InputError

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from converted import Converted, close
from in_process import convert, in_this_process

RATE = 16000


def cross(goldens, layers):
    return {f"cross_{n}s_{i}": goldens[f"present.{i}.encoder.{n}"] for i in range(layers) for n in ("key", "value")}


@pytest.mark.parametrize(
    ("folder", "container"),
    [
        ("huggingface/whisper_cond_gen", "model.safetensors"),
        ("huggingface/whisper_cond_gen", "pytorch_model.bin"),
        ("huggingface/whisper_model", "model.safetensors"),
        ("huggingface/whisper_model", "pytorch_model.bin"),
        ("hf_cache/whisper_cond_gen_cache", "model.safetensors"),
    ],
)
def test_encoder_and_decoder_agree(oracles, folder, container):
    """From the spectrogram to the scores of every token, and the states of a model without a head."""
    goldens, model = np.load(oracles / folder / "golden.npz"), Converted(oracles / folder / container)
    found = model.run("encode_audio", {"input_features": goldens["input_features"]})
    close(found["last_hidden_state"], goldens["encoder_last_hidden"], 5e-6)
    mean = goldens["encoder_last_hidden"].astype(np.float64).mean(1)
    close(found["embeddings"], mean / np.linalg.norm(mean, axis=1, keepdims=True))
    heard = model.run("cross_kv", found)
    ids = goldens["decoder_input_ids"]
    read = model.run("decode_prefill", {"input_ids": ids, **heard})
    if "decoder_last_hidden" in goldens and model.config.decoder.head == "none":
        close(read["last_hidden_state"], goldens["decoder_last_hidden"])
    else:
        close(read["logits"], goldens["logits" if "logits" in goldens else "logits_full"], 5e-6)


def test_caches_and_steps_agree(oracles):
    """Keys and values as upstream keeps them; each step scores as the whole text would."""
    folder = oracles / "hf_cache" / "whisper_cond_gen_cache"
    goldens, model = np.load(folder / "golden.npz"), Converted(folder)
    ids, layers = goldens["decoder_input_ids"], range(model.config.decoder.decoder_layers)
    heard = cross(goldens, len(layers))
    made = model.run("cross_kv", {"last_hidden_state": goldens["encoder_last_hidden"]})
    for name, want in heard.items():
        close(made[name], want)
    outputs = model.run("decode_prefill", {"input_ids": ids[:, :3], **heard})
    close(outputs["logits"], goldens["step0_logits"], 5e-6)
    for step in range(1, 4):
        past = {f"past_{n}s_{i}": outputs[f"{n}s_{i}"] for i in layers for n in ("key", "value")}
        outputs = model.run("decode_step", {"input_ids": ids[:, 2 + step : 3 + step], **past, **heard})
        close(outputs["logits"], goldens[f"step{step}_logits"], 5e-6)
        for i in layers:
            for name in ("key", "value"):
                kept = f"step{step}_present.{i}.decoder.{name}"
                if kept in goldens:
                    close(outputs[f"{name}s_{i}"], goldens[kept], 5e-6)


@pytest.mark.parametrize(
    ("folder", "ids"),
    [
        ("huggingface/whisper_cond_gen", "greedy_ids"),
        ("hf_cache/whisper_cond_gen_cache", "greedy_ids_12_ignoring_eos"),
    ],
)
def test_greedy_texts_are_upstreams(oracles, folder, ids):
    goldens, model = np.load(oracles / folder / "golden.npz"), Converted(oracles / folder)
    wanted = goldens[ids]
    (greedy,) = model.family.procedures(model.config)
    greedy = replace(greedy, ends=() if "ignoring" in ids else greedy.ends)
    inputs = {"input_features": goldens["input_features"], "input_ids": wanted[:, :1].astype(np.int32)}
    found = procedure.generate(model, model.network.entry_points, greedy, inputs, wanted.shape[1] - 1)
    assert found.ids.tolist() == wanted[:, 1 : 1 + found.ids.shape[1]].tolist()
    if "greedy_margin" in goldens:
        close(found.margins, goldens["greedy_margin"], 1e-5)


def test_alignment_heads_are_upstreams_attention(oracles, tmp_path):
    folder = tmp_path / "aligned"
    shutil.copytree(oracles / "hf_cache" / "whisper_cond_gen_cache", folder)
    document = json.loads((folder / "generation_config.json").read_text())
    document["alignment_heads"] = [[1, 0], [0, 3], [1, 2]]
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(document))
    goldens, model = np.load(folder / "golden.npz"), Converted(folder)
    assert model.config.decoder.alignment_heads == ((0, 3), (1, 0), (1, 2))
    inputs = {"input_ids": goldens["decoder_input_ids"], **cross(goldens, 2)}
    wanted = [goldens[f"cross_attention_{layer}"][:, head] for layer, head in model.config.decoder.alignment_heads]
    close(model.run("align", inputs)["cross_attention"], np.stack(wanted, 1))


def test_the_real_encoder_agrees(oracles):
    """Trained weights in half precision, without a decoder though config.json describes one."""
    goldens = np.load(oracles / "real" / "whisper_tiny_en_full" / "golden.npz")
    wave = np.load(oracles / "real" / "whisper_tiny_en_golden.npz")["wave"]
    model = Converted(oracles / "real" / "whisper-tiny.en-encoder")
    assert model.config.decoder is None
    samples = np.zeros((1, 30 * RATE), np.float32)
    samples[0, : len(wave)] = wave
    found = model.run("log_mel", {"samples": samples})["input_features"]
    assert np.abs(found[0] - exact_log_mel(samples[0], model.config.sound)).max() < 2e-6
    frames = goldens["mel_first_frames"]
    features = np.full_like(found, goldens["mel_pad_value"][0])
    features[0, :, : frames.shape[1]] = frames
    assert np.abs(found - features).max() < 5e-5  # the golden is upstream's float32
    heard = model.run("encode_audio", {"input_features": features})["last_hidden_state"][0]
    close(heard[goldens["enc_rows_index"]], goldens["enc_rows"], 1e-5)
    close(heard.mean(0), goldens["enc_meanpool"], 1e-5)


SOUNDS = {
    "noise": lambda n: np.random.default_rng(0).uniform(-1, 1, n),
    "quiet noise": lambda n: 1e-4 * np.random.default_rng(1).standard_normal(n),
    "tones, then silence": lambda n: _tones(n, 0.5),
    "quiet tones, then silence": lambda n: _tones(n, 1e-3),
    "loud tones, then silence": lambda n: _tones(n, 500.0),
    "one sample": lambda n: np.eye(1, n, 5)[0],
    "silence": np.zeros,
}


def _tones(count: int, loud: float) -> np.ndarray:
    time = np.arange(count) / RATE
    tones = np.sin(2 * np.pi * 440 * time) + 0.3 * np.sin(2 * np.pi * 3010 * time)
    return np.where(time < time[-1] / 2, loud * tones, 0)


@pytest.mark.parametrize("kind", SOUNDS)
def test_the_front_end_is_as_exact_as_float64_asks(kind):
    sound = Sound(chunk_length=4)
    samples = SOUNDS[kind](sound.samples).astype(np.float32)
    found = np.asarray(jax.jit(lambda x: log_mel(x, sound))(samples[None]))[0]
    assert np.abs(found - exact_log_mel(samples, sound)).max() < 2e-6


@pytest.mark.parametrize("bands", [80, 128])
def test_filters_and_front_end_are_upstreams(bands):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=bands, chunk_length=2)
    sound = Sound(chunk_length=2, feature_size=bands)
    assert np.abs(mel_filters(sound) - extractor.mel_filters.T).max() < 1e-15
    samples = SOUNDS["noise"](sound.samples).astype(np.float32)
    wanted = extractor(samples, sampling_rate=RATE, return_tensors="np")["input_features"][0]
    found = np.asarray(jax.jit(lambda x: log_mel(x, sound))(samples[None]))[0]
    assert found.shape == wanted.shape == (bands, 200)
    assert np.abs(found - wanted).max() < 1e-4  # upstream's, in float32, lies further from float64 than ours


def test_the_last_angle_is_as_exact_as_the_first():
    count = Sound().n_fft
    exact = np.array([np.cos(2 * np.pi * ((200 * n) % count) / count) for n in range(count)])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(count) / count)
    assert np.abs(basis(Sound())[200] - exact * window).max() == 0


@pytest.mark.parametrize("names", [WITH_HEAD, HEADLESS, BARE, ARROW])
def test_the_encoder_alone_and_every_layout_is_read(names, tmp_path, monkeypatch):
    """A wrapper's prefix is none of the names', and half of a name is no wrapper."""
    tiny = SIZES["tiny"]
    decoder = tiny.decoder if names in (WITH_HEAD, HEADLESS) else None
    head = {WITH_HEAD: "tied", HEADLESS: "none"}.get(names)
    form = replace(tiny, names=names, decoder=replace(decoder, head=head) if decoder else None)
    monkeypatch.setitem(SIZES, "form", form)
    write_fixture("whisper", "form", 0, "float32", tmp_path / "model.safetensors")
    from safetensors.numpy import load_file, save_file

    arrays = load_file(tmp_path / "model.safetensors")
    for wrapper in ("", "module.", "net.model.") if names != HEADLESS else ("", "module."):
        save_file({wrapper + name: x for name, x in arrays.items()}, tmp_path / "model.safetensors")
        found = Converted(tmp_path).config
        choice = {"suppress_tokens": (), "begin_suppress_tokens": ()}
        assert (found.names, found.encoder_layers, found.sound) == (names, 2, tiny.sound)
        assert (found.decoder is None) == (decoder is None)
        assert decoder is None or replace(found.decoder, **choice) == replace(form.decoder, **choice)


def test_an_untied_head_is_a_leaf_of_its_own(tmp_path, monkeypatch):
    tiny = SIZES["tiny"]
    monkeypatch.setitem(SIZES, "form", replace(tiny, decoder=replace(tiny.decoder, head="own")))
    write_fixture("whisper", "form", 0, "float32", tmp_path / "model.safetensors")
    model = Converted(tmp_path)
    assert model.config.decoder.head == "own"
    assert model.source_name("decoder.head.kernel") == "proj_out.weight"


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("config.json", {"activation_function": "mish"}, "activation_function is 'mish'"),
        ("config.json", {"encoder_attention_heads": 5}, "does not divide 32"),
        ("config.json", {"encoder_layers": 3}, "the checkpoint's tensors say 2"),
        ("config.json", {"conv_stride": 3}, "nobody here knows what 1 field would change: conv_stride = 3"),
        ("config.json", {"tie_word_embeddings": False}, "the checkpoint has no proj_out.weight"),
        (
            "preprocessor_config.json",
            {"chunk_length": 2},
            "are 16 bands of 200 frames, but the network reads 16 of 100",
        ),
        ("preprocessor_config.json", {"dither": 0.1}, "dither = 0.1"),
        ("preprocessor_config.json", {"feature_extractor_type": "AST"}, "feature_extractor_type is 'AST'"),
        ("preprocessor_config.json", {"do_normalize": True}, "do_normalize = true"),
        ("generation_config.json", {"suppress_tokens": [3, 500]}, "suppress_tokens holds 500, expected an id of 0 to"),
        ("generation_config.json", {"alignment_heads": [[2, 0]]}, "expected a layer below 2 and a head below 4"),
        ("generation_config.json", {"num_beams": 5}, "num_beams = 5"),
        ("generation_config.json", {"language": "fr"}, "language is 'fr', expected one of lang_to_id"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(place, change, message, tmp_path):
    write_fixture("whisper", "tiny", 0, "float32", tmp_path / "model.safetensors")
    document = json.loads((tmp_path / place).read_text())
    (tmp_path / place).write_text(json.dumps(document | change))
    with pytest.raises(InputError) as caught:
        Converted(tmp_path, Options(no_tokenizer=True))
    assert message in str(caught.value)
    assert place in str(caught.value)


def test_suppressed_ids_are_never_chosen(oracles):
    goldens = np.load(oracles / "huggingface" / "whisper_cond_gen" / "golden.npz")
    model = Converted(oracles / "huggingface" / "whisper_cond_gen")
    (greedy,) = model.family.procedures(model.config)
    inputs = {"input_features": goldens["input_features"], "input_ids": goldens["greedy_ids"][:, :1].astype(np.int32)}
    first = int(goldens["greedy_ids"][0, 1])
    entries = model.network.entry_points
    without = procedure.generate(model, entries, replace(greedy, suppressed=(first,)), inputs, 4)
    assert first not in without.ids
    begun = procedure.generate(model, entries, replace(greedy, suppressed_first=(first,)), inputs, 1)
    assert begun.ids[0, 0] == without.ids[0, 0]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("proved")
    write_fixture("whisper", "tiny", 0, "float32", folder / "model.safetensors")
    with in_this_process():
        return convert(folder, folder / "run", ("onnx",))


class Costly(yardsticks.NNXRunner):
    """A model that float32 costs much, on whatever it is asked for."""

    def run(self, entry_point, inputs):
        outputs = super().run(entry_point, inputs)
        return {name: array * (1 + 2.0**-10) for name, array in outputs.items()}


@pytest.mark.parametrize(
    ("entry", "output", "share", "runner", "passes"),
    [
        ("log_mel", "input_features", 2.0**-15, None, True),
        ("log_mel", "input_features", 2.0**-12, None, False),
        ("encode_audio", "last_hidden_state", 2.0**-10, None, False),
        ("encode_audio", "last_hidden_state", 2.0**-10, Costly, True),
        ("encode_audio", "last_hidden_state", 2.0**-5, Costly, False),
    ],
)
def test_what_float32_may_be_said_to_cost_an_input(run, tmp_path, monkeypatch, entry, output, share, runner, passes):
    """As much as it costs the model on that input; a program without weights, a share that no weights can buy."""
    shutil.copytree(run, tmp_path / "run")
    index = tmp_path / "run" / "goldens" / "index.json"
    document = json.loads(index.read_text())
    budget = document[entry]["cases"]["batch"]["budgets"][output]
    budget["yardstick"] = share * budget["scale"]
    budget["allowed"] = 4 * budget["yardstick"]
    index.write_text(json.dumps(document))
    if runner:
        monkeypatch.setattr(yardsticks, "NNXRunner", runner)
    found = list(yardsticks.yardstick_problems(RunDirectory(tmp_path / "run")))
    said = f"{entry}, batch: {output}: float32 is said to cost"
    assert found == [] if passes else any(said in problem for problem in found)
