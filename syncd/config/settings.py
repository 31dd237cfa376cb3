"""The settings: names, defaults, bounds, and what each is for (its docstring, shown to people)."""

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
"""Seconds that ``--once`` waits beyond the longest settle window, whatever its own setting says."""

_HOST = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_ROUTE = re.compile(r"(?:/[\w.-]+)+", re.ASCII)
_TEAM = re.compile(r"[!-~]{1,200}")
_PREFIX = re.compile(r"(?:[\w-][\w. -]*/)*", re.ASCII)


class Conflict(ValueError):
    """Values that are fine alone and wrong together."""

    def __init__(self, message: str, *keys: str) -> None:
        super().__init__(message)
        self.keys = keys


class SecretUrl(SecretStr):
    """A URL whose path lets in whoever knows it; of it scheme and host may be seen."""

    def _display(self) -> str:
        parts = urlsplit(self.get_secret_value())
        return f"{parts.scheme}://{parts.netloc}/***"


def _absolute(value: object) -> object:
    """Expand ``~`` and make absolute, by name only: links and ``..`` stay as they were written."""
    if not isinstance(value, str | Path):
        return value
    if not str(value) or "\0" in str(value):
        raise ValueError("is not a path")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError("names a home directory that is not there") from None


def _root(value: object) -> object:
    """As ``_absolute``, but a relative path is refused: each start could mean another directory."""
    path = _absolute(value)
    if isinstance(value, str | Path) and not Path(value).expanduser().is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _route(value: str) -> str:
    if not _ROUTE.fullmatch(value):
        raise ValueError("is not a route such as /uploads/part (letters, digits, _ . -)")
    return value


def _team(value: str) -> str:
    if not _TEAM.fullmatch(value):
        raise ValueError("is not an id of 1 to 200 visible ASCII characters")
    return value


def _existing_file(path: Path) -> Path:
    if not os.path.isfile(path):
        raise ValueError("is not a file that can be read")
    return path


def _url(value: str) -> str:
    """An http(s) URL without user, query and fragment, and without the slash at its end."""
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not re.fullmatch(r"[!-~]+", value) or re.search(r"[@?#]", value):
        raise ValueError("is not http(s)://host/path (no user, query or fragment)")
    return value.rstrip("/")


def _on_this_machine(url: str) -> bool:
    return _is_loopback(urlsplit(url).hostname or "")


