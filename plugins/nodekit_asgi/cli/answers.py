"""The answers to many job requests, printed in the order of the requests as soon as they are known."""

from collections.abc import Mapping, Sequence

from nodekit_asgi.cli.batching import Answer, refusal
from nodekit_asgi.cli.output import JsonList, ids_survive, notice, one_line, say_lines

UNKNOWN = refusal("not known: the node may have this job, its answer is lost")
NOT_SUBMITTED = refusal("not submitted")


class Answers:
    """Prints one line for each request, an id or an error; or the items of one JSON document, as the node sent them.

    An answer is printed once those before it are. So every line of output belongs to the request at its place.
    """

    def __init__(self, answers: Mapping[int, Answer], total: int, *, as_json: bool) -> None:
        self._answers = answers
        self._total = total
        self._document = JsonList() if as_json else None
        self._next = 0
        self._noted: set[int] = set()

    def print_known(self) -> None:
        """Print the answers up to the first one that is not known."""
        ready: list[Answer] = []
        while (answer := self._answers.get(self._next + len(ready))) is not None:
            ready.append(answer)
        self._print(ready)

    def note_held_back(self, skipped: int) -> None:
        """Print the ids that wait for their turn on standard error, lest they are lost if the command is killed."""
        for number, answer in self._answers.items():
            if answer.id and number >= self._next and number not in self._noted:
                self._noted.add(number)
                notice(f"request {skipped + number + 1}: job {answer.id} is accepted")

    def print_all(self, unanswered: Sequence[int] = ()) -> None:
        """Print the other answers too, and for requests without one, the reason for that."""
        missing = dict.fromkeys(unanswered, UNKNOWN)
        rest = [
            self._answers.get(number) or missing.get(number, NOT_SUBMITTED) for number in range(self._next, self._total)
        ]
        self._print(rest)
        if self._document is not None:
            self._document.end()

    def _print(self, answers: Sequence[Answer]) -> None:
        # if they cannot be printed, those that are still held back would be lost, too
        held_back = [answer for number, answer in self._answers.items() if number >= self._next]
        with ids_survive([answer.id for answer in held_back if answer.id]):
            if self._document is not None:
                for answer in answers:
                    self._document.add(answer.document)
            elif answers:
                say_lines(one_line(answer.id or f"error: {answer.error}") for answer in answers)
        self._next += len(answers)
