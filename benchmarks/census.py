"""The census: every encoder and decoder of transformers that loads with a tiny configuration, by the traced road.

    python -m benchmarks.census [--only bert,llama] [--formats onnx,stablehlo] [--missing] [--compare]

Each architecture is made with random weights at width 32, saved as people save it, and goes through `all`: every stage,
every verdict, one after the other in one process, so that frameworks are imported once for several. `--compare` does
less: it traces, lowers and compares, without a proof. One that does not pass has its reason in one line. Writes
docs/coverage.md.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, NUMBERS = ROOT / "docs" / "coverage.md", ROOT / "benchmarks" / "census.json"
LONGEST = 600
"""Seconds for one architecture."""

TOGETHER = 6
"""Architectures that one process does before another takes its place, with its memory."""

FOUR = "onnx,orbax,saved-model,stablehlo"

SHOWN = 280
"""Characters of a reason."""

ALLOWED = 2e-5
"""Relative to the largest number of the output: float32 of networks with random weights."""

TINY = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "dim", "n_embd", "embed_dim", "embedding_size", "encoder_hidden_size"), 32
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads",), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "ffn_dim"), 64),
    **dict.fromkeys(("vocab_size",), 99),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("head_dim", "d_kv"), 8),
    **dict.fromkeys(("image_size",), 32),
    **dict.fromkeys(("patch_size",), 8),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("pad_token_id",), 0),
}
"""Fields of configurations -> what they are in a tiny network; a field that a configuration does not have is left."""

OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "lilt": {"hidden_size": 48, "intermediate_size": 64},
    "codegen": {"rotary_dim": 4},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "mobilebert": {"embedding_size": 32, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "longformer": {"attention_window": 8},
    "nystromformer": {"num_landmarks": 64, "segment_means_seq_len": 64},
    "squeezebert": {"embedding_size": 32},
    "xlnet": {"d_inner": 64},
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "patch_size": 4, "window_size": 4},
    "swinv2": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "patch_size": 4, "window_size": 4},
    "donut-swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "patch_size": 4, "window_size": 4},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "regnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4},
    "xmod": {"default_language": "en_XX"},
    "bit": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "levit": {
        "image_size": 64,
        "patch_size": 16,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [2, 3, 4],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "mobilevitv2": {"image_size": 64, "patch_size": 2},
    "pvt": {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
    "pvt_v2": {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
}
SOUND = {
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
"""The encoders of waveforms, after which each may have fields of its own."""

NAMES = {
    "text": """
        albert bert big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert electra ernie esm eurobert
        flaubert fnet funnel ibert jina_embeddings_v3 layoutlm lilt longformer luke megatron-bert mobilebert modernbert
        mpnet mra nomic_bert nystromformer rembert roberta roberta-prelayernorm roc_bert roformer splinter squeezebert
        xlm xlm-roberta xlm-roberta-xl xlnet xmod yoso t5 umt5 mt5
    """,
    "decoder": """
        bloom codegen cohere falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gptj
        granite helium llama mistral mixtral mpt olmo olmo2 opt persimmon phi phi3 qwen2 qwen3 smollm3 stablelm
        starcoder2
    """,
    "vision": """
        beit bit convnext convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers efficientnet focalnet ijepa
        levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 poolformer pvt pvt_v2 regnet resnet segformer
        siglip_vision_model clip_vision_model swiftformer swin swinv2 vit vit_mae vit_msn yolos hiera
    """,
    "sound": "wav2vec2 hubert wavlm unispeech unispeech-sat data2vec-audio sew",
    "generation": """
        bloom:CausalLM falcon:CausalLM gemma:CausalLM gpt2:CausalLM gpt_neox:CausalLM llama:CausalLM mistral:CausalLM
        olmo2:CausalLM opt:CausalLM phi3:CausalLM qwen3:CausalLM stablelm:CausalLM
    """,
    "translation": """
        bart:Seq2SeqLM blenderbot-small:Seq2SeqLM m2m_100:Seq2SeqLM marian:Seq2SeqLM mbart:Seq2SeqLM mt5:Seq2SeqLM
        pegasus:Seq2SeqLM plbart:Seq2SeqLM t5:Seq2SeqLM
    """,
    "heads": """
        albert:SequenceClassification bert:TokenClassification deberta-v2:SequenceClassification distilbert:MaskedLM
        electra:SequenceClassification modernbert:MaskedLM roberta:MaskedLM vit:ImageClassification wav2vec2:CTC
    """,
}
"""What is counted, by kind: model types, behind a colon the head of the class, where it is not that of states."""

KINDS = {kind: names.split() for kind, names in NAMES.items()}
HEADS = {
    "CausalLM": "MODEL_FOR_CAUSAL_LM_MAPPING",
    "Seq2SeqLM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "SequenceClassification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "TokenClassification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "MaskedLM": "MODEL_FOR_MASKED_LM_MAPPING",
    "ImageClassification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "CTC": "MODEL_FOR_CTC_MAPPING",
    "": "MODEL_MAPPING",
}
"""Head -> transformers' table of its classes."""


