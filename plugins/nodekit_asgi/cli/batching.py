"""Submission of many jobs: in batches, or one by one with idempotency keys."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec
from msgspec import Raw

from nodekit_asgi.cli.client import ErrorReply, NodeClient
from nodekit_asgi.cli.output import notice
from nodekit_asgi.cli.problems import Busy, CommandFailed, Dropped, NotANode, Refused, Unreachable
from nodekit_asgi.cli.replies import Accepted
from nodekit_asgi.cli.request import Submission
from nodekit_asgi.cli.waiting import PATIENCE_SECONDS, Deadline, Trouble, submit_job

BATCH_ITEMS = 1000
"""Requests in one batch: the limit of a node, unless its `max_batch` says otherwise."""
BATCH_BYTES = 1 << 20
"""Size of a batch. A node takes 16 MiB, but has a time limit too, and what is lost with a connection is one batch."""
ANSWER_SECONDS = 60.0
"""Time a node may take to store a batch, longer than usual."""


class Answer(msgspec.Struct, frozen=True):
    """The answer to one request: the id of its job, or the error."""

    document: Raw
    id: str = ""
    error: str = ""


class _WireAnswer(ErrorReply, frozen=True):
    id: str = ""
    error: str = ""


def refusal(text: str) -> Answer:
    """Return the answer to a request that was not submitted."""
    return Answer(Raw(msgspec.json.encode({"error": text})), error=text)


class Submitter:
    """Submits requests. Subclasses say how; each answer is in `answers` as soon as it is known.

    - `answers`: The answers so far, by the number of the request.
    - `unanswered`: The numbers of the requests that the node may have, and whose answer is lost if the command ends.
    - `to_find_out`: How to find out if the node has them.
    """

    to_find_out: ClassVar[str]

    def __init__(self, client: NodeClient, requests: Sequence[bytes]) -> None:
        self._client = client
        self._requests = requests
        self.answers: dict[int, Answer] = {}
        self.unanswered: Sequence[int] = ()

    @property
    def total(self) -> int:
        return len(self._requests)

    def submit(self) -> Iterator[bool]:
        """Submit all requests. Yield after each reply; True if it will be a while until the next one.

        Raise `CommandFailed` if it cannot go on.
        """
        raise NotImplementedError


class InBatches(Submitter):
    """Submits batches. One whose answer is lost is not sent again, because that could submit its jobs twice."""

    to_find_out = "nodekit job list shows the newest jobs; with --idempotency-key an answer is never lost"

    def __init__(self, client: NodeClient, requests: Sequence[bytes], headers: Mapping[str, str]) -> None:
        super().__init__(client, requests)
        self._headers = {"Content-Type": "application/json", **headers}
        self._met = False

    def submit(self) -> Iterator[bool]:
        for batch in batches([len(request) for request in self._requests]):
            yield from self._submit(batch)

    def _submit(self, batch: Sequence[int]) -> Iterator[bool]:
        left: list[int] = list(batch)
        found: Mapping[int, Answer]
        trouble = Trouble(Deadline(PATIENCE_SECONDS), met=self._met, backs_off=True)
        while left:
            try:
                found = self._post(left)
            except (Unreachable, Busy) as problem:
                if isinstance(problem, Dropped) or (again := trouble.next_pause(problem)) is None:
                    raise
                notice(f"{problem}; trying again in {again:g} s")
                yield True
                time.sleep(again)
                continue
            except Refused as refused:
                if refused.status not in (400, 413):
                    raise
                if len(left) > 1:  # the whole is refused: it is too large for this node, or one of its requests is
                    half = len(left) // 2
                    yield from self._submit(left[:half])
                    yield from self._submit(left[half:])
                    return
                found = {left[0]: refusal(refused.reason)}
            accepted = {number: answer for number, answer in found.items() if answer.id}
            # a node that accepts some does not tell refusals from a limit that was reached; asked again, it does
            self.answers.update(accepted or found)
            trouble = Trouble(Deadline(PATIENCE_SECONDS), met=True, backs_off=True)
            yield False
            left = [number for number in left if number not in self.answers]
            before = [number for number in left if number < max(accepted, default=0)]
            if before and len(before) < len(left):  # most likely refusals, which hold back the answers behind them
                yield from self._submit(before)
                left = [number for number in left if number not in self.answers]

    def _post(self, batch: Sequence[int]) -> Mapping[int, Answer]:
        body = b"[" + b",".join(self._requests[number] for number in batch) + b"]"
        self.unanswered = batch
        try:
            reply = self._client.request(
                "POST", "/api/jobs/batch", body=body, headers=self._headers, wait_seconds=ANSWER_SECONDS, once=True
            )
            documents = reply.read_as(list[Raw])
            if len(documents) != len(batch):
                raise reply.not_a_node()
            read = [(reply.part_as(_WireAnswer, document), document) for document in documents]
        except (Dropped, NotANode) as problem:
            if isinstance(problem, NotANode) and not self._met:
                self.unanswered = ()
            raise
        except (Unreachable, Refused):
            self.unanswered = ()
            raise
        self._met = True
        self.unanswered = ()
        return {
            number: Answer(document, one.id, "" if one.id else one.text)
            for number, (one, document) in zip(batch, read, strict=True)
        }


class OneByOne(Submitter):
    """Submits each request by itself, with a key of its own: sent again, it is the same job."""

    to_find_out = "to find out, run the same command again; nothing is submitted twice"

    def __init__(
        self, client: NodeClient, requests: Sequence[bytes], headers: Mapping[str, str], keys: Sequence[str]
    ) -> None:
        super().__init__(client, requests)
        self._headers = {"Content-Type": "application/json", **headers}
        self._keys = keys

    def submit(self) -> Iterator[bool]:
        for number, (request, key) in enumerate(zip(self._requests, self._keys, strict=True)):
            asked = Submission(request, {**self._headers, "Idempotency-Key": key})
            self.unanswered = [number]
            try:
                reply = submit_job(self._client, asked, Deadline(None), met=number > 0, backs_off=True)
                self.answers[number] = Answer(Raw(reply.body), reply.read_as(Accepted).id)
            except Dropped:
                raise
            except CommandFailed as problem:
                self.unanswered = ()
                if not isinstance(problem, Refused) or problem.status not in (400, 413, 422):
                    raise
                self.answers[number] = refusal(problem.reason)
            self.unanswered = ()
            yield False


def batches(sizes: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the numbers of the requests of each batch, in their order. A larger request is a batch by itself."""
    batch: list[int] = []
    total = 0
    for number, size in enumerate(sizes):
        if batch and (len(batch) == BATCH_ITEMS or total + size > BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(number)
        total += size + 1
    if batch:
        yield batch
