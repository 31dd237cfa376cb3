"""The settings: names, defaults, bounds, and the descriptions that users see (the docstrings)."""

import functools
import ipaddress
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from syncd.config.locations import default_state_dir
from syncd.core.files.gitignore import BadLine, parse_all
from syncd.core.files.naming import ENDINGS, ending_of, fault_of
from syncd.core.notifications import signing_key
from syncd.core.transfer import rates
from syncd.core.units import parse_size
from syncd.errors import ConfigError
from syncd.types import printable

ONCE_MARGIN_S = 10.0
"""Minimum seconds that ``--once`` waits beyond twice the longest settle window."""

_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_ROUTE = re.compile(r"(?:/[\w.-]+)+", re.ASCII)
_TEAM = re.compile(r"[!-~]{1,200}")
_PREFIX = re.compile(r"(?:[\w-][\w. -]*/)*", re.ASCII)


class Conflict(ValueError):
    """Values that are valid alone and invalid together."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


class SecretUrl(SecretStr):
    """A URL whose path is a secret: only scheme and host are shown."""

    def _display(self) -> str:
        parts = urlsplit(self.get_secret_value())
        return f"{parts.scheme}://{parts.netloc}/***"


def _absolute(value: object) -> object:
    """Expand ``~`` and make the path absolute; links and ``..`` are kept as written."""
    if not isinstance(value, str | Path):
        return value
    if not str(value) or "\0" in str(value):
        raise ValueError("is not a path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError("names a home directory that does not exist") from None


def _root(value: object) -> object:
    """Like ``_absolute``, but refuse a relative path, which depends on the working directory."""
    path = _absolute(value)
    if isinstance(value, str | Path) and not Path(value).expanduser().is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _route(value: str) -> str:
    if not _ROUTE.fullmatch(value):
        raise ValueError("is not a path such as /uploads/part (letters, digits, _ . -)")
    return value


def _team(value: str) -> str:
    if not _TEAM.fullmatch(value):
        raise ValueError("is not an id of 1 to 200 printable ASCII characters")
    return value


def _existing_file(path: Path) -> Path:
    if not os.path.isfile(path):
        raise ValueError("is not a readable file")
    return path


def _is_http_url(url: str, without: str = "") -> bool:
    """Return whether *url* is an http(s) URL of plain ASCII, without the characters *without*."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return usable and re.fullmatch(r"[!-~]+", url) is not None and not set(without) & set(url)


def _url(value: str) -> str:
    """Check an http(s) URL without user, query and fragment; remove a trailing slash."""
    if not _is_http_url(value, without="@?#"):
        raise ValueError("is not http(s)://host/path (no user, query or fragment)")
    return value.rstrip("/")


def _on_this_machine(url: str) -> bool:
    return _is_loopback(urlsplit(url).hostname or "")


def _proxy(value: SecretStr) -> SecretStr:
    if not _is_http_url(value.get_secret_value()):
        raise ValueError("is not http://host:port or https://host:port")
    return value


def _hook(value: SecretUrl) -> SecretUrl:
    if not _is_http_url(value.get_secret_value(), without="@#"):
        raise ValueError("is not http(s)://host/path (no user, no fragment)")
    return value


def _signing(value: SecretStr) -> SecretStr:
    signing_key(value.get_secret_value())
    return value


