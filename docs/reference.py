"""
Writes the pages that say what the program says of itself: ``make docs``.

``docs/configuration.md`` comes from the settings, ``docs/events.md`` from the calls that log (what an
event means is written by hand into the table and kept), ``docs/man/syncd.1`` from the commands, the
settings and the exit codes of docs/operate.md, and ``syncd/cli/help.txt`` is what click makes of
``syncd --help``. A test holds the files to what is made here.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path

import click

from syncd import __version__
from syncd.cli import fast_path
from syncd.cli.main import COMMANDS, main
from syncd.config.settings import KEYS, VARIABLES, shown
from syncd.config.values import values_of

TOP = Path(__file__).parents[1]
CONFIGURATION, EVENTS, MAN = "docs/configuration.md", "docs/events.md", "docs/man/syncd.1"
HELP = f"syncd/cli/{fast_path.HELP}"


def pages() -> dict[str, str]:
    """Each page's text by its path, as it should be."""
    return {CONFIGURATION: configuration(), EVENTS: events(), MAN: man(), HELP: help_page()}


def help_page() -> str:
    """What ``syncd --help`` shows."""
    width = fast_path.HELP_COLUMNS - 2  # as click leaves it a margin
    context = click.Context(main, info_name="syncd", terminal_width=width, **main.context_settings)
    return f"{main.get_help(context)}\n"


# -- settings --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, in words."""

    key: str
    variable: str
    values: str
    default: str
    meaning: str


def settings() -> list[Setting]:
    """All of them, in the order of the model."""
    variables = {key: name for name, key in VARIABLES.items()}
    return [
        Setting(key, variables[key], values_of(key), default_of(key), info.description or "")
        for key, info in KEYS.items()
    ]


def default_of(key: str) -> str:
    """Empty for none, and where the machine decides."""
    info = KEYS[key]
    decided = info.default_factory is None and not info.is_required()
    value = info.get_default() if decided else None
    return "" if value in (None, ()) else shown(value)


def configuration() -> str:
    lines = [
        "# Configuration",
        "",
        "Written by `make docs` from `syncd/config/settings.py`. The same as a file to start from is",
        "[`config.example.toml`](../config.example.toml); `syncd config check` says whether yours is right,",
        "and `syncd config show` where each value comes from.",
        "",
        "A flag wins over an environment variable, that over the file, that over the default. The file is",
        "the one that `--config` names, else `config.toml` in `$CONFIGURATION_DIRECTORY`, in",
        "`~/.config/syncd` or in `/etc/syncd`, the first that is there. An unknown key or `SYNCD_` variable",
        "is an error that names the nearest known one. In a variable a list is written `a,b` and a table as",
        "JSON.",
    ]
    for section, group in groupby(settings(), key=lambda each: each.key.rpartition(".")[0]):
        lines += ["", f"## [{section}]" if section else "## At the top", ""]
        lines += ["| Setting, variable | Values | Default | What it is for |", "|---|---|---|---|"]
        for each in group:
            default = f"`{each.default}`" if each.default else ""
            name = f"`{each.key.rpartition('.')[2]}`<br>`{each.variable}`"
            lines.append(f"| {name} | {each.values} | {default} | {each.meaning} |")
    return "\n".join(lines) + "\n"


# -- events ----------------------------------------------------------------------------------------

LEVELS = ("debug", "info", "warning", "error", "exception")
EVENT = re.compile(r"[a-z]+\.[a-z_]+")


@dataclass(slots=True)
class Logged:
    """One event: at which levels it is logged, and with which fields."""

    levels: set[str] = field(default_factory=set)
    fields: dict[str, None] = field(default_factory=dict)


@cache
def logged() -> dict[str, Logged]:
    """Every event that the sources log, by name."""
    found: dict[str, Logged] = {}
    for path in sorted((TOP / "syncd").rglob("*.py")):
        for function in _functions(ast.parse(path.read_text("utf-8"))):
            for call, level, event in _calls(function):
                entry = found.setdefault(event, Logged())
                entry.levels.add("error" if level == "exception" else level)
                entry.fields |= dict.fromkeys(_fields(call, function))
    return dict(sorted(found.items()))


def _functions(tree: ast.Module) -> Iterator[ast.AST]:
    """The outermost functions: what they hold is looked at with them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from ast.iter_child_nodes(node)
        else:
            yield node


def _calls(function: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    for node in ast.walk(function):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        first = node.args[0]
        if node.func.attr in LEVELS and isinstance(first, ast.Constant):
            event = str(first.value)
            if EVENT.fullmatch(event):
                yield node, node.func.attr, event


def _fields(call: ast.Call, function: ast.AST) -> Iterator[str]:
    """Names of the arguments; those of ``**fields`` from the dictionary that *function* makes."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg
        elif isinstance(keyword.value, ast.Name):
            yield from _members(keyword.value.id, function)


