"""The API: one table of endpoints that is also the auth matrix, and what each of them does."""

import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum, auto
from operator import attrgetter
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from syncd.sandbox import fields
from syncd.sandbox.accounts import Accounts, Credential
from syncd.sandbox.answers import ApiRefusal, StoreRefusal, api_refused, json_answer
from syncd.sandbox.sigv4 import Grants, SignedPut
from syncd.sandbox.switches import Switches, Unique
from syncd.types import Call

PREFIX = "/api/v1"
NEWS: Mapping[str, tuple[str, str]] = {
    Call.PRESIGN: ("storage_key", "storage_key"),
    Call.INITIATE: ("upload_id", "upload_id"),
    Call.REGISTER: ("id", "record_id"),
}
"""By call: the member of the answer that is an id, and its name in the history."""

MODELS = "custom_models"
"""The feature that writes need."""

PER_PAGE_DEFAULT = 20
PER_PAGE_MAX = 100


class Access(Enum):
    """Who may call. With a session, all but OPEN, OWN and DEVICE want ``X-Team-ID``."""

    OPEN = auto()
    OWN = auto()
    DEVICE = auto()
    SESSION = auto()
    TEAM = auto()
    WRITE = auto()  # and the role must allow it
    MULTIPART = auto()  # sessions only


