"""The door to the object store, and a real S3 server behind it: what it takes and what it refuses."""

import asyncio
import base64
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import pytest

from syncd.cloud import object_store
from syncd.cloud.host_policy import HostPolicy
from syncd.cloud.object_store import ObjectStore
from syncd.core.jobs.error_mapping import classify
from syncd.errors import JobError
from syncd.sandbox.answers import StoreRefusal
from syncd.sandbox.sigv4 import Grants, Keys, SignedPut, presign
from syncd.sandbox.switches import Switches
from syncd.types import Call, Grant, Kind
from tests.s3 import RemoteObjects
from tests.weed import Weed
from tests.weights import MIB

pytestmark = pytest.mark.s3

PART = 5 * MIB
LIFETIME_S = 900
NOISE = random.Random(11).randbytes(2 * PART + 1)
BODY = NOISE[:1000]
KEYS = (count(1), "models/{}/a.safetensors")

Headers = Mapping[str, str]


def fresh_key() -> str:
    """A storage key that nothing was put under."""
    numbers, pattern = KEYS
    return pattern.format(next(numbers))


def md5_of(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket on the real server, its owner's hands, and syncd's door to it."""

    grants: Grants
    objects: RemoteObjects
    door: ObjectStore

    def sign(
        self,
        key: str,
        headers: Headers,
        *,
        query: str = "",
        at_s: float | None = None,
        keys: Keys | None = None,
    ) -> Grant:
        """A URL for one PUT, as somebody with *keys* signs it at *at_s*."""
        url = self.grants.url(key) + query
        at_s = time.time() if at_s is None else at_s
        signed = presign(
            keys or self.grants.keys, "PUT", url, at_s=at_s, expires_s=LIFETIME_S, headers=headers
        )
        return Grant(signed, headers, int((at_s + LIFETIME_S) * 1000))

    def body(self, key: str, size: int = len(BODY)) -> Grant:
        """A URL for a body where nothing is yet, as the stand-in cloud signs it."""
        return granted(self.grants.body(key, size))

    def put(self, grant: Grant, body: bytes = BODY, call: Call = Call.PUT_BODY) -> str | None:
        """Send *body* through syncd's door; the ETag."""
        return self.door.put(
            grant, [body], len(body), call=call, now_ms=lambda: int(time.time() * 1000)
        )

    def put_part(self, key: str, upload_id: str, number: int, body: bytes) -> str:
        """The same for a part."""
        grant = granted(self.grants.part(key, upload_id, number, len(body)))
        etag = self.put(grant, body, Call.PUT_PART)
        assert etag
        return etag

    def holds(self, key: str) -> bytes | None:
        """What lies under *key*."""
        size = asyncio.run(self.objects.size(key))
        return None if size is None else b"".join(self.objects.read(key))


def granted(signed: SignedPut) -> Grant:
    return Grant(signed.url, signed.headers, int((time.time() + LIFETIME_S) * 1000))


@pytest.fixture(scope="module")
def bucket(weed: Weed) -> Iterator[Bucket]:
    """One for all tests here: each has keys of its own."""
    grants = Grants(weed.url, "doors", weed.keys, time.time, lambda: Switches(part_size=PART))
    hosts = HostPolicy.of(weed.url, [], allow_http=False)
    objects = RemoteObjects(grants)
    with object_store.build_client() as client:
        yield Bucket(grants, objects, ObjectStore(client, hosts))
    objects.close()


# --- what is taken


@pytest.mark.parametrize("size", [0, 1, 4095, 65_536, MIB + 1])
def test_a_body_of_any_size_is_stored_byte_for_byte(bucket: Bucket, size: int) -> None:
    key = fresh_key()

    etag = bucket.put(bucket.body(key, size), NOISE[:size])

    assert etag == f'"{hashlib.md5(NOISE[:size]).hexdigest()}"'
    assert bucket.holds(key) == NOISE[:size]


@pytest.mark.parametrize(
    "name",
    ["with space", "plus+sign", "per%41cent", "día", "di\u0301a", "модель", "日本語", "🙂", "(a)!~'",
     "a&b=c;d", "#1?x"],
)  # fmt: skip
def test_a_key_of_any_name_reaches_the_store_under_that_name(bucket: Bucket, name: str) -> None:
    key = f"models/{next(KEYS[0])}/{name}.safetensors"

    bucket.put(bucket.body(key))

    assert bucket.objects.sizes()[key] == len(BODY)
    assert bucket.holds(key) == BODY


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/octet-stream"},
        {"Content-MD5": md5_of(BODY)},
        {"Content-Length": "1000", "If-None-Match": "*"},
        {"Cache-Control": "no-store", "Content-Disposition": 'attachment; filename="a b.bin"'},
        {"x-amz-meta-origin": "workstation  two", "X-Amz-Meta-Note": "a, b"},
    ],
    ids=" ".join,
)
def test_every_header_that_was_signed_goes_out_as_it_was_signed(
    bucket: Bucket, headers: Headers
) -> None:
    key = fresh_key()

    bucket.put(bucket.sign(key, headers))

    assert bucket.holds(key) == BODY


# --- what is refused, and which row of the retry table that is


Make = Callable[[Bucket], Grant]


def taken(bucket: Bucket) -> Grant:
    key = fresh_key()
    bucket.put(bucket.body(key), NOISE[-len(BODY) :])
    return bucket.body(key)


def signed_by(**keys: str) -> Make:
    return lambda bucket: bucket.sign(fresh_key(), {}, keys=replace(bucket.grants.keys, **keys))


