"""``syncd whoami``: shows the account, its credentials and what they allow."""

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from syncd.cli.account import Refused, asked, limit_text, name_of, profile
from syncd.cli.main import Invocation, pass_invocation
from syncd.cli.run import NoCredential
from syncd.cloud.credentials import Credentials, ends_at_s
from syncd.config.loader import Loaded
from syncd.core.catalog.permissions import WRITERS, describe_permissions, team_of
from syncd.types import Profile, Session, Team

SCHEMA = 1
"""Version of the ``--json`` output; see docs/schemas/whoami.schema.json."""


@dataclass(frozen=True, slots=True)
class Credential:
    """
    A credential that lies here.

    Args:
        kind: ``session`` (kept by syncd login), ``token`` (a session token that was put
            there) or ``device``.
        accepted: By the cloud, just now; None: it could not be asked.
        reason: What the cloud said where it did not accept it, or was not there.
        expires_at: Unix ms; None if unknown.
        renews: It is renewed before it ends.
    """

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
    team_id: str | None
    code: int

    @property
    def team(self) -> Team | None:
        return None if self.profile is None else team_of(self.profile, self.team_id)

    @property
    def sends_large(self) -> bool:
        return self.credentials[0].kind != "device"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object (docs/schemas).")
@pass_invocation
def whoami(invocation: Invocation, as_json: bool) -> int:
    """Show the account of syncd in the cloud, its credentials, and what they allow."""
    loaded = invocation.load()
    account = look(loaded)
    if as_json:
        click.echo(json.dumps(as_document(loaded, account), indent=2))
    else:
        click.echo("\n".join(_lines(loaded, account)))
    return account.code


def look(loaded: Loaded) -> Account:
    """
    Ask the cloud with each credential that lies here.

    Raises:
        NoCredential: There is none.
    """
    current, (_, origin) = loaded.credential.current(), loaded.credential.read()
    if current is None:
        raise NoCredential
    code, who, reason, accepted = _ask(loaded, None)
    # Asked first: what was renewed by that lies there now.
    current = loaded.credential.current()
    renews = isinstance(current, Session) and current.refresh is not None
    ends = _expires_at(current)
    found = [Credential(_kind(current), origin, True, accepted, reason, ends, renews)]
    team_id = current.team_id if isinstance(current, Session) else None
    if found[0].kind == "token":
        team_id = loaded.settings.api.team_id
    key, key_origin = loaded.credential.device_key()
    if key is not None and found[0].kind != "device":
        _, _, reason, accepted = _ask(loaded, Credentials(lambda: key))
        found.append(Credential("device", key_origin, False, accepted, reason, None))
    return Account(found, who, team_id, code)


def _ask(
    loaded: Loaded, credentials: Credentials | None
) -> tuple[int, Profile | None, str | None, bool | None]:
    """Exit code, profile, what went wrong, and whether the credential was accepted."""
    try:
        return 0, asked(profile(loaded, credentials)), None, True
    except Refused as refused:
        return refused.exit_code, None, refused.reason, False if refused.exit_code == 77 else None


def _kind(current: str | Session | None) -> str:
    if isinstance(current, Session):
        return "session"
    return "device" if (current or "").startswith("dk-") else "token"


def _expires_at(current: str | Session | None) -> int | None:
    """Unix ms; of a bare session token what it says itself (``exp``, RFC 7519)."""
    if isinstance(current, Session):
        return current.expires_at
    ends_s = ends_at_s(current or "")
    return None if ends_s is None else int(ends_s * 1000)


def as_document(loaded: Loaded, account: Account) -> dict[str, Any]:
    """The ``--json`` output: a written contract."""
    who, ring = account.profile, loaded.credential.keyring
    return {
        "schema": SCHEMA,
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
        yield f"team        {_team_text(account)}"
    for each in account.credentials:
        yield f"{_WORDS[each.kind]:10}  {_state(each)}"
        yield f"            {each.origin}"
    ring = loaded.credential.keyring
    if ring is not None:
        yield f"keyring     {ring.state}"
    yield f"uploads     {_uploads(loaded, account)}"


_WORDS = {"session": "session", "token": "token", "device": "device key"}


def _team_text(account: Account) -> str:
    who, team = account.profile, account.team
    assert who is not None, "asked before"
    if team is not None:
        return f"{team.name} ({team.id}), {team.role or 'role unknown'}"
    names = ", ".join(each.name for each in who.teams) or "none"
    return f"one of {names}: a device key does not show which"


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
    """What can and cannot be uploaded, in words."""
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
        return (
            f"probably nothing. {describe_permissions(account.profile, team.id if team else None)}"
        )
    return what