KINDS = {
    Access.OWN: {Credential.SESSION, Credential.DEVICE},
    Access.DEVICE: {Credential.DEVICE},
    Access.SESSION: {Credential.SESSION},
    Access.TEAM: {Credential.SESSION, Credential.DEVICE},
    Access.WRITE: {Credential.SESSION, Credential.DEVICE},
    Access.MULTIPART: {Credential.SESSION},
}
WITHOUT_TEAM = {Access.OPEN, Access.OWN, Access.DEVICE}


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a presign promised a storage_key to."""

    model_path: str
    model_type: str
    size: int


@dataclass(frozen=True, slots=True)
class Registered:
    """A catalog record, as ``GET /models/{id}`` shows it."""

    id: str
    display_name: str
    model_type: str
    storage_key: str
    file_size: int
    file_hash: str
    model_path: str
    model_status: str
    created_at: str
    updated_at: str


class Stage(Enum):
    """Where a multipart upload stands."""

    OPEN = "open"
    COMPLETED = "completed"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class OpenedUpload:
    """A multipart upload as the API remembers it. Sizes are bytes."""

    upload_id: str
    storage_key: str
    file_size: int
    part_size: int
    stage: Stage = Stage.OPEN

    @property
    def part_count(self) -> int:
        return -(-self.file_size // self.part_size)

    def part_length(self, number: int) -> int:
        """Bytes of part *number*, from 1; the last may be shorter."""
        return min(self.part_size, self.file_size - (number - 1) * self.part_size)


class ObjectStore(Protocol):
    """Where the bytes are. All methods raise ``StoreRefusal`` with S3's status and code."""

    grants: Grants

    async def open_upload(self, key: str) -> str:
        """Begin a multipart upload and return its id."""
        ...

    async def complete(self, key: str, upload_id: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make an object of *parts*, pairs of number and etag."""

    async def abort(self, key: str, upload_id: str) -> None:
        """Drop an unfinished upload."""

    async def size(self, key: str) -> int | None:
        """Bytes of the object, None if there is none."""

    def sizes(self) -> dict[str, int]:
        """All objects with their sizes."""
        ...

    def read(self, key: str) -> Iterator[bytes]:
        """The object's bytes, in pieces."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that passed the door."""

    fields: Mapping[str, Any]
    params: Mapping[str, str]
    query: Mapping[str, str]
    origin: str
    token: str
    kind: Credential | None
    team_id: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the table; ``off`` is the status of a call that this cloud does not have."""

    call: str
    method: str
    path: str
    access: Access
    shape: type[fields.Body] | None
    handler: Callable[[Ask], Awaitable[object]]
    status: int = 200
    off: Callable[[Switches], int | None] = lambda switches: None


class Cloud:
    """
    The catalog and its API.

    Args:
        switches: Asked at every call, so that they may change while it runs; only
            ``multipart_paths`` are read once.
        now: Unix seconds.
        draw: Source of ids.
    """

    def __init__(
        self,
        accounts: Accounts,
        store: ObjectStore,
        switches: Callable[[], Switches],
        now: Callable[[], float],
        draw: random.Random,
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._switches = switches
        self._now = now
        self._draw = draw
        self._reserved: dict[str, Reservation] = {}
        self._records: dict[str, Registered] = {}
        self._uploads: dict[str, OpenedUpload] = {}
        approve = Route("/_sandbox/approve", self._approve, name="_approve")
        self.routes = [*(self._route(endpoint) for endpoint in self._endpoints()), approve]

    def app(self) -> Starlette:
        """The ASGI application."""
        handlers = {ApiRefusal: api_refused, StoreRefusal: _store_trouble, HTTPException: _no_route}
        return Starlette(routes=self.routes, exception_handlers=handlers)

    def records(self) -> tuple[Registered, ...]:
        """All records, oldest first."""
        return tuple(self._records.values())

    def uploads(self) -> tuple[OpenedUpload, ...]:
        """All multipart uploads that were ever initiated."""
        return tuple(self._uploads.values())

    def model_path_of(self, storage_key: str | None) -> str | None:
        """The path that *storage_key* was presigned for."""
        reserved = self._reserved.get(storage_key or "")
        return reserved.model_path if reserved else None

    # The table

    def _endpoints(self) -> list[Endpoint]:
        open_, device, session = Access.OPEN, Access.DEVICE, Access.SESSION
        read, write, parts = Access.TEAM, Access.WRITE, Access.MULTIPART
        models, one, pair = "/models", "/models/{model_id}", "/desktop/pair"
        at = self._switches().multipart_paths
        agents, listing = attrgetter("agents_off"), attrgetter("listing_off")
        update, off = attrgetter("update_off"), attrgetter("multipart_off")
        confirm, sign = fields.Confirm, fields.SignPart
        row = Endpoint
        return [
            row("login", "POST", "/auth/login", open_, fields.Login, self._login),
            row("refresh", "POST", "/auth/refresh", open_, fields.Refresh, self._refresh),
            row("revoke", "POST", "/auth/device/revoke", device, None, self._revoke, 204),
            row("pair_start", "POST", f"{pair}/start", open_, None, self._pair),
            row("pair_poll", "POST", f"{pair}/poll", open_, fields.Poll, self._poll),
            row("pair_confirm", "POST", f"{pair}/confirm", session, confirm, self._confirm, 204),
            row(Call.ME, "GET", "/users/me", Access.OWN, None, self._me),
            row(Call.AGENTS, "GET", "/agents", read, None, self._agents, off=agents),
            row(Call.PRESIGN, "POST", "/models/presign", write, fields.Presign, self._presign),
            row(Call.REGISTER, "POST", models, write, fields.Register, self._register, 201),
            row(Call.LIST_MODELS, "GET", models, read, None, self._list, off=listing),
            row(Call.GET_MODEL, "GET", one, read, None, self._get),
            row(Call.UPDATE_MODEL, "PUT", one, write, fields.Update, self._update, off=update),
            row(Call.DELETE_MODEL, "DELETE", one, write, None, self._delete, 204),
            row(Call.INITIATE, "POST", at.initiate, parts, fields.Initiate, self._initiate, off=off),
            row(Call.SIGN_PART, "POST", at.sign_part, parts, sign, self._sign_part, off=off),
            row(Call.COMPLETE, "POST", at.complete, parts, fields.Complete, self._complete, off=off),
            row(Call.ABORT, "POST", at.abort, parts, fields.Upload, self._abort, 204, off),
        ]  # fmt: skip

    def _route(self, row: Endpoint) -> Route:
        async def answer(request: Request) -> Response:
            switched_off = row.off(self._switches())
            if switched_off is not None:
                raise ApiRefusal(switched_off, "not available on this deployment")
            token = _bearer(request)
            kind, team_id = self._admit(row.access, token, request)
            body = await _body(request, row.shape)
            origin = f"{request.url.scheme}://{request.url.netloc}"
            query = dict(request.query_params)
            ask = Ask(body, request.path_params, query, origin, token or "", kind, team_id)
            document = await row.handler(ask)
            request.state.draft.note(**_news(row.call, document))
            return json_answer(row.status, document)

        return Route(PREFIX + row.path, answer, methods=[row.method], name=row.call)

    def _admit(
        self, access: Access, token: str | None, request: Request
    ) -> tuple[Credential | None, str]:
        """Kind and team of the caller, whom the table lets in."""
        identity = self._accounts.identify(token)
        kind, team_id = (identity.kind, identity.team_id) if identity else (None, None)
        who = kind.value if kind else "unknown" if token else "none"
        request.state.draft.note(who=who)
        if access is Access.OPEN:
            return None, self._accounts.team_id
        if kind is None:
            raise ApiRefusal(401, "credential missing, expired or revoked")
        if kind not in KINDS[access]:
            raise ApiRefusal(403, f"a {kind.value} credential cannot call this endpoint")
        if kind is Credential.SESSION and access not in WITHOUT_TEAM:
            team_id = self._checked_team(request.headers.get("x-team-id"))
        switches = self._switches()
        if access in (Access.WRITE, Access.MULTIPART):
            if switches.role not in switches.writers:
                raise ApiRefusal(403, f"role {switches.role} may not manage models")
            if MODELS in switches.features_off:
                raise ApiRefusal(403, f"feature {MODELS} is not available")
        return kind, team_id or self._accounts.team_id

    def _checked_team(self, team_id: str | None) -> str:
        if team_id is None:
            raise ApiRefusal(400, "X-Team-ID is required")
        if team_id not in self._accounts.teams:
            raise ApiRefusal(403, "not a member of this team")
        return team_id

    # Sign-in and pairing

    async def _login(self, ask: Ask) -> object:
        pair = self._accounts.login(ask.fields["email_address"], ask.fields["user_password"])
        return asdict(pair)

    async def _refresh(self, ask: Ask) -> object:
        return asdict(self._accounts.refresh(ask.fields["refresh_token"]))

    async def _revoke(self, ask: Ask) -> None:
        self._accounts.revoke(ask.token)

    async def _pair(self, ask: Ask) -> object:
        pairing = self._accounts.start_pairing()
        return {
            "device_code": pairing.device_code,
            "user_code": pairing.user_code,
            "verification_uri": f"{ask.origin}/_sandbox/approve?user_code={pairing.user_code}",
            "expires_in": self._switches().pairing_lifetime_s,
            "interval": self._switches().pairing_interval_s,
        }

    async def _poll(self, ask: Ask) -> object:
        keys = self._accounts.poll_pairing(ask.fields["device_code"])
        if keys is None:
            return {"status": "pending"}
        return {"status": "approved", "raw_key": keys[0], "agent_key": keys[1]}

    async def _confirm(self, ask: Ask) -> None:
        self._accounts.confirm_pairing(ask.fields["user_code"], ask.team_id)

    async def _approve(self, request: Request) -> Response:
        """The page behind ``verification_uri``, where a user would sign in."""
        try:
            asked = request.query_params
            self._accounts.confirm_pairing(asked.get("user_code", ""), asked.get("team_id"))
        except ApiRefusal as refusal:
            return PlainTextResponse(str(refusal), refusal.status)
        return PlainTextResponse("Approved. The device gets its key at its next poll.")

    async def _me(self, ask: Ask) -> object:
        switches = self._switches()
        on = {name: name not in switches.features_off for name in (MODELS, *switches.features_off)}
        features = {"features": on, "quotas": {"max_teams": -1}}
        role = {"role": switches.role} if switches.me_tells_role else {}
        return {
            "id": self._accounts.user_id,
            "first_name": "Ada",
            "last_name": "Example",
            "display_name": "Ada Example",
            "email_address": self._accounts.email,
            "team_list": [
                {"id": team_id, "display_name": name, **role}
                for team_id, name in self._accounts.teams.items()
            ],
            "feature_flags": {"global": features, "account": features, "teams": {}},
        }

    async def _agents(self, ask: Ask) -> object:
        page, per_page = _paging(ask.query)
        agents = [
            {"agent_id": f"agent-{number}", "agent_status": "idle"}
            for number in range(1, self._switches().agents + 1)
        ]
        meta = {"current_page": page, "per_page": per_page, "total_count": len(agents)}
        return {"agent_list": agents[(page - 1) * per_page : page * per_page], "page_meta": meta}

    # Models

    async def _presign(self, ask: Ask) -> object:
        path, size = ask.fields["model_path"], ask.fields["file_size"]
        key = self._storage_key(ask.team_id, path)
        self._reserved[key] = Reservation(path, ask.fields["model_type"], size)
        return {**_granted(self._store.grants.body(key, size)), "storage_key": key}

    def _storage_key(self, team_id: str, model_path: str) -> str:
        if self._switches().fresh_keys:
            tail = self._accounts.new_id()
        else:
            tail = hashlib.sha256(model_path.encode()).hexdigest()[:32]
        return f"models/{team_id}/{tail}"

    async def _register(self, ask: Ask) -> object:
        declared = ask.fields
        size = await self._store.size(declared["storage_key"])
        if size is None or declared["storage_key"] not in self._reserved:
            raise ApiRefusal(404, "no object is stored under this storage_key")
        self._check_register(declared, size)
        stamp = self._stamp()
        record = Registered(
            id=self._accounts.new_id(),
            model_status="active",
            created_at=stamp,
            updated_at=stamp,
            **declared,
        )
        self._records[record.id] = record
        return {"id": record.id}

    def _check_register(self, declared: Mapping[str, Any], size: int) -> None:
        key = declared["storage_key"]
        promised = self._reserved[key]
        if declared["file_size"] != size:
            raise ApiRefusal(422, "file_size is not the size of the stored object")
        if (declared["model_path"], declared["model_type"]) != (
            promised.model_path,
            promised.model_type,
        ):
            raise ApiRefusal(422, "model_path or model_type is not what was presigned")
        repeated = any(record.storage_key == key for record in self.records())
        if repeated and not self._switches().register_repeats:
            raise ApiRefusal(409, "this storage_key is registered already")
        self._check_clash(declared["model_path"])

    def _check_clash(self, model_path: str, *, but: str | None = None) -> None:
        switches = self._switches()
        fold = str.lower if switches.unique_paths is Unique.IGNORING_CASE else str
        for record in self.records() if switches.unique_paths is not Unique.NO else ():
            counts = record.model_status == "active" or switches.disabled_records_clash
            if counts and record.id != but and fold(record.model_path) == fold(model_path):
                raise ApiRefusal(409, "this model_path is taken")

    async def _list(self, ask: Ask) -> object:
        page, per_page = _paging(ask.query)
        records = [record for record in self.records() if self._shown_to(ask, record)]
        first = (page - 1) * per_page
        omitted = self._switches().list_omits
        items = [
            {name: value for name, value in asdict(record).items() if name not in omitted}
            for record in records[first : first + per_page]
        ]
        meta = {"current_page": page, "per_page": per_page, "total_count": len(records)}
        return {"model_list": items, "page_meta": meta}

    async def _get(self, ask: Ask) -> object:
        return asdict(self._found(ask))

    async def _update(self, ask: Ask) -> object:
        record = self._found(ask)
        if not ask.fields:
            raise ApiRefusal(422, "at least one member is required")
        changed = replace(record, **ask.fields, updated_at=self._stamp())
        if changed.model_status == "active" or self._switches().disabled_records_clash:
            self._check_clash(changed.model_path, but=record.id)
        self._records[record.id] = changed
        return {"id": record.id}

    async def _delete(self, ask: Ask) -> None:
        record = self._found(ask)
        self._records.pop(record.id, None)

    def _found(self, ask: Ask) -> Registered:
        record = self._records.get(ask.params["model_id"])
        if record is None or not self._shown_to(ask, record):
            raise ApiRefusal(404, "resource not found")
        return record

    def _shown_to(self, ask: Ask, record: Registered) -> bool:
        """Is *record* in the catalog of the caller's team? Its storage key names the team."""
        others = self._accounts.teams.keys() - {ask.team_id}
        return others.isdisjoint(record.storage_key.split("/"))

    def _stamp(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now()))

    # Multipart

    async def _initiate(self, ask: Ask) -> object:
        key, size = ask.fields["storage_key"], ask.fields["file_size"]
        reserved = self._reserved.get(key)
        if reserved is None:
            raise ApiRefusal(404, "unknown storage_key")
        if reserved.size != size:
            raise ApiRefusal(422, "file_size is not what was presigned")
        upload_id = await self._store.open_upload(key)
        upload = OpenedUpload(upload_id, key, size, self._switches().part_size)
        self._uploads[upload_id] = upload
        return {
            "upload_id": upload_id,
            "storage_key": key,
            "part_size": upload.part_size,
            "part_count": upload.part_count,
        }

    async def _sign_part(self, ask: Ask) -> object:
        upload = self._open_upload(ask)
        number = ask.fields["part_number"]
        if number > upload.part_count:
            raise ApiRefusal(422, f"part_number must lie in 1 to {upload.part_count}")
        length = upload.part_length(number)
        return _granted(
            self._store.grants.part(upload.storage_key, upload.upload_id, number, length)
        )

    async def _complete(self, ask: Ask) -> object:
        upload = self._uploads.get(ask.fields["upload_id"])
        if upload is None or upload.stage is not Stage.COMPLETED:
            upload = self._open_upload(ask)
            parts = [(part["part_number"], part["etag"]) for part in ask.fields["parts"]]
            await self._store.complete(upload.storage_key, upload.upload_id, parts)
            self._uploads[upload.upload_id] = replace(upload, stage=Stage.COMPLETED)
        elif (self._switches().second_complete or self._draw.choice((200, 404))) == 404:
            raise ApiRefusal(404, "upload not found")
        return {"storage_key": upload.storage_key, "file_size": upload.file_size}

    async def _abort(self, ask: Ask) -> None:
        upload = self._open_upload(ask)
        await self._store.abort(upload.storage_key, upload.upload_id)
        self._uploads[upload.upload_id] = replace(upload, stage=Stage.ABORTED)

    def _open_upload(self, ask: Ask) -> OpenedUpload:
        upload = self._uploads.get(ask.fields["upload_id"])
        known = upload is not None and upload.storage_key == ask.fields["storage_key"]
        if upload is None or not known or upload.stage is not Stage.OPEN:
            raise ApiRefusal(404, "upload not found")
        return upload


