"""What the documents show a reader is there: imports of this package, commands and their options."""

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from bgevis.converter.cli import main

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])
DOCUMENTS = [path for path in DOCUMENTS if "node_modules" not in path.parts]


def blocks(path: Path, language: str) -> list[str]:
    """Give the code of a document that is said to be in a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_python_snippets_import_is_there(path):
    for block in blocks(path, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bgevis"):
                exec(compile(ast.Module([node], []), str(path), "exec"), {})


def commands(path: Path) -> list[list[str]]:
    """Give the lines of a document's shell code that call the tool, as words."""
    text = "\n".join(block for language in ("sh", "console", "bash") for block in blocks(path, language))
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if "bgevis-convert" in line]
    return [found[found.index("bgevis-convert") + 1 :] for found in words if "bgevis-convert" in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_commands_are_shown_with_is_there(path):
    for name, *arguments in commands(path):
        if name.startswith("-"):
            continue
        command = main.get_command(click.Context(main), name)
        assert command, f"{path.name}: bgevis-convert {name}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        shown = {word.partition("=")[0] for word in arguments if word.startswith("--")}
        assert shown <= known | {"--help"}, f"{path.name}: bgevis-convert {name} {sorted(shown - known)}"


def test_the_readme_shows_both():
    readme = ROOT / "README.md"
    assert blocks(readme, "python")
    assert len(commands(readme)) >= 3
