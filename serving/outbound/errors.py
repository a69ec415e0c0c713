"""Why a request to a client's URL failed."""


class FetchError(Exception):
    """One line, fit for the client: without resolved addresses and paths."""


class FetchRefused(FetchError):
    """Our rules forbid the address; a retry will not help."""


class NotPublic(FetchRefused):
    """The address is not public, and no allowed network holds it."""


class FetchFailed(FetchError):
    """The server was unreachable, too slow, sent too much, or did not answer with success.

    Attributes:
        status: of the answer, if there was one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
