import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DEVICE_KEY = "dk-CANARY0123456789"
MODULES_AT_EXIT = (
    "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
)
CALL = "from syncd.cli.fast_path import entry; entry()"

# Commands that behave as a broken one could, put into the table of the child process only.
MISBEHAVE = """
import click, syncd.cli.main as cli, types, sys
from syncd.errors import RootUnavailable, StateError
home = types.ModuleType("misbehaving")
sys.modules["misbehaving"] = home
def command(function):
    setattr(home, function.__name__, click.command(function))
    entry = cli.Lazy("misbehaving:" + function.__name__, "")
    cli.COMMANDS = {**cli.COMMANDS, function.__name__: entry}
@command
def fine(): return 75
@command
def rootless(): raise RootUnavailable("models are gone: token dk-CANARY0123456789")
@command
def stateless(): raise StateError("disk full")
@command
def buggy():
    hidden = "CANARY in a local variable"
    raise ZeroDivisionError("over https://h/p?X-Amz-Signature=CANARY \\x1b[2J\\x07")
@command
def limits():
    import resource
    print(*resource.getrlimit(resource.RLIMIT_CORE))
@command
def waiting():
    import time
    print("ready", flush=True)
    time.sleep(60)
"""


def environment(tmp_path: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with all of the user's own configuration out of sight."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SYNCD_")}
    return {
        **kept,
        "XDG_CONFIG_HOME": str(tmp_path / "etc"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        **extra,
    }


def syncd(
    tmp_path: Path, *args: str, before: str = "", **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", before + CALL, *args],
        cwd=REPOSITORY,
        env=environment(tmp_path, environ),
        capture_output=True,
        text=True,
        timeout=30,
    )


# Lightness


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["-h"]])
def test_help_and_version_import_nothing_heavy(tmp_path: Path, args: list[str]) -> None:
    done = syncd(tmp_path, *args, before=MODULES_AT_EXIT)

    imported = {name.partition(".")[0] for name in done.stderr.split()}
    assert done.returncode == 0
    assert "syncd" in imported
    assert not imported & {"httpx", "pydantic", "pydantic_settings", "rich", "structlog", "asyncio"}
    assert "sqlite3" not in imported


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["satus"], " Did you mean 'status'?"),
        (["config", "chek"], " Did you mean 'check'?"),
        (["zzz"], ""),
    ],
)
def test_unknown_command_suggests_nearest_name(tmp_path: Path, typed: list[str], hint: str) -> None:
    done = syncd(tmp_path, *typed)

    assert done.returncode == 2
    assert done.stderr.endswith(f"Error: No such command {typed[-1]!r}.{hint}\n")


@pytest.mark.parametrize(
    "args",
    [
        ["--models-dir", "/m", "config", "show", "--json"],
        ["--models-dir", "/other", "config", "show", "--json", "--models-dir", "/m"],
    ],
)
def test_global_option_is_accepted_before_and_after_command(
    tmp_path: Path, args: list[str]
) -> None:
    settings = json.loads(syncd(tmp_path, *args).stdout)["settings"]

    assert settings["models_dir"] == {"value": "/m", "origin": "flag"}


# Exit codes


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--nonsense"], 2),
        (["--once", "config", "show"], 2),
        (["config", "show", "extra"], 2),
        (["config", "check"], 78),
        (["--config", "/nowhere.toml", "config", "check"], 78),
        (["fine"], 75),
        (["rootless"], 66),
        (["stateless"], 74),
        (["buggy"], 70),
    ],
)
def test_exit_code_says_what_happened_and_stderr_says_why(
    tmp_path: Path, args: list[str], code: int
) -> None:
    done = syncd(tmp_path, *args, before=MISBEHAVE)

    assert done.returncode == code
    assert bool(done.stderr) == (code != 75)
    assert "Traceback" not in done.stderr
    assert "CANARY" not in done.stderr


def test_bug_shows_its_traceback_at_level_debug_only_and_never_a_secret(tmp_path: Path) -> None:
    quiet = syncd(tmp_path, "buggy", before=MISBEHAVE)
    loud = syncd(tmp_path, "--log-level", "debug", "buggy", before=MISBEHAVE)

    assert quiet.stderr.startswith("syncd: internal error: ZeroDivisionError: over https://h/p?")
    assert len(quiet.stderr.splitlines()) == 1
    assert "in buggy" in loud.stderr
    assert "CANARY" not in quiet.stderr + loud.stderr
    assert not {"\x1b", "\x07"} & set(quiet.stderr + loud.stderr)


def test_I22_no_core_dump_is_written(tmp_path: Path) -> None:
    assert syncd(tmp_path, "limits", before=MISBEHAVE).stdout == "0 0\n"


def test_interrupt_ends_with_130_and_one_line(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MISBEHAVE + CALL, "waiting"],
        cwd=REPOSITORY,
        env=environment(tmp_path, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)

    assert child.returncode == 130
    assert said.strip() == "syncd: interrupted; progress is kept"


# config check, config show


def test_show_masks_secrets_and_names_origins(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('models_dir = "/m"\n[network]\nproxy = "http://u:CANARY@p:1"\n')
    environ = {"SYNCD_API__TOKEN": DEVICE_KEY}

    table = syncd(tmp_path, "--config", str(file), "config", "show", **environ)
    as_json = syncd(tmp_path, "--config", str(file), "config", "show", "--json", **environ)

    settings, _, places = table.stdout.partition("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in settings.splitlines()}
    assert "credentials/session.json" in places
    assert rows["setting"] == ["value", "origin"]
    assert rows["models_dir"] == ["/m", f"{file}:1"]
    assert rows["network.proxy"] == ["***", f"{file}:3"]
    assert rows["api.token"] == ["***", "SYNCD_API__TOKEN"]
    assert rows["api.token_file"] == ["-", "default"]
    assert json.loads(as_json.stdout)["settings"]["api.token"] == {
        "value": "***",
        "origin": "SYNCD_API__TOKEN",
    }
    assert "CANARY" not in table.stdout + table.stderr + as_json.stdout + as_json.stderr


def test_check_warns_of_what_is_probably_not_meant(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        "models_dir = '/no/models'\n[api]\ntoken = 'dk-1'\ntoken_file = '/t'\n"
        "base_url = 'https://core.cyberun.cloud'\n"
    )
    file.chmod(0o644)

    set_badly = syncd(tmp_path, "--config", str(file), "config", "check")
    file.chmod(0o600)
    set_privately = syncd(tmp_path, "--config", str(file), "config", "check")
    (tmp_path / "models").mkdir()
    not_set = syncd(tmp_path, "--models-dir", str(tmp_path / "models"), "config", "check")

    assert set_badly.returncode == not_set.returncode == 0
    assert [w for w in set_badly.stdout.splitlines() if w.startswith("warning: ")] == [
        "warning: models_dir: /no/models is not a directory that can be seen",
        "warning: api.token and api.token_file are both set; api.token counts",
        f"warning: {file} holds a secret and others may read it; run: chmod 600 {file}",
        "warning: api.base_url: the path of the cloud API usually ends in /api/v1",
    ]
    assert "holds a secret" not in set_privately.stdout
    assert [w for w in not_set.stdout.splitlines() if w.startswith("warning: ")] == [
        "warning: no credential: run syncd login, or set api.token_file to a file with a device key"
    ]
