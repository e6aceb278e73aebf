"""The runners in JavaScript: they agree on what was proved, and refuse every damaged copy of it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import corruptions
import numpy as np
import pytest
from PIL import Image

from bgevis.converter import best_matches, open_artifacts
from bgevis.converter.directory import RunDirectory
from bgevis.converter.manifest import artifact, family_and_config
from bgevis.converter.pack.preprocessor import Preprocessor
from bgevis.exporters.base import exporters
from bgevis.validation import procedure

FOLDER = Path(__file__).parents[2] / "examples" / "javascript"
RAW = corruptions.names("raw")
"""What the damaged copies of a run without pairs tell."""
PARTS = ("cases", "several", "ready", "raw", "texts", "pixels", "pictures", "onnx")


@pytest.fixture(autouse=True)
def _installed():
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (FOLDER / "node_modules").exists():
        pytest.skip("the JavaScript packages are not installed: make handoff")


def node(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = ["node", str(FOLDER / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize("run", ["visualized", "sentences", "classifier", "reranker", "heard"])
def test_node_agrees(run, request, tell):
    done = node("replay.js", request.getfixturevalue(run))
    assert done.returncode == 0, done.stderr
    verdict = done.stdout.splitlines()[-1]
    assert verdict.startswith("pass: "), done.stdout
    tell(verdict)


@pytest.mark.parametrize("name", corruptions.names(*PARTS))
def test_node_refuses(name, visualized, tmp_path):
    done = node("replay.js", corruptions.corrupted(visualized, name, tmp_path / "run", "onnx"))
    assert done.returncode == 1, f"{name} was accepted: {done.stdout}"
    assert done.stderr.startswith(("error: ", "difference: "))
    assert "    at " not in done.stderr


@pytest.mark.parametrize("name", [name for name in corruptions.names("raw", "pairs") if name not in RAW])
def test_node_refuses_a_damaged_reranker(name, reranker, tmp_path):
    done = node("replay.js", corruptions.corrupted(reranker, name, tmp_path / "run", "onnx"))
    assert done.returncode == 1, f"{name} was accepted: {done.stdout}"
    assert done.stderr.startswith(("error: ", "difference: "))


@pytest.mark.parametrize("name", corruptions.names("sounds", "written"))
def test_node_refuses_a_damaged_ear(name, heard, tmp_path):
    done = node("replay.js", corruptions.corrupted(heard, name, tmp_path / "run", "onnx"))
    assert done.returncode == 1, f"{name} was accepted: {done.stdout}"
    assert done.stderr.startswith(("error: ", "difference: "))
    assert "    at " not in done.stderr


def test_node_writes_what_python_writes(heard, tmp_path):
    """Of one window and of two; a language that is stated, named, and heard; times and special tokens left out."""
    run, sounds = RunDirectory(heard), heard / "goldens" / "raw" / "sounds"
    script = tmp_path / "write.mjs"
    script.write_text(
        f'import {{ readFile }} from "node:fs/promises";\nimport {{ open }} from "{FOLDER}/node.js";\n'
        f'const model = await open("{heard}");\nconst read = (name) => readFile(`{sounds}/${{name}}.wav`);\n'
        "const found = [];\n"
        'for (const name of ["stereo", "longer"]) {\n  const sound = await read(name);\n'
        "  found.push(await model.transcribe(sound));\n"
        '  found.push(await model.transcribe(sound, { language: "<|de|>", task: "translate" }));\n'
        "}\nmodel.pack.rules.transcripts.language = null;\n"
        'found.push(await model.transcribe(await read("stereo")));\nconst wrong = [];\n'
        'for (const given of [{ language: "<|fr|>" }, { task: "sing" }])\n'
        '  await model.transcribe(await read("plain"), given).catch((error) => wrong.push(error.message));\n'
        "console.log(JSON.stringify({ found, wrong }));\n"
    )
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    read, model = Preprocessor(heard), exporters()["onnx"]
    runner = model.open(artifact(run, model))
    family, config = family_and_config(run)
    entries = {entry.name: entry for entry in family.entry_points(config)}
    (greedy,) = family.procedures(config)

    def written(name: str, language: str, task: str) -> list[dict]:
        prompt, windows = read.transcripts.prompt(language, task), []
        for row in read.sounds.windows(sounds / f"{name}.wav"):
            inputs = {"samples": row[None], "input_ids": np.array([prompt], np.int32)}
            most = read.transcripts.rules["max_tokens"] - len(prompt)
            ids = procedure.generate(runner, entries, greedy, inputs, most).ids[0].tolist()
            windows.append({"text": read.transcripts.text(ids), "ids": ids, "language": language})
        return windows

    for i, name in enumerate(["stereo", "longer"]):
        assert got["found"][2 * i]["windows"] == written(name, "<|en|>", "transcribe")
        assert got["found"][2 * i + 1]["windows"] == written(name, "<|de|>", "translate")
    (window,) = got["found"][4]["windows"]
    assert [window] == written("stereo", window["language"], "transcribe")
    row = read.sounds.windows(sounds / "stereo.wav")[0]
    given = {"samples": row[None]}
    for name in greedy.before:
        given |= runner.run(name, {spec.name: given[spec.name] for spec in entries[name].inputs})
    given["input_ids"] = np.array([[read.transcripts.rules["start"]]], np.int32)
    begin = entries[greedy.prefill]
    scores = runner.run(begin.name, {spec.name: given[spec.name] for spec in begin.inputs})["logits"][0, -1]
    languages = read.transcripts.rules["languages"]
    assert window["language"] == max(languages, key=lambda name: scores[languages[name]])
    assert got["wrong"] == [
        "there is no language <|fr|> (languages: <|de|>, <|en|>)",
        "there is no task sing (tasks: transcribe, translate)",
    ]


def test_node_puts_windows_together_as_python_does(heard, tmp_path):
    """Of a sound of two windows, which alone would be of two languages: the first one's counts, as pack.md says."""
    run = shutil.copytree(heard, tmp_path / "run")
    rules = json.loads((run / "preprocess.json").read_text())
    rules["transcripts"] |= {"language": None, "languages": {"<|de|>": 11, "<|en|>": 15}}
    (run / "preprocess.json").write_text(json.dumps(rules))
    corruptions.seal(run)
    sound = run / "goldens" / "raw" / "sounds" / "longer.wav"
    script = tmp_path / "write.mjs"
    script.write_text(
        f'import {{ readFile }} from "node:fs/promises";\nimport {{ open }} from "{FOLDER}/node.js";\n'
        f'const model = await open("{run}");\nconst sound = await readFile("{sound}");\n'
        "const { text, windows } = await model.transcribe(sound);\n"
        "const { rate, samples: size } = model.pack.rules.sounds;\nconst second = new Float32Array(size);\n"
        "second.set(model.samples(sound).slice(size));\n"
        "const alone = await model.transcribe({ samples: second, rate });\n"
        "const languages = (found) => found.map(({ language }) => language);\n"
        "console.log(JSON.stringify({ text, told: languages(windows), alone: languages(alone.windows) }));\n"
    )
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got, wanted = json.loads(done.stdout), open_artifacts(run, "onnx").transcribe(sound)
    assert got == {"text": wanted.text, "told": [f"<|{wanted.language}|>"] * 2, "alone": ["<|en|>"]}
    assert wanted.language == "de"


