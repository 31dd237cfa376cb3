"""Chooses how a file is uploaded: in one request or in parts, by settings, credential and server."""

from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.parts import Route, choose_route
from syncd.errors import JobError
from syncd.types import Kind


class Routes:
    """
    The route of a file by its size, with the current credential.

    Args:
        single_put_limit: Maximum bytes for one request; lowered when a server refuses fewer.
    """

    def __init__(
        self, single_put_limit: int, *, credentials: Credentials, api: CloudClient
    ) -> None:
        self._single_put_limit = single_put_limit
        self._credentials = credentials
        self._api = api

    def of(self, size: int) -> Route:
        return choose_route(
            size,
            single_put_limit=self._single_put_limit,
            session=self._credentials.is_session,
            multipart=self._api.multipart_available,
        )

    def turned_down(self, size: int) -> bool:
        """Lower the limit after the server refused *size* bytes; True if parts are possible."""
        self._single_put_limit = min(self._single_put_limit, size - 1)
        return self.of(size) is Route.MULTIPART

    def none_for(self, size: int) -> JobError:
        above = f"{size} bytes are above the {self._single_put_limit} that"
        if self._credentials.is_session:
            return to_error(
                Kind.NEEDS_SIGN_IN,
                f"{above} go in one request, and this server has no multipart calls where syncd "
                "looks for them",
                advice="Ask its operator for the paths and set them in [api.multipart].",
            )
        return to_error(
            Kind.NEEDS_SIGN_IN,
            f"{above} a device key may send in one request",
            advice="Large files need a user's session: syncd login --large-files",
        )