def _news(call: str, document: object) -> dict[str, str]:
    """Return the ids in the answer, for the history."""
    member, fact = NEWS.get(call, ("", ""))
    return {fact: document[member]} if isinstance(document, dict) and member else {}


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme == "Bearer" and token else None


async def _body(request: Request, shape: type[fields.Body] | None) -> Mapping[str, Any]:
    """The JSON body as *shape* wants it; where none is due, there must be none."""
    if shape is None:
        if await request.body() not in (b"", b"{}"):
            raise ApiRefusal(400, "this endpoint takes no body")
        return {}
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise ApiRefusal(415, "the body must be application/json")
    try:
        document = await request.json()
    except ValueError:
        raise ApiRefusal(400, "the body is not JSON") from None
    return shape.read(document)


def _paging(query: Mapping[str, str]) -> tuple[int, int]:
    """Page and page size; anything else in the query is refused."""
    for name in query.keys() - {"current_page", "per_page"}:
        raise ApiRefusal(400, f"unknown query parameter {name}")
    try:
        page, per_page = (
            int(query.get("current_page", 1)),
            int(query.get("per_page", PER_PAGE_DEFAULT)),
        )
    except ValueError:
        raise ApiRefusal(422, "paging wants integers") from None
    if page < 1 or not 1 <= per_page <= PER_PAGE_MAX:
        raise ApiRefusal(422, f"per_page must lie in 1 to {PER_PAGE_MAX}, current_page from 1")
    return page, per_page


def _granted(grant: SignedPut) -> dict[str, object]:
    return {"upload_url": grant.url, "upload_headers": dict(grant.headers)}


async def _store_trouble(request: Request, refusal: Exception) -> Response:
    """What the store refused, as the API would pass it on."""
    assert isinstance(refusal, StoreRefusal)
    status = {404: 404}.get(refusal.status, 400 if refusal.status < 500 else 502)
    response = await api_refused(request, ApiRefusal(status, str(refusal)))
    request.state.draft.note(error=refusal.code)
    return response


async def _no_route(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    return await api_refused(request, ApiRefusal(refusal.status_code, "resource not found"))