@dataclass
class Row:
    """What became of an architecture.

    Args:
        proved: the formats that `all` proved.
        used: greatest share of its budget that an output of them used.
        stages: of a comparison, network or format -> the largest difference, relative.
    """

    name: str
    kind: str
    passed: bool = False
    reason: str = ""
    proved: tuple[str, ...] = ()
    used: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    operators: int = 0
    parameters: int = 0
    seconds: float = 0.0


def tiny(name: str) -> Any:
    """Make the configuration of an architecture, small."""
    from transformers import AutoConfig

    cls = type(AutoConfig.for_model(name))
    known = vars(AutoConfig.for_model(name))
    fields = {
        field: value for field, value in TINY.items() if field in known and isinstance(known[field], int | type(None))
    }
    if known.get("head_dim") is None:
        fields.pop("head_dim", None)
    for token in ("bos_token_id", "eos_token_id"):
        if isinstance(known.get(token), int) and known[token] > 98:
            fields[token] = 2
    for listed, size in (("hidden_sizes", 16), ("depths", 1)):
        if isinstance(known.get(listed), list | tuple) and name not in OWN:
            fields[listed] = [size for _ in known[listed]]
    own = OWN.get(name, {}) | (SOUND if name in NAMES["sound"].split() else {})
    return cls(**fields | own)


def save(name: str, folder: Path) -> None:
    """Save a seeded network as transformers saves it."""
    import torch
    import transformers

    transformers.set_seed(0)
    name, _, head = name.partition(":")
    config = tiny(name)
    cls = getattr(transformers, HEADS[head])[type(config)]
    cls = cls[0] if isinstance(cls, tuple | list) else cls
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # every bias and scale shows when it is lost
            if parameter.dim() < 2:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)


def examine(row: Row, folder: Path, formats: tuple[str, ...], prove: bool) -> None:
    """Do what `all` does, or only trace, lower and compare."""
    from bgevis.converter.options import Options
    from bgevis.converter.source.identify import identify

    save(row.name, folder / "model")
    options = Options(checkpoint=str(folder / "model"), transformers=True, no_tokenizer=True, formats=formats)
    if prove:
        _prove(row, folder / "run", options)
        return
    identified = identify(folder / "model", options)
    net = identified.family.network(identified.config)
    graph = _describe(row, identified.network)
    state = {name: identified.checkpoint.read(name) for name in identified.checkpoint.tensors}
    weights = {leaf: state[p.tensor].astype("float32") for leaf, p in graph.parameters.items()}
    _compare(row, folder, net, weights, identified, formats)


def _describe(row: Row, network: str) -> Any:
    """Count what was traced; give the graph."""
    from bgevis.model.traced.graph import Graph

    graph = Graph.from_json(network)
    row.operators = sum(graph.count().values())
    row.parameters = len(graph.parameters)
    return graph


