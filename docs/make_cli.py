"""Write docs/cli.md from the commands' own help: `python docs/make_cli.py`. A test holds the page against it."""

from pathlib import Path

import click

from bgevis.converter.cli import main

PAGE = Path(__file__).with_name("cli.md")
INTRODUCTION = """# Command line

Made from the commands' own help by `python docs/make_cli.py`.

Exit codes: 0 done · 1 a gate said no (an unmapped tensor, parity, validation) · 2 usage · 3 the input cannot be
used (unreadable, unsafe, unsupported, corrupt) · 4 the environment failed (missing package, full disk, no
permission) · 5 a fault of this tool · 130 interrupted.
"""


def page() -> str:
    """Give the page as it should be."""
    sections = [INTRODUCTION]
    for name, command in main.commands.items():
        context = click.Context(
            command, info_name=f"bgevis-convert {name}", terminal_width=100, **main.context_settings
        )
        sections.append(f"## bgevis-convert {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page())