@pytest.mark.parametrize("run", ["classifier", "reranker"])
def test_node_scores_what_python_scores(run, request, tmp_path):
    """Pairs and single texts, short and cut."""
    run = request.getfixturevalue(run)
    rows = [["what is a fox?", "a fox."], "a fox", ["b " * 200, "c"], ["a", "b " * 200], ["d " * 99, "e " * 99]]
    script = tmp_path / "score.mjs"
    script.write_text(
        f'import {{ open }} from "{FOLDER}/node.js";\nconst model = await open("{run}");\n'
        f"const rows = {json.dumps(rows)};\nconst wrong = [];\n"
        'for (const bad of [[["a", "b", "c"]], [7], [["a", null]]])\n'
        "  await model.score(bad).catch((error) => wrong.push(`${error.name}: ${error.message}`));\n"
        'const plain = await model.score(rows, { activation: "identity" });\n'
        "console.log(JSON.stringify({ scores: await model.score(rows), plain, wrong }));\n"
    )
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got, model = json.loads(done.stdout), open_artifacts(run, "onnx")
    np.testing.assert_allclose(got["scores"], model.score(rows), rtol=0, atol=2e-6)
    np.testing.assert_allclose(got["plain"], model.score(rows, activation="identity"), rtol=0, atol=5e-6)
    assert len(got["wrong"]) == 3
    assert all("expected a text or two of them" in message for message in got["wrong"])


