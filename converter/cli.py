"""The command line. Commands read their arguments and call the library; frameworks are imported inside them."""

import contextlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..validation.errors import ConvertError, EnvironmentFailure, GateError, Unexpected
from ..validation.packages import EXTRAS, missing
from .printable import printable
from .stages import BY_NAME, STAGES, Stage
from .unexpected import DEBUG, unexpected

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

JSON = "bgevis.json"
"""In click's meta: whether --json was said."""

Command = Callable[..., Any]


class Group(click.Group):
    """Turns every failure into one message and an exit code; a traceback only with --debug."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except ConvertError as error:
            self._fail(context, error)
        except KeyboardInterrupt:
            resumes = context.invoked_subcommand in ("all", *BY_NAME)
            click.echo("interrupted" + "; run the same command again to resume" * resumes, err=True)
            context.exit(130)
        except BrokenPipeError:  # whoever reads has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(128 + signal.SIGPIPE)
        except OSError as error:
            from .directory import environment_failure

            self._fail(context, environment_failure(error, Path.cwd()))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # a fault of this tool
            module = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
            if module in EXTRAS:
                self._fail(context, missing(module, f"`bgevis-convert {context.invoked_subcommand}`"))
            self._fail(context, unexpected(context.invoked_subcommand or "", error))

    @staticmethod
    def _fail(context: click.Context, error: ConvertError) -> None:
        """Say what went wrong, to people and with --json to programs; with --debug also where. The code is the same."""
        if context.params.get("debug") and not isinstance(error, Unexpected):  # which has its own
            traceback.print_exc()
        click.echo(f"{click.style('error:', fg='red', bold=True)} {printable(str(error))}", err=True)
        if context.meta.get(JSON):
            click.echo(json.dumps({"error": str(error), "exit_code": error.exit_code}, indent=1))
        context.exit(error.exit_code)

    def list_commands(self, context: click.Context) -> list[str]:
        """List the commands in the order in which they are used, not by the alphabet."""
        return list(self.commands)


class TokenizerFolder(click.Path):
    """A folder, or a name on the hub, which becomes the folder that it was fetched into."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Fetch what is named; check what is a folder."""
        if isinstance(value, str) and value.startswith("hf:"):
            from .source.hub import tokenizer

            return tokenizer(value)
        if isinstance(value, str) and not Path(value).exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            self.fail(f"there is no folder {value}; a model of the hub is named hf:{value}", param, ctx)
        return super().convert(value, param, ctx)


def checkpoint_argument(command: Command) -> Command:
    """Add CKPT."""
    return click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))(command)


def directory_argument(command: Command) -> Command:
    """Add DIR."""
    return click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))(command)


def out_option(command: Command) -> Command:
    """Add --out."""
    help_text = "The run directory to make, or to go on with."
    return click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help=help_text)(command)


def source_options(command: Command) -> Command:
    """Add what helps to identify a checkpoint."""
    command = click.option("--family", default="", help="Skip detection: see `bgevis-convert families`.")(command)
    help_text = "What the module takes: 'ids: int64[batch, tokens <= 512], mask: int64[batch, tokens]', or a file."
    command = click.option("--inputs", metavar="SPEC", help=help_text)(command)
    help_text = "Trace the class of transformers that config.json names, where no family knows it."
    command = click.option("--transformers", is_flag=True, help=help_text)(command)
    help_text = "The function that makes your own module, which is traced. Its code is run; CKPT is read inertly."
    command = click.option("--module", metavar="PACKAGE.MODULE:FUNCTION", help=help_text)(command)
    help_text = "The folder of a LoRA adapter, as peft writes it: it is merged into CKPT, and judged unmerged."
    command = click.option("--adapter", metavar="DIR", type=click.Path(path_type=Path), help=help_text)(command)
    command = click.option(
        "--config",
        "configs",
        multiple=True,
        type=click.Path(path_type=Path),
        help="A configuration file: Hugging Face's config.json, EVA-CLIP's, sentence-transformers'. Repeatable.",
    )(command)
    command = click.option(
        "--ignore",
        multiple=True,
        metavar="DOC:FIELD",
        help="Pass over a field of a document that nobody here knows, as in config.json:auto_map. Repeatable.",
    )(command)
    command = click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="FIELD=VALUE",
        help="State a field of the configuration that no file states, as in num_attention_heads=12. Repeatable.",
    )(command)
    help_text = "Whether embeddings are made as long as 1, where no file says."
    command = click.option("--normalize/--no-normalize", default=None, help=help_text)(command)
    help_text = (
        "How one vector is made of the tokens', where no file says: cls, max, mean, mean_sqrt_len_tokens, "
        "weightedmean, lasttoken, or several joined by +."
    )
    command = click.option("--pooling", metavar="MODE", help=help_text)(command)
    help_text = (
        "How a pair of texts that is too long is cut: longest-first, as transformers does (the default), or "
        "flag-reranker, the first text to three quarters of the limit."
    )
    command = click.option("--pairs", type=click.Choice(["longest-first", "flag-reranker"]), help=help_text)(command)
    help_text = "Which of several networks in the checkpoint: what the names of its tensors begin with."
    command = click.option("--tower", default="", metavar="NAME", help=help_text)(command)
    help_text = "No raw texts are wanted: leave out a tokenizer that lies beside the checkpoint."
    command = click.option("--no-tokenizer", is_flag=True, help=help_text)(command)
    return click.option(
        "--tokenizer",
        type=TokenizerFolder(path_type=Path, file_okay=False, exists=True),
        metavar="DIR",
        help="The folder of the tokenizer, or hf:ORG/MODEL[@REVISION] to fetch it from the hub.",
    )(command)


