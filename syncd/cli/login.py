"""``syncd login`` and ``syncd logout``: get and remove the credentials of this machine."""

import os
import sys
import time
from dataclasses import dataclass, replace
from typing import IO

import click

from syncd.cli.cloud_session import (
    Refused,
    asked,
    limit_text,
    name_of,
    open_transport,
    profile,
    reaching,
)
from syncd.cli.main import Invocation, pass_invocation
from syncd.clock import SystemClock
from syncd.cloud import sign_in
from syncd.cloud.credentials import Credentials
from syncd.cloud.listing import PROOFS, shows
from syncd.config.credential_files import Stored
from syncd.config.loader import Loaded
from syncd.core.catalog.permissions import team_of
from syncd.core.jobs.error_mapping import DEVICE_KEY
from syncd.errors import ConfigError, NeedsOperator, StateError, SyncdError
from syncd.store.db import reading
from syncd.store.reports import Report
from syncd.store.store import Store
from syncd.types import Kind, Pairing, Profile, Session, Team, printable

LOCK_PAUSE_S = 0.1


class NotPossible(SyncdError):
    """The command cannot continue; the text says what the user must do."""

    exit_code = 77


@dataclass(frozen=True, slots=True)
class Before:
    """The team and the newest records of a state directory."""

    state_dir: str
    team_id: str | None
    records: tuple[str, ...]

    @classmethod
    def of(cls, loaded: Loaded) -> "Before":
        """Read the store, if there is one. Raises ``StateError`` if it cannot be read."""
        state_dir = os.fspath(loaded.settings.state_dir)
        with reading(state_dir, Report) as report:
            if report is None:
                return cls(state_dir, None, ())
            cloud = report.cloud()
            return cls(state_dir, cloud and cloud[1], tuple(report.newest_records(PROOFS)))

    @property
    def elsewhere(self) -> str:
        """The error text if none of the records is in the catalog of a credential."""
        return (
            f"None of what was registered last from {printable(self.state_dir)} is found there: it "
            "is in the catalog of another team, or was deleted."
        )


def stored_of(loaded: Loaded) -> Stored:
    """Return where ``syncd login`` stores credentials."""
    assert loaded.credential.stored is not None, "set by the loader"
    return loaded.credential.stored


def locked(stored: Stored) -> IO[bytes]:
    """Wait for the lock of *stored*, which is held for one request at a time."""
    while (held := stored.try_lock()) is None:
        time.sleep(LOCK_PAUSE_S)
    return held


@click.command()
@click.option("--large-files", is_flag=True, help="Sign in as a user, to upload large files too.")
@click.option("--email", metavar="ADDRESS", help="With --large-files: the address of the account.")
@click.option(
    "--password-stdin", is_flag=True, help="With --large-files: read the password from stdin."
)
@click.option("--team", "team_id", metavar="ID", help="The team whose catalog receives the files.")
@pass_invocation
def login(
    invocation: Invocation,
    large_files: bool,
    email: str | None,
    password_stdin: bool,
    team_id: str | None,
) -> int:
    """
    Get a device key for this machine, which you confirm in a browser on any machine.

    With --large-files, sign in with e-mail and password instead, so that files above the size limit
    of a device key are uploaded too.

    A credential that cannot see the files registered last from this machine is refused, because they
    may be in the catalog of another team. If they were deleted, name the team with --team.
    """
    if not large_files and (email or password_stdin):
        raise click.UsageError("--email and --password-stdin go with --large-files")
    if password_stdin and email is None:
        raise click.UsageError("--password-stdin requires --email ADDRESS")
    loaded = invocation.load()
    stored_of(loaded).prepare()
    if not large_files:
        _pair(loaded, team_id)
        return 0
    click.echo(
        f"Only signed-in users can upload files above {limit_text(loaded)}, so syncd will act as you, "
        "with your role in the team, until you run syncd logout.\n"
        f"The session is kept in {printable(str(stored_of(loaded).session_file))}, which only this "
        "account can read, and is renewed automatically; the password is used once and not kept.\n"
        "After a long pause or a broken connection you may have to sign in again, and until then all "
        "uploads wait.\n"
    )
    _sign_in(loaded, *_account(email, password_stdin), team_id, alone=password_stdin)
    return 0