def test_node_embeds_what_python_embeds(visualized, tmp_path):
    picture = visualized / "goldens" / "raw" / "images" / "wide.png"
    script = tmp_path / "embed.mjs"
    script.write_text(
        f'import {{ readFile }} from "node:fs/promises";\nimport {{ open }} from "{FOLDER}/node.js";\n'
        f'const model = await open("{visualized}");\nconst picture = await readFile("{picture}");\n'
        'const given = [{texts: ["a b", "cat!"]}, {images: [picture]}, {texts: ["a dog?"], images: [picture]}];\n'
        "const all = [];\n"
        "for (const one of given) all.push(...(await model.embed(one)).map((row) => Array.from(row)));\n"
        "console.log(JSON.stringify(all));\n"
    )
    done = subprocess.run(["node", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = open_artifacts(visualized, "onnx")
    ours = [
        *model.embed(texts=["a b", "cat!"]),
        *model.embed(images=[picture]),
        *model.embed(texts=["a dog?"], images=[picture]),
    ]
    np.testing.assert_allclose(json.loads(done.stdout), ours, rtol=0, atol=2e-6)


@pytest.mark.parametrize("run", ["visualized", "sentences"])
def test_a_browser_agrees_and_can_be_used(run, request, tell, tmp_path):
    done = node("drive.js", request.getfixturevalue(run), tmp_path / "page.png")
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    verdict, *details = done.stdout.splitlines()
    assert verdict.startswith("pass: ")
    assert any("similarities" in line for line in details)
    assert (tmp_path / "page.png").stat().st_size > 10_000
    tell(verdict)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_searches_pictures_by_a_text(width, clip_towers, tmp_path):
    """In the order that Python finds, as near; the page is no wider than the window."""
    done = node("drive.js", clip_towers, tmp_path / "page.png", WIDTH=str(width))
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if "found for" in line)
    found = json.loads(line.partition(": ")[2])
    model = open_artifacts(clip_towers, "onnx")
    files = sorted(clip_towers / "goldens/raw/images" / name for name, _ in found)
    (wanted,) = best_matches(model.embed(["a red fox"]), model.embed(images=files), len(files))
    assert len(found) > 3
    assert [name for name, _ in found] == [files[match.place].name for match in wanted]
    assert [float(near) for _, near in found] == pytest.approx([match.similarity for match in wanted], abs=1e-4)
    with Image.open(tmp_path / "page.png") as page:
        assert page.width == width


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_writes_what_python_writes(width, heard, tmp_path):
    """Of files, and something of the microphone; what is no sound is named. The page is no wider than the window."""
    folder = heard / "goldens" / "raw" / "sounds"
    sounds = [folder / f"{name}.wav" for name in ("plain", "stereo", "longer")]
    (tmp_path / "notes.txt").write_text("no sound\n")
    given = os.pathsep.join(map(str, [*sounds, tmp_path / "notes.txt"]))
    done = node("drive.js", heard, tmp_path / "page.png", WIDTH=str(width), SOUNDS=given)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    (recorded,) = shown(done, "recorded")
    *found, wrong = shown(done, "heard")
    model = open_artifacts(heard, "onnx")
    for sound, page in zip(sounds, found, strict=True):
        wanted = model.transcribe(sound)
        assert (page["hearing"], page["said"], page["language"]) == (sound.name, wanted.text, "English (en)")
        assert re.fullmatch(r"\d\.\d\d s of sound in \d\.\d+ s", page["read"])
        assert re.fullmatch(r"\d+ tokens of [12] windows? in \d+\.\d+ s", page["written"])
    assert recorded["said"]
    assert 1 < float(recorded["read"].split()[0]) < 4
    assert recorded["read"].endswith(", decoded by this browser, which resamples by its own rules")
    assert recorded["written"].endswith(" to open the programs")
    why = "this is no sound that the browser decodes: expected WAV, or such as FLAC, MP3 and OGG"
    assert wrong == {"hearing": f"notes.txt: {why}"}
    with Image.open(tmp_path / "page.png") as page:
        assert page.width == width


def test_a_browser_decodes_other_sounds_than_wav(heard, tmp_path):
    """At the network's rate, where nothing is resampled: the samples that Python reads."""
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "noise.flac", rng.normal(size=(20000, 2)).clip(-3, 3) / 4, 16000, subtype="PCM_16")
    done = node("drive.js", heard, SOUNDS=str(tmp_path / "noise.flac"))
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    (page,) = shown(done, "heard")
    assert page["said"] == open_artifacts(heard, "onnx").transcribe(tmp_path / "noise.flac").text
    assert page["read"].startswith("1.25 s of sound in ")
    assert page["read"].endswith(", decoded by this browser, which resamples by its own rules")


def shown(done: subprocess.CompletedProcess, kind: str) -> list[dict[str, str]]:
    """Read what the page showed of sounds, of the driver's lines."""
    return [json.loads(line.partition(": ")[2]) for line in done.stdout.splitlines() if line.startswith(f"  {kind}: ")]


@pytest.mark.parametrize("name", ["a bit flipped in the weights", "expected outputs altered, sealed"])
def test_a_browser_refuses(name, visualized, tmp_path):
    done = node("drive.js", corruptions.corrupted(visualized, name, tmp_path / "run", "onnx"))
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 1, done.stdout + done.stderr