def format_option(command: Command) -> Command:
    """Add --format."""
    help_text = (
        "Only this format: onnx, orbax, saved-model, stablehlo (all four by default), openvino, arrow. Repeatable."
    )
    return click.option("--format", "formats", multiple=True, help=help_text)(command)


def layout_option(command: Command) -> Command:
    """Add --layout."""
    return click.option(
        "--layout",
        "layouts",
        multiple=True,
        type=click.Choice(["sentence-transformers", "transformers-js", "onnxruntime-genai", "sherpa-onnx"]),
        help="Also write the folder that these clients open: sentence-transformers, which optimum and fastembed "
        "open too, transformers-js (CLIP, SigLIP, Qwen; Whisper, for optimum too), onnxruntime-genai (Whisper, Qwen) "
        "or sherpa-onnx (Whisper). Repeatable.",
    )(command)


def export_options(command: Command) -> Command:
    """Add what shapes the exported programs."""
    command = click.option(
        "--static",
        "static",
        multiple=True,
        metavar="AXIS=N,...",
        callback=lambda context, parameter, values: tuple(parse_static(value) for value in values),
        help="Add StableHLO variants of fixed shape, e.g. batch=1,tokens=32. Repeatable.",
    )(command)
    help_text = "What the SavedModel computes with: one program that XLA compiles, or ordinary TensorFlow operators."
    ops = click.Choice(["xla", "tensorflow"])
    command = click.option("--ops", default="xla", show_default=True, type=ops, help=help_text)(command)
    help_text = "Take another route to ONNX: TensorFlow operators, through tf2onnx; held against our own on the way."
    command = click.option("--via", type=click.Choice(["tf2onnx"]), help=help_text)(command)
    command = precision_option(command)
    return click.option("--opset", type=int, help="ONNX opset; default 23, or 18 via tf2onnx.")(command)


def dtype_option(command: Command) -> Command:
    """Add --dtype."""
    return click.option(
        "--dtype",
        default="float32",
        show_default=True,
        type=click.Choice(["float32", "source"]),
        help="What weights are stored as; source: each as CKPT has it. Computed in float32 either way.",
    )(command)


def precision_option(command: Command) -> Command:
    """Add --precision."""
    return click.option(
        "--precision",
        "precisions",
        metavar="NAME,...",
        callback=lambda context, parameter, value: parse_precisions(value),
        help="Of the ONNX programs: float32 (the default), float16, bfloat16, int8, int8-reduced, int4.",
    )(command)


def parse_precisions(text: str | None) -> tuple[str, ...]:
    """Read "float32,int8"."""
    if not text:
        return ()
    from ..exporters.precisions import PRECISIONS

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown:
        raise click.BadParameter(f"there is no precision {unknown[0]!r} ({', '.join(PRECISIONS)})")
    return names


def force_option(command: Command) -> Command:
    """Add --force."""
    return click.option("--force", is_flag=True, help="Replace what is there.")(command)


def json_option(command: Command) -> Command:
    """Add --json."""

    def noted(context: click.Context, parameter: click.Parameter, value: bool) -> bool:
        context.meta[JSON] = value
        return value

    help_text = "Print the result as JSON, also a failure."
    return click.option("--json", "as_json", is_flag=True, callback=noted, is_eager=True, help=help_text)(command)


def jobs_option(command: Command) -> Command:
    """Add --jobs."""
    default = min(2, os.cpu_count() or 1)
    help_text = "Processes at work at the same time."
    return click.option("--jobs", default=default, show_default=True, type=click.IntRange(1), help=help_text)(command)


def opened_options(command: Command) -> Command:
    """Add what opens artifacts and runs rows through them."""
    help_text = "Most rows at once; longer texts come in fewer."
    command = click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help=help_text)(command)
    help_text = "Refuse texts that are longer than the limit, instead of cutting them."
    command = click.option("--strict", is_flag=True, help=help_text)(command)
    return opened_format(command)


def opened_format(command: Command) -> Command:
    """Add which format is opened."""
    help_text = "onnx, onnx-int8, ..., stablehlo, saved-model or orbax; default the first that runs here."
    return click.option("--format", "format_name", metavar="FORMAT", help=help_text)(command)


def rows_options(command: Command) -> Command:
    """Add texts and pictures: what `rows_given` takes."""
    help_text = (
        "Files of pictures: a pattern in quotes, as in 'photos/*.jpg', or a file with one per line; - for standard "
        "input."
    )
    command = click.option("--images", "pattern", metavar="FILE|GLOB", help=help_text)(command)
    help_text = "A picture's file. Repeatable; with texts, pairs in this order."
    command = click.option("--image", "images", metavar="FILE", multiple=True, help=help_text)(command)
    help_text = "A file with a text per line; - for standard input."
    command = click.option("--texts", "lines", metavar="FILE", help=help_text)(command)
    return click.option("--text", "texts", multiple=True, help="A text. Repeatable.")(command)


