"""Every command that a page, a docstring or an error prints is one that the command line takes."""

import ast
import functools
import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import typer

from analysis.cli import app_of, command_names
from analysis.terminal import USAGE_ERROR
from vmp.commands import _parser

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/*.md")]
SOURCES = [path for package in ("vmp", "analysis", "experiments") for path in (ROOT / package).rglob("*.py")]
NAMES = "|".join(command_names())
COMMAND = re.compile(
    rf"(?:python -m ((?:vmp|analysis|experiments)[\w.]*)|(?<![\w./-])vmp(?= (?:{NAMES})\b))((?: +[^\s`]+)*)"
)


def texts(path: Path) -> list[str]:
    """What a file says: a page, or the strings of a module, with X for what a format string fills in."""
    if path.suffix == ".md":
        return [path.read_text().replace("\\\n", " ")]
    if path.suffix == ".ipynb":
        return [
            "".join(cell["source"]).replace("\\\n", " ") for cell in json.loads(path.read_text())["cells"]
        ]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value.replace("\\\n", " "))
    return found


@functools.cache
def printed() -> dict[str, tuple[str, list[str]]]:
    """Module, or "vmp", and the words after it, by the place where they are printed."""
    found = {}
    for path in (*PAGES, *SOURCES, *ROOT.glob("notebooks/*.ipynb")):
        for text in texts(path):
            for match in COMMAND.finditer(text):
                words = [word for word in shlex.split(match[2].replace("'", "").replace('"', "")) if word]
                end = next(
                    (i for i, word in enumerate(words) if re.search(r"[|;:(){}]|\.\.\.|,$", word)), None
                )
                words = [word.rstrip(".") for word in words[:end]]
                name = f"{path.relative_to(ROOT)}: {match[1] or 'vmp'} {' '.join(words)}"
                found[name] = (match[1] or "vmp", words)
    return found


def command_of(module: str, words: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    """The command that a command line names, and its arguments."""
    if module == "vmp" or module.startswith("analysis."):
        names = [words[0]] if module == "vmp" else [module.partition(".")[2]]
        app, words = app_of(names), words[module == "vmp" :]
    else:
        found = import_module(module)
        if not hasattr(found, "app"):
            found = import_module(f"{module}.__main__") if hasattr(found, "__path__") else found
        app = getattr(found, "app", None) or typer.Typer()
        if not hasattr(found, "app"):
            app.command()(found.main)
        names = words[:1]
    command = typer.main.get_command(app)
    if hasattr(command, "commands") and names and names[0] in command.commands:
        return command.commands[names[0]], words if module == "vmp" or module.startswith(
            "analysis."
        ) else words[1:]
    return command, words


def refusal(command: typer.core.TyperCommand, arguments: list[str]) -> str:
    """Why a command does not take arguments, or nothing."""
    try:
        command.make_context("command", arguments)
    except USAGE_ERROR as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize(("module", "words"), printed().values(), ids=printed().keys())
def test_a_printed_command_is_one_that_there_is(module, words):
    if module == "vmp" and not words:
        return  # `python -m vmp` alone, which has two commands.
    if words[:1] in (["inspect"], ["sizes"]):
        _parser().parse_args(words)
        return
    command, arguments = command_of(module, words)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    used = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    assert not set(used) - known
    if used and not arguments[-1].startswith("--"):
        # Files of an example are not there, and a sentence may leave out what is needed.
        assert re.search("^$|does not exist|Missing", refusal(command, list(arguments)))


def test_commands_are_found_in_pages_sources_and_notebooks():
    places = {name.partition(":")[0] for name in printed()}
    assert {
        "README.md",
        "CONTRIBUTING.md",
        "experiments/report/untested.py",
        "experiments/report/saved.py",
    } <= places
    assert any(place.startswith("notebooks/") for place in places)
