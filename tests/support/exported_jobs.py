"""Jobs as commands on a store print them, read as a program does that knows the documented format only."""

import re
from datetime import datetime
from typing import Any

import msgspec

from nodekit import Job

_TEXT = re.compile(rb'"(accepted_at|finished_at|started_at|not_before)":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"')
_NUMBER = re.compile(rb'"(accepted_at|finished_at|started_at|not_before)":(-?[\d.e+]+)')


def read_back(line: str | bytes) -> Job:
    """Return the job in a line of `nodekit store export`, with times in whole microseconds."""
    data = line.encode() if isinstance(line, str) else line
    assert not _NUMBER.search(data), data
    return msgspec.json.decode(_TEXT.sub(_seconds, data), type=Job)


def rounded(job: Any) -> Job:
    """Return a job with times in whole microseconds, as its line has them."""
    text = _NUMBER.sub(
        lambda found: b'"%b":%b' % (found[1], repr(round(float(found[2]), 6)).encode()), msgspec.json.encode(job)
    )
    return msgspec.json.decode(text, type=Job)


def _seconds(found: "re.Match[bytes]") -> bytes:
    at = datetime.fromisoformat(found[2].decode().replace("Z", "+00:00"))
    return b'"%b":%b' % (found[1], repr(round(at.timestamp(), 6)).encode())