def rows_given(
    texts: tuple[str, ...], lines: str | None, images: tuple[str, ...], pattern: str | None
) -> list[dict[str, Any]]:
    """Read the rows that the options name."""
    from .use import embedding

    if not texts and not images and lines is None and pattern is None:
        raise click.UsageError("nothing to embed: give --text, --texts, --image or --images")
    every = [*texts, *(embedding.read_lines(lines) if lines is not None else ())]
    seen = [*images, *(embedding.read_files(pattern, "--images") if pattern is not None else ())]
    both = (texts or lines is not None) and (images or pattern is not None)
    if both and len(every) != len(seen):
        raise click.UsageError(f"texts and pictures are pairs: got {len(every)} texts and {len(seen)} pictures")
    return embedding.rows(every, seen)


def dims_option(command: Command) -> Command:
    """Add --dims."""
    help_text = "Keep so many numbers of each embedding, as Matryoshka training means it."
    return click.option("--dims", type=click.IntRange(1), help=help_text)(command)


def store_option(help_text: str) -> Callable[[Command], Command]:
    """Add --store and --model."""

    def add(command: Command) -> Command:
        told = "The network's name in the store; by default its family and a digest of its checkpoint."
        command = click.option("--model", metavar="NAME", help=told)(command)
        return click.option("--store", metavar="DIR", type=click.Path(path_type=Path), help=help_text)(command)

    return add


def parse_sizes(text: str) -> tuple[int, ...]:
    """Read "1,8,32"."""
    try:
        sizes = tuple(dict.fromkeys(int(size) for size in text.split(",")))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not like 1,8,32") from error
    if min(sizes) < 1:
        raise click.BadParameter(f"{text!r} holds {min(sizes)}, expected numbers of at least 1")
    return sizes


