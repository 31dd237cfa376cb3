"""
The history oracle: what must be true after any run, whatever went wrong on the way.

``check`` takes what a run left behind (the cloud's history, records, objects and uploads, the state
directory, and every version that the local files had) and raises ``Violation`` with the number of
each broken rule and the calls that show it. The rules ask nothing of syncd's own code: the state
directory is read with other eyes.
"""

import re
import sqlite3
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from syncd.sandbox.history import Entry

BURST = 200
WINDOW_MS = 600_000
"""The most calls that may fail at one host within ten minutes of one life."""

REPEATS = 40
MINUTE_MS = 60_000
"""At most so many calls of one kind for one file or part within a minute, whatever is answered."""

COMMIT_MS = 30_000
"""Within this time a call is answered, and its result is committed."""

CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "x-team-id"})
REGISTER, LIST, INITIATE, DELETE = "register", "list_models", "initiate", "delete_model"
PUT_PART, COMPLETE = "put_part", "complete"
STORE_CALLS = frozenset({"put_body", "put_part"})
SPOILT = frozenset(
    {"answer", "delay", "malformed_json", "html", "huge", "redirect", "truncated", "no_etag"}
)
NO_ROUTE = frozenset({404, 405, 501, 505})
THROTTLED = frozenset({429, 503})
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Content:
    """What an object holds."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    What a run left behind.

    Args:
        history: In the order of the effects. ``lost`` is set wherever the program never saw the
            whole answer, be it that it was killed.
        records: The catalog.
        objects: By storage_key.
        open_uploads: upload_ids that the server still keeps.
        versions: By model_path, the SHA-256 of every whole version the file had.
        still: What has to be in the catalog: SHA-256 by model_path.
        state_dir: The state directory, no daemon running.
        started: When each life of the program began, Unix milliseconds.
        killed: When one ended without waiting for its requests, by a kill or a stop without grace.
        unreached: Attempts that never came to a server: (Unix milliseconds, host).
        listing: The server has a listing to look things up in.
        log: Everything the program showed: logs, tables, status.
        secrets: Tokens, keys and signatures that it was given.
    """

    history: Sequence[Entry]
    records: Sequence[Mapping[str, Any]]
    objects: Mapping[str, Content]
    open_uploads: Collection[str]
    versions: Mapping[str, Collection[str]]
    still: Mapping[str, str]
    state_dir: Path
    started: Sequence[int] = ()
    killed: Sequence[int] = ()
    unreached: Sequence[tuple[int, str]] = ()
    listing: bool = True
    log: str = ""
    secrets: Collection[str] = field(default=(), repr=False)


class Violation(AssertionError):
    """A rule is broken; the text names it and shows the calls."""


def check(evidence: Evidence) -> None:
    """
    Hold a run against all rules.

    Raises:
        Violation: With every broken rule, not only the first.
    """
    broken = [str(violation) for rule in RULES for violation in _violations(rule, evidence)]
    if broken:
        raise Violation("\n\n".join(broken))


def _violations(rule: "Rule", evidence: Evidence) -> Iterator[Violation]:
    try:
        rule(evidence)
    except Violation as violation:
        yield violation


def o1_records_tell_what_is_stored(evidence: Evidence) -> None:
    """The hash and size of a record are those of the object under its storage_key."""
    for record in evidence.records:
        key = record["storage_key"]
        stored = evidence.objects.get(key)
        claimed = Content(record["file_size"], record["file_hash"].removeprefix("sha256:"))
        if stored != claimed:
            raise _violation("O1", f"{_name(record)} claims {claimed}, stored is {stored}",
                             _of_key(evidence, key))  # fmt: skip


def o2_objects_are_whole_versions(evidence: Evidence) -> None:
    """What is stored was, as a whole, the content of the file at that path at some time."""
    for key, content in evidence.objects.items():
        calls = _of_key(evidence, key)
        path = next((call.model_path for call in calls if call.model_path), None)
        if content.sha256 not in evidence.versions.get(path or "", ()):
            raise _violation("O2", f"{path} never held what is stored for it", calls)


def o3_committed_parts_stay_sent(evidence: Evidence) -> None:
    """No part is sent again after its answer was seen, unless ``complete`` was sent in between."""
    for (upload_id, number), calls in _grouped(evidence, PUT_PART, lambda c: (c.upload_id, c.part)):
        for call, after in pairwise(calls):
            completed = any(
                c.call == COMPLETE and c.upload_id == upload_id and call.seq < c.seq < after.seq
                for c in evidence.history
            )
            if call.ok and _was_kept(evidence, call) and not completed:
                raise _violation("O3", f"part {number} came again", [call, after])


