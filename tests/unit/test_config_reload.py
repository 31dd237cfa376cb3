"""What a reload takes over, and what it leaves."""

import re
from pathlib import Path
from typing import Any

from syncd.config.reload import JUDGING, LIVE, reloaded
from syncd.config.settings import KEYS, Settings

DOCS = Path(__file__).parents[2] / "docs"


def settings(**values: Any) -> Settings:
    return Settings(models_dir=Path("/m"), state_dir=Path("/s"), **values)


def test_live_keys_are_taken_over_and_the_others_named() -> None:
    old = settings(catalog={"delete_most": 30}, log={"level": "error"})
    new = settings(
        upload={"bandwidth": "1 MiB/s"},
        catalog={"delete_most": 20},
        naming={"map": {"a/(1).pt": "a/1.pt"}},
        scan={"interval_s": 7},
    )

    result = reloaded(old, new)

    assert result.settings == settings(
        upload={"bandwidth": "1 MiB/s"},
        catalog={"delete_most": 30},
        naming={"map": {"a/(1).pt": "a/1.pt"}},
    )
    assert result.changed == ["upload.bandwidth", "log.level", "naming.map"]
    assert result.left == ["scan.interval_s", "catalog.delete_most"]


def test_the_same_configuration_changes_nothing() -> None:
    old = settings(api={"token": "dk-one"})

    result = reloaded(old, settings(api={"token": "dk-one"}))

    assert (result.settings, result.changed, result.left) == (old, [], [])


def test_every_live_key_is_a_key() -> None:
    assert JUDGING < LIVE < KEYS.keys()


def test_the_documentation_names_exactly_the_live_keys() -> None:
    text = (DOCS / "guest.md").read_text()
    table = text.partition("## Reload")[2].partition("## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]

    assert {key for row in rows for key in re.findall(r"`([^`]+)`", row)} == LIVE