def _members(name: str, function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
        if named and isinstance(value := getattr(node, "value", None), ast.Dict):
            yield from (str(key.value) for key in value.keys if isinstance(key, ast.Constant))


def events() -> str:
    meanings = meanings_in((TOP / EVENTS).read_text("utf-8")) if (TOP / EVENTS).exists() else {}
    lines = [
        "# What syncd logs",
        "",
        "One line an event, to stderr: for people on a terminal and in the journal, else as JSON",
        "(`log.format`). Under systemd each line carries its priority, so `journalctl -u syncd -p warning`",
        "shows what went wrong. Every event is named `noun.verb`; while a job is at work its lines also",
        "carry `job_id`, `rel_path` and `attempt`. Tokens, presigned URLs and control characters never",
        "show. At most ten lines a second are written for long; what is left out is counted and told",
        "(`log.suppressed`), and `syncd history` has every change of a job in any case.",
        "",
        "Written by `make docs` from the calls that log; the last column is written by hand.",
        "",
        "| Event | Level | Fields | Means |",
        "|---|---|---|---|",
    ]
    for event, entry in logged().items():
        levels = ", ".join(level for level in LEVELS if level in entry.levels)
        fields = ", ".join(f"`{name}`" for name in entry.fields)
        lines.append(f"| `{event}` | {levels} | {fields} | {meanings.get(event, '')} |")
    return "\n".join(lines) + "\n"


def meanings_in(text: str) -> dict[str, str]:
    """What stands in the table's last column, by event."""
    rows = re.findall(r"^\| `([a-z_.]+)` \|.*\| ([^|]*) \|$", text, re.MULTILINE)
    return dict(rows)


# -- the manual page -------------------------------------------------------------------------------


def man() -> str:
    lines = [
        f'.TH SYNCD 1 "" "syncd {__version__}" "User Commands"',
        ".SH NAME",
        f"syncd \\- {roff(summary())}",
        ".SH SYNOPSIS",
        ".B syncd",
        "[\\fIOPTION\\fR...] [\\fB\\-\\-once\\fR | \\fICOMMAND\\fR [\\fIARGUMENT\\fR...]]",
        ".SH DESCRIPTION",
        *paragraphs(main.help or ""),
        ".SH OPTIONS",
        *options(main),
        ".SH COMMANDS",
    ]
    for name, entry in COMMANDS.items():
        lines += command(f"syncd {name}", entry.load())
    lines += [
        ".SH CONFIGURATION",
        "A flag wins over an environment variable, that over the TOML file, that over the default.",
        "A setting \\fIsection.name\\fR is the variable \\fBSYNCD_\\fISECTION\\fB__\\fINAME\\fR.",
    ]
    for each in settings():
        default = f" Default: {each.default}." if each.default else ""
        lines += [
            ".TP",
            f'.BR {roff(each.key)} " ({roff(each.values)})"',
            line(f"{each.meaning}{default}"),
        ]
    lines += [".SH EXIT STATUS"]
    for code, meaning in exit_codes():
        lines += [".TP", f".B {roff(code)}", line(meaning)]
    lines += [
        ".SH FILES",
        ".TP",
        ".I /etc/syncd/config.toml",
        line(
            "The configuration, where --config, $CONFIGURATION_DIRECTORY and ~/.config name no other."
        ),
        ".TP",
        ".I $STATE_DIRECTORY, ~/.local/state/syncd",
        line("The database and its lock, where state_dir names no other place."),
    ]
    return "\n".join(lines) + "\n"


def summary() -> str:
    """The first sentence of the help, as a line of a list of programs."""
    first = (main.help or "").strip().partition("\n")[0].strip().rstrip(".")
    return first[0].lower() + first[1:]


def command(path: str, found: click.Command) -> Iterator[str]:
    """A command with its arguments and options, then the commands below it."""
    context = click.Context(found)
    arguments = [
        f"\\fI{roff(parameter.make_metavar(context))}\\fR"
        for parameter in found.params
        if isinstance(parameter, click.Argument)
    ]
    yield f".SS {' '.join([roff(path), *arguments])}"
    yield from paragraphs(found.help or "")
    yield from options(found)
    if isinstance(found, click.Group):
        for name, each in found.commands.items():
            yield from command(f"{path} {name}", each)


def options(found: click.Command) -> Iterator[str]:
    context = click.Context(found)
    for parameter in found.params:
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            names, meaning = record
            yield ".TP"
            yield f"\\fB{roff(names)}\\fR"
            yield line(re.sub(r"\s+", " ", meaning) or "See the command.")


def paragraphs(text: str) -> Iterator[str]:
    """Help text: paragraphs are filled, but for those that click is told to leave alone."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", _dedented(text))):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *map(line, paragraph.split("\n")[1:]), ".fi")
        else:
            yield line(" ".join(paragraph.split()))


def _dedented(text: str) -> str:
    return "\n".join(each.strip() if each != "\b" else each for each in text.strip().split("\n"))


def line(text: str) -> str:
    """A line of text that is no request, whatever it begins with."""
    escaped = roff(text)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    return escaped.replace('"', "\\(dq").replace("~", "\\(ti").replace("^", "\\(ha")


def exit_codes() -> list[tuple[str, str]]:
    """Code and meaning, as docs/operate.md has them."""
    text = (TOP / "docs/operate.md").read_text("utf-8").partition("## Exit codes")[2]
    table = text.partition("\n## ")[0]
    return re.findall(r"^\| ([\d, ]+) \| (.+?) \| .*\|$", table, re.MULTILINE)


def write() -> None:
    """Write each page that is not as it should be."""
    for name, text in pages().items():
        (TOP / name).parent.mkdir(exist_ok=True)
        (TOP / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write()
