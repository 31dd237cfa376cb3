"""Decides which settings take effect on a reload."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from syncd.config.settings import KEYS, Settings, value_at

Model = TypeVar("Model", bound=BaseModel)

JUDGING = frozenset(
    {"naming.prefix", "naming.map", "limits.max_file_size"}
    | {key for key in KEYS if key.startswith("select.")}
)
"""Keys that decide which files are uploaded and under which names; all files are checked again."""

LIVE = JUDGING | {
    "comfyui.url",
    "comfyui.remote",
    "comfyui.when_busy",
    "comfyui.busy_bandwidth",
    "api.token",
    "api.token_file",
    "settle.quiet_s",
    "settle.quiet_closed_s",
    "settle.quiet_network_s",
    "settle.read_lease",
    "upload.files",
    "upload.parts",
    "upload.parts_max",
    "upload.bandwidth",
    "upload.shutdown_grace_s",
    "guest.hash_bandwidth",
    "log.format",
    "log.level",
    "limits.max_bytes_per_day",
}
"""Keys that take effect on a reload; others keep their value until a restart."""


@dataclass(slots=True)
class LiveSettings:
    """The current settings, which a reload replaces."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Reloaded:
    """
    The result of a reload.

    ``settings`` are the old ones with the keys in ``changed`` updated. The keys in ``left`` differ
    too but need a restart. Both are in the order of ``KEYS``.
    """

    settings: Settings
    changed: Sequence[str]
    left: Sequence[str]


def reloaded(old: Settings, new: Settings) -> Reloaded:
    """Apply the part of *new* that does not need a restart."""
    differing = [key for key in KEYS if value_at(old, key) != value_at(new, key)]
    changed = [key for key in differing if key in LIVE]
    settings = old
    for key in changed:
        settings = _with(settings, key, value_at(new, key))
    return Reloaded(settings, changed, [key for key in differing if key not in LIVE])


def _with(model: Model, key: str, value: object) -> Model:
    name, _, rest = key.partition(".")
    inner = _with(getattr(model, name), rest, value) if rest else value
    return model.model_copy(update={name: inner})