def quiet() -> None:
    """Keep TensorFlow from logging what it is compiled for."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def parse_static(text: str) -> dict[str, int]:
    """Read "batch=1,tokens=32"."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): int(size) for name, size in pairs}
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not like batch=1,tokens=32") from error


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="bgevis-convert", prog_name="bgevis-convert")
@click.option("--debug", is_flag=True, help="Show tracebacks, and what frameworks print.")
def main(debug: bool) -> None:
    """Convert PyTorch checkpoints to Orbax, SavedModel, ONNX and StableHLO, and prove that each is the same network.

    Exit codes: 0 done, 1 a gate said no, 2 usage, 3 the input cannot be used, 4 the environment failed,
    5 a fault of this tool.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends as Ctrl-C does: in order
    if debug:
        os.environ[DEBUG] = "1"


@main.command("all")
@checkpoint_argument
@out_option
@format_option
@layout_option
@source_options
@dtype_option
@export_options
@jobs_option
@force_option
@click.option("--verify-rebuild", is_flag=True, help="Convert a second time and compare every file's bytes.")
@json_option
def all_command(checkpoint: Path, out: Path, jobs: int, verify_rebuild: bool, as_json: bool, **given: Any) -> None:
    """Do everything: convert CKPT and prove each artifact. Resumes after an interruption."""
    from .report.terminal import display, progress, report
    from .run import tasks as pipeline

    with display(as_json) as shown:
        run = pipeline.convert_all(out, options(checkpoint=checkpoint, **given), shown, jobs)
    if verify_rebuild:
        from .use import rebuild

        with run.locked(), progress("rebuild", as_json) as listener:
            rebuild.verify(run, options(checkpoint=checkpoint, **given), listener, jobs)
    report(run, as_json)


@main.command(help=BY_NAME["load"].summary)
@checkpoint_argument
@out_option
@source_options
@dtype_option
@force_option
@json_option
def load(checkpoint: Path, out: Path, as_json: bool, **given: Any) -> None:
    """Make the run directory."""
    from .directory import hold
    from .report.terminal import progress, report

    with hold(out), progress("load", as_json) as shown:
        run = BY_NAME["load"].module.perform(out, options(checkpoint=checkpoint, **given), shown)
    report(run, as_json)


def _stage_command(stage: Stage) -> None:
    """Declare a stage that only needs DIR."""

    @main.command(stage.name, help=stage.summary)
    @directory_argument
    @json_option
    def command(directory: Path, as_json: bool) -> None:
        from .directory import RunDirectory
        from .report.terminal import progress, report

        run = RunDirectory(directory)
        with run.locked(), progress(stage.name, as_json) as shown:
            stage.module.perform(run, options(), shown)
        report(run, as_json)


for _stage in STAGES:
    if _stage.name != "load" and not _stage.proves and not _stage.each:
        _stage_command(_stage)


@main.command(help=BY_NAME["parity"].summary)
@directory_argument
@json_option
def parity(directory: Path, as_json: bool) -> None:
    """Hold the NNX model against the PyTorch original, every entry point."""
    from .directory import RunDirectory
    from .report.terminal import display, report
    from .run import tasks as pipeline

    run = RunDirectory(directory)
    with run.locked(), display(as_json) as shown:
        pipeline.prove_parity(run, options(), shown)
    report(run, as_json)


@main.command(help=BY_NAME["export"].summary)
@click.argument("format_name", metavar="FORMAT")
@directory_argument
@export_options
@json_option
def export(format_name: str, directory: Path, as_json: bool, **given: Any) -> None:
    """Write one FORMAT: orbax, saved-model, onnx or stablehlo."""
    from .directory import RunDirectory
    from .options import check, chosen
    from .report.terminal import progress, report

    given_options = options(formats=(format_name,), **given)
    check(given_options)
    run = RunDirectory(directory)
    with run.locked():
        for exporter in chosen(given_options):
            with progress(f"export {exporter.name}", as_json) as shown:
                BY_NAME["export"].module.perform(run, given_options, shown, exporter)
    report(run, as_json)


@main.command(help=BY_NAME["validate"].summary)
@directory_argument
@format_option
@jobs_option
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write the JUnit report here.")
@json_option
def validate(directory: Path, formats: tuple[str, ...], jobs: int, junit: Path | None, as_json: bool) -> None:
    """Execute every artifact in its own runtime and trace its weights. Needs neither CKPT nor PyTorch."""
    from .directory import RunDirectory
    from .report.terminal import display, report
    from .run import tasks as pipeline
    from .stages.validate import refuse_junit, write_junit

    if junit:
        refuse_junit(directory, junit)
    try:
        run = RunDirectory(directory)
        with run.locked(), display(as_json) as shown:
            pipeline.validate_all(run, options(formats=formats), shown, jobs)
    except ConvertError as error:
        if junit:
            write_junit(directory, junit, error)
        raise
    if junit:
        write_junit(directory, junit)
    report(run, as_json)


@main.command()
@directory_argument
@rows_options
@click.option("--jsonl", metavar="FILE", help="Rows as JSON lines with text, image or both; other fields are kept.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write here, by its ending .npy, .parquet or .jsonl. Default: JSON lines on standard output.",
)
@click.option("--prompt-name", metavar="NAME", help="The prompt that stands before each text, of those of the folder.")
@click.option("--prompt", metavar="TEXT", help="That prompt itself; an empty one for none.")
@dims_option
@opened_options
@store_option("Append to this store of embeddings, all rows or none; it is made where there is none.")
@force_option
def embed(
    directory: Path,
    format_name: str | None,
    jsonl: str | None,
    out: Path | None,
    store: Path | None,
    model: str | None,
    prompt_name: str | None,
    prompt: str | None,
    dims: int | None,
    strict: bool,
    batch: int,
    force: bool,
    **given: Any,
) -> None:
    """Embed texts, pictures or pairs of both by the artifacts of DIR."""
    from .output import refuse_place
    from .use import embedding
    from .use.artifacts import open_artifacts

    if jsonl is not None and any(given.values()):
        raise click.UsageError("--jsonl is all rows: leave out --text, --texts, --image and --images")
    if prompt is not None and prompt_name is not None:
        raise click.UsageError("--prompt and --prompt-name both say what stands before a text: give one of them")
    if out and store:
        raise click.UsageError("--out and --store both say where embeddings go: give one of them")
    if model is not None and not store:
        raise click.UsageError("--model is a name in a store: give --store")
    if out:
        refuse_place(out, force=force)
        embedding.writer(out)
    rows = rows_given(**given) if jsonl is None else embedding.read_rows(jsonl)
    quiet()
    shown = sys.stderr.isatty() and (out is not None or not sys.stdout.isatty())
    with open_artifacts(directory, format_name) as artifacts:
        how: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name, "dims": dims, "batch_size": batch}
        if store:
            from .use.store.shell import stored

            stored(artifacts, rows, store, model=model, strict=strict, progress=shown, **how)
            return
        found = embedding.embedded(artifacts, rows, strict=strict, progress=shown, **how)
        embedding.write(found, dims or artifacts.width, out)


@main.command()
@directory_argument
@click.option("--pair", "pairs", multiple=True, nargs=2, metavar="QUERY TEXT", help="Two texts. Repeatable.")
@click.option("--query", help="Score each of the texts against this one, and give the best first.")
@click.option("--text", "texts", multiple=True, help="A text: with --query its passage, else by itself. Repeatable.")
@click.option("--texts", "lines", metavar="FILE", help="A file with a text per line; - for standard input.")
@click.option(
    "--activation", help="What makes scores of logits: identity, sigmoid, tanh, softmax; default the folder's."
)
@opened_options
def score(
    directory: Path,
    format_name: str | None,
    pairs: tuple[tuple[str, str], ...],
    query: str | None,
    texts: tuple[str, ...],
    lines: str | None,
    activation: str | None,
    batch: int,
    strict: bool,
) -> None:
    """Score pairs of texts, or texts, by the reranker or classifier of DIR: JSON lines on standard output."""
    from .use import scoring
    from .use.artifacts import open_artifacts
    from .use.embedding import read_lines

    if not pairs and not texts and lines is None:
        raise click.UsageError("nothing to score: give --pair, --text or --texts")
    every = [*texts, *(read_lines(lines) if lines else ())]
    quiet()
    rows = [*pairs, *(every if query is None else [(query, text) for text in every])]
    with open_artifacts(directory, format_name) as artifacts:
        for line in scoring.scored(artifacts, rows, activation, batch, ranked=query is not None, strict=strict):
            click.echo(line)


@main.command()
@directory_argument
@click.option(
    "--format", "format_name", help="onnx, orbax, saved-model or stablehlo; default the first that runs here."
)
@click.option("--image", "images", multiple=True, required=True, help="A picture's file. Repeatable.")
@click.option("--label", "labels", multiple=True, help="What a picture may show. Repeatable.")
@click.option("--labels", "lines", metavar="FILE", help="A file with a label per line; - for standard input.")
@click.option("--template", default="{}", metavar="TEXT", help="What stands around a label, as in 'a photo of a {}'.")
@click.option("--logits", is_flag=True, help="Give similarities as the network scales them, no probabilities.")
@click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="Most rows at once.")
def classify(
    directory: Path,
    format_name: str | None,
    images: tuple[str, ...],
    labels: tuple[str, ...],
    lines: str | None,
    template: str,
    batch: int,
    logits: bool,
) -> None:
    """Say which label fits each picture, by the network of DIR that embeds both: JSON lines on standard output."""
    from .use import matching
    from .use.artifacts import open_artifacts
    from .use.embedding import read_lines

    every = [*labels, *(read_lines(lines) if lines else ())]
    if not every:
        raise click.UsageError("no labels: give --label or --labels")
    quiet()
    with open_artifacts(directory, format_name) as artifacts:
        for line in matching.classified(artifacts, images, every, template, batch, logits=logits):
            click.echo(line)


@main.command()
@directory_argument
@click.argument("sounds", nargs=-1, required=True, metavar="SOUND...")
@click.option("--language", metavar="SIGN", help="What is spoken, e.g. de; default the folder's, else it is told.")
@click.option("--task", default="transcribe", show_default=True, help="transcribe, or translate to English.")
@click.option("--words", is_flag=True, help="Say when each word was said, too.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each sound.")
@click.option(
    "--against",
    metavar="FORMAT",
    help="Count the words that this format's programs say otherwise, and end with 1 where they are too many.",
)
@click.option(
    "--word-errors",
    metavar="SHARE",
    type=click.FloatRange(0),
    help="The most, in words of the other text; default that of the precision: 0.06 for int8, 0 for float32.",
)
@opened_format
def transcribe(
    directory: Path,
    format_name: str | None,
    sounds: tuple[str, ...],
    language: str | None,
    task: str,
    words: bool,
    as_json: bool,
    against: str | None,
    word_errors: float | None,
) -> None:
    """Say what was said in sounds, by the programs of DIR: a text each, WAV, FLAC, OGG or MP3."""
    from .use.artifacts import open_artifacts
    from .use.hearing import Transcript, written
    from .use.word_errors import WordErrors, allowed_of

    if word_errors is not None and against is None:
        raise click.UsageError("--word-errors says how many words may differ from --against FORMAT, which is not given")
    quiet()
    with contextlib.ExitStack() as opened:
        artifacts = opened.enter_context(open_artifacts(directory, format_name))
        other = opened.enter_context(open_artifacts(directory, against)) if against else None
        counted = None
        if other:
            allowed = allowed_of(artifacts.format) if word_errors is None else word_errors
            counted = WordErrors(artifacts.format, other.format, allowed)
        for sound in sounds:
            found = artifacts.transcribe(sound, language=language, task=task, words=words, progress=sys.stderr.isatty())
            assert isinstance(found, Transcript)  # of one sound
            click.echo(written(sound, found, words=words, as_json=as_json, named=len(sounds) > 1))
            if other and counted:
                wanted = other.transcribe(sound, language=language, task=task)
                assert isinstance(wanted, Transcript)
                counted = counted.plus(found, wanted)
    if counted:
        click.echo(json.dumps(counted.to_json()) if as_json else str(counted))
        if not counted.passed:
            raise GateError(f"{counted.format} says too many words otherwise than {counted.against}")


@main.command()
@directory_argument
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True, help="Most tokens of each.")
@click.option("--image", "images", multiple=True, metavar="FILE", help="The picture that a prompt is about, in turn.")
@click.option("--vision", metavar="DIR", type=click.Path(path_type=Path), help="The run whose image encoder sees them.")
@click.option("--upstream-cut", is_flag=True, help="Lose a prompt's number of tokens, as Edge Glass's own loop does.")
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for each prompt.")
@opened_format
def generate(
    directory: Path,
    format_name: str | None,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    images: tuple[str, ...],
    vision: Path | None,
    upstream_cut: bool,
    as_json: bool,
) -> None:
    """Let texts go on, greedily, by the programs of DIR; one alone appears as it is made.

    A network that is asked about pictures takes one --image for each prompt, and with --vision the run of the network
    that sees them.
    """
    from .use.artifacts import open_artifacts
    from .use.generating import Completion, written

    quiet()
    with contextlib.ExitStack() as opened:
        artifacts = opened.enter_context(open_artifacts(directory, format_name))
        if images or vision or upstream_cut:
            eyes = opened.enter_context(open_artifacts(vision, format_name)) if vision else None
            answers = artifacts.generate(
                list(prompts),
                max_new_tokens=max_new_tokens,
                images=images or None,
                vision=eyes,
                upstream_cut=upstream_cut,
            )
            assert isinstance(answers, list)  # of several prompts
            for prompt, answer in zip(prompts, answers, strict=True):
                click.echo(written(prompt, answer, as_json=as_json))
            return
        if len(prompts) == 1 and not as_json:
            for piece in artifacts.generate_iter(prompts[0], max_new_tokens=max_new_tokens):
                click.echo(printable(piece), nl=False)
            click.echo()
            return
        for prompt in prompts:
            found = artifacts.generate(prompt, max_new_tokens=max_new_tokens)
            assert isinstance(found, Completion)  # of one prompt
            click.echo(written(prompt, found, as_json=as_json))


@main.command()
@directory_argument
@click.option("--texts", "lines", metavar="FILE", help="A text a line, - for standard input; default a few of ours.")
@click.option("--against", metavar="FORMAT", help="Hold it to another format's, which must be nearly as low.")
@click.option("--limit", type=click.FloatRange(1), help="How many times the other's it may be; default 1.05.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@opened_format
def perplexity(
    directory: Path, format_name: str | None, lines: str | None, against: str | None, limit: float | None, as_json: bool
) -> None:
    """Say how surprised the language model of DIR is by texts, and hold a format to another."""
    from .use.artifacts import open_artifacts
    from .use.embedding import read_lines
    from .use.perplexity import LIMIT

    if limit is not None and against is None:
        raise click.UsageError("--limit says how far it may be above --against FORMAT, which is not given")
    quiet()
    texts = None if lines is None else [line for line in read_lines(lines) if line.strip()]
    found: dict[str, float] = {}
    for name in [format_name, *([against] if against else [])]:
        with open_artifacts(directory, name) as artifacts:
            found[artifacts.format] = artifacts.perplexity(texts)
    if against and len(found) == 1:
        raise click.UsageError(f"--against {against} is the format that is held to it; --format says another")
    click.echo(json.dumps(found) if as_json else "\n".join(f"{name}: {value:.6g}" for name, value in found.items()))
    own, *others = found.values()
    if others and not own <= (limit or LIMIT) * others[0]:
        name = next(iter(found))
        raise GateError(
            f"{name} has {own / others[0]:.3g} times the perplexity of {against}; {limit or LIMIT:g} is allowed"
        )


@main.command()
@directory_argument
@rows_options
@click.option("--sound", "sounds", metavar="FILE", multiple=True, help="A sound's file. Repeatable.")
@click.option("--sounds", "sound_pattern", metavar="FILE|GLOB", help="Files of sounds, as --images.")
@click.option("--against", metavar="FORMAT", help="Hold it to another format of DIR; default the PyTorch original.")
@click.option("-k", "nearest", default=10, show_default=True, type=click.IntRange(1), help="Neighbours looked at.")
@click.option(
    "--floor",
    metavar="COSINE",
    type=click.FloatRange(-1, 1),
    help="The lowest cosine of a row; default that of the format's precision.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON.")
@opened_format
def precision(
    directory: Path,
    format_name: str | None,
    texts: tuple[str, ...],
    lines: str | None,
    images: tuple[str, ...],
    pattern: str | None,
    sounds: tuple[str, ...],
    sound_pattern: str | None,
    against: str | None,
    nearest: int,
    floor: float | None,
    as_json: bool,
) -> None:
    """Hold DIR's embeddings of your own texts, pictures and sounds to the PyTorch original's."""
    from .directory import RunDirectory
    from .use import precision as measuring
    from .use.artifacts import open_artifacts
    from .use.embedding import read_files, read_lines

    given = {
        "text": [*texts, *(read_lines(lines) if lines is not None else ())],
        "image": [*images, *(read_files(pattern, "--images") if pattern is not None else ())],
        "audio": [*sounds, *(read_files(sound_pattern, "--sounds") if sound_pattern is not None else ())],
    }
    corpus = {kind: rows for kind, rows in given.items() if rows}
    if not corpus:
        raise click.UsageError("nothing to compare: give --texts, --images, --sounds or rows of them")
    quiet()
    with contextlib.ExitStack() as opened:
        artifacts = opened.enter_context(open_artifacts(directory, format_name))
        judge: measuring.Judge
        if against is None:
            judge = measuring.Original(RunDirectory(directory), artifacts)
        else:
            other = opened.enter_context(open_artifacts(directory, against))
            if other.format == artifacts.format:
                raise click.UsageError(f"--against {against} is the format that is held to it; --format says another")
            judge = measuring.Format(other)
        found = measuring.measured(artifacts, judge, corpus, nearest, floor)
    click.echo(json.dumps(found.to_json()) if as_json else found.tell())
    for line in found.warnings:
        click.echo(f"warning: {line}", err=True)
    if found.problems:
        raise GateError("; ".join(found.problems))


@main.command()
@directory_argument
@click.option("--format", "formats", multiple=True, help="Only this format; default all that are there. Repeatable.")
@click.option("--threads", "cores", type=click.IntRange(1), help="Cores that each process may use; default all.")
@click.option(
    "--batches",
    metavar="N,...",
    default="1,8,32,128",
    show_default=True,
    callback=lambda context, parameter, value: parse_sizes(value),
    help="Rows given at once.",
)
@click.option(
    "--seconds", default=2.0, show_default=True, type=click.FloatRange(0), help="How long each figure is measured."
)
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Also draw it: .svg, .png or .pdf.")
@force_option
@json_option
def bench(
    directory: Path,
    formats: tuple[str, ...],
    cores: int | None,
    batches: tuple[int, ...],
    seconds: float,
    picture: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Time each format of DIR here, each in a process of its own: opening, requests, rows a second, memory."""
    from .directory import RunDirectory
    from .use import bench as measuring
    from .use import plot as drawing

    if picture:
        drawing.refuse(picture, "--plot", force=force)
    quiet()
    found, failed = [], []

    def note(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"measuring {text}", err=True)

    for each in measuring.bench(RunDirectory(directory), formats, cores, batches, seconds, note):
        if isinstance(each, str):
            failed.append(each)
            click.echo(f"not measured: {printable(each)}", err=True)
            continue
        found.append(each)
        if not as_json:
            click.echo(measuring.tell(each))
    if not found:
        raise EnvironmentFailure(f"{directory}: none of its formats could be measured ({'; '.join(failed)})")
    if as_json:
        click.echo(json.dumps({"measured": [each.to_json() for each in found], "not_measured": failed}, indent=1))
    if picture:
        drawing.save(picture, [measuring.drawn(found)])


