"""Jobs that a command prints one after another, and what it prints about those that were not there."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from msgspec import Raw

from nodekit_asgi.cli.cures import unknown_jobs
from nodekit_asgi.cli.output import JsonList, notice, say_job
from nodekit_asgi.cli.problems import FAILED
from nodekit_asgi.cli.replies import JobResult


class Results:
    """Prints results of jobs as they come: as text, or as the items of one JSON document."""

    def __init__(self, ids: Sequence[str], *, as_json: bool, intermediate: bool = False) -> None:
        self._ids = ids
        self._document = JsonList() if as_json else None
        self._intermediate = intermediate
        self._statuses: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._document is not None:
            self._document.__exit__(kind, error, trace)

    def show(self, result: JobResult, raw: Raw) -> None:
        self._statuses[result.id] = result.status
        if self._document is not None:
            self._document.add(raw)
        else:
            say_job(result, intermediate=self._intermediate)

    @property
    def rest(self) -> Sequence[str]:
        """The ids of the jobs that were not shown."""
        return [id for id in self._ids if id not in self._statuses]

    @property
    def unfinished(self) -> Sequence[str]:
        """The ids of the jobs that are not known to be finished."""
        return [id for id in self._ids if self._statuses.get(id, "running") == "running"]

    @property
    def all_succeeded(self) -> bool:
        return all(status == "success" for status in self._statuses.values())

    def exit_if_missing(self) -> None:
        """Exit with `FAILED` if not all jobs were shown, because the node does not know them."""
        if missing := self.rest:
            notice(unknown_jobs(missing))
            sys.exit(FAILED)
