"""Why a request to an address from outside came to nothing."""


class FetchError(Exception):
    """One line, fit for the client: no address that a name stands for, no path."""


class FetchRefused(FetchError):
    """Our rules forbid the address; trying again will not help."""


class FetchFailed(FetchError):
    """The other side was not there, too slow, too large, or answered something else than success.

    Attributes:
        status: what it answered, if it did.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