@click.command()
@pass_invocation
def logout(invocation: Invocation) -> int:
    """
    Revoke the device key of this machine and remove the stored credentials.

    Credentials from other sources, such as a file or a service manager, are listed but not removed.
    """
    loaded = invocation.load()
    stored = stored_of(loaded)
    supplied, origin = loaded.credential.configured()
    own, kept = loaded.credential.kept_keys(), stored.session_file.exists()
    ended = {key: _revoke(loaded, key) for key, _ in own}
    code = max(ended.values(), default=0)
    if own:
        _forget_key(loaded)
        click.echo(f"The device key is removed from {' and '.join(place for _, place in own)}.")
    if kept:
        with locked(stored):
            stored.remove(stored.session_file)
        click.echo(
            f"The session is removed from {printable(str(stored.session_file))}. The cloud has no "
            "call that ends one: what was removed here runs out there by itself."
        )
    if supplied is not None and not _is_ours(loaded, origin):
        if ended.get(supplied) == 0:
            click.echo(
                f"{origin} contains the same key, which is of no use any more: remove it there."
            )
        else:
            kind = "device key" if DEVICE_KEY.fullmatch(supplied) else "session token"
            click.echo(
                f"The {kind} in {origin} does not come from syncd login and is not removed: syncd uses "
                "it until you remove it there."
            )
    try:
        if (ring := loaded.credential.own_keyring) is not None:
            ring.ask()
    except StateError as error:
        click.echo(f"{error}. A device key in it stays; unlock it, then: syncd logout", err=True)
        return code or error.exit_code
    if not own and not kept and (supplied is None or _is_ours(loaded, origin)):
        click.echo("No credential is stored here.")
    return code


def _pair(loaded: Loaded, team_id: str | None) -> None:
    key, origin = loaded.credential.device_key()
    if key is not None and team_id is not None and _is_accepted(loaded, key):
        _trust(loaded, key, team_id)
        return
    if key is not None and not _is_ours(loaded, origin):
        raise ConfigError(
            f"The device key in {origin} takes precedence over one from syncd login. Remove it there "
            "first; nothing was changed."
        )
    if key is not None and _is_accepted(loaded, key):
        click.echo(f"This machine has a device key, in {origin}. For another one: syncd logout")
        return
    before, places = Before.of(loaded), list[str]()

    def keep(key: str) -> None:
        places.append(_keep_key(loaded, key))

    async def pair() -> None:
        async with open_transport(loaded) as transport:
            clock = SystemClock()
            await sign_in.pair(transport, keep=keep, show=_show, report=click.echo, clock=clock)

    asked(pair())
    key, _ = loaded.credential.device_key()
    assert key is not None, "it was kept"
    if team_id is not None:
        _trust(loaded, key, team_id)
    elif not asked(_shows(loaded, Credentials(lambda: key), before)):
        _revoke(loaded, key)
        _forget_key(loaded)
        raise NotPossible(
            f"{before.elsewhere} Run syncd login again and confirm for that team, or give each "
            "team a state_dir of its own; if it was deleted, name the team with --team. The new key "
            "is removed."
        )
    who = asked(profile(loaded, Credentials(lambda: key)))
    click.echo(f"Signed in as {name_of(who)}. The device key is kept in {places[-1]}.")
    limit = limit_text(loaded)
    click.echo(f"It uploads files up to {limit}; for larger ones: syncd login --large-files")


def _trust(loaded: Loaded, key: str, team_id: str) -> None:
    """Trust the user that *key* belongs to the team of our records. Raises ``AlreadyRunning``."""
    before = Before.of(loaded)
    team = _team(asked(profile(loaded, Credentials(lambda: key))), team_id, alone=True)
    if before.team_id not in (None, team.id):
        raise NotPossible(
            f"What was registered from {printable(before.state_dir)} is in the catalog of the team "
            f"{before.team_id}. Name that one, or give each team a state_dir of its own."
        )
    if before.records:
        store = Store(before.state_dir)
        try:
            store.servers.trust_key(key)
        finally:
            store.close()
    click.echo(f"The device key of this machine counts for the team {team.name}.")


def _show(pairing: Pairing) -> None:
    click.echo(f"Open this address, here or on any other machine:\n\n  {pairing.address}\n")
    if sys.stdout.isatty():
        import segno

        segno.make(pairing.address, error="l", micro=False).terminal(compact=True)
    minutes = max(1, round(pairing.lifetime_s / 60))
    click.echo(
        f"and confirm the code {pairing.user_code} there. Waiting up to {minutes} min (Ctrl-C stops) ..."
    )


def _is_accepted(loaded: Loaded, key: str) -> bool:
    try:
        asked(profile(loaded, Credentials(lambda: key)))
    except Refused as refused:
        if refused.error.kind is not Kind.DEVICE_KEY_REFUSED:
            raise
        click.echo("The device key of this machine is not accepted any more.")
        return False
    return True


async def _shows(loaded: Loaded, credentials: Credentials, before: Before) -> bool:
    """Return whether our newest records are in the catalog of *credentials*."""
    async with reaching(loaded, credentials=credentials) as api:
        return await shows(api, before.records)


def _keep_key(loaded: Loaded, key: str) -> str:
    """Store a new device key, in the system's keyring if there is one, and return the place."""
    stored, ring = stored_of(loaded), loaded.credential.keyring
    with locked(stored):
        if ring is None or not ring.usable:
            stored.write_device_key(key)
            return printable(str(stored.device_key_file))
        ring.keep(key)
        stored.remove(stored.device_key_file)  # it would take precedence over the keyring
        return ring.name


