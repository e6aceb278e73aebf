"""Whisper in the folder of Transformers.js: what the clients call, computed as the network computes it."""

import base64
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from bgevis.exporters import sherpa_onnx, transcribers
from bgevis.exporters.base import Artifact, Request, exporters
from bgevis.exporters.weights import WeightsFile
from bgevis.model.runner import NNXRunner
from bgevis.model.sound import Sound, window
from bgevis.model.whisper import FAMILY, clients
from bgevis.model.whisper.config import HEADLESS, SIZES
from bgevis.validation import procedure
from bgevis.validation.errors import GateError, InputError
from bgevis.validation.kept import kept

sys.path.append(str(Path(__file__).parent))  # pytest's importlib mode leaves it out
import tiny_exports as tiny
import tiny_tokenizer

LAYOUT, GENAI, SHERPA = (exporters()[name] for name in ("transformers-js", "onnxruntime-genai", "sherpa-onnx"))
TINY = SIZES["tiny"]
HALF_A_MINUTE = replace(TINY, num_mel_bins=80, max_source_positions=1500, sound=Sound())
"""With the spectrogram that onnxruntime-genai and sherpa-onnx make."""
SILENT = replace(TINY, decoder=replace(TINY.decoder, alignment_heads=()))
"""Without heads that tell when a word was said."""


def written(folder: Path, config, stated: dict | None = None, layout=LAYOUT) -> Artifact:
    """Write a layout of a network with random weights as the run directory `folder`."""
    network = FAMILY.network(config)
    (folder / "programs").mkdir(parents=True)
    weights = tiny.random_weights(network, folder / "programs" / "weights.safetensors")
    tiny_tokenizer.written(config).save(str(folder / "tokenizer.json"))
    said = {"transcripts": {"tokenizer": "tokenizer.json"} if stated is None else stated}
    (folder / "preprocess.json").write_text(json.dumps(said))
    (folder / layout.folder).mkdir()
    described = {layout.describes: getattr(FAMILY, layout.describes)(config)}
    asked = Request(network, weights, folder / layout.folder, directory=folder, **described)
    return artifact_of(folder, config, layout.write(asked), layout)


def artifact_of(folder: Path, config, programs, layout=LAYOUT) -> Artifact:
    network = FAMILY.network(config)
    entries = {name: entry for name, entry in network.entry_points.items() if name not in layout.without}
    return Artifact(folder, entries, json.loads(json.dumps(programs)), lambda: network)


@pytest.fixture(scope="module", params=["aligned", "silent"])
def config(request):
    return {"aligned": TINY, "silent": SILENT}[request.param]


@pytest.fixture(scope="module")
def artifact(config, tmp_path_factory) -> Artifact:
    return written(tmp_path_factory.mktemp("layout") / "run", config)


def exact(artifact: Artifact) -> NNXRunner:
    return NNXRunner(artifact.network(), WeightsFile(artifact.directory / "programs" / "weights.safetensors"))


def hold_to_the_network(layout, artifact: Artifact) -> None:
    runner, model = layout.open(artifact), exact(artifact)
    for entry, inputs in tiny.cases(artifact.network()):
        if entry.name in layout.without:
            continue
        want, got = (kept(entry, inputs, each.run(entry.name, inputs)) for each in (model, runner))
        for output in entry.outputs:
            noise = 2e-6 * max(1, np.abs(want[output.name]).max())
            np.testing.assert_allclose(got[output.name], want[output.name], rtol=0, atol=noise, err_msg=entry.name)


def test_every_entry_point_is_computed_as_the_network_computes_it(artifact):
    hold_to_the_network(LAYOUT, artifact)
    assert LAYOUT.open(artifact).name.endswith("as Transformers.js runs it")


def test_weights_are_read_back_bit_for_bit_and_can_be_changed(artifact):
    file = WeightsFile(artifact.directory / "programs" / "weights.safetensors")
    read = list(LAYOUT.read_weights(artifact))
    assert {leaf for leaf, _ in read} == set(artifact.network().leaves)
    assert all(array.tobytes() == file[leaf].tobytes() for leaf, array in read)
    entry = artifact.entry_points["encode_audio"]
    inputs = tiny.inputs(entry, batch=2)
    plain, scaled = (
        LAYOUT.probe(artifact, factors).run("encode_audio", inputs) for factors in ({}, {"encoder.norm.scale": 2.0})
    )
    assert np.abs(plain["last_hidden_state"] - scaled["last_hidden_state"]).max() > 0.1


