"""docs/install.md names files, commands and settings that are there."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from syncd.cli.main import COMMANDS
from syncd.config.settings import KEYS

PROJECT = Path(__file__).parents[2]
GUIDE = PROJECT / "docs" / "install.md"
TEXT = GUIDE.read_text()


def shell() -> list[str]:
    """The lines that are typed."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def heredocs() -> Iterator[tuple[str, str]]:
    """File and text of what the guide lets a shell write."""
    yield from re.findall(r"cat > (\S+) <<'END'\n(.*?)END\n", TEXT, re.DOTALL)


def test_every_file_of_the_checkout_that_is_typed_is_there() -> None:
    typed = re.findall(r"(?<![\w/.])((?:systemd|docs)/[\w./-]+)", "\n".join(shell()))

    assert len(typed) > 5
    assert [name for name in typed if not (PROJECT / name).exists()] == []


def test_every_command_that_is_typed_is_one() -> None:
    typed = re.findall(
        r"(?:^|bin/|-- |exec |--rm )syncd(?: syncd)? (?:--\S+ \S+ )?([a-z]+)",
        "\n".join(shell()),
        re.M,
    )

    assert {"config", "plan", "status"} <= set(typed)
    assert [name for name in typed if name not in COMMANDS] == []


def test_the_configuration_that_is_typed_holds_settings() -> None:
    written = dict(heredocs())
    config = tomllib.loads(written["/etc/syncd/config.toml"])

    assert config.keys() <= KEYS.keys()
    assert "models_dir" in config


def test_the_variables_of_the_compose_file_are_those_that_are_typed() -> None:
    compose = (PROJECT / "docs/deploy/compose.yaml").read_text()
    written = dict(heredocs())[".env"]
    asked = set(re.findall(r"\$\{(\w+)", compose))

    assert asked == {line.partition("=")[0] for line in written.splitlines()}
