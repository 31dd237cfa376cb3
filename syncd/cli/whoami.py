"""``syncd whoami``: shows the account, its credentials and what they allow."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click

from syncd.cli.cloud_session import Refused, asked, limit_text, name_of, profile
from syncd.cli.main import Invocation, json_option, pass_invocation, print_json
from syncd.cli.run import require_credential
from syncd.cloud.credentials import Credentials, ends_at_s
from syncd.config.loader import Loaded
from syncd.core.catalog.permissions import WRITERS, describe_permissions, team_of
from syncd.types import Profile, Session, Team


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential on this machine; docs/schemas/whoami.schema.json describes the fields."""

    kind: str
    origin: str
    in_force: bool
    accepted: bool | None
    reason: str | None
    expires_at: int | None
    renews: bool = False


@dataclass(frozen=True, slots=True)
class Account:
    """The account; the first credential is the one in use."""

    credentials: list[Credential]
    profile: Profile | None
    team: Team | None
    code: int

    @property
    def sends_large(self) -> bool:
        return self.credentials[0].kind != "device"


@click.command()
@json_option
@pass_invocation
def whoami(invocation: Invocation, as_json: bool) -> int:
    """Show the account of syncd in the cloud, its credentials, and what they allow."""
    loaded = require_credential(invocation.load())
    account = _ask_cloud(loaded)
    if as_json:
        print_json(_document(loaded, account))
    else:
        click.echo("\n".join(_lines(loaded, account)))
    return account.code


def _ask_cloud(loaded: Loaded) -> Account:
    """Ask the cloud with each credential on this machine."""
    _, origin = loaded.credential.read()
    code, who, reason, accepted = _ask(loaded, None)
    current = loaded.credential.current()  # the request may have renewed it
    kind: str
    team_id: str | None
    ends: int | None
    if isinstance(current, Session):
        kind, team_id, ends = "session", current.team_id, current.expires_at
        renews = current.refresh is not None
    else:
        kind = "device" if (current or "").startswith("dk-") else "token"
        team_id = loaded.settings.api.team_id if kind == "token" else None
        ends_s = ends_at_s(current or "")
        ends, renews = None if ends_s is None else int(ends_s * 1000), False
    found = [Credential(kind, origin, True, accepted, reason, ends, renews)]
    key, key_origin = loaded.credential.device_key()
    if key is not None and kind != "device":
        _, _, reason, accepted = _ask(loaded, Credentials(lambda: key))
        found.append(Credential("device", key_origin, False, accepted, reason, None))
    return Account(found, who, None if who is None else team_of(who, team_id), code)


def _ask(
    loaded: Loaded, credentials: Credentials | None
) -> tuple[int, Profile | None, str | None, bool | None]:
    """Return exit code, profile, error, and whether the credential was accepted."""
    try:
        return 0, asked(profile(loaded, credentials)), None, True
    except Refused as refused:
        return refused.exit_code, None, refused.reason, False if refused.exit_code == 77 else None


def _document(loaded: Loaded, account: Account) -> dict[str, object]:
    who, ring = account.profile, loaded.credential.keyring
    return {
        "base_url": loaded.settings.api.base_url,
        "user": None if who is None else {"id": who.user_id, "name": who.name, "email": who.email},
        "team": None if account.team is None else dataclasses.asdict(account.team),
        "teams": [] if who is None else [dataclasses.asdict(team) for team in who.teams],
        "credentials": [dataclasses.asdict(each) for each in account.credentials],
        "keyring": None if ring is None else ring.state,
        "single_put_limit": loaded.settings.api.single_put_limit,
        "sends_large_files": account.sends_large,
        "says": _uploads(loaded, account),
    }


def _lines(loaded: Loaded, account: Account) -> Iterator[str]:
    if account.profile is not None:
        yield f"user        {name_of(account.profile)} at {loaded.settings.api.base_url}"
        team, names = account.team, ", ".join(each.name for each in account.profile.teams)
        text = f"one of {names or 'none'}: a device key does not show which"
        if team is not None:
            text = f"{team.name} ({team.id}), {team.role or 'role unknown'}"
        yield f"team        {text}"
    for each in account.credentials:
        yield f"{'device key' if each.kind == 'device' else each.kind:10}  {_state(each)}"
        yield f"            {each.origin}"
    ring = loaded.credential.keyring
    if ring is not None:
        yield f"keyring     {ring.state}"
    yield f"uploads     {_uploads(loaded, account)}"


def _state(each: Credential) -> str:
    if each.accepted is False:
        return f"not accepted: {each.reason}"
    known = "in use" if each.in_force else "not used: the session takes precedence"
    known = f"{known}; {_life(each)}"
    return known if each.accepted else f"{known}; the cloud could not be asked: {each.reason}"


def _life(each: Credential) -> str:
    if each.kind == "device":
        return "valid until it is revoked"
    if each.expires_at is None:
        return "expiry unknown"
    left_s = each.expires_at / 1000 - time.time()
    left = f"{max(0, round(left_s / 60))} min left" if left_s > 0 else "expired"
    return f"{left}, renewed automatically" if each.renews else f"{left}, then sign in again"


def _uploads(loaded: Loaded, account: Account) -> str:
    """Describe what can be uploaded."""
    limit, team = limit_text(loaded), account.team
    if account.credentials[0].accepted is False:
        return "nothing, until the credential is accepted again"
    what = f"files of any size, those above {limit} in parts"
    if not account.sends_large:
        what = f"files up to {limit}; for larger ones: syncd login --large-files"
    if account.profile is None:
        return what
    barred = team is not None and team.role is not None and team.role.lower() not in WRITERS
    if barred or account.profile.switched_off:
        permissions = describe_permissions(account.profile, team.id if team else None)
        return f"probably nothing. {permissions}"
    return what