def by_onnxruntime(file: Path):
    from onnxruntime import InferenceSession

    session = InferenceSession(file)
    names = [each.name for each in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, given), strict=True))


def by_openvino(file: Path):
    from openvino import Core

    compiled = Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda given: {port.any_name: np.array(value) for port, value in compiled(given).items()}


def called(
    artifact: Artifact, features: np.ndarray, steps: int, opened=by_onnxruntime
) -> tuple[np.ndarray, np.ndarray]:
    """Generate as Transformers.js does: one decoder, fed with what it gave, the sound's part of the first call.

    Gives ids (rows, steps) and the logits of each choice.
    """
    folder = artifact.directory / LAYOUT.folder
    encoder, decoder = (opened(folder / "onnx" / f"{name}.onnx") for name in ("encoder_model", "decoder_model_merged"))
    inputs = onnx.load(folder / "onnx" / "decoder_model_merged.onnx", load_external_data=False).graph.input
    generation = json.loads((folder / "generation_config.json").read_text())
    states = encoder({"input_features": features})["last_hidden_state"]
    begin = [generation["decoder_start_token_id"], generation["lang_to_id"][generation["language"]]]
    begin += [generation["task_to_id"]["transcribe"], generation["no_timestamps_token_id"]]
    ids = np.tile(np.array(begin, np.int64), (len(features), 1))
    pasts = {}
    for each in inputs:
        if each.name.startswith("past_key_values"):
            known = {"batch_size": len(features)}  # whatever else has a name is empty at first
            shape = [known.get(dim.dim_param, dim.dim_value) for dim in each.type.tensor_type.shape.dim]
            pasts[each.name] = np.zeros(shape, np.float32)
    assert {each.name for each in inputs} == {"input_ids", "encoder_hidden_states", *pasts}
    fed, given, scores = ids, [], []
    for step in range(steps):
        outputs = decoder({"input_ids": fed, "encoder_hidden_states": states, **pasts})
        present = {name.replace("present", "past_key_values"): x for name, x in outputs.items() if "present" in name}
        assert all((x.shape[2] == 0) == (step > 0) for name, x in present.items() if ".encoder." in name)
        pasts = {name: pasts[name] if step and ".encoder." in name else x for name, x in present.items()}
        scores.append(outputs["logits"][:, -1].copy())
        logits = outputs["logits"][:, -1]
        logits[:, generation["suppress_tokens"] + (generation["begin_suppress_tokens"] if not step else [])] = -np.inf
        fed = logits.argmax(-1)[:, None]
        given.append(fed[:, 0])
    return np.stack(given, 1), np.stack(scores)


@pytest.mark.parametrize("opened", [by_onnxruntime, by_openvino])
def test_a_client_that_keeps_what_it_was_given_writes_the_same(artifact, config, opened):
    """Empty pasts first, which no case has: arrays of a case are never empty."""
    pytest.importorskip(opened.__name__.removeprefix("by_"))
    entry = artifact.entry_points["encode_audio"]
    inputs = tiny.inputs(entry, batch=2)
    (greedy,) = FAMILY.procedures(config)
    greedy = replace(greedy, ends=(), before=("encode_audio", "cross_kv"))
    begin = np.tile(np.array(greedy.forced, np.int32), (2, 1))
    given = {**inputs, "input_ids": begin}
    wanted = procedure.generate(exact(artifact), artifact.network().entry_points, greedy, given, 6)
    ids, logits = called(artifact, inputs["input_features"], 6, opened)
    assert ids.tolist() == wanted.ids.tolist()
    np.testing.assert_allclose(logits, wanted.logits, rtol=0, atol=2e-6 * np.abs(wanted.logits).max())