def o4_nothing_is_registered_twice(evidence: Evidence) -> None:
    """
    One register for each path and hash.

    Another one may follow where the first was refused, where its record was deleted in between, or
    where its answer is unknown and the server has no list. A program that was killed before it
    committed an answer does not know it.
    """
    for (path, _), calls in _grouped(evidence, REGISTER, lambda c: (c.model_path, c.file_hash)):
        good = [call for call in calls if call.ok]
        if any(not _may_be_repeated(evidence, *pair) for pair in pairwise(good)):
            raise _violation("O4", f"{path} was registered twice", calls)
        if evidence.listing and any(_repeats_blindly(evidence, *pair) for pair in pairwise(calls)):
            raise _violation("O4", f"{path} was registered again without a lookup", calls)


def o5_no_credential_reaches_the_store(evidence: Evidence) -> None:
    """Requests to presigned URLs carry no other credential."""
    for call in evidence.history:
        if call.call in STORE_CALLS and CREDENTIALS.intersection(call.header_names):
            raise _violation("O5", f"the store was sent {call.header_names}", [call])


def o6_still_files_are_registered(evidence: Evidence) -> None:
    """After the faults end, every unchanged file has an active record."""
    held = {
        (record["model_path"], record["file_hash"])
        for record in evidence.records
        if record["model_status"] == "active"
    }
    for path, sha256 in evidence.still.items():
        if (path, f"sha256:{sha256}") not in held:
            calls = [call for call in evidence.history if call.model_path == path]
            raise _violation("O6", f"{path} is not registered as it is", calls)


def o7_no_upload_is_forgotten(evidence: Evidence) -> None:
    """An upload is left open only if the program never learned its id, or it cannot be aborted."""
    known = dict(_rows(evidence, "SELECT upload_id, state FROM upload"))
    for upload_id in evidence.open_uploads:
        calls = [call for call in evidence.history if call.upload_id == upload_id]
        begun = next((call for call in calls if call.call == INITIATE), None)
        unknown = upload_id not in known and begun is not None and not _was_kept(evidence, begun)
        state = known.get(upload_id, "unknown to the state directory")
        gone = state == "gone" and any(call.answered == 404 for call in calls)
        if not (unknown or gone or state == "abandoned"):
            raise _violation("O7", f"upload {upload_id} is open; it is {state}", calls)


def o8_traffic_is_bounded(evidence: Evidence) -> None:
    """Retry-After is respected, a server that is down is not flooded, and no call loops."""
    for _, calls in _grouped(evidence, None, lambda c: (c.call, c.model_path, c.part)):
        for call, after in pairwise(calls if calls[0].model_path else ()):
            if _impatient(evidence, call, after):
                raise _violation("O8", f"asked to wait for {call.retry_after} s", [call, after])
        for call, after in zip(calls, calls[REPEATS:] if calls[0].model_path else (), strict=False):
            if after.at_ms - call.at_ms < MINUTE_MS:
                what = f"{REPEATS} times {call.call} for {call.model_path} within a minute"
                raise _violation("O8", what, [call, after])
    for (host, _), times in _failures(evidence).items():
        for first, last in zip(times, times[BURST:], strict=False):
            if last - first < WINDOW_MS:
                raise _violation("O8", f"{BURST} calls to the {host} failed from {first} on")


def o9_no_secret_is_shown(evidence: Evidence) -> None:
    """No secret and no control character in logs, status and database."""
    kept = b"".join(path.read_bytes() for path in evidence.state_dir.iterdir() if path.is_file())
    for secret in evidence.secrets:
        where = "log" if secret in evidence.log else "state directory"
        if secret in evidence.log or secret.encode() in kept:
            raise _violation("O9", f"a secret beginning with {secret[:4]!r} stands in the {where}")
    if found := _CONTROL.search(evidence.log):
        raise _violation("O9", f"{found[0]!r} was shown: {_around(evidence.log, found.start())}")


def o11_no_file_has_two_active_records(evidence: Evidence) -> None:
    """At most one active record stands for a path and hash, if the server has a listing."""
    active: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in evidence.records if evidence.listing else ():
        if record["model_status"] == "active":
            active[record["model_path"], record["file_hash"]].append(record["id"])
    for (path, file_hash), ids in active.items():
        if len(ids) > 1:
            calls = [
                c for c in evidence.history if (c.model_path, c.file_hash) == (path, file_hash)
            ]
            raise _violation("O11", f"{path} has the active records {', '.join(ids)}", calls)


Rule = Callable[[Evidence], None]
RULES: tuple[Rule, ...] = (
    o1_records_tell_what_is_stored,
    o2_objects_are_whole_versions,
    o3_committed_parts_stay_sent,
    o4_nothing_is_registered_twice,
    o5_no_credential_reaches_the_store,
    o6_still_files_are_registered,
    o7_no_upload_is_forgotten,
    o8_traffic_is_bounded,
    o9_no_secret_is_shown,
    o11_no_file_has_two_active_records,
)
"""O10, one seed gives one history, is a test of the simulation."""