@main.command()
@directory_argument
@click.option("--query", help="The text that is asked for.")
@click.option("--query-image", metavar="FILE", help="The picture that is asked for; with --query, both together.")
@rows_options
@click.option("-k", "count", type=click.IntRange(1), help="How many are given; default all, of a store ten.")
@click.option("--query-prompt-name", metavar="NAME", help="The prompt that stands before the query.")
@click.option("--prompt-name", metavar="NAME", help="The prompt that stands before each other text.")
@dims_option
@opened_options
@store_option("Search this store of embeddings, instead of texts and pictures.")
@click.option("--modality", metavar="KIND", help="Of the store's rows: text, image or text+image.")
@click.option("--probes", type=click.IntRange(1), help="Look at so many lists of the store's index; default all rows.")
def search(
    directory: Path,
    format_name: str | None,
    query: str | None,
    query_image: str | None,
    texts: tuple[str, ...],
    lines: str | None,
    images: tuple[str, ...],
    pattern: str | None,
    batch: int,
    store: Path | None,
    model: str | None,
    modality: str | None,
    probes: int | None,
    **how: Any,
) -> None:
    """Find the texts and pictures that are nearest to a query by DIR's embeddings: JSON lines, the nearest first."""
    from .use import embedding, scoring
    from .use.artifacts import open_artifacts

    asked = {"text": query, "image": query_image}
    given = {kind: value for kind, value in asked.items() if value is not None}
    if not given:
        raise click.UsageError("nothing is asked for: give --query or --query-image")
    every = [*texts, *(embedding.read_lines(lines) if lines is not None else ())]
    seen = [*images, *(embedding.read_files(pattern, "--images") if pattern is not None else ())]
    among = [*embedding.rows(every, []), *embedding.rows([], seen)]
    if not among and not store:
        raise click.UsageError("nothing to search: give --text, --texts, --image or --images, or --store")
    if store and (among or how["prompt_name"] is not None):
        raise click.UsageError("--store is all that is searched: leave out texts, pictures and --prompt-name")
    if not store and (model, modality, probes) != (None, None, None):
        raise click.UsageError("--model, --modality and --probes are of a store: give --store")
    quiet()
    with open_artifacts(directory, format_name) as artifacts:
        if store:
            from .use.store.shell import searched

            before = {"prompt_name": how["query_prompt_name"], "dims": how["dims"], "strict": how["strict"]}
            chosen: dict[str, Any] = {"model": model, "modality": modality, "probes": probes}
            for line in searched(artifacts, given, store, count=how["count"], **chosen, **before):
                click.echo(line)
            return
        for line in scoring.searched(artifacts, given, among, batch_size=batch, **how):
            click.echo(line)


