"""Who may call: one user, the teams of theirs and one that is not, keys, sessions, pairings."""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from syncd.sandbox.answers import ApiRefusal
from syncd.sandbox.switches import Switches

POLL_SLACK_S = 0.1
CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class Credential(Enum):
    """The kinds of bearer token."""

    SESSION = "session"
    DEVICE = "device"
    INTEGRATION = "integration"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a sign-in gives; ``expires_in`` is seconds."""

    access_token: str
    refresh_token: str
    expires_in: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """A device that waits for its user; times are Unix seconds. ``team_id`` is set by approval."""

    device_code: str
    user_code: str
    expires_at: float
    team_id: str | None = None
    next_poll_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a bearer token is, and the team that it carries; a session carries none."""

    kind: Credential
    team_id: str | None = None


class Accounts:
    """
    The users' side of the cloud, in memory.

    Args:
        draw: Source of every id and secret, so that one seed gives one history.
        now: Unix seconds.
    """

    email = "ada@example.org"
    password = "correct horse battery staple"  # noqa: S105 - a stand-in's
    user_id = "0190a000-0000-7000-8000-000000000001"

    def __init__(
        self, draw: random.Random, now: Callable[[], float], switches: Callable[[], Switches]
    ) -> None:
        self._draw = draw
        self._now = now
        self._switches = switches
        self._secret = self._hex(32).encode()
        self.team_id = self.new_id()
        self.foreign_team_id = self.new_id()
        self._keys: dict[str, Identity] = {}
        self._chains: dict[str, str] = {}
        self._live: dict[str, str] = {}
        self._pairings: dict[str, Pairing] = {}
        self.device_key = self._new_key("dk", Credential.DEVICE)
        self.integration_key = self._new_key("sk", Credential.INTEGRATION)
        self.agent_key = self._new_key("ak", Credential.AGENT)
        more = {self.new_id(): name for name in switches().more_teams}
        self.teams = {self.team_id: "Sandbox", **more}

    def new_id(self) -> str:
        """A random id in the form of a UUID."""
        digits = self._hex(16)
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def identify(self, token: str | None) -> Identity | None:
        """What *token* is; None if it is no credential, expired or revoked."""
        if token is None:
            return None
        return self._keys.get(token) or self._session(token)

    def login(self, email: str, password: str) -> TokenPair:
        """Sign in. Raises ApiRefusal (401), the same for every reason."""
        if (email, password) != (self.email, self.password):
            raise ApiRefusal(401, "invalid email or password")
        return self.new_session()

    def new_session(self, chain: str | None = None) -> TokenPair:
        """A token pair of the user, the first of a chain or the next in *chain*."""
        lifetime_s = self._switches().access_token_lifetime_s
        refresh = f"rt-{self._hex(20)}"
        chain = refresh if chain is None else chain
        self._chains[refresh], self._live[chain] = chain, refresh
        return TokenPair(self._jwt(lifetime_s), refresh, lifetime_s)

    def refresh(self, token: str) -> TokenPair:
        """A new pair for a refresh token, which dies. Raises ApiRefusal (401) at its second use."""
        chain = self._chains.get(token)
        if chain is None or self._live.get(chain) != token:
            if chain is not None and self._switches().reuse_ends_chain:
                self._live.pop(chain, None)
            raise ApiRefusal(401, "refresh token is spent or unknown")
        return self.new_session(chain)

    def revoke(self, key: str) -> None:
        """Make *key* unknown from now on."""
        self._keys.pop(key, None)

    def start_pairing(self) -> Pairing:
        """A fresh pairing, not yet approved."""
        letters = "".join(self._draw.choices(CODE_LETTERS, k=8))
        until = self._now() + self._switches().pairing_lifetime_s
        pairing = Pairing(f"dc-{self._hex(16)}", f"{letters[:4]}-{letters[4:]}", until)
        self._pairings[pairing.device_code] = pairing
        return pairing

    def confirm_pairing(self, user_code: str, team_id: str | None = None) -> None:
        """Approve for a team, the first unless given; case, dashes and spaces do not matter. 404."""
        wanted = _plain(user_code)
        for pairing in self._pairings.values():
            if _plain(pairing.user_code) == wanted and pairing.expires_at > self._now():
                approved = replace(pairing, team_id=team_id or self.team_id)
                self._pairings[pairing.device_code] = approved
                return
        raise ApiRefusal(404, "resource not found")

    def poll_pairing(self, device_code: str) -> tuple[str, str] | None:
        """
        None while pending, else the device key and its companion, once.

        Raises:
            ApiRefusal: 404, expired, unknown or collected; 429, sooner than the interval allows.
        """
        pairing = self._pairings.get(device_code)
        if pairing is None or pairing.expires_at <= self._now():
            raise ApiRefusal(404, "resource not found")
        if self._now() < pairing.next_poll_at:
            raise ApiRefusal(429, "polled sooner than the interval allows")
        if pairing.team_id is None:
            after_s = self._switches().pairing_interval_s - POLL_SLACK_S
            self._pairings[device_code] = replace(pairing, next_poll_at=self._now() + after_s)
            return None
        del self._pairings[device_code]
        device = self._new_key("dk", Credential.DEVICE, pairing.team_id)
        return device, self._new_key("ak", Credential.AGENT, pairing.team_id)

    def _new_key(self, prefix: str, kind: Credential, team_id: str | None = None) -> str:
        key = f"{prefix}-{self._hex(20)}"
        self._keys[key] = Identity(kind, team_id or self.team_id)
        return key

    def _hex(self, size: int) -> str:
        return self._draw.randbytes(size).hex()

    def _jwt(self, lifetime_s: int) -> str:
        issued = int(self._now())
        claims = {
            "sub": self.user_id,
            "iat": issued,
            "exp": issued + lifetime_s,
            "jti": self._hex(8),
        }
        signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT'})}.{_segment(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def _signature(self, signed: str) -> str:
        return _base64url(hmac.digest(self._secret, signed.encode(), hashlib.sha256))

    def _session(self, token: str) -> Identity | None:
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(self._signature(signed).encode(), signature.encode()):
            return None
        segment = signed.partition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
        return Identity(Credential.SESSION) if claims["exp"] > self._now() else None


def _plain(code: str) -> str:
    return code.upper().replace("-", "").replace(" ", "")


def _segment(document: object) -> str:
    return _base64url(json.dumps(document, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