def _split_commas(value: object) -> object:
    """An environment variable holds a list as ``a,b``."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for number, value in enumerate(values, start=1):
        match = _HOST.fullmatch(value)
        if match is None or not 0 < int(match["port"] or 1) < 65536:
            raise ValueError(f"entry {number} is not host or host:port (no scheme, no path)")
    return tuple(value.lower() for value in values)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _loopback(value: str) -> str:
    match = _HOST.fullmatch(value)
    if match is None or match["port"] is None or not 0 < int(match["port"]) < 65536:
        raise ValueError("is not host:port")
    if not _is_loopback(value.rpartition(":")[0].strip("[]")):
        raise ValueError(
            "is not a loopback address such as 127.0.0.1:9464 (other machines could read file names; "
            "use a proxy that authenticates its users)"
        )
    return value


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    for number, value in enumerate(values, start=1):
        if not value or "/" in value:
            raise ValueError(f"entry {number} is not the name of a type folder")
    return values


def _endings(values: tuple[str, ...]) -> tuple[str, ...]:
    for number, value in enumerate(values, start=1):
        if ending_of(f"x{value}") != value.lower():
            raise ValueError(f"entry {number} is not an ending such as .safetensors")
    return tuple(value.lower() for value in values)


def _gitignore(values: tuple[str, ...]) -> tuple[str, ...]:
    try:
        parse_all(values)
    except BadLine as bad:
        raise ValueError(f"entry {bad.number} {bad.fault}") from None
    return values


def _text(value: object) -> object:
    """Accept a bare integer: TOML distinguishes ``10`` from ``"10"``, rclone does not."""
    return str(value) if type(value) is int else value


def _bandwidth(value: str) -> str:
    rates.parse(value)
    return value


def _rate(value: str) -> str:
    if rates.parse_rate(value) is None:
        raise ValueError("is not a rate such as 1 MiB/s")
    return value


def _object(value: object) -> object:
    """An environment variable holds a table as JSON."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("is not a JSON object") from None
    return value


def _name_map(values: dict[str, str]) -> dict[str, str]:
    """Check a map of local paths to catalog paths; a folder ends in a slash on both sides."""
    for number, (local, remote) in enumerate(values.items(), start=1):
        folder = local.endswith("/")
        if folder != remote.endswith("/") or (not folder and ending_of(local) != ending_of(remote)):
            raise ValueError(
                f"entry {number} is not file to file (same ending) or folder/ to folder/"
            )
        if fault_of(remote + ("x" if folder else ""), "") is not None:
            raise ValueError(
                f"entry {number} is mapped to a path that the server would also refuse"
            )
    return values


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value) or ".." in value or " /" in value:
        raise ValueError(
            "must be empty, or folder names (letters, digits, _ . - space) that end in /"
        )
    return value