def _proxy(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError("is not http://host:port or https://host:port")
    return value


def _hook(value: SecretUrl) -> SecretUrl:
    url = value.get_secret_value()
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not re.fullmatch(r"[!-~]+", url) or re.search(r"[@#]", url):
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
    """Is it a name or an address of this machine itself?"""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _loopback(value: str) -> str:
    host, _, port = value.rpartition(":")
    bracketed = re.fullmatch(r"\[[0-9A-Fa-f:]+\]", host) is not None
    if not (host and _HOST.fullmatch(value) and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("is not host:port")
    if not _is_loopback(host.strip("[]")) or (":" in host and not bracketed):
        raise ValueError(
            "is no loopback address such as 127.0.0.1:9464 (others could read the names of files; "
            "put a proxy that knows its users before it)"
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
    """A bare whole number as text: TOML tells ``10`` and ``"10"`` apart, rclone does not."""
    return str(value) if type(value) is int else value


def _bandwidth(value: str) -> str:
    rates.parse(value)
    return value


def _rate(value: str) -> str:
    if rates.parse_rate(value) is None:
        raise ValueError("is no rate such as 1 MiB/s")
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
    """Local typed path -> the one to use instead; both end in a slash where a folder is meant."""
    for number, (local, remote) in enumerate(values.items(), start=1):
        folder = local.endswith("/")
        if folder != remote.endswith("/") or (not folder and ending_of(local) != ending_of(remote)):
            raise ValueError(
                f"entry {number} is not file to file (same ending) or folder/ to folder/"
            )
        if fault_of(remote + ("x" if folder else ""), "") is not None:
            raise ValueError(
                f"entry {number} is mapped to a path that the server would refuse, too"
            )
    return values


def _prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value) or ".." in value or " /" in value:
        raise ValueError("is not empty or folder names (letters, digits, _ . - space) ending in /")
    return value


Lines = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
Duration = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
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
    """Route below base_url that signs the URL of one part."""

    complete_path: RoutePath = "/uploads/multipart/complete"
    """Route below base_url that completes a multipart upload."""

    abort_path: RoutePath = "/uploads/multipart/abort"
    """Route below base_url that aborts a multipart upload."""


class ComfyUi(_Section):
    extra_model_paths: Annotated[AbsolutePath, AfterValidator(_existing_file)] | None = None
    """ComfyUI's extra_model_paths.yaml, if it has one: the folders named there are taken as well."""

    url: Annotated[str, AfterValidator(_url)] | None = None
    """Address of ComfyUI on this machine, which is asked whether its queue is empty."""

    remote: bool = False
    """Whether comfyui.url may be on another machine."""

    when_busy: Literal["ignore", "slow", "pause"] = "ignore"
    """What syncd does while ComfyUI's queue is not empty: ignore it, slow down or pause."""

    busy_bandwidth: Annotated[str, AfterValidator(_rate)] = "1 MiB/s"
    """Rate of uploads, and of hashing, that slow means."""

    @model_validator(mode="after")
    def _asked_where_allowed(self) -> Self:
        if self.url is None and self.when_busy != "ignore":
            raise Conflict("needs comfyui.url", "comfyui.when_busy")
        if self.url is not None and not (self.remote or _on_this_machine(self.url)):
            raise Conflict("is on another machine: set comfyui.remote = true", "comfyui.url")
        return self


class Api(_Section):
    base_url: Annotated[str, AfterValidator(_url)] = "https://core.cyberun.cloud/api/v1"
    """Address of the cloud API."""

    token: SecretStr | None = None
    """Device key (dk-...) or session token; prefer token_file, which keeps it out of this file."""

    token_file: AbsolutePath | None = None
    """File that holds the token, readable by its owner only."""

    team_id: Annotated[str, AfterValidator(_team)] | None = None
    """Id of the team; needed with a session token, a device key carries its team."""

    single_put_limit: Size = Field(500_000_000, ge=0, le=5_000_000_000)
    """Size up to which a file is sent with one PUT, in bytes or as 500MB; larger files need multipart."""

    calls_per_s: float = Field(10, gt=0, le=1000, allow_inf_nan=False)
    """API calls a second, at most; a base_url on this machine is not paced."""

    multipart: Multipart = Multipart()

    @property
    def host(self) -> str:
        """Host of ``base_url``, lower case, without port."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def loopback(self) -> bool:
        """Is ``base_url`` an address of this machine itself?"""
        return _is_loopback(self.host)


class Settle(_Section):
    quiet_s: Duration = 30
    """Seconds a file must stand still before it is uploaded."""

    quiet_closed_s: Duration = 10
    """Seconds it must stand still after it was seen closed or moved into place."""

    quiet_network_s: Duration = 90
    """Seconds it must stand still on a network file system."""

    once_wait_s: Duration = 120
    """Seconds --once waits for files to stop changing: at least 10 + twice quiet_s or quiet_closed_s."""

    read_lease: bool = True
    """Whether to ask the kernel, where it may be asked, if a program has the file open for writing."""

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
        """
        Seconds that ``--once`` waits when *window_s* is the longest settle window configured.

        A sparse file's is twice as long.
        """
        return max(self.once_wait_s, 2 * window_s + ONCE_MARGIN_S)


class Scan(_Section):
    interval_s: float = Field(3600, ge=1, le=604_800, allow_inf_nan=False)
    """Seconds between two walks over the whole tree."""

    symlinks: Literal["follow", "within_roots", "skip"] = "follow"
    """Symbolic links: follow (as ComfyUI does; outside the roots only to models), within_roots or skip."""


class Upload(_Section):
    files: int = Field(2, ge=1, le=16)
    """Files worked on at once."""

    parts: int = Field(4, ge=1, le=32)
    """PUT requests at once, at the start."""

    parts_max: int = Field(16, ge=1, le=32)
    """PUT requests at once, at most."""

    bandwidth: Annotated[str, BeforeValidator(_text), AfterValidator(_bandwidth)] = "off"
    """Upload rate: 10 MiB/s, 80 Mbit/s, off, or rclone's timetable: 08:00,512k 19:00,off Sat-08:00,off."""

    shutdown_grace_s: float = Field(20, ge=0, le=600, allow_inf_nan=False)
    """Seconds that running parts are given to finish when syncd is stopped."""

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
    """Added to the niceness syncd is started with: with 19 it runs when nobody else wants to."""

    idle_io: bool = False
    """Whether to read from disks only when nobody else does, where the I/O scheduler knows that."""

    hash_bandwidth: Annotated[str, BeforeValidator(_text), AfterValidator(_bandwidth)] = "off"
    """Rate of reading files for their hash, written as upload.bandwidth is."""


class Network(_Section):
    storage_hosts: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(_split_commas), AfterValidator(_hosts)
    ] = ()
    """Object store hosts (host or host:port) accepted although they are on a private network."""

    allow_http: bool = False
    """Whether plain http is accepted for base_url, for storage_hosts and for the URLs in notify."""

    ca_bundle: Annotated[AbsolutePath, AfterValidator(_existing_file)] | None = None
    """PEM file of certificate authorities trusted beside the system's."""

    proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    """Proxy URL; unset, the environment's HTTPS_PROXY and NO_PROXY count."""


class Notify(_Section):
    webhook_url: Annotated[SecretUrl, AfterValidator(_hook)] | None = None
    """Where to POST a message when files fail, a hold begins or ends, or the queue ran empty."""

    webhook_secret: Annotated[SecretStr, AfterValidator(_signing)] | None = None
    """Key that signs these messages (whsec_ and base64); better in webhook_secret_file."""

    webhook_secret_file: AbsolutePath | None = None
    """File that holds that key, readable by its owner only."""

    heartbeat_url: Annotated[SecretUrl, AfterValidator(_hook)] | None = None
    """What to GET every five minutes while all wanted files are in the catalog, and after --once."""


class Log(_Section):
    format: Literal["auto", "console", "json"] = "auto"
    """Log format: auto (console on a terminal or in the journal, else json), console or json."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged: debug, info, warning or error."""


class Http(_Section):
    listen: Annotated[str, AfterValidator(_loopback)] | None = None
    """Loopback host:port for /status, /metrics and the like, read-only; unset: the Unix socket alone."""

    @property
    def address(self) -> tuple[str, int] | None:
        """Host (an IPv6 one without brackets) and port of ``listen``."""
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class Naming(_Section):
    prefix: Annotated[str, AfterValidator(_prefix)] = "models/"
    """What is put before a file's path to make its path in the catalog."""

    map: Annotated[
        dict[str, str], NoDecode, BeforeValidator(_object), AfterValidator(_name_map)
    ] = Field(default_factory=dict)
    """Paths below models/ that get another one in the catalog; a folder ends in a slash."""


class Select(_Section):
    types: Annotated[Lines, AfterValidator(_names)] = ()
    """Type folders that are taken; none means all."""

    bundles: Annotated[Lines, AfterValidator(_names)] = ()
    """Type folders such as diffusers whose folders are models of many files: all of one go, or none."""

    endings: Annotated[Lines, AfterValidator(_endings)] = tuple(sorted(ENDINGS))
    """What the name of a model ends in."""

    include: Annotated[Lines, AfterValidator(_gitignore)] = ()
    """Patterns (gitignore syntax, below models/) of what is taken; none means everything."""

    exclude: Annotated[Lines, AfterValidator(_gitignore)] = ()
    """Patterns (gitignore syntax, below models/) of what is left out."""


class Limits(_Section):
    max_file_size: PositiveSize | None = None
    """Size above which a file is left out, in bytes or as 50GB; unset: no limit."""

    max_bytes_per_day: PositiveSize | None = None
    """Bytes uploaded in any 24 hours, or a size such as 200GB; started uploads finish. Unset: no limit."""


class Catalog(_Section):
    reconcile_s: float = Field(3600, ge=0, le=604_800, allow_inf_nan=False)
    """Seconds between two comparisons with the cloud's listing; 0: only after something was registered."""

    register_as: Literal["active", "disabled"] = "active"
    """Whether agents get what is registered: active (at once) or disabled (when somebody enables it)."""

    on_delete: Literal["keep", "disable", "delete"] = "keep"
    """What becomes of the record when a file goes that this syncd registered."""

    delete_grace_s: float = Field(86_400, ge=0, le=31_536_000, allow_inf_nan=False)
    """Seconds that a file has to be gone before its record follows."""

    delete_most: int = Field(20, ge=0, le=1_000_000)
    """With more records than this to follow at once, none does: that looks like an accident."""


class Settings(BaseSettings):
    """All settings, checked. ``load`` makes them; direct construction reads no other source."""

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
    """Directory of the database, on a local disk; default: systemd's, else the user's own."""

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
        """What belongs to syncd itself: its state directory, and a file with its token."""
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
        """Only what is passed in: ``load`` reads the other sources, to know each value's origin."""
        return (init_settings,)

    @model_validator(mode="after")
    def _http_where_allowed(self) -> Self:
        plain = self.api.base_url.lower().startswith("http:")
        if plain and not (self.api.loopback or self.network.allow_http):
            raise Conflict(
                "would send the token unencrypted: use https, or set network.allow_http = true",
                "api.base_url",
            )
        for name in ("webhook_url", "heartbeat_url"):
            url = getattr(self.notify, name)
            if url is None or self.network.allow_http:
                continue
            address = url.get_secret_value()
            if address.lower().startswith("http:") and not _on_this_machine(address):
                raise Conflict(
                    "would be sent unencrypted: use https, or set network.allow_http = true",
                    f"notify.{name}",
                )
        return self


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field


KEYS: Mapping[str, FieldInfo] = MappingProxyType(dict(_fields(Settings)))
"""Every dotted key, in the order in which settings are shown."""

VARIABLES: Mapping[str, str] = MappingProxyType(
    {f"SYNCD_{key.upper().replace('.', '__')}": key for key in KEYS}
)
"""Environment variable -> dotted key."""


def value_at(settings: Settings, key: str) -> object:
    """The value of a dotted *key*; a secret comes as ``SecretStr``."""
    return functools.reduce(getattr, key.split("."), settings)


def shown(value: object) -> str:
    """*value* as a person writes it in the file; a secret as ``***``, nothing as ``-``."""
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
    The state directory is *claimed* (base URL, team) for the configured cloud.

    Args:
        wanted: The team of a stored session, else ``api.team_id``.

    Raises:
        ConfigError: It remembers the catalog of another one.
    """
    base_url, team_id = claimed
    other_team = None not in (wanted, team_id) and wanted != team_id
    if base_url != settings.api.base_url or other_team:
        raise ConfigError(
            f"{settings.state_dir} remembers what is in the catalog of {base_url}"
            f"{f', team {team_id}' if team_id else ''}; the configuration or the session names "
            "another one. Give each cloud and team a state_dir of its own."
        )
