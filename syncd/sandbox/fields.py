"""Field rules of the API's request bodies, read more strictly than a real server would."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from syncd.sandbox.answers import ApiRefusal, explain

MODEL_PATH = re.compile(r"(?!/)(?!.*\.\.)(?!.*\\)[\w./ -]+", re.ASCII)


def _model_path(path: str) -> str:
    """Beyond the pattern: what a client has to refuse itself, since the pattern lets it through."""
    if MODEL_PATH.fullmatch(path) is None:
        raise ValueError("has characters that are not allowed")
    for segment in path.split("/"):
        if segment in ("", ".") or segment != segment.strip() or len(segment) > 255:
            raise ValueError("has an empty, padded or overlong segment")
    return path


Name = Annotated[str, Field(min_length=1, max_length=255)]
FileName = Annotated[str, Field(max_length=255, pattern=r"^[^/\\]+$")]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
ModelType = Annotated[str, Field(min_length=1, max_length=50)]
ModelPath = Annotated[str, Field(max_length=1000), AfterValidator(_model_path)]
Size = Annotated[int, Field(ge=1, le=2**53)]
PartNumber = Annotated[int, Field(ge=1, le=10_000)]


class Body(BaseModel):
    """The members of a JSON object; nothing else may be in it."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())

    @classmethod
    def read(cls, document: object) -> dict[str, Any]:
        """
        The members that *document* has.

        Raises:
            ApiRefusal: 400 if it is no object, 422 with the member's name otherwise.
        """
        if not isinstance(document, dict):
            raise ApiRefusal(400, "the body must be a JSON object")
        try:
            return cls.model_validate(document).model_dump(exclude_unset=True)
        except ValidationError as error:
            raise ApiRefusal(422, explain(error)) from None


class Login(Body):
    email_address: Text
    user_password: Text


class Refresh(Body):
    refresh_token: Text


class Poll(Body):
    device_code: Text


class Confirm(Body):
    user_code: Text
    device_name: Text | None = None


class Presign(Body):
    file_name: FileName
    file_size: Size
    model_type: ModelType
    model_path: ModelPath


class Register(Body):
    display_name: Name
    model_type: ModelType
    storage_key: Text
    file_size: Size
    file_hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    model_path: ModelPath


class Update(Body):
    display_name: Name | None = None
    model_type: ModelType | None = None
    model_path: ModelPath | None = None
    model_status: Literal["active", "disabled"] | None = None


class Initiate(Body):
    storage_key: Text
    file_size: Size


class Upload(Body):
    storage_key: Text
    upload_id: Text


class SignPart(Upload):
    part_number: PartNumber


class Part(Body):
    part_number: PartNumber
    etag: Text


class Complete(Upload):
    parts: Annotated[list[Part], Field(min_length=1, max_length=10_000)]
