"""Files, commands and settings in docs/install.md exist."""

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
    """Return the lines of all shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def heredocs() -> Iterator[tuple[str, str]]:
    """Yield path and text of each file that a shell block writes."""
    yield from re.findall(r"cat > (\S+) <<'END'\n(.*?)END\n", TEXT, re.DOTALL)


def test_every_file_in_a_shell_block_exists() -> None:
    found = re.findall(r"(?<![\w/.])((?:systemd|docs)/[\w./-]+)", "\n".join(shell()))

    assert len(found) > 5
    assert [name for name in found if not (PROJECT / name).exists()] == []


def test_every_syncd_command_in_a_shell_block_exists() -> None:
    found = re.findall(
        r"(?:^|bin/|-- |exec |--rm )syncd(?: syncd)? (?:--\S+ \S+ )?([a-z]+)",
        "\n".join(shell()),
        re.M,
    )

    assert {"config", "plan", "status"} <= set(found)
    assert [name for name in found if name not in COMMANDS] == []


def test_written_configuration_contains_known_settings() -> None:
    written = dict(heredocs())
    config = tomllib.loads(written["/etc/syncd/config.toml"])

    assert config.keys() <= KEYS.keys()
    assert "models_dir" in config


def test_written_env_file_sets_every_variable_of_the_compose_file() -> None:
    compose = (PROJECT / "docs/deploy/compose.yaml").read_text()
    written = dict(heredocs())[".env"]
    needed = set(re.findall(r"\$\{(\w+)", compose))

    assert needed == {line.partition("=")[0] for line in written.splitlines()}