def _compare(row: Row, folder: Path, net: Any, weights: Any, identified: Any, formats: tuple[str, ...]) -> None:
    import jax
    import numpy as np
    from safetensors.numpy import save_file

    from bgevis.converter.source.module import read_tensors
    from bgevis.exporters.base import Artifact, Request, exporters
    from bgevis.exporters.weights import WeightsFile
    from bgevis.model.reference import Original
    from bgevis.model.runner import NNXRunner
    from bgevis.validation.cases import cases
    from bgevis.validation.kept import kept

    documents = {place: document.content for place, document in identified.found.documents.items()}
    original = Original(read_tensors(identified.checkpoint), documents, folder / "model")
    reference = identified.family.reference(identified.config, original)
    drawn = [(e, case) for e in net.entry_points.values() for case in cases(e) if case.same_as is None]
    wanted = [reference.run(entry.name, case.inputs) for entry, case in drawn]

    def difference(runner: Any) -> float:
        worst = 0.0
        for (entry, case), right in zip(drawn, wanted, strict=True):
            got = kept(entry, case.inputs, runner.run(entry.name, case.inputs))
            want = kept(entry, case.inputs, right)
            for name, array in want.items():
                scale = max(float(np.abs(array).max(initial=0)), 1e-6)
                worst = max(worst, float(np.abs(got[name] - array).max(initial=0)) / scale)
        return worst

    with jax.default_matmul_precision("highest"):
        row.stages["nnx"] = difference(NNXRunner(net, weights))
    programs = folder / "programs"
    programs.mkdir()
    save_file(dict(weights), programs / "weights.safetensors")
    file = WeightsFile(programs / "weights.safetensors")
    for name in formats:
        exporter = exporters()[name]
        out = folder / exporter.folder
        out.mkdir(exist_ok=True)
        made = exporter.write(Request(net, file, out))
        row.stages[name] = difference(exporter.open(Artifact(folder, net.entry_points, made, lambda: net)))
    worst = max(row.stages.values())
    row.passed = worst <= ALLOWED
    if not row.passed:
        row.reason = f"differs by {worst:.2g} in {max(row.stages, key=lambda s: row.stages[s])}"


def _prove(row: Row, place: Path, options: Any) -> None:
    """Do every stage of `all` in this process, and take the verdicts."""
    from bgevis.converter.directory import RunDirectory, hold
    from bgevis.converter.options import chosen
    from bgevis.converter.progress import Silent
    from bgevis.converter.run import tasks, worker
    from bgevis.converter.stages import validate
    from bgevis.validation.files import read_json
    from bgevis.validation.report import Report

    formats = chosen(options)
    with hold(place):
        for task in sorted(tasks.tasks_for_all(formats), key=lambda task: task.order):
            there = dict(sys.modules)
            try:
                worker.perform(task.name, place, options, Silent())
            finally:  # a proof makes torch unimportable, which the next architecture needs
                sys.modules.update({name: there[name] for name in validate.FORBIDDEN if name in there})
            if task.name == tasks.PREPARE:
                _describe(row, (place / "network.json").read_text())
        tasks.conclude(place, formats, [])
    run = RunDirectory(place)
    reports = [Report.from_json(read_json(place / validate.report_path(exporter))) for exporter in formats]
    row.used = max((report.worst.used or 0.0 for report in reports if report.worst), default=0.0)
    row.proved = options.formats
    row.passed = set(run.manifest()["verdicts"].values()) == {"pass"}


def examined(row: Row, formats: tuple[str, ...], prove: bool) -> Row:
    """Examine one architecture."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            examine(row, Path(scratch), formats, prove)
        except Exception as error:  # whatever goes wrong is the row's reason
            row.reason = reason(error)
    return row


def rows(only: set[str]) -> Iterator[Row]:
    """Give what is examined."""
    for kind, names in KINDS.items():
        for name in names:
            if not only or name in only:
                yield Row(name, kind)


def reason(error: BaseException) -> str:
    """Say in one line why an architecture does not pass."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__ if not text else ''}{text[:SHOWN]}"


