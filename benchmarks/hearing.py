"""How fast a sound becomes text: our ONNX programs, transformers on PyTorch, and CTranslate2.

Run from the root of the repository: `python -m benchmarks.hearing FOLDER SOUND.wav`, where FOLDER is a Whisper as
transformers saves it. All are open in one process and take turns, each on one window, greedily, with its caches. The
front end is measured beside transformers' and beside ONNX's own operator for it, STFT.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from . import document
from .models import BUILD

Run = Callable[[np.ndarray], Any]
"""Of the samples of one window: token ids, or a spectrogram."""


def ours(run: Path, folder: Path, threads: int) -> Run:
    from bgevis.converter import open_artifacts

    opened = open_artifacts(run, "onnx", threads=threads)
    rate = opened.rules["sounds"]["rate"]
    return lambda samples: list(opened.transcribe((samples, rate)).ids)


def transformers(run: Path, folder: Path, threads: int) -> Run:
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)

    def called(samples: np.ndarray) -> list[int]:
        features = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features
        with torch.inference_mode():
            (ids,) = model.generate(features).tolist()
        return ids

    return called


def ctranslate2(run: Path, folder: Path, threads: int) -> Run:
    import ctranslate2 as library

    made = run / "ctranslate2"
    if not made.exists():
        library.converters.TransformersConverter(str(folder)).convert(str(made))
    model = library.models.Whisper(str(made), device="cpu", compute_type="float32", intra_threads=threads)
    from transformers import GenerationConfig, WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    stated = GenerationConfig.from_pretrained(folder, local_files_only=True)
    prompt = [stated.decoder_start_token_id, stated.no_timestamps_token_id]

    def called(samples: np.ndarray) -> list[int]:
        features = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np").input_features
        view = library.StorageView.from_array(np.ascontiguousarray(features))
        (result,) = model.generate(view, [prompt], beam_size=1)
        return list(result.sequences_ids[0])

    return called


CONTENDERS: dict[str, Callable[[Path, Path, int], Run]] = {
    "ours": ours,
    "transformers": transformers,
    "CTranslate2": ctranslate2,
}


def our_front_end(run: Path, folder: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    program = str(run / "programs" / "log_mel.onnx")
    session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    return lambda samples: session.run(None, {"samples": samples[None]})[0][0]


def their_front_end(run: Path, folder: Path, threads: int) -> Run:
    import torch
    from transformers import WhisperFeatureExtractor

    torch.set_num_threads(threads)
    extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    rate = extractor.sampling_rate
    return lambda samples: extractor(samples, sampling_rate=rate, return_tensors="np").input_features[0]


def stft_operator(run: Path, folder: Path, threads: int) -> Run:
    """ONNX's operator alone, in float32: what comes after it is left out, in its favour."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    count, hop = extractor.n_fft, extractor.hop_length
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(count) / count)).astype(np.float32)
    constants = [
        onnx.numpy_helper.from_array(np.array(hop, np.int64), "hop"),
        onnx.numpy_helper.from_array(window, "window"),
        onnx.numpy_helper.from_array(np.array(count, np.int64), "count"),
    ]
    node = helper.make_node("STFT", ["samples", "hop", "window", "count"], ["spectrum"])
    samples = helper.make_tensor_value_info("samples", TensorProto.FLOAT, [1, None, 1])
    spectrum = helper.make_tensor_value_info("spectrum", TensorProto.FLOAT, [1, None, count // 2 + 1, 2])
    graph = helper.make_graph([node], "stft", [samples], [spectrum], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    half = count // 2
    return lambda x: session.run(None, {"samples": np.pad(x, half, mode="reflect")[None, :, None]})[0]


FRONT_ENDS: dict[str, Callable[[Path, Path, int], Run]] = {
    "ours": our_front_end,
    "transformers": their_front_end,
    "ONNX's STFT alone": stft_operator,
}


def converted(folder: Path) -> Path:
    """Convert the folder to ONNX, without the proof, unless that was done."""
    run = BUILD / "hearing" / folder.resolve().name
    if not (run / "programs" / "log_mel.onnx").exists():
        shutil.rmtree(run, ignore_errors=True)
        command = [sys.executable, "-m", "benchmarks.ours", str(folder), str(run), "onnx"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run


def race(
    makers: dict[str, Callable[[Path, Path, int], Run]],
    run: Path,
    folder: Path,
    threads: int,
    samples: np.ndarray,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Let each run once a round, each time in another place of the order."""
    results: dict[str, dict[str, Any]] = {}
    opened: dict[str, Run] = {}
    for name, make in makers.items():
        begun = time.perf_counter()
        try:
            opened[name] = make(run, folder, threads)
        except ModuleNotFoundError as error:
            results[name] = {"missing": error.name}
            continue
        results[name] = {"load": time.perf_counter() - begun, "seconds": [], "found": opened[name](samples)}
    names = list(opened)
    for turn in range(rounds):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            begun = time.perf_counter()
            opened[name](samples)
            results[name]["seconds"].append(time.perf_counter() - begun)
    return results


def rows(results: dict[str, dict[str, Any]], said: Callable[[Any, Any], str]) -> list[list[str]]:
    """Lay out a table; a ratio is the median of those of each round, whose runs were neighbours."""
    mine, found = results["ours"], []
    for name, result in results.items():
        if "missing" in result:
            found.append([name, f"not installed: {result['missing']}", "", ""])
            continue
        ratio = statistics.median(a / b for a, b in zip(mine["seconds"], result["seconds"], strict=True))
        median = statistics.median(result["seconds"])
        found.append([name, f"{median:.3f}", f"{ratio:.2f}", said(mine["found"], result["found"])])
    return found


def same_ids(mine: list[int], other: list[int]) -> str:
    """Say whether two texts are the same, whatever they begin and end with."""
    short, long = sorted((mine, other), key=len)
    places = range(len(long) - len(short) + 1)
    return "the same" if any(long[at : at + len(short)] == short for at in places) else "another text"


def apart(mine: np.ndarray, other: np.ndarray) -> str:
    return f"{np.abs(mine - other).max():.1e}" if mine.shape == other.shape else "of another kind"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("sound", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1))
@click.option("--threads", default=os.cpu_count(), show_default=True, type=click.IntRange(1), help="Of each.")
@click.option("--write-docs", is_flag=True, help="Put the tables into docs/performance.md.")
def main(folder: Path, sound: Path, rounds: int, threads: int, write_docs: bool) -> None:
    """Time transcripts and spectrograms of a sound, side by side."""
    from bgevis.converter.pack.preprocessor import Preprocessor

    run = converted(folder)
    samples = Preprocessor(run).sounds.windows(str(sound))[0]
    texts = race(CONTENDERS, run, folder, threads, samples, rounds)
    spectra = race(FRONT_ENDS, run, folder, threads, samples, rounds)
    where = document.environment() | {"threads": threads}
    said = "\n\n".join(
        [
            f"Measured {document.sentence(where)} One window, {threads} threads.",
            document.table(("", "median s", "ours / it", "token ids"), rows(texts, same_ids)),
            document.table(("front end", "median s", "ours / it", "largest difference"), rows(spectra, apart)),
        ]
    )
    click.echo(said)
    for results in (texts, spectra):
        for result in results.values():
            result.pop("found", None)
    document.save("hearing", {"environment": where, "texts": texts, "front ends": spectra})
    if write_docs:
        document.rewrite("hearing", said)


if __name__ == "__main__":
    main()
