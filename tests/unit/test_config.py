import itertools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr

from syncd.config.credential import CredentialSource, credential_source
from syncd.config.loader import Loaded, load
from syncd.config.locations import find_config_file
from syncd.config.settings import KEYS, VARIABLES, Settings, shown, value_at
from syncd.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
DEVICE_KEY = "dk-CANARY0123456789"
SESSION_TOKEN = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjIn0.CANARY"


def read(
    tmp_path: Path,
    toml: str = 'models_dir = "/models"\n',
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Loaded:
    """Load *toml* alone: its state directory is empty, so that no stored credential is found."""
    file = tmp_path / "config.toml"
    file.write_text(toml)
    state = {"STATE_DIRECTORY": str(tmp_path / "state")}
    return load(file, flags or {}, state | dict(environ or {}))


def refusal(tmp_path: Path, toml: str, environ: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, 'models_dir = "/models"\n' + toml, environ)
    return str(caught.value)


def token_file(tmp_path: Path, text: str, mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


# Sources


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    toml = (
        'models_dir = "/file"\nlog.level = "error"\n[upload]\nfiles = 3\nparts = 5\nparts_max = 6\n'
    )
    environ = {"SYNCD_MODELS_DIR": "/environment", "SYNCD_UPLOAD__PARTS": "6"}

    loaded = read(tmp_path, toml, environ, {"models_dir": "/flag"})

    keys = ("models_dir", "upload.parts", "upload.files", "log.level", "scan.interval_s")
    origins = [loaded.origins[key].replace(str(tmp_path), "") for key in keys]
    assert [value_at(loaded.settings, key) for key in keys] == [Path("/flag"), 6, 3, "error", 3600]
    assert origins == [
        "flag",
        "SYNCD_UPLOAD__PARTS",
        "/config.toml:4",
        "/config.toml:2",
        "default",
    ]


def test_flag_that_was_not_given_overrides_nothing(tmp_path: Path) -> None:
    loaded = read(tmp_path, flags={"models_dir": None, "log.level": None})

    assert loaded.settings.models_dir == Path("/models")
    assert loaded.origins["log.level"] == "default"


def test_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    loaded = read(tmp_path, environ={"SYNCD_API__TOKEN": "", "SYNCD_UPLOAD__FILES": ""})

    assert loaded.settings.upload.files == 2
    assert loaded.origins["api.token"] == "default"


def test_values_of_every_form_are_read_from_variables(tmp_path: Path) -> None:
    values = {
        "SYNCD_MODELS_DIR": "/m",
        "SYNCD_API__BASE_URL": "http://127.0.0.1:9/api/v1/",
        "SYNCD_API__CALLS_PER_S": "2.5",
        "SYNCD_API__MULTIPART__ABORT_PATH": "/gone",
        "SYNCD_NETWORK__STORAGE_HOSTS": "minio_1:9000, NAS,[fd00::1]:9000",
        "SYNCD_NAMING__MAP": '{"a/(1).pt": "a/1.pt", "[b]/": "b/"}',
        "SYNCD_SELECT__EXCLUDE": "/loras/test*, !/loras/test1.pt",
    }

    loaded = read(tmp_path, "", values)

    assert {k: shown(value_at(loaded.settings, VARIABLES[k])) for k in values} == {
        **values,
        "SYNCD_API__BASE_URL": "http://127.0.0.1:9/api/v1",
        "SYNCD_NETWORK__STORAGE_HOSTS": "minio_1:9000, nas, [fd00::1]:9000",
    }
    assert all(loaded.origins[VARIABLES[name]] == name for name in values)


def test_configured_zero_survives(tmp_path: Path) -> None:
    loaded = read(
        tmp_path,
        'models_dir = "/m"\n[settle]\nquiet_s = 0\n[api]\nsingle_put_limit = 0\n',
        {"SYNCD_SETTLE__QUIET_CLOSED_S": "0"},
    )

    settle = loaded.settings.settle
    assert (settle.quiet_s, settle.quiet_closed_s) == (0, 0)
    assert loaded.settings.api.single_put_limit == 0


def test_once_waits_at_least_ten_seconds_longer_than_the_longest_window_of_a_sparse_file() -> None:
    settle = Settings(models_dir=Path("/m")).settle

    assert [settle.once_wait_for(window_s) for window_s in (30, 55, 90)] == [120, 120, 190]


def test_config_file_is_looked_for_in_systemds_folder_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    ours, home = tmp_path / "systemd" / "config.toml", tmp_path / "home" / "syncd" / "config.toml"
    for file in (ours, home):
        file.parent.mkdir(parents=True)
        file.touch()
    environ = {"CONFIGURATION_DIRECTORY": f"{ours.parent}:/elsewhere"}

    found = [find_config_file(environ), find_config_file({})]
    ours.unlink()

    assert found == [ours, home]
    assert find_config_file(environ) == home


def test_only_a_config_file_that_was_named_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    environ = {"STATE_DIRECTORY": str(tmp_path), "CONFIGURATION_DIRECTORY": str(tmp_path)}

    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        load(tmp_path / "nowhere.toml", {"models_dir": "/m"}, environ)

    assert load(None, {"models_dir": "/m"}, environ).config_file is None


def test_state_directory_of_systemd_comes_before_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/me/state")
    file = tmp_path / "c.toml"
    file.touch()

    given = load(file, {"models_dir": "/m"}, {"STATE_DIRECTORY": "/var/lib/syncd:/var/lib/b"})
    own = load(file, {"models_dir": "/m"}, {})

    assert given.settings.state_dir == Path("/var/lib/syncd")
    assert given.origins["state_dir"] == "STATE_DIRECTORY"
    assert own.settings.state_dir == Path("/home/me/state/syncd")
    assert own.origins["state_dir"] == "default"


def test_directories_are_made_absolute_without_resolving_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")

    loaded = read(tmp_path, f'models_dir = "{tmp_path}/link/../models"\nstate_dir = "~/state"\n')

    assert str(loaded.settings.models_dir) == f"{tmp_path}/link/../models"
    assert loaded.settings.state_dir == Path("/home/me/state")


# What is wrong, where, and what to do


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[upload]\nfils = 3\n", ":3: upload.fils: no such setting; did you mean upload.files?"),
        ("api = 3\n", ":2: api: is a section, not a value; write [api]"),
        ("api = {toke = 'x'}\n", ":2: api.toke: no such setting; did you mean api.token?"),
        (
            "\n# a\napi.'calls_per_s' = 0\n",
            ":4: api.calls_per_s: must be a number above 0, at most 1000",
        ),
        ("[upload] # x\n\n  files=17\n", ":4: upload.files: must be a whole number 1 to 16"),
        (
            "[upload]\nparts_max = 2\n",
            ":3: upload.parts_max: upload.parts is 4, above upload.parts_max, which is 2",
        ),
        (
            "[upload]\nbandwidth = '08:00,1M 9:00,off'\n",
            ":3: upload.bandwidth: entry 2 is not TIME,RATE such as 08:00,512KiB",
        ),
        ("[comfyui]\nwhen_busy = 'slow'\n", ":3: comfyui.when_busy: needs comfyui.url"),
        (
            "[comfyui]\nurl = 'http://10.0.0.5:8188'\n",
            ":3: comfyui.url: is on another machine: set comfyui.remote = true",
        ),
        ("[settle]\nquiet_s = -1\n", ":3: settle.quiet_s: must be a number 0 to 86400"),
        (
            "[scan]\nsymlinks = 'no'\n",
            ":3: scan.symlinks: must be follow, within_roots or skip",
        ),
        ("state_dir = ''\n", ":2: state_dir: is not a path"),
        ("state_dir = '/models'\n", ":2: state_dir: is inside models_dir: syncd would watch"),
        (
            "[settle]\nonce_wait_s = 69\n",
            ":3: settle.once_wait_s: is too short: files need 70 s to settle with quiet_s = 30",
        ),
        ("[limits]\nmax_file_size = '5 GX'\n", ":3: limits.max_file_size: is not a size such as"),
        ("[api]\nbase_url = 'ftp://h/api'\n", ":3: api.base_url: is not http(s)://host/path"),
        ("[api]\nbase_url = 'https://u:p@h/api'\n", ":3: api.base_url: is not http(s)://host/path"),
        (
            "[api]\nbase_url = 'http://cloud.lan/'\n",
            ":3: api.base_url: would send the token unencrypted",
        ),
        (
            "[network]\nstorage_hosts = ['a', 'http://b']\n",
            ":3: network.storage_hosts: entry 2 is not host or host:port",
        ),
        (
            "[network]\nca_bundle = '/no/such.pem'\n",
            ":3: network.ca_bundle: is not a readable file",
        ),
        ("[http]\nlisten = '9464'\n", ":3: http.listen: is not host:port"),
        ("[http]\nlisten = '0.0.0.0:9464'\n", ":3: http.listen: is not a loopback address"),
        ("[network]\nproxy = 'socks5://h'\n", ":3: network.proxy: is not http://host:port"),
        ("[naming]\nprefix = '../up/'\n", ":3: naming.prefix: must be empty, or folder names"),
        (
            "[naming.map]\n'a/b.pt' = 'a/b.pt'\n'a/(1).pt' = 'a/[1].pt'\n",
            ":2: naming.map: entry 2 is mapped to a path that the server would also refuse",
        ),
        ("[naming.map]\n'a/b.pt' = 'a/b.ckpt'\n", ":2: naming.map: entry 1 is not file to file"),
        ("[naming]\nmap = 'x'\n", ":3: naming.map: is not a JSON object"),
        ("[naming]\nmap = {a = 1}\n", ":3: naming.map: must be a table of texts"),
        ("[select]\ntypes = ['a/b']\n", ":3: select.types: entry 1 is not the name of a type"),
        ("[select]\nendings = ['.pt', 'pt']\n", ":3: select.endings: entry 2 is not an ending"),
        ("[api.multipart]\nabort_path = 'abort'\n", ":3: api.multipart.abort_path: "),
        ("[api]\ntoken = \n", ":3:9: not valid TOML: Invalid value"),
    ],
)
def test_wrong_file_is_refused_with_place_key_and_reason(
    tmp_path: Path, toml: str, said: str
) -> None:
    assert refusal(tmp_path, toml).startswith(f"{tmp_path}/config.toml{said}")