@main.command()
@click.argument("directory", metavar="STORE", type=click.Path(path_type=Path))
@click.option("--compact", is_flag=True, help="Merge small files into large ones first, and clear away what was left.")
@click.option("--index", "indexed", metavar="TABLE", help="Make the index of a table, and tell its recall.")
@click.option("--model", metavar="NAME", help="Of the index: whose embeddings; may be left out where there is one.")
@click.option("--verify", is_flag=True, help="Read all files, and hold them to their checksums.")
def store(directory: Path, compact: bool, indexed: str | None, model: str | None, verify: bool) -> None:
    """Tell what a store of embeddings holds, as JSON."""
    from .use.store.embedding_store import EmbeddingStore

    if model is not None and indexed is None:
        raise click.UsageError("--model is of the index: give --index")
    held = EmbeddingStore(directory)
    told: dict[str, Any] = {}
    if verify:
        told["verified"] = held.verify()
    if compact:
        told["merged"] = held.compact()
    if indexed is not None:
        told["recall"] = {str(probes): recall for probes, recall in held.index(indexed, model=model).items()}
    click.echo(json.dumps({**held.statistics(), **told}, ensure_ascii=False, indent=1))


@main.command()
@directory_argument
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="The server's models."
)
@click.option("--name", required=True, help="The model's name: its folder, and what clients ask for.")
@click.option("--version", type=click.IntRange(min=1), help="The folder below; default the next one that is free.")
@click.option(
    "--warm",
    "warm",
    multiple=True,
    metavar="AXIS=N,...",
    callback=lambda context, parameter, values: tuple(parse_static(value) for value in values),
    help="Sizes to compile before the server is ready, e.g. batch=8,tokens=64. Repeatable.",
)
def serving(directory: Path, out: Path, name: str, version: int | None, warm: tuple[dict[str, int], ...]) -> None:
    """Copy the SavedModel of DIR to OUT/NAME/VERSION with warm-up requests, for TensorFlow Serving."""
    from .directory import RunDirectory
    from .report.terminal import progress
    from .use.serving import serve

    if not name.strip(".") or {"/", "\\"} & set(name):
        raise click.BadParameter(f"{name!r} cannot be a folder's name", param_hint="--name")
    with progress("serving", False) as shown:
        made = serve(RunDirectory(directory), out, name, version, warm, shown)
    click.echo(f"{made}: version {made.name} of {name}")


