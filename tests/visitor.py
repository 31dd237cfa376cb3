"""Raw HTTP to the stand-in cloud: no code of syncd's own doors is involved."""

import hashlib
from types import TracebackType
from typing import Any, Self

import httpx

from syncd.sandbox.server import Sandbox

TIMEOUT_S = 60.0
NO_TLS = False  # loading the trust store would take longer than most of these tests


class Visitor:
    """
    A caller with one credential and bare hands.

    Args:
        token: None takes the sandbox's session token, and names its team.
    """

    def __init__(self, cloud: Sandbox, token: str | None = None) -> None:
        headers = {"X-Team-ID": cloud.team_id} if token is None else {}
        headers["Authorization"] = f"Bearer {token or cloud.session_token}"
        self.cloud = cloud
        self.api = httpx.Client(
            base_url=cloud.base_url,
            headers=headers,
            timeout=TIMEOUT_S,
            trust_env=False,
            verify=NO_TLS,
        )
        self.store = httpx.Client(timeout=TIMEOUT_S, trust_env=False, verify=NO_TLS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.api.close()
        self.store.close()

    def post(self, path: str, **members: Any) -> httpx.Response:
        """POST *members* as JSON."""
        return self.api.post(path, json=members)

    def ask_presign(self, path: str = "models/loras/a.safetensors", **other: Any) -> httpx.Response:
        """Presign 3 bytes at *path*; *other* members replace or add."""
        said = {
            "file_name": path.rpartition("/")[2],
            "file_size": 3,
            "model_type": "loras",
            "model_path": path,
        }
        return self.post("/models/presign", **{**said, **other})

    def presign(self, path: str = "models/loras/a.safetensors", size: int = 3) -> dict[str, Any]:
        """A grant for *size* bytes at *path*."""
        grant: dict[str, Any] = good(self.ask_presign(path, file_size=size))
        return grant

    def put(self, grant: dict[str, Any], body: bytes, **headers: str) -> httpx.Response:
        """PUT *body* as *grant* says; *headers* come on top."""
        sent = {**grant["upload_headers"], **headers}
        return self.store.put(grant["upload_url"], content=body, headers=sent)

    def ask_register(self, key: str, body: bytes = b"abc", **other: Any) -> httpx.Response:
        """Register *body*; *other* members replace or add."""
        said = {
            "display_name": "a",
            "model_type": "loras",
            "storage_key": key,
            "file_size": len(body),
            "file_hash": f"sha256:{hashlib.sha256(body).hexdigest()}",
            "model_path": "models/loras/a.safetensors",
        }
        return self.post("/models", **{**said, **other})

    def store_bytes(self, body: bytes = b"abc", path: str = "models/loras/a.safetensors") -> str:
        """Presign and PUT; the storage_key."""
        grant = self.presign(path, len(body))
        good(self.put(grant, body))
        key: str = grant["storage_key"]
        return key

    def upload(self, body: bytes = b"abc", path: str = "models/loras/a.safetensors") -> str:
        """The whole way of a small file; the record's id."""
        key = self.store_bytes(body, path)
        record: str = good(self.ask_register(key, body, model_path=path))["id"]
        return record

    def initiate(self, size: int) -> dict[str, Any]:
        """An open multipart upload of *size* bytes."""
        key = self.presign(size=size)["storage_key"]
        answer = self.post("/uploads/multipart/initiate", storage_key=key, file_size=size)
        opened: dict[str, Any] = good(answer)
        return opened

    def sign_part(self, upload: dict[str, Any], number: int) -> dict[str, Any]:
        """A grant for one part."""
        answer = self.post("/uploads/multipart/presign", **_named(upload), part_number=number)
        grant: dict[str, Any] = good(answer)
        return grant

    def put_parts(self, upload: dict[str, Any], body: bytes) -> list[dict[str, Any]]:
        """All parts of *body*; what ``complete`` wants to hear of them."""
        size = upload["part_size"]
        parts = []
        for number in range(1, upload["part_count"] + 1):
            piece = body[(number - 1) * size : number * size]
            answer = self.put(self.sign_part(upload, number), piece)
            assert answer.status_code == 200
            parts.append({"part_number": number, "etag": answer.headers["etag"]})
        return parts

    def complete(self, upload: dict[str, Any], parts: list[dict[str, Any]]) -> httpx.Response:
        """Ask to assemble *parts*."""
        return self.post("/uploads/multipart/complete", **_named(upload), parts=parts)


def good(answer: httpx.Response) -> Any:
    """The JSON of an answer that must be a success; None without a body."""
    assert answer.is_success, f"{answer.status_code} {answer.text}"
    return answer.json() if answer.headers.get("content-type") == "application/json" else None


def code_of(answer: httpx.Response) -> str:
    """The ``<Code>`` of an S3 error."""
    assert answer.headers["content-type"] == "application/xml"
    return answer.text.partition("<Code>")[2].partition("</Code>")[0]


def _named(upload: dict[str, Any]) -> dict[str, Any]:
    return {"storage_key": upload["storage_key"], "upload_id": upload["upload_id"]}