def test_relative_models_dir_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    cases: list[tuple[str, Mapping[str, str], Mapping[str, object], str]] = [
        ("models_dir = 'models'\n", {}, {}, f"{file}:1: models_dir: must be an absolute path"),
        ("", {"SYNCD_MODELS_DIR": "."}, {}, "SYNCD_MODELS_DIR: models_dir: must be an absolute"),
        ("", {}, {"models_dir": "models"}, "--models-dir: must be an absolute path"),
    ]
    for toml, environ, flags, said in cases:
        with pytest.raises(ConfigError) as caught:
            read(tmp_path, toml, environ, flags)

        assert str(caught.value).startswith(said)


def test_state_dir_inside_a_linked_or_extra_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "link").symlink_to("models")
    (tmp_path / "extra.yaml").write_text("a:\n  loras: more\n")
    toml = f"comfyui.extra_model_paths = '{tmp_path}/extra.yaml'\n"
    refused = {"link": "models_dir", "more/state": "a directory of comfyui.extra_model_paths"}
    for state, what in refused.items():
        flags = {"models_dir": f"{tmp_path}/models", "state_dir": f"{tmp_path}/{state}"}
        with pytest.raises(ConfigError, match=f"^--state-dir: is inside {what}: "):
            read(tmp_path, toml, flags=flags)

    beside = {"models_dir": f"{tmp_path}/models", "state_dir": f"{tmp_path}/models-state"}
    assert read(tmp_path, toml, flags=beside).settings.state_dir == tmp_path / "models-state"