@main.command()
@directory_argument
@click.option("--from", "format_name", required=True, metavar="FORMAT", help="orbax, saved-model, onnx or stablehlo.")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The checkpoint to write: .safetensors by its ending, else PyTorch's container.",
)
@force_option
@json_option
def restore(directory: Path, format_name: str, out: Path, force: bool, as_json: bool) -> None:
    """Rebuild the source state dict from one FORMAT of DIR, every tensor proved by its digest in the ledger."""
    from .directory import RunDirectory
    from .options import chosen
    from .report.terminal import progress
    from .use.restore import restore as rebuild

    exporter = chosen(options(formats=(format_name,)))[0]
    quiet()
    with progress(f"restore from {format_name}", as_json) as shown:
        restored = rebuild(RunDirectory(directory), exporter, out, shown, force=force)
    click.echo(json.dumps(restored.to_json(), indent=1) if as_json else restored.tell())


@main.command()
@directory_argument
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="RUNTIME==VERSION",
    help="A release that must open its artifacts: onnxruntime==1.17, tensorflow==2.16, ... Repeatable.",
)
@json_option
def doctor(directory: Path, targets: tuple[str, ...], as_json: bool) -> None:
    """Say which runtimes and releases open each artifact of DIR; exit 1 if a named one does not, and what to do."""
    from .directory import RunDirectory
    from .use import doctor as examination

    examined = examination.examine(RunDirectory(directory), targets)
    click.echo(json.dumps(examined, indent=1) if as_json else examination.tell(examined))
    examination.gate(examined, targets)