def sent_otherwise(signed: Headers, sent: Headers) -> Make:
    return lambda bucket: replace(bucket.sign(fresh_key(), signed), headers=sent)


def url_with(old: str, new: str) -> Make:
    def make(bucket: Bucket) -> Grant:
        grant = bucket.body(fresh_key())
        return replace(grant, url=grant.url.replace(old, new))

    return make


def expired(bucket: Bucket) -> Grant:
    return bucket.sign(fresh_key(), {}, at_s=time.time() - LIFETIME_S - 5)


def with_md5(md5: str) -> Make:
    return lambda bucket: bucket.sign(fresh_key(), {"Content-MD5": md5})


REFUSED: dict[str, tuple[Make, Kind]] = {
    "taken key": (taken, Kind.OBJECT_EXISTS),
    "expired": (expired, Kind.URL_EXPIRED),
    "other signature": (url_with("X-Amz-Signature=", "X-Amz-Signature=0"), Kind.SIGNATURE_REFUSED),
    "other secret": (signed_by(secret="another"), Kind.SIGNATURE_REFUSED),
    "unknown access key": (signed_by(access="NOBODY"), Kind.SIGNATURE_REFUSED),
    "other key": (url_with("a.safetensors", "b.safetensors"), Kind.SIGNATURE_REFUSED),
    "other length": (sent_otherwise({"Content-Length": "999"}, {}), Kind.SIGNATURE_REFUSED),
    "header left out": (sent_otherwise({"x-amz-meta-a": "b"}, {}), Kind.SIGNATURE_REFUSED),
    "other header": (
        sent_otherwise({"Content-Type": "text/plain"}, {"Content-Type": "text/html"}),
        Kind.SIGNATURE_REFUSED,
    ),
    "md5 of other bytes": (with_md5(md5_of(b"other")), Kind.DIGEST_MISMATCH),
}


@pytest.mark.parametrize(("make", "kind"), REFUSED.values(), ids=REFUSED)
def test_a_refused_body_is_not_stored_and_its_row_is_known(
    bucket: Bucket, make: Make, kind: Kind
) -> None:
    grant = make(bucket)
    before = bucket.objects.sizes()
    with pytest.raises(JobError) as caught:
        bucket.put(grant)

    assert caught.value.kind is kind
    assert bucket.objects.sizes() == before, "a refused body was stored"


def never_opened(bucket: Bucket, key: str) -> str:
    return "0123456789abcdef0123456789abcdef"


def given_up(bucket: Bucket, key: str) -> str:
    upload_id = asyncio.run(bucket.objects.open_upload(key))
    asyncio.run(bucket.objects.abort(key, upload_id))
    return upload_id


def completed(bucket: Bucket, key: str) -> str:
    upload_id = asyncio.run(bucket.objects.open_upload(key))
    etag = bucket.put_part(key, upload_id, 1, b"whole")
    asyncio.run(bucket.objects.complete(key, upload_id, [(1, etag)]))
    return upload_id


@pytest.mark.parametrize("upload", [never_opened, given_up, completed])
def test_F42_a_part_of_an_upload_that_is_gone_says_so(
    bucket: Bucket, upload: Callable[[Bucket, str], str]
) -> None:
    key = fresh_key()
    upload_id = upload(bucket, key)
    with pytest.raises(JobError) as caught:
        bucket.put_part(key, upload_id, 1, BODY)

    assert caught.value.kind is Kind.UPLOAD_GONE


# --- parts


@pytest.mark.parametrize(
    ("size", "order"),
    [
        (PART + 1, (1, 2)),  # the last part is one byte
        (2 * PART, (1, 2)),
        (2 * PART + 1, (3, 1, 2)),
        (2 * PART, (2, 1, 1, 2)),  # each comes twice
    ],
)
def test_parts_in_any_order_become_one_object(
    bucket: Bucket, size: int, order: Sequence[int]
) -> None:
    key = fresh_key()
    upload_id = asyncio.run(bucket.objects.open_upload(key))
    etags = {
        number: bucket.put_part(key, upload_id, number, NOISE[:size][(number - 1) * PART :][:PART])
        for number in order
    }

    asyncio.run(bucket.objects.complete(key, upload_id, sorted(etags.items())))

    assert bucket.holds(key) == NOISE[:size]


@pytest.mark.parametrize(
    ("sizes", "order", "code"),
    [
        ((PART, PART), (1, 2, 2), "InvalidPart"),  # the third is never sent
        ((PART, 10), (2, 1), "InvalidPart"),  # etags swapped
        ((10, PART), (1, 2), "EntityTooSmall"),
    ],
)
def test_F49_parts_that_the_store_cannot_assemble_are_told_from_other_refusals(
    bucket: Bucket, sizes: Sequence[int], order: Sequence[int], code: str
) -> None:
    key = fresh_key()
    upload_id = asyncio.run(bucket.objects.open_upload(key))
    etags = [
        bucket.put_part(key, upload_id, number, NOISE[:size])
        for number, size in enumerate(sizes, 1)
    ]
    told = [(number, etags[which - 1]) for number, which in enumerate(order, 1)]
    with pytest.raises(StoreRefusal) as caught:
        asyncio.run(bucket.objects.complete(key, upload_id, told))

    assert (caught.value.status, caught.value.code) == (400, code)
    assert classify(Call.COMPLETE, caught.value.status, s3_code=code) is Kind.PARTS_REFUSED
    assert bucket.holds(key) is None