def test_sizes_take_units_everywhere(tmp_path: Path) -> None:
    toml = (
        "models_dir = '/m'\nlimits.max_file_size = '50GB'\nlimits.max_bytes_per_day = '1.5 TiB'\n"
    )
    environ = {"SYNCD_API__SINGLE_PUT_LIMIT": "400M"}

    settings = read(tmp_path, toml, environ).settings

    assert settings.limits.max_file_size == 50 * 10**9
    assert settings.limits.max_bytes_per_day == 3 * 2**39
    assert settings.api.single_put_limit == 400 * 2**20


def test_message_tells_what_the_key_is_for_and_its_default(tmp_path: Path) -> None:
    said = refusal(tmp_path, "", {"SYNCD_UPLOAD__FILES": "many"})

    assert said == (
        "SYNCD_UPLOAD__FILES: upload.files: must be a whole number 1 to 16. "
        "Files above 16 MiB uploaded at once. Smaller files share the remaining capacity, at most 16."
        " Default: 2."
    )


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SYNCD_API_TOKEN", "SYNCD_API__TOKEN"),
        ("SYNCD_API", "SYNCD_API__"),
        ("SYNCD_api__team_id", "SYNCD_API__"),
    ],
)
def test_unknown_variable_is_refused_with_the_nearest_known_one(
    tmp_path: Path, name: str, nearest: str
) -> None:
    said = refusal(tmp_path, "", {name: DEVICE_KEY})

    assert said.startswith(f"environment: {name}: no such variable; did you mean {nearest}")
    assert DEVICE_KEY not in said


