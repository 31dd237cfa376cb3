"""Every kind of fault, as a client meets it, and what the cloud did meanwhile."""

import time
from dataclasses import replace
from typing import Any

import httpx
import pytest

from syncd.sandbox.faults import Fault, Rule
from syncd.sandbox.server import Sandbox
from tests.integration.harness import until
from tests.visitor import Visitor, good

BODY = bytes(2 * 1024 * 1024)


def inject(visitor: Visitor, fault: Fault, call: str | None = None, **more: Any) -> None:
    visitor.cloud.faults.add(Rule(fault, call, **more))


def test_answer_is_replaced_and_nothing_happens(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    inject(visitor, Fault.ANSWER, "register", status=429, headers={"Retry-After": "7"}, body="slow")
    hit = visitor.ask_register(key)
    count = len(visitor.cloud.records())
    then = visitor.ask_register(key)

    assert (hit.status_code, hit.headers["retry-after"], hit.text) == (429, "7", "slow")
    assert (count, then.status_code) == (0, 201)


def test_answer_can_be_replaced_after_the_effect(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    inject(visitor, Fault.ANSWER, "register", status=500, performed=True)

    assert visitor.ask_register(key).status_code == 500
    assert len(visitor.cloud.records()) == 1
    (entry,) = visitor.cloud.history.entries("register")
    assert (entry.status, entry.answered, entry.ok) == (201, 500, True)


def test_answer_can_precede_the_effect(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    inject(visitor, Fault.ANSWER, "register", status=502, late_s=0.2)
    hit = visitor.ask_register(key)
    before = len(visitor.cloud.records())
    until(lambda: visitor.cloud.history.entries("register"), "the late effect")

    assert (hit.status_code, before, len(visitor.cloud.records())) == (502, 0, 1)
    (entry,) = visitor.cloud.history.entries("register")
    assert (entry.status, entry.answered) == (201, 502)


def test_reset_can_precede_the_effect(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    inject(visitor, Fault.RESET, "register", late_s=0.2)
    with pytest.raises(httpx.TransportError):
        visitor.ask_register(key)
    until(visitor.cloud.records, "the late effect")

    assert len(visitor.cloud.records()) == 1


def test_late_effect_of_a_call_that_is_performed_first_is_refused() -> None:
    with pytest.raises(ValueError, match="late_s"):
        Rule(Fault.LOST_ANSWER, late_s=1)


def test_lost_answer_took_effect(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    inject(visitor, Fault.LOST_ANSWER, "register")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        visitor.ask_register(key)

    assert len(visitor.cloud.records()) == 1
    (entry,) = visitor.cloud.history.entries("register")
    assert (entry.ok, entry.answered, entry.lost) == (True, None, True)


def test_lost_answer_of_a_put_stored_the_body(visitor: Visitor) -> None:
    grant = visitor.presign(size=len(BODY))
    inject(visitor, Fault.LOST_ANSWER, "put_body")
    with pytest.raises(httpx.TransportError):
        visitor.put(grant, BODY)

    assert visitor.cloud.objects() == {grant["storage_key"]: len(BODY)}
    assert visitor.put(grant, BODY).status_code == 412


def test_lost_answer_of_a_refresh_breaks_the_chain(visitor: Visitor) -> None:
    token = visitor.cloud.refresh_token
    inject(visitor, Fault.LOST_ANSWER, "refresh")
    with pytest.raises(httpx.RemoteProtocolError):
        visitor.post("/auth/refresh", refresh_token=token)

    assert visitor.post("/auth/refresh", refresh_token=token).status_code == 401


def test_reset_breaks_the_connection_before_any_effect(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    inject(visitor, Fault.RESET, "register")
    with pytest.raises(httpx.ReadError, match="reset"):
        visitor.ask_register(key)

    assert visitor.cloud.records() == []
    assert visitor.ask_register(key).status_code == 201


def test_cut_breaks_the_connection_within_the_body(visitor: Visitor) -> None:
    grant = visitor.presign(size=len(BODY))
    inject(visitor, Fault.CUT, "put_body", after_bytes=1_000_000)
    with pytest.raises(httpx.TransportError):
        visitor.put(grant, BODY)

    assert visitor.cloud.objects() == {}
    (entry,) = visitor.cloud.history.entries("put_body")
    assert (entry.status, entry.lost, entry.fault) == (None, True, "cut")
    assert entry.size is not None
    assert entry.size < 1_000_000
    assert visitor.put(grant, BODY).status_code == 200


def test_truncated_answer_took_effect(visitor: Visitor) -> None:
    key = visitor.store_bytes()
    inject(visitor, Fault.TRUNCATED, "register", after_bytes=5)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        visitor.ask_register(key)

    assert len(visitor.cloud.records()) == 1


def test_delay_comes_before_the_answer(visitor: Visitor) -> None:
    inject(visitor, Fault.DELAY, "me", delay_s=0.3)
    started = time.monotonic()
    answer = visitor.api.get("/users/me")

    assert time.monotonic() - started >= 0.3
    assert answer.status_code == 200


def test_sandbox_stops_at_once_in_the_middle_of_a_delay(visitor: Visitor) -> None:
    with Sandbox(faults=[Rule(Fault.DELAY, delay_s=60)]) as cloud, Visitor(cloud) as other:
        with pytest.raises(httpx.ReadTimeout):
            other.api.get("/users/me", timeout=httpx.Timeout(30, read=0.05))
        started = time.monotonic()

    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("fault", "etag"), [(Fault.WRONG_ETAG, f'"{"0" * 32}"'), (Fault.NO_ETAG, None)]
)
def test_etag_can_be_wrong_or_missing(visitor: Visitor, fault: Fault, etag: str | None) -> None:
    inject(visitor, fault, "put_body")
    answer = visitor.put(visitor.presign(), b"abc")

    assert (answer.status_code, answer.headers.get("etag")) == (200, etag)
    assert len(visitor.cloud.objects()) == 1


def test_malformed_json_is_none(visitor: Visitor) -> None:
    inject(visitor, Fault.MALFORMED_JSON, "presign")
    answer = visitor.ask_presign()

    assert answer.status_code == 200
    with pytest.raises(ValueError, match="property name"):
        answer.json()


def test_portal_answers_html(visitor: Visitor) -> None:
    inject(visitor, Fault.HTML, "presign")
    answer = visitor.ask_presign()

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")


def test_huge_answer_has_its_size(visitor: Visitor) -> None:
    inject(visitor, Fault.HUGE, "me", after_bytes=3_000_000)

    assert len(visitor.api.get("/users/me").content) == 3_000_000


def test_redirect_names_its_target(visitor: Visitor) -> None:
    inject(visitor, Fault.REDIRECT, "put_body", location="http://127.0.0.1:9/x")
    answer = visitor.put(visitor.presign(), b"abc")

    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:9/x")


def test_rule_hits_the_nth_matches_only(visitor: Visitor) -> None:
    inject(visitor, Fault.ANSWER, "me", skip=1, count=2)

    assert [visitor.api.get("/users/me").status_code for _ in range(4)] == [200, 503, 503, 200]


def test_rule_without_a_count_hits_until_it_is_cleared(visitor: Visitor) -> None:
    inject(visitor, Fault.ANSWER, count=None)
    hit = [visitor.api.get("/users/me").status_code for _ in range(3)]
    visitor.cloud.faults.clear()

    assert hit == [503] * 3
    assert visitor.api.get("/users/me").status_code == 200


def test_rule_finds_a_file_by_its_path_at_every_step(visitor: Visitor) -> None:
    inject(visitor, Fault.ANSWER, "put_body", contains="b.pt", count=None)
    puts = {
        path: visitor.put(visitor.presign(path), b"abc").status_code
        for path in ("models/loras/a.pt", "models/loras/b.pt")
    }
    inject(visitor, Fault.ANSWER, "presign", contains="c.pt")
    presigns = [visitor.ask_presign(f"models/loras/{n}.pt").status_code for n in "abc"]

    assert list(puts.values()) == [200, 503]
    assert presigns == [200, 200, 503]


def test_rule_finds_a_part_by_its_number(visitor: Visitor) -> None:
    visitor.cloud.switches = replace(visitor.cloud.switches, part_size=1)
    upload = visitor.initiate(3)
    inject(visitor, Fault.ANSWER, "put_part", part=2, status=500)
    statuses = [visitor.put(visitor.sign_part(upload, n), b"x").status_code for n in (1, 2, 3, 2)]

    assert statuses == [200, 500, 200, 200]


def test_probability_is_drawn_from_the_seed() -> None:
    def statuses(seed: int) -> list[int]:
        rule = Rule(Fault.ANSWER, count=None, probability=0.5)
        with Sandbox(seed=seed, faults=[rule]) as cloud, Visitor(cloud) as visitor:
            return [visitor.api.get("/users/me").status_code for _ in range(20)]

    first, again, other = statuses(1), statuses(1), statuses(2)

    assert first == again != other
    assert set(first) == {200, 503}


def test_faults_are_set_seen_and_cleared_over_http(visitor: Visitor) -> None:
    url = visitor.cloud.base_url.replace("/api/v1", "/_sandbox/faults")
    posted = visitor.store.post(url, json={"rules": [{"fault": "answer", "call": "me"}]})
    hit = visitor.api.get("/users/me").status_code
    left = good(visitor.store.get(url))["rules"]
    cleared = good(visitor.store.delete(url))

    assert (posted.status_code, hit, left[0]["count"], cleared) == (200, 503, 0, {"rules": []})


@pytest.mark.parametrize(
    "rule", [{"fault": "nonsense"}, {"call": "me"}, {"fault": "reset", "often": 1}, 7]
)
def test_wrong_rule_is_refused_over_http(visitor: Visitor, rule: object) -> None:
    url = visitor.cloud.base_url.replace("/api/v1", "/_sandbox/faults")

    assert visitor.store.post(url, json={"rules": [rule]}).status_code == 422
    assert visitor.cloud.faults.rules() == ()


@pytest.mark.parametrize("wrong", [{"probability": 1.5}, {"skip": -1}, {"delay_s": -0.1}])
def test_rule_out_of_bounds_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"negative|probability"):
        Rule(Fault.RESET, **wrong)


def test_faults_do_not_hit_the_inspection(visitor: Visitor) -> None:
    inject(visitor, Fault.RESET, count=None)
    url = visitor.cloud.base_url.replace("/api/v1", "/_sandbox/records")

    assert good(visitor.store.get(url)) == []


@pytest.mark.s3
def test_api_calls_in_front_of_a_real_store_are_hit(s3_cloud: Sandbox) -> None:
    s3_cloud.faults.add(Rule(Fault.LOST_ANSWER, "complete"))
    with Visitor(s3_cloud) as visitor:
        upload = visitor.initiate(3)
        parts = visitor.put_parts(upload, b"abc")
        with pytest.raises(httpx.RemoteProtocolError):
            visitor.complete(upload, parts)

    assert s3_cloud.objects() == {upload["storage_key"]: 3}