Lines = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
Duration = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Bandwidth = Annotated[str, BeforeValidator(_text), AfterValidator(_bandwidth)]
_SIZE_SCHEMA = {"format": "size"}
Size = Annotated[int, Field(json_schema_extra=_SIZE_SCHEMA), BeforeValidator(_size)]
PositiveSize = Annotated[int, Field(ge=1, json_schema_extra=_SIZE_SCHEMA), BeforeValidator(_size)]
RoutePath = Annotated[str, AfterValidator(_route)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


class Multipart(_Section):
    sign_part_path: RoutePath = "/uploads/multipart/presign"
    """Path below base_url of the call that signs the URL of one part."""

    complete_path: RoutePath = "/uploads/multipart/complete"
    """Path below base_url of the call that completes a multipart upload."""

    abort_path: RoutePath = "/uploads/multipart/abort"
    """Path below base_url of the call that aborts a multipart upload."""


class ComfyUi(_Section):
    extra_model_paths: Annotated[AbsolutePath, AfterValidator(_existing_file)] | None = None
    """ComfyUI's extra_model_paths.yaml; syncd also watches the folders that it names."""

    url: Annotated[str, AfterValidator(_url)] | None = None
    """Address of ComfyUI on this machine; syncd asks it whether its queue is empty."""

    remote: bool = False
    """Allow comfyui.url to be on another machine."""

    when_busy: Literal["ignore", "slow", "pause"] = "ignore"
    """What syncd does while ComfyUI is busy (its queue is not empty): ignore it, slow down or pause."""

    busy_bandwidth: Annotated[str, AfterValidator(_rate)] = "1 MiB/s"
    """Upload and hashing rate while ComfyUI is busy and when_busy is slow."""

    @model_validator(mode="after")
    def _asked_where_allowed(self) -> Self:
        if self.url is None and self.when_busy != "ignore":
            raise Conflict("needs comfyui.url", "comfyui.when_busy")
        if self.url is not None and not (self.remote or _on_this_machine(self.url)):
            raise Conflict("is on another machine: set comfyui.remote = true", "comfyui.url")
        return self


class Api(_Section):
    base_url: Annotated[str, AfterValidator(_url)] = "https://core.cyberun.cloud/api/v1"
    """Base URL of the Cyberun API."""

    token: SecretStr | None = None
    """Device key (dk-...) or session token. Prefer token_file, which keeps it out of this file."""

    token_file: AbsolutePath | None = None
    """File that holds the token; only its owner may have access."""

    team_id: Annotated[str, AfterValidator(_team)] | None = None
    """Team id. Required with a session token; a device key belongs to one team."""

    single_put_limit: Size = Field(500_000_000, ge=0, le=5_000_000_000)
    """Largest file sent with one PUT, in bytes or as 500MB. Larger files use a multipart upload."""

    calls_per_s: float = Field(10, gt=0, le=1000, allow_inf_nan=False)
    """API calls per second at first. Raised while calls succeed, lowered when the server throttles."""

    calls_per_s_max: float = Field(100, gt=0, le=1000, allow_inf_nan=False)
    """Maximum API calls per second. Both are ignored if base_url is on this machine."""

    multipart: Multipart = Multipart()

    @model_validator(mode="after")
    def _paces_in_order(self) -> Self:
        if self.calls_per_s > self.calls_per_s_max:
            raise Conflict("is above api.calls_per_s_max", "api.calls_per_s")
        return self

    @property
    def loopback(self) -> bool:
        """Whether ``base_url`` is on this machine."""
        return _on_this_machine(self.base_url)


class Settle(_Section):
    quiet_s: Duration = 30
    """Seconds a file must stay unchanged before it is uploaded."""

    quiet_closed_s: Duration = 10
    """Seconds a file must stay unchanged after it was closed or moved into place."""

    quiet_network_s: Duration = 90
    """Seconds a file must stay unchanged on a network file system."""

    once_wait_s: Duration = 120
    """Seconds that --once waits for changing files; at least 10 + twice quiet_s or quiet_closed_s."""

    read_lease: bool = True
    """Ask the kernel whether a program has the file open for writing, if the account may ask."""

    @model_validator(mode="after")
    def _waits_longer_than_the_windows(self) -> Self:
        least_s = 2 * max(self.quiet_s, self.quiet_closed_s) + ONCE_MARGIN_S
        if "once_wait_s" in self.model_fields_set and self.once_wait_s < least_s:
            raise Conflict(
                f"is too short: files need {least_s:.15g} s to settle with quiet_s = "
                f"{self.quiet_s:.15g} and quiet_closed_s = {self.quiet_closed_s:.15g}",
                "settle.once_wait_s",
            )
        return self

    def once_wait_for(self, window_s: float) -> float:
        """Seconds that ``--once`` waits for *window_s*; a sparse file takes twice the window."""
        return max(self.once_wait_s, 2 * window_s + ONCE_MARGIN_S)


class Scan(_Section):
    interval_s: float = Field(3600, ge=1, le=604_800, allow_inf_nan=False)
    """Seconds between two scans of all models directories."""

    symlinks: Literal["follow", "within_roots", "skip"] = "follow"
    """Symbolic links: follow (like ComfyUI; outside the roots only to models), within_roots or skip."""


class Upload(_Section):
    files: int = Field(2, ge=1, le=16)
    """Files above 16 MiB uploaded at once. Smaller files share the remaining capacity, at most 16."""

    parts: int = Field(4, ge=1, le=32)
    """Concurrent PUT requests at the start."""

    parts_max: int = Field(16, ge=1, le=32)
    """Maximum concurrent PUT requests."""

    bandwidth: Bandwidth = "off"
    """Upload limit: 10 MiB/s, 80 Mbit/s, off, or a timetable as in rclone: 08:00,512k 19:00,off."""

    shutdown_grace_s: float = Field(20, ge=0, le=600, allow_inf_nan=False)
    """Seconds that running requests get to finish when syncd is stopped."""

    @model_validator(mode="after")
    def _start_within_limit(self) -> Self:
        if self.parts > self.parts_max:
            raise Conflict(
                f"upload.parts is {self.parts}, above upload.parts_max, which is {self.parts_max}",
                "upload.parts",
                "upload.parts_max",
            )
        return self


class Guest(_Section):
    nice: int = Field(0, ge=0, le=19)
    """Raise the niceness of syncd by this; with 19 it runs only when the CPU is idle."""

    idle_io: bool = False
    """Use the idle I/O class: read only while the disk is idle, if the I/O scheduler supports it."""

    hash_bandwidth: Bandwidth = "off"
    """Limit for reading files to hash them, in the format of upload.bandwidth."""


class Network(_Section):
    storage_hosts: Annotated[Lines, AfterValidator(_hosts)] = ()
    """Object store hosts (host or host:port) that are allowed on a private network."""

    allow_http: bool = False
    """Allow plain http for base_url, storage_hosts and the URLs in notify."""

    ca_bundle: Annotated[AbsolutePath, AfterValidator(_existing_file)] | None = None
    """PEM file of certificate authorities to trust in addition to the system's."""

    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    """Proxy URL. Without it, the variables HTTPS_PROXY and NO_PROXY apply."""


class Notify(_Section):
    webhook_url: Annotated[SecretUrl, AfterValidator(_hook)] | None = None
    """URL to POST to when files fail, a hold (all uploads wait) starts or ends, or the queue is empty."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_signing)] | None = None
    """Key that signs these messages (whsec_ and base64). Prefer webhook_secret_file."""

    webhook_secret_file: AbsolutePath | None = None
    """File that holds that key; only its owner may have access."""

    heartbeat_url: Annotated[SecretUrl, AfterValidator(_hook)] | None = None
    """URL to GET every five minutes while all selected files are in the catalog, and after --once."""


class Log(_Section):
    format: Literal["auto", "console", "json"] = "auto"
    """Log format: auto (console on a terminal or in the journal, else json), console or json."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged: debug, info, warning or error."""


class Http(_Section):
    listen: Annotated[str, AfterValidator(_loopback)] | None = None
    """Loopback host:port that serves /status, /metrics and more, read-only. Unset: Unix socket only."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (IPv6 without brackets) and port of ``listen``."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class Naming(_Section):
    prefix: Annotated[str, AfterValidator(_prefix)] = "models/"
    """Prefix of a file's path in the catalog."""

    map: Annotated[
        dict[str, str], NoDecode, BeforeValidator(_object), AfterValidator(_name_map)
    ] = Field(default_factory=dict)
    """Local path below models/ -> its path in the catalog; a folder ends in a slash."""


class Select(_Section):
    types: Annotated[Lines, AfterValidator(_names)] = ()
    """Type folders to upload, such as loras; empty means all."""

    bundles: Annotated[Lines, AfterValidator(_names)] = ()
    """Type folders such as diffusers whose subfolders are one model each: uploaded whole or not at all."""

    endings: Annotated[Lines, AfterValidator(_endings)] = tuple(sorted(ENDINGS))
    """Endings of model files."""

    include: Annotated[Lines, AfterValidator(_gitignore)] = ()
    """Patterns (gitignore syntax, below models/) of files to upload; empty means all."""

    exclude: Annotated[Lines, AfterValidator(_gitignore)] = ()
    """Patterns (gitignore syntax, below models/) of files to skip."""


class Limits(_Section):
    max_file_size: PositiveSize | None = None
    """Skip files larger than this, in bytes or as 50GB. Unset: no limit."""

    max_bytes_per_day: PositiveSize | None = None
    """Maximum upload in any 24 hours, in bytes or as 200GB; running uploads finish. Unset: no limit."""


class Catalog(_Section):
    reconcile_s: float = Field(3600, ge=0, le=604_800, allow_inf_nan=False)
    """Seconds between two comparisons with the catalog; 0: only after a file was registered."""

    register_as: Literal["active", "disabled"] = "active"
    """Status of new records: active (agents download them) or disabled (until enabled in Cyberun)."""

    on_delete: Literal["keep", "disable", "delete"] = "keep"
    """What happens to a record of this syncd when its file is deleted: keep, disable or delete it."""

    delete_grace_s: float = Field(86_400, ge=0, le=31_536_000, allow_inf_nan=False)
    """Seconds a file must be gone before its record is disabled or deleted."""

    delete_most: int = Field(20, ge=0, le=1_000_000)
    """If more records than this are due at once, change none: it is probably an accident."""


class Settings(BaseSettings):
    """All settings. ``loader.load`` reads them; the constructor reads no other source."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
        env_prefix="SYNCD_",
        env_nested_delimiter="__",
    )

    models_dir: Annotated[Path, BeforeValidator(_root)]
    """The ComfyUI models directory, as an absolute path."""

    state_dir: AbsolutePath = Field(default_factory=lambda: default_state_dir(os.environ))
    """Directory of syncd's database, on a local disk. Default: systemd's, else the user's."""

    comfyui: ComfyUi = ComfyUi()
    api: Api = Api()
    settle: Settle = Settle()
    scan: Scan = Scan()
    upload: Upload = Upload()
    guest: Guest = Guest()
    network: Network = Network()
    notify: Notify = Notify()
    log: Log = Log()
    http: Http = Http()
    naming: Naming = Naming()
    select: Select = Select()
    limits: Limits = Limits()
    catalog: Catalog = Catalog()

    @property
    def kept_paths(self) -> tuple[str, ...]:
        """Paths that belong to syncd itself: its state directory and its token file."""
        paths = (self.state_dir, self.api.token_file)
        return tuple(os.fspath(path) for path in paths if path is not None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use the arguments only: ``load`` reads the other sources to know the origin of each value."""
        return (init_settings,)

    @model_validator(mode="after")
    def _http_where_allowed(self) -> Self:
        urls = {"api.base_url": self.api.base_url}
        for key, url in (
            ("notify.webhook_url", self.notify.webhook_url),
            ("notify.heartbeat_url", self.notify.heartbeat_url),
        ):
            if url is not None:
                urls[key] = url.get_secret_value()
        for key, address in urls.items():
            plain = address.lower().startswith("http:") and not _on_this_machine(address)
            if plain and not self.network.allow_http:
                what = "send the token" if key == "api.base_url" else "be sent"
                advice = "use https, or set network.allow_http = true"
                raise Conflict(f"would {what} unencrypted: {advice}", key)
        return self


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


KEYS: Mapping[str, FieldInfo] = MappingProxyType(dict(_fields(Settings)))
"""All dotted keys, in display order."""

VARIABLES: Mapping[str, str] = MappingProxyType(
    {f"SYNCD_{key.upper().replace('.', '__')}": key for key in KEYS}
)
"""Environment variable -> dotted key."""


def value_at(settings: Settings, key: str) -> object:
    """Return the value of a dotted *key*; a secret is a ``SecretStr``."""
    return functools.reduce(getattr, key.split("."), settings)


def shown(value: object) -> str:
    """Format *value* as in the file; a secret is ``***``, an unset value ``-``."""
    match value:
        case None | ():
            return "-"
        case Mapping():
            return printable(json.dumps(dict(value), ensure_ascii=False)) if value else "-"
        case SecretUrl():
            return printable(str(value))
        case SecretStr():
            return "***"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.15g}"
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return printable(str(value))


def require_claimed(
    settings: Settings, claimed: tuple[str, str | None], wanted: str | None
) -> None:
    """
    Require that the state directory belongs to the configured cloud and team.

    Args:
        claimed: Base URL and team of the catalog that the state directory describes.
        wanted: The team of a stored session, else ``api.team_id``.

    Raises:
        ConfigError: It describes the catalog of another cloud or team.
    """
    base_url, team_id = claimed
    other_team = None not in (wanted, team_id) and wanted != team_id
    if base_url != settings.api.base_url or other_team:
        raise ConfigError(
            f"{settings.state_dir} belongs to the catalog of {base_url}"
            f"{f', team {team_id}' if team_id else ''}, but the configuration or the session names "
            "another one. Use a separate state_dir for each cloud and team."
        )