@main.command()
@directory_argument
@click.argument("url")
@force_option
@json_option
def publish(directory: Path, url: str, force: bool, as_json: bool) -> None:
    """Copy the proven DIR to URL (s3://..., gs://..., any file system of fsspec's) and read every byte back."""
    from .directory import RunDirectory
    from .report.terminal import progress
    from .use.publish import publish as copy

    run = RunDirectory(directory)
    with progress("publish", as_json) as shown:
        shown.begin(sum(entry["bytes"] for entry in run.manifest()["files"].values()))
        sent = copy(run, url, shown.advance, force=force)
    files = len(run.manifest()["files"]) + 2
    if as_json:
        click.echo(json.dumps({"url": url, "files": files, "sent": sent + 2}, indent=1))
    else:
        click.echo(f"{url}: {files} files, {sent + 2} sent, all read back as they are in {directory}")


@main.command()
@checkpoint_argument
@source_options
@json_option
def inspect(checkpoint: Path, as_json: bool, **given: Any) -> None:
    """Show what CKPT holds and which family it belongs to, without converting anything."""
    from .report.inspection import describe, show

    described = describe(checkpoint, options(**given))
    click.echo(json.dumps(described, indent=1) if as_json else show(described))


@main.command()
@directory_argument
@click.argument("name")
@json_option
def why(directory: Path, name: str, as_json: bool) -> None:
    """Say what became of the tensor or parameter NAME, or where the field NAME of the configuration comes from."""
    from .report.inspection import explain, tell

    explained = explain(directory, name)
    click.echo(json.dumps(explained, indent=1) if as_json else tell(explained))


@main.command()
@directory_argument
@click.argument("what", type=click.Choice(["position-encodings", "rotation", "attention"]))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The picture: .svg, .png or .pdf.")
@click.option("--entry", "entry_name", default="", help="Of attention: the entry point. By default the first.")
@click.option("--inputs", type=click.Path(path_type=Path), help="Of attention: an .npz of its inputs by name.")
@force_option
def plot(directory: Path, what: str, out: Path, entry_name: str, inputs: Path | None, force: bool) -> None:
    """Draw what the network in DIR knows of places: its tables, its rotations; or where it attends to."""
    from .directory import RunDirectory
    from .use.plot import draw

    draw(RunDirectory(directory), what, out, entry_name, inputs, force=force)
    click.echo(str(out))


@main.command()
@json_option
def families(as_json: bool) -> None:
    """List the model families."""
    from ..model.family import families as known

    if as_json:
        click.echo(
            json.dumps({f.name: {"summary": f.summary, "sizes": list(f.sizes)} for f in known().values()}, indent=1)
        )
        return
    for family in known().values():
        click.echo(f"{family.name}\n    {family.summary}\n    fixture sizes: {', '.join(family.sizes)}")


@main.command()
@click.argument("family_name", metavar="FAMILY")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The checkpoint to write."
)
@click.option("--size", default="base", show_default=True, help="A published size, or tiny.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the random weights.")
@click.option(
    "--dtype",
    default="float32",
    show_default=True,
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Of the stored weights.",
)
@force_option
def fixture(family_name: str, out: Path, size: str, seed: int, dtype: str, force: bool) -> None:
    """Write a seeded checkpoint of FAMILY in the upstream layout, and the documents that lie beside such a one.

    The checkpoint is safetensors by its ending, else PyTorch's container.
    """
    from .use.fixture import write_fixture

    nbytes = write_fixture(family_name, size, seed, dtype, out, force=force)
    click.echo(f"{out}: {nbytes / 1e6:.1f} MB, {family_name} {size}, seed {seed}, {dtype}")


@main.command("help")
@click.argument("command", required=False)
@click.pass_context
def help_command(context: click.Context, command: str | None) -> None:
    """Show the commands, or how COMMAND is called."""
    assert context.parent
    if command is None:
        click.echo(context.parent.get_help())
        return
    found = main.get_command(context.parent, command)
    if found is None:
        raise click.UsageError(f"there is no command {command!r} (commands: {', '.join(main.commands)})")
    with click.Context(found, context.parent, command) as called:
        click.echo(found.get_help(called))


def options(**given: Any) -> Any:
    """Collect what was given on the command line."""
    from .options import Options

    named = ("checkpoint", "tokenizer", "via", "pooling", "pairs", "tower", "module", "inputs", "adapter")
    texts = {k: "" if v is None else str(v) for k, v in given.items() if k in named}
    configs = tuple(str(path) for path in given.pop("configs", ()))
    return Options(**(given | texts), configs=configs)


if __name__ == "__main__":
    sys.exit(main())