def test_the_files_say_what_the_clients_ask_for(artifact, config):
    place = artifact.directory / LAYOUT.folder
    documents = {file.name: json.loads(file.read_text()) for file in place.glob("*.json")}
    assert set(documents) == {
        *("config.json", "generation_config.json", "preprocessor_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    }
    assert documents["config.json"]["is_encoder_decoder"] is True
    assert documents["config.json"]["transformers.js_config"]["use_external_data_format"] == {
        "encoder_model": 1,
        "decoder_model_merged": 1,
    }
    assert documents["generation_config.json"]["max_length"] == config.decoder.max_target_positions
    assert documents["tokenizer_config.json"]["eos_token"] == "<|endoftext|>"
    graph = onnx.load(place / "onnx" / "decoder_model_merged.onnx", load_external_data=False).graph
    outputs = [each.name for each in graph.output]
    layers = range(config.decoder.decoder_layers)
    seen = [f"cross_attentions.{i}" for i in layers if config.decoder.alignment_heads]
    kinds = [f"{part}.{kind}" for part in ("decoder", "encoder") for kind in ("key", "value")]
    assert set(outputs) == {"logits", *seen, *(f"present.{i}.{kind}" for i in layers for kind in kinds)}
    assert outputs[0] == "logits"
    assert ("median_filter_width" in documents["config.json"]) == bool(seen)
    assert {each.type.tensor_type.shape.dim[0].dim_param for each in graph.input} == {"batch_size"}


def test_upstreams_classes_read_the_documents(artifact, config):
    library = pytest.importorskip("transformers")
    place = str(artifact.directory / LAYOUT.folder)
    read, generation = library.AutoConfig.from_pretrained(place), library.GenerationConfig.from_pretrained(place)
    assert (read.d_model, read.decoder_layers) == (config.d_model, config.decoder.decoder_layers)
    assert generation.lang_to_id == dict(config.decoder.languages)
    assert generation.suppress_tokens == list(config.decoder.suppress_tokens)
    processor = library.AutoProcessor.from_pretrained(place)
    assert type(processor).__name__ == "WhisperProcessor"
    assert processor.feature_extractor.feature_size == config.num_mel_bins
    assert processor.tokenizer.decode([config.decoder.eos_token_id]) == "<|endoftext|>"


def test_a_decoder_whose_first_call_is_another_network_is_refused(artifact, config, tmp_path):
    """No golden shows it: all of them are given what is heard."""
    copy = shutil.copytree(artifact.directory, tmp_path / "run")
    file = copy / LAYOUT.folder / "onnx" / "decoder_model_merged.onnx"
    model = onnx.load(file, load_external_data=False)
    (joined,) = (
        node
        for node in model.graph.node
        if node.op_type == "Concat" and "past_key_values.0.encoder.value" in node.input
    )
    turned = onnx.helper.make_node("Neg", [joined.input[1]], ["turned"])
    joined.input[1] = "turned"
    model.graph.node.insert(list(model.graph.node).index(joined), turned)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(GateError, match=r"decoder_model_merged\.onnx: logits is another where what is heard is kept"):
        LAYOUT.open(artifact_of(copy, config, artifact.programs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": None}, "for Whisper that writes: an encoder with a decoder and its head"),
        ({"names": HEADLESS}, "for Whisper that writes: an encoder with a decoder and its head"),
        ({"sound": None}, r"needs preprocessor_config\.json: the client makes the spectrogram by it"),
    ],
)
def test_what_the_clients_have_no_class_for_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        FAMILY.transformers_js(replace(TINY, **change))


def test_without_a_tokenizer_there_is_no_folder(tmp_path):
    with pytest.raises(InputError, match="the layout transformers-js needs a tokenizer: it is lost"):
        written(tmp_path / "run", TINY, {"missing": "it is lost"})


def test_what_is_not_given_is_empty_or_of_the_size_of_the_rest():
    shapes = {"input_ids": ["batch_size", "tokens"], "past": ["batch_size", 2, "past", 3]}
    shapes |= {"heard": ["batch_size", "heard"], "states": ["batch_size", "heard + ahead", 5]}
    inputs = [{"name": n, "dtype": "int32" if n == "input_ids" else "float32", "shape": s} for n, s in shapes.items()]
    told = {"states": np.ones((4, 7, 5))}, {"heard": np.ones((4, 6)), "input_ids": np.ones((4, 2))}
    first, later = (transcribers._filled({"inputs": inputs}, given) for given in told)
    assert [array.shape for array in first.values()] == [(4, 1), (4, 2, 0, 3), (4, 0), (4, 7, 5)]
    assert [array.shape for array in later.values()] == [(4, 2), (4, 2, 0, 3), (4, 6), (4, 6, 5)]
    assert first["input_ids"].dtype == np.int32


@pytest.fixture(scope="module")
def genai(tmp_path_factory) -> Artifact:
    return written(tmp_path_factory.mktemp("genai") / "run", HALF_A_MINUTE, layout=GENAI)


def test_onnxruntime_genais_programs_compute_what_the_network_computes(genai):
    hold_to_the_network(GENAI, genai)
    file = WeightsFile(genai.directory / "programs" / "weights.safetensors")
    read = list(GENAI.read_weights(genai))
    assert {leaf for leaf, _ in read} == set(genai.network().leaves)
    assert all(array.tobytes() == file[leaf].tobytes() for leaf, array in read)


def test_its_configuration_names_what_the_programs_have(genai):
    place = genai.directory / GENAI.folder
    said = json.loads((place / "genai_config.json").read_text())["model"]
    for part in ("encoder", "decoder"):
        graph = onnx.load(place / said[part]["filename"], load_external_data=False).graph
        for kind, values in (("inputs", graph.input), ("outputs", graph.output)):
            count = said["decoder"]["num_hidden_layers"]
            named = {name % i if "%d" in name else name for name in said[part][kind].values() for i in range(count)}
            assert named == {each.name for each in values} - {"embeddings"}
    steps = json.loads((place / "audio_processor_config.json").read_text())["feature_extraction"]["sequence"]
    _, frames, bands = (step["operation"].get("attrs", {}) for step in steps)
    assert frames["_comment"] == window(Sound()).tolist()
    assert bands == {"chunk_size": 30, "n_mel": 80, "n_fft": 400, "hop_length": 160}


def test_an_encoder_that_gives_something_else_to_attend_to_is_refused(genai, tmp_path):
    """No golden shows it: no entry point takes a spectrogram to what the decoder attends to."""
    copy = shutil.copytree(genai.directory, tmp_path / "run")
    file = copy / GENAI.folder / "encoder_with_cross.onnx"
    model = onnx.load(file, load_external_data=False)
    (last,) = (node for node in model.graph.node if "cross_values_1" in node.output)
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["cross_values_1"]))
    file.write_bytes(model.SerializeToString())
    with pytest.raises(GateError, match=r"encoder_with_cross\.onnx: cross_values_1 is not what the model makes"):
        GENAI.open(artifact_of(copy, HALF_A_MINUTE, genai.programs, GENAI))


