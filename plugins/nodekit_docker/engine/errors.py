"""The errors of an engine, and of containers on it."""

from nodekit import NodekitError


class EngineGone(NodekitError):
    """The engine does not answer: it is not there, may not be used, or hangs."""


class EngineRefused(NodekitError):
    """The engine answered with an error; `status` is its HTTP status."""

    def __init__(self, text: str, status: int) -> None:
        self.status = status
        super().__init__(text)


class NameTaken(NodekitError):
    """Another node has this name on the same engine; the message says where it runs."""


class NotUp(NodekitError):
    """A container could not be brought up; the message says why, and what to do."""

    def __init__(self, text: str, *, exit_code: int | None = None, last_lines: tuple[str, ...] = ()) -> None:
        self.exit_code = exit_code
        self.last_lines = last_lines
        super().__init__(text)