def _forget_key(loaded: Loaded) -> None:
    stored, ring = stored_of(loaded), loaded.credential.own_keyring
    with locked(stored):
        stored.remove(stored.device_key_file)
    if ring is not None:
        ring.remove()


def _is_ours(loaded: Loaded, origin: str) -> bool:
    """Return whether ``syncd login`` stores keys in *origin*."""
    ring = loaded.credential.keyring
    file = printable(str(stored_of(loaded).device_key_file))
    return origin == file or (ring is not None and origin == ring.name)


def _revoke(loaded: Loaded, key: str) -> int:
    """Revoke *key*; print an error and return its exit code, or return 0."""

    async def revoke() -> None:
        async with reaching(loaded, credentials=Credentials(lambda: key)) as api:
            await api.revoke()

    try:
        asked(revoke())
    except Refused as refused:
        if refused.error.kind is Kind.DEVICE_KEY_REFUSED:
            return 0  # it was revoked before
        click.echo(
            f"The device key could not be revoked: {refused.error}. It is removed here anyway; "
            "remove the device on the Access page of the dashboard, too.",
            err=True,
        )
        return refused.exit_code
    click.echo("The device key is revoked.")
    return 0


def _sign_in(
    loaded: Loaded, email: str, password: str, team_id: str | None, *, alone: bool
) -> None:
    """Sign in and keep the session; *alone*: do not prompt for the team."""
    before, stored = Before.of(loaded), stored_of(loaded)
    wanted = team_id or loaded.settings.api.team_id or before.team_id
    session, who = asked(_signed_in(loaded, email, password))
    team = _team(who, wanted, alone=alone)
    session = replace(session, team_id=team.id)
    if not asked(_is_of_before(loaded, session, before, who, named=team_id is not None)):
        raise NotPossible(
            f"{before.elsewhere} Name its team with --team, or give each team a state_dir of its "
            "own. Nothing was changed."
        )
    with locked(stored):
        stored.write_session(session)
    click.echo(f"Signed in as {name_of(who)} for the team {team.name}.")
    click.echo("Files of any size are uploaded now; a running syncd takes it up within a minute.")


async def _is_of_before(
    loaded: Loaded, session: Session, before: Before, who: Profile, *, named: bool
) -> bool:
    """Return whether the session belongs to the same team as before."""
    if before.team_id is not None:
        return before.team_id == session.team_id

    async def is_in(team_id: str) -> bool:
        asking = replace(session, team_id=team_id)
        return await _shows(loaded, Credentials(lambda: asking), before)

    if await is_in(session.team_id):
        return True
    others = [team.id for team in who.teams if team.id != session.team_id]
    return named and not any([await is_in(team_id) for team_id in others])


def _account(email: str | None, password_stdin: bool) -> tuple[str, str]:
    if password_stdin:
        assert email is not None, "required with --password-stdin"
        return email, sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the password: --password-stdin")
    return email or click.prompt("E-mail"), click.prompt("Password", hide_input=True)


async def _signed_in(loaded: Loaded, email: str, password: str) -> tuple[Session, Profile]:
    """Return a session without a team, and its account."""
    async with open_transport(loaded) as transport:
        try:
            tokens = await sign_in.login(transport, email, password)
        except NeedsOperator as error:
            if error.kind is not Kind.SESSION_REFUSED:
                raise
            raise NotPossible(
                "The cloud does not sign this account in, and does not say why: the address or the "
                "password is wrong, the address was never confirmed, or the account is disabled. "
                "An account that signs in through Google has no password and cannot get a session; "
                f"it can upload files up to {limit_text(loaded)}: syncd login"
            ) from None
    now_ms = SystemClock().now_ms()
    session = Session(
        base_url=loaded.settings.api.base_url,
        team_id="",
        access=tokens.access,
        refresh=tokens.refresh,
        begun_at=now_ms,
        expires_at=now_ms + tokens.lifetime_s * 1000,
    )
    return session, await profile(loaded, Credentials(lambda: session))


def _team(who: Profile, wanted: str | None, *, alone: bool) -> Team:
    """Return the team *wanted*, the only team, or the one that the user selects."""
    if (team := team_of(who, wanted)) is not None:
        return team
    listed = ", ".join(f"{each.id} ({each.name})" for each in who.teams) or "none"
    if wanted is not None:
        raise NotPossible(
            f"{name_of(who)} is not in the team {printable(wanted)} (from --team, api.team_id or the "
            f"records of this machine). The teams are: {listed}"
        )
    if alone or not who.teams:
        raise NotPossible(f"Name the team with --team ID. The teams are: {listed}")
    for number, each in enumerate(who.teams, start=1):
        click.echo(f"{number:3}  {each.name}  {each.id}")
    most = len(who.teams)
    picked = click.prompt(f"Team (1-{most})", type=click.IntRange(1, most))
    return who.teams[picked - 1]
