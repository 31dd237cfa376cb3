"""How files travel: in one request or in parts, as the settings, the credential and the server allow."""

from syncd.cloud.client import CloudClient
from syncd.cloud.credentials import Credentials
from syncd.core.jobs.error_mapping import to_error
from syncd.core.jobs.parts import Route, choose_route
from syncd.errors import JobError
from syncd.types import Kind


class Routes:
    """
    The route of a file by its size, with the credential in force.

    Args:
        single_put_limit: Bytes that go in one request; lowered once a server turns fewer down.
    """

    def __init__(
        self, single_put_limit: int, *, credentials: Credentials, api: CloudClient
    ) -> None:
        self._single_put_limit = single_put_limit
        self._credentials = credentials
        self._api = api

    def of(self, size: int) -> Route:
        """How a file of *size* bytes travels now."""
        return choose_route(
            size,
            single_put_limit=self._single_put_limit,
            session=self._credentials.is_session,
            multipart=self._api.multipart_available,
        )

    def turned_down(self, size: int) -> bool:
        """The server refused *size* bytes in one request: remember; True if they can go in parts."""
        self._single_put_limit = min(self._single_put_limit, size - 1)
        return self.of(size) is Route.MULTIPART

    def none_for(self, size: int) -> JobError:
        """Why no route is there for *size* bytes, and what a person can do."""
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