def test_a_spectrogram_that_onnxruntime_genai_does_not_make_is_refused():
    with pytest.raises(InputError, match="the client makes spectrograms of 80 or 128 bands, of half a minute"):
        FAMILY.onnxruntime_genai(TINY)


@pytest.fixture(scope="module")
def sherpa(tmp_path_factory) -> Artifact:
    return written(tmp_path_factory.mktemp("sherpa") / "run", HALF_A_MINUTE, layout=SHERPA)


def test_sherpa_onnxs_programs_compute_what_the_network_computes(sherpa):
    hold_to_the_network(SHERPA, sherpa)
    file = WeightsFile(sherpa.directory / "programs" / "weights.safetensors")
    read = list(SHERPA.read_weights(sherpa))
    assert {leaf for leaf, _ in read} == set(sherpa.network().leaves)
    assert all(array.tobytes() == file[leaf].tobytes() for leaf, array in read)


def test_sherpa_onnx_goes_on_from_the_caches_that_it_was_given(sherpa):
    """They have room for any text, and are filled from the offset on."""
    folder = sherpa.directory / SHERPA.folder
    encoder, decoder = (by_onnxruntime(folder / f"{name}.onnx") for name in (clients.LAYERED, clients.OFFSET))
    features = tiny.inputs(sherpa.entry_points["encode_audio"], batch=1)["input_features"]
    (greedy,) = FAMILY.procedures(HALF_A_MINUTE)
    greedy = replace(greedy, ends=(), before=("encode_audio", "cross_kv"), suppressed=(), suppressed_first=())
    given = {"input_features": features, "input_ids": np.array([greedy.forced], np.int32)}
    wanted = procedure.generate(exact(sherpa), sherpa.network().entry_points, greedy, given, 6)
    heard = encoder({"mel": features})
    cross = {f"n_layer_cross_{kind}": heard[f"n_layer_cross_{kind}"] for kind in "kv"}
    room = HALF_A_MINUTE.decoder.max_target_positions
    empty = np.full((*cross["n_layer_cross_k"].shape[:2], room, HALF_A_MINUTE.d_model), 7.0, np.float32)
    caches, fed, offset, ids = dict.fromkeys("kv", empty), np.array([greedy.forced], np.int64), 0, []
    for _ in range(6):
        before = {f"in_n_layer_self_{kind}_cache": values for kind, values in caches.items()}
        found = decoder({"tokens": fed, "offset": np.array([offset], np.int64), **before, **cross})
        caches = {kind: found[f"out_n_layer_self_{kind}_cache"] for kind in "kv"}
        offset += fed.shape[1]
        fed = found["logits"][:, -1].argmax(-1)[:, None]
        ids.append(int(fed[0, 0]))
        assert all((values[:, :, offset:] == 7).all() for values in caches.values())
    assert ids == wanted.ids[0].tolist()