def test_all_problems_are_listed_together(tmp_path: Path) -> None:
    said = refusal(
        tmp_path, "[upload]\nfiles = 0\nx = 1\n", {"SYNCD_LOG__LEVEL": "loud", "SYNCD_X": "1"}
    )

    assert said.startswith("4 problems in the configuration:\n")
    assert [key in said for key in ("upload.files", "upload.x", "log.level", "SYNCD_X")] == [
        True
    ] * 4


def test_missing_models_dir_names_the_three_ways_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "")

    said = str(caught.value)
    assert said.startswith("models_dir: is not set.")
    assert f"{tmp_path}/config.toml, as SYNCD_MODELS_DIR, or with --models-dir" in said


@pytest.mark.parametrize(
    "toml",
    [
        "[api]\nteam_id = '{} {}'\n",
        "[api]\ncalls_per_s = '{}'\n",
        "[api]\nbase_url = '{}'\n",
        "[api]\ntoken = ['{}']\n",
        "[network]\nproxy = '{}'\n",
        "[network]\nstorage_hosts = ['{}/x']\n",
        "[log]\nlevel = '{}'\n",
        "[naming]\nprefix = '{}'\n",
        "[api]\ntoken = 'not {}'\n",
        "[api]\ntoken = '{}\n",
    ],
)
def test_no_message_shows_a_value(tmp_path: Path, toml: str) -> None:
    assert "CANARY" not in refusal(tmp_path, toml.replace("{}", DEVICE_KEY))


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:80", ("localhost", 80)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_a_loopback_address_to_listen_on_is_taken_apart(
    tmp_path: Path, listen: str, address: tuple[str, int]
) -> None:
    loaded = read(tmp_path, f"models_dir = '/m'\n[http]\nlisten = '{listen}'\n")

    assert loaded.settings.http.address == address