def page(found: dict[str, dict[str, Any]]) -> str:
    """Write the page from the numbers."""
    every = {name for names in KINDS.values() for name in names}
    proved = [each for each in found.values() if each["passed"] and each["proved"]]
    compared = [each for each in found.values() if each["passed"] and not each["proved"]]
    lines = [
        "# Coverage of `--transformers`\n",
        "Made by `make census` (`python -m benchmarks.census`): each architecture of transformers with a tiny "
        "configuration and seeded weights, axes of rows and tokens free, through every stage and verdict of `all`. Of "
        f"{len(every)}, {len(proved)} are proved in {_listed(proved)}"
        + (f", {len(compared)} pass a comparison on a padded batch and the longest text alone" if compared else "")
        + f", {len(found) - len(proved) - len(compared)} fail with the reason that is told, and "
        f"{len(every - found.keys())} have not run. *Budget* is the greatest share that an output used of what it may "
        "differ by.\n",
    ]
    for kind in KINDS:
        chosen = {name: each for name, each in found.items() if each["kind"] == kind}
        if not chosen:
            continue
        passed = sum(each["passed"] for each in chosen.values())
        lines.append(f"## {kind.capitalize()}: {passed} of {len(chosen)}\n")
        lines.append(
            "| architecture | operators | leaves | budget | seconds | |\n| --- | --- | --- | --- | --- | --- |"
        )
        for name, each in sorted(chosen.items()):
            used = f"{each['used']:.2f}" if each["used"] else ""
            told = "proved" if each["proved"] else "compared" if each["passed"] else each["reason"].replace("|", "\\|")
            lines.append(
                f"| {name} | {each['operators'] or ''} | {each['parameters'] or ''} | "
                f"{used} | {each['seconds']:.0f} | {told} |"
            )
        lines.append("")
    return "\n".join(lines)


def _listed(rows: list[dict[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(name for each in rows for name in each["proved"]))


def main(arguments: list[str]) -> None:
    """Run the census and write the page; what was not run keeps its numbers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="architectures or kinds, with commas between")
    parser.add_argument("--formats", default=FOUR)
    parser.add_argument("--compare", action="store_true", help="without the proof")
    parser.add_argument("--missing", action="store_true", help="only what has not passed so before")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    from bgevis.model import upstream

    os.environ.update(upstream.QUIET)
    only = {name for each in filter(None, given.only.split(",")) for name in KINDS.get(each, [each])}
    found: dict[str, dict[str, Any]] = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    pool = _pool()
    for row in rows(only):
        before = found.get(row.name, {})
        if given.missing and before.get("passed") and (given.compare or before["proved"]):
            continue
        began = time.monotonic()
        try:
            row = pool.submit(examined, row, tuple(given.formats.split(",")), not given.compare).result(LONGEST)
        except (BrokenProcessPool, TimeoutError) as error:
            late = isinstance(error, TimeoutError)
            row.reason = (
                f"takes more than {LONGEST} seconds" if late else "the process dies, perhaps of too little memory"
            )
            for process in multiprocessing.active_children():
                process.kill()
            pool = _pool()
        row.seconds = time.monotonic() - began
        print(f"{row.name:24} {'pass' if row.passed else row.reason} {row.seconds:.0f} s", flush=True)
        found[row.name] = vars(row)
        NUMBERS.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
        PAGE.write_text(page(found))


def _pool() -> concurrent.futures.ProcessPoolExecutor:
    """Give a process that does one architecture after the other: some die in torch.export."""
    alone = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=alone, max_tasks_per_child=TOGETHER)


if __name__ == "__main__":
    main(sys.argv[1:])