def test_sherpa_onnx_hears_a_part_of_a_window_with_zeros_behind_it(sherpa):
    encoder = by_onnxruntime(sherpa.directory / SHERPA.folder / f"{clients.LAYERED}.onnx")
    part = np.random.default_rng(0).normal(0, 1, (1, 80, 1100)).astype(np.float32)
    short, whole = (encoder({"mel": mel}) for mel in (part, np.pad(part, ((0, 0), (0, 0), (0, 1900)))))
    assert all(np.array_equal(short[name], whole[name]) for name in whole)


def test_what_sherpa_onnx_reads_beside_the_programs(sherpa):
    """Each token's bytes by its id, and what the encoder's metadata says; its first outputs are what it passes on."""
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

    folder = sherpa.directory / SHERPA.folder
    session = InferenceSession(folder / f"{clients.LAYERED}.onnx")
    assert [each.name for each in session.get_outputs()][:2] == ["n_layer_cross_k", "n_layer_cross_v"]
    decoder, said = HALF_A_MINUTE.decoder, session.get_modelmeta().custom_metadata_map
    assert said["sot_sequence"] == ",".join(map(str, decoder.prompt("<|en|>")[:-1]))
    assert dict(zip(said["all_language_codes"].split(","), said["all_language_tokens"].split(","), strict=True)) == {
        "de": "101",
        "en": "100",
    }
    assert (said["translate"], said["transcribe"], said["no_timestamps"]) == ("102", "103", "104")
    assert (said["is_multilingual"], said["n_mels"], said["n_text_ctx"]) == ("1", "80", "24")
    tokenizer = Tokenizer.from_file(str(sherpa.directory / "tokenizer.json"))
    vocabulary, special = tokenizer.get_vocab(), tokenizer.get_added_tokens_decoder()
    table = dict(line.split() for line in (folder / "tokens.txt").read_text().splitlines())
    assert {int(i) for i in table.values()} == set(vocabulary.values()) - set(special)
    for text, i in table.items():
        assert base64.b64decode(text).decode(errors="replace") == tokenizer.decode([int(i)])


def test_an_encoder_that_passes_something_else_to_sherpa_onnxs_decoder_is_refused(sherpa, tmp_path):
    copy = shutil.copytree(sherpa.directory, tmp_path / "run")
    file = copy / SHERPA.folder / f"{clients.LAYERED}.onnx"
    model = onnx.load(file, load_external_data=False)
    (last,) = (node for node in model.graph.node if "n_layer_cross_v" in node.output)
    last.output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["n_layer_cross_v"]))
    file.write_bytes(model.SerializeToString())
    with pytest.raises(GateError, match=r"encoder_with_layers\.onnx: n_layer_cross_v is not what the model makes"):
        SHERPA.open(artifact_of(copy, HALF_A_MINUTE, sherpa.programs, SHERPA))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TINY, "the client makes spectrograms of 80 or 128 bands"),
        (
            replace(HALF_A_MINUTE, decoder=replace(TINY.decoder, no_timestamps_token_id=None)),
            "names no no_timestamps_token_id",
        ),
        (replace(HALF_A_MINUTE, names=HEADLESS), "is for Whisper that writes"),
    ],
)
def test_what_sherpa_onnx_cannot_open_is_refused(config, message):
    with pytest.raises(InputError, match=message):
        FAMILY.sherpa_onnx(config)


def test_a_table_of_tokens_that_are_no_bytes_is_refused():
    with pytest.raises(InputError, match="needs tokens of bytes"):
        sherpa_onnx._table({"model": {"vocab": {"你": 0}}, "added_tokens": []})