# -- what a call was ------------------------------------------------------------------------------


def _was_answered(call: Entry) -> bool:
    """Did the program see an answer that it could use?"""
    spoilt = call.fault in SPOILT or call.answered != call.status
    return not call.lost and call.answered is not None and not spoilt


def _was_kept(evidence: Evidence, call: Entry) -> bool:
    """Could the program commit the answer? (A kill may come between answer and commit.)"""
    died = any(0 <= killed - call.at_ms < COMMIT_MS for killed in evidence.killed)
    return _was_answered(call) and not died


def _may_be_repeated(evidence: Evidence, call: Entry, after: Entry) -> bool:
    """Whether the record of *call* was deleted, or could not be found, before *after*."""
    earlier = [c for c in evidence.history if c.seq < after.seq]
    deleted = any(c.call == DELETE and c.ok and c.record_id == call.record_id for c in earlier)
    return deleted or (not evidence.listing and not _was_kept(evidence, call))


def _was_refused(call: Entry) -> bool:
    """Did the program see a clear no? (408 and 5xx leave it open.)"""
    answered = not call.lost and call.answered is not None
    return answered and 300 <= (call.answered or 0) < 500 and call.answered != 408


def _repeats_blindly(evidence: Evidence, call: Entry, after: Entry) -> bool:
    if _was_refused(call):
        return False
    lookups = [c for c in evidence.history if c.call == LIST and c.seq < after.seq]
    born = max((start for start in evidence.started if start <= after.at_ms), default=0)
    return not any(
        c.seq > call.seq or (c.answered in NO_ROUTE and c.at_ms >= born) for c in lookups
    )


def _impatient(evidence: Evidence, call: Entry, after: Entry) -> bool:
    throttled = (
        not call.lost and call.answered in THROTTLED and (call.retry_after or "").isdecimal()
    )
    if not throttled or any(call.at_ms <= start <= after.at_ms for start in evidence.started):
        return False
    return after.at_ms < call.at_ms + 1000 * int(call.retry_after or 0)


def _failures(evidence: Evidence) -> Mapping[tuple[str, int], list[int]]:
    """
    When calls failed, in order, by host and life of the program.

    An operator who starts the program wants it to try at once, so each life counts for itself.
    """
    times: dict[tuple[str, int], list[int]] = defaultdict(list)
    for host, at_ms in _failed(evidence):
        times[host, bisect(evidence.started, at_ms)].append(at_ms)
    return {key: sorted(each) for key, each in times.items()}


def _failed(evidence: Evidence) -> Iterator[tuple[str, int]]:
    for call in evidence.history:
        if call.answered is None or call.lost or call.answered >= 500 or call.answered == 429:
            yield "store" if call.call in STORE_CALLS else "API", call.at_ms
    for at_ms, host in evidence.unreached:
        yield host, at_ms


# -- reading --------------------------------------------------------------------------------------


def _rows(evidence: Evidence, sql: str) -> list[Any]:
    path = evidence.state_dir / "syncd.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def _of_key(evidence: Evidence, storage_key: str) -> list[Entry]:
    return [call for call in evidence.history if call.storage_key == storage_key]


def _grouped(
    evidence: Evidence, name: str | None, key: Callable[[Entry], Any]
) -> Iterable[tuple[Any, list[Entry]]]:
    groups: dict[Any, list[Entry]] = defaultdict(list)
    for call in sorted(evidence.history, key=lambda call: call.seq):
        if name in (None, call.call):
            groups[key(call)].append(call)
    return groups.items()


# -- reporting --------------------------------------------------------------------------------------


def _violation(rule: str, what: str, calls: Sequence[Entry] = ()) -> Violation:
    return Violation("\n".join([f"{rule}: {what}", *map(_line, calls)]))


def _line(call: Entry) -> str:
    facts = {
        "part": call.part, "size": call.size, "hash": (call.file_hash or call.sha256 or "")[:15],
        "upload": call.upload_id, "key": call.storage_key and call.storage_key[-12:],
        "fault": call.fault, "lost": call.lost or None, "retry_after": call.retry_after,
        "error": call.error,
    }  # fmt: skip
    details = " ".join(f"{name}={fact}" for name, fact in facts.items() if fact)
    return (
        f"  {call.seq:5} {call.at_ms} {call.call:12} {call.model_path}"
        f" status {call.status}, answered {call.answered} {details}"
    )


def _name(record: Mapping[str, Any]) -> str:
    return f"record {record['id']} of {record['model_path']}"


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 40) : at + 40])