def test_plain_http_is_accepted_on_this_machine_and_where_allowed(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:80/a", "http://[::1]/a", "http://localhost/a"):
        assert read(tmp_path, flags={"api.base_url": url}).settings.api.loopback

    lan = read(
        tmp_path, environ={"SYNCD_API__BASE_URL": "http://nas/a", "SYNCD_NETWORK__ALLOW_HTTP": "1"}
    )
    assert not lan.settings.api.loopback


# Who is told


HOOK = "https://hooks.example.com:8443/services/CANARY?token=CANARY"
HOOK_SECRET = f"whsec_{'QUFB' * 8}"


def test_of_an_address_that_lets_in_whoever_knows_it_only_the_host_is_shown(tmp_path: Path) -> None:
    loaded = read(tmp_path, environ={"SYNCD_NOTIFY__WEBHOOK_URL": HOOK})
    url = loaded.settings.notify.webhook_url

    assert url is not None
    assert url.get_secret_value() == HOOK
    assert shown(loaded.value("notify.webhook_url")) == "https://hooks.example.com:8443/***"
    assert "CANARY" not in f"{loaded!r} {loaded.settings}"


@pytest.mark.parametrize("name", ["webhook_url", "heartbeat_url"])
@pytest.mark.parametrize(
    "url",
    ["hooks.example.com/CANARY", "ftp://h/CANARY", "https://u:CANARY@h/", "https://h/#CANARY",
     "https://h:0/CANARY", "https:///CANARY", "https://h/CANARY x"],
)  # fmt: skip
def test_an_address_to_tell_is_checked_and_never_quoted(
    tmp_path: Path, name: str, url: str
) -> None:
    said = refusal(tmp_path, f"[notify]\n{name} = '{url}'\n")

    assert f"notify.{name}: is not http(s)://host/path (no user, no fragment)" in said
    assert "CANARY" not in said


@pytest.mark.parametrize("name", ["webhook_url", "heartbeat_url"])
def test_what_is_told_goes_by_plain_http_only_where_that_is_allowed(
    tmp_path: Path, name: str
) -> None:
    far = f"[notify]\n{name} = 'http://hooks.example.com/CANARY'\n"
    said = refusal(tmp_path, far)

    assert f"notify.{name}: would be sent unencrypted" in said
    assert "CANARY" not in said

    read(tmp_path, f"models_dir = '/models'\nnetwork.allow_http = true\n{far}")
    read(tmp_path, f"models_dir = '/models'\n[notify]\n{name} = 'http://127.0.0.1:9/x'\n")


def test_the_signing_key_comes_from_its_setting_or_else_from_its_file(tmp_path: Path) -> None:
    path = token_file(tmp_path, f"{HOOK_SECRET}\n")
    from_file = f"[notify]\nwebhook_secret_file = '{path}'\n"
    other = HOOK_SECRET.replace("QUFB", "QkJC")

    read_from_file = read(tmp_path, f"models_dir = '/models'\n{from_file}")
    given = read(tmp_path, f"models_dir = '/models'\n{from_file}webhook_secret = '{other}'\n")

    for loaded, text, origin in (
        (read_from_file, HOOK_SECRET, str(path)),
        (given, other, f"{tmp_path}/config.toml:4"),
    ):
        secret = loaded.settings.notify.webhook_secret
        assert secret is not None
        assert secret.get_secret_value() == text
        assert loaded.origins["notify.webhook_secret"] == origin
        assert shown(loaded.value("notify.webhook_secret")) == "***"


def test_a_signing_key_that_cannot_be_used_is_refused_with_its_place(tmp_path: Path) -> None:
    named = f"[notify]\nwebhook_secret_file = '{tmp_path}/token'\n"
    given = refusal(tmp_path, "[notify]\nwebhook_secret = 'whsec_CANARY'\n")
    missing = refusal(tmp_path, named)
    token_file(tmp_path, "whsec_CANARY")
    wrong = refusal(tmp_path, named)
    token_file(tmp_path, HOOK_SECRET, 0o644)
    open_to_all = refusal(tmp_path, named)

    place = f"{tmp_path}/token: "
    assert "notify.webhook_secret: is not whsec_ and 24 to 64 bytes in base64" in given
    assert missing == f"{place}No such file or directory; notify.webhook_secret_file names it"
    assert wrong == (
        f"{place}notify.webhook_secret_file: the content is not whsec_ and 24 to 64 bytes in base64"
    )
    assert open_to_all.startswith(f"{place}others may read the secret")
    assert "CANARY" not in given + wrong


# Credentials


def source(tmp_path: Path, settings: Settings, **environ: str) -> CredentialSource:
    return credential_source(settings, environ, secrets_dir=tmp_path / "run-secrets")


def test_token_is_trimmed_and_shown_to_nobody(tmp_path: Path) -> None:
    loaded = read(tmp_path, environ={"SYNCD_API__TOKEN": f"  {DEVICE_KEY}\n"})

    token, origin = loaded.credential.read()
    assert token is not None
    assert (token.get_secret_value(), origin) == (DEVICE_KEY, "SYNCD_API__TOKEN")
    assert loaded.credential.current() == DEVICE_KEY
    assert "CANARY" not in repr(loaded)


def test_places_of_the_token_are_tried_in_order(tmp_path: Path) -> None:
    places = [
        tmp_path / "systemd" / "api_token",
        tmp_path / "run-secrets" / "api_token",
        tmp_path / "state" / "credentials" / "api_token",
    ]
    for number, place in enumerate(places):
        place.parent.mkdir(parents=True)
        place.write_text(f"dk-{number}")
        place.chmod(0o600)
    settings = Settings(models_dir=Path("/m"), state_dir=tmp_path / "state")
    credential = source(tmp_path, settings, CREDENTIALS_DIRECTORY=str(places[0].parent))
    found = []

    for number, place in enumerate(places):
        token, origin = credential.read()
        found.append((token and token.get_secret_value(), origin))
        assert found[-1] == (f"dk-{number}", str(place))
        place.unlink()

    assert credential.read() == (None, "default")


def test_named_token_file_comes_before_the_usual_places_and_is_read_again(tmp_path: Path) -> None:
    named = token_file(tmp_path, DEVICE_KEY)
    other = tmp_path / "systemd"
    other.mkdir()
    (other / "api_token").write_text("dk-other")

    loaded = read(
        tmp_path,
        environ={"SYNCD_API__TOKEN_FILE": str(named), "CREDENTIALS_DIRECTORY": str(other)},
    )
    token_file(tmp_path, "dk-replaced\n")

    assert loaded.origins["api.token"] == str(named)
    assert loaded.credential.read() == (SecretStr("dk-replaced"), str(named))


def test_of_all_modes_a_token_file_may_have_only_the_owners_own_are_accepted(
    tmp_path: Path,
) -> None:
    path = token_file(tmp_path, DEVICE_KEY)
    credential = read(tmp_path, f"models_dir = '/m'\n[api]\ntoken_file = '{path}'\n").credential

    accepted, refused = set(), set()

    for mode in range(0o400, 0o777 + 1):
        path.chmod(mode)
        try:
            credential.current()
            accepted.add(mode)
        except ConfigError as error:
            if f"(mode {mode:04o}); run: chmod 600 {path}" in str(error):
                refused.add(mode)

    assert accepted == {0o400, 0o500, 0o600, 0o700}
    assert len(refused) == 256 - 4


def test_modes_below_a_managed_folder_are_not_ours_to_judge(tmp_path: Path) -> None:
    secrets = tmp_path / "run-secrets"
    secrets.mkdir()
    path = token_file(secrets, DEVICE_KEY, 0o444)
    (tmp_path / "alias").symlink_to(secrets)
    settings = Settings.model_validate(
        {"models_dir": "/m", "api": {"token_file": tmp_path / "alias" / "token"}}
    )

    for secrets_dir in (secrets, tmp_path / "alias"):
        credential = credential_source(settings, {}, secrets_dir=secrets_dir)
        assert credential.current() == DEVICE_KEY
    with pytest.raises(ConfigError, match="others may read the secret"):
        credential_source(settings, {}, secrets_dir=path.parent / "elsewhere").read()


def test_named_token_file_must_be_there_and_be_a_file(tmp_path: Path) -> None:
    missing = refusal(tmp_path, f"[api]\ntoken_file = '{tmp_path}/none'\n")
    folder = refusal(tmp_path, f"[api]\ntoken_file = '{tmp_path}'\n")

    assert missing.startswith(f"{tmp_path}/none: No such file or directory")
    assert folder == f"{tmp_path}: the secret must be in a regular file"


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("dk-", "neither a device key nor a session token"),
        ("dk-CANARY with space", "neither a device key nor a session token"),
        ("dk-CANARY\nsecond line", "neither a device key nor a session token"),
        ("CANARY.two", "neither a device key nor a session token"),
        ("CANARY..three", "neither a device key nor a session token"),
        (SESSION_TOKEN, "a session token needs api.team_id"),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_token_that_the_api_would_refuse_is_refused_at_once(
    tmp_path: Path, token: str, reason: str, in_file: bool
) -> None:
    path = token_file(tmp_path, token)
    name, value = ("TOKEN_FILE", str(path)) if in_file else ("TOKEN", token)

    said = refusal(tmp_path, "", {f"SYNCD_API__{name}": value})

    assert said.startswith(f"{path if in_file else 'SYNCD_API__TOKEN'}: api.token: ")
    assert reason in said
    assert "CANARY" not in said


# The example


def test_example_shows_every_key_with_its_default_and_the_description_as_its_comment() -> None:
    shown_keys: dict[str, tuple[str, str]] = {}
    section = ""
    lines = EXAMPLE.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if header := re.fullmatch(r"\[(.+)]", line):
            section = header[1] + "."
            if header[1] in KEYS:  # a setting that is a table
                shown_keys[header[1]] = ("", before)
        elif setting := re.fullmatch(r"(#?)(\w+) = .+", line):
            shown_keys[section + setting[2]] = (setting[1], before)

    assert list(shown_keys) == list(KEYS)
    assert [comment for _, comment in shown_keys.values()] == [
        f"# {field.description}" for field in KEYS.values()
    ]


def test_example_sets_each_default_and_leaves_the_rest_commented_out(tmp_path: Path) -> None:
    loaded = read(tmp_path, EXAMPLE.read_text(), flags={"models_dir": "/m"})
    bare = read(tmp_path, "", flags={"models_dir": "/m"})

    set_in_example = {key for key, origin in loaded.origins.items() if ":" in origin}
    assert loaded.settings == bare.settings
    unset = {key for key, field in KEYS.items() if field.get_default() is None}
    assert set_in_example == KEYS.keys() - unset - {"models_dir", "state_dir"}


def test_every_line_of_the_example_is_a_setting_once_its_mark_is_removed() -> None:
    text = re.sub(r"(?m)^#(\w+ = |\")", r"\1", EXAMPLE.read_text())

    values = tomllib.loads(text)

    assert values["models_dir"]
    assert values["api"]["token_file"]
    naming = Settings.model_validate({"models_dir": "/m", "naming": values["naming"]}).naming
    assert naming.map == values["naming"]["map"] != {}
