"""A copy of all that one store keeps in another. It goes on where an earlier try ended."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from nodekit.cli.store.reading import PAGE, Choice, Reader
from nodekit.errors import StoreFailed
from nodekit.interfaces.storage import Write
from nodekit.interfaces.store_abilities import JobArchive
from nodekit.model.counting import counted
from nodekit.model.job import Job
from nodekit.model.queries import JobFields, JobQuery

RECORDS = 20
"""Number of records of plugins that are copied at once: at most 20 MiB."""


class Copied(msgspec.Struct):
    """The numbers of a copy.

    - `jobs`: Number of jobs that were copied now.
    - `there`: Number of jobs that an earlier try has copied.
    - `records`: Number of records of plugins in the target.
    - `failed`: Ids of jobs that cannot be read, with the reasons.
    """

    jobs: int = 0
    there: int = 0
    records: int = 0
    failed: dict[str, str] = {}


async def copy(source: JobArchive, target: JobArchive, *, with_records: bool) -> Copied:
    """Copy all jobs and, `with_records`, all records of plugins. Each is read back and compared.

    Raise `StoreFailed` if the target has anything that the source has not: it was used meanwhile. Nothing of that is
    changed.
    """
    copied = Copied()
    namespaces = await _namespaces(source, target) if with_records else ()
    await _check_jobs(source, target)
    for namespace in namespaces:
        await _check_records(source, target, namespace)
    reader = Reader(source)
    async for page in reader.states(Choice()):
        async for jobs in reader.whole([job.id for job in page]):
            await _copy_jobs(jobs, target, copied)
    await target.keep_finish_number(await source.last_finish_number())
    for namespace in namespaces:
        copied.records += await _copy_records(source, target, namespace)
    copied.failed = dict(reader.problems)
    await _check_number(target, copied)
    return copied


async def _copy_jobs(jobs: Sequence[Job], target: JobArchive, copied: Copied) -> None:
    there = {job.id: job for job in await target.get([job.id for job in jobs], fields=JobFields.ALL)}
    missing = [job for job in jobs if job.id not in there]
    await target.restore(missing)
    if missing:
        there |= {job.id: job for job in await target.get([job.id for job in missing], fields=JobFields.ALL)}
    for job in jobs:
        if job != there.get(job.id):
            raise StoreFailed(f"job {job.id} is not the same in both stores; name an empty store as TO")
    copied.jobs += len(missing)
    copied.there += len(jobs) - len(missing)


async def _check_jobs(source: JobArchive, target: JobArchive) -> None:
    query = JobQuery(limit=PAGE)
    while ids := await target.find(query):
        known = {job.id for job in await source.get(ids, fields=JobFields.STATE)}
        if others := [id for id in ids if id not in known]:
            text = f"TO has jobs of its own, such as {others[0]}"
            raise StoreFailed(f"{text}; name an empty store, or one that an interrupted copy of FROM has begun")
        query = replace(query, after=ids[-1])


async def _check_number(target: JobArchive, copied: Copied) -> None:
    query, number = JobQuery(limit=PAGE), 0
    while ids := await target.find(query):
        number += len(ids)
        query = replace(query, after=ids[-1])
    if number != (expected := copied.jobs + copied.there):
        raise StoreFailed(f"TO has {counted(number, 'job')}, and expected were {expected}; was it used meanwhile?")


# -- records of plugins --------------------------------------------------------------------------------


async def _namespaces(source: JobArchive, target: JobArchive) -> Sequence[str]:
    names = await source.namespaces() or []
    there = await target.namespaces()
    if there is None and names:
        text = f"TO keeps no records of plugins, and FROM has some of {', '.join(names)}"
        raise StoreFailed(f"{text}; name another kind of store, or leave them out with --without-records")
    if others := [name for name in there or () if name not in names]:
        raise StoreFailed(f"TO has records of the plugin {others[0]!r} of its own; name an empty store")
    return names


async def _check_records(source: JobArchive, target: JobArchive, namespace: str) -> None:
    here, there, after = source.storage(namespace), target.storage(namespace), None
    while records := await there.scan(after=after, limit=RECORDS):
        for record in records:
            found = await here.get(record.key)
            if found is None or found.value != record.value:
                text = f"TO has a record {record.key!r} of the plugin {namespace!r} that FROM has not like this"
                raise StoreFailed(f"{text}; name an empty store")
        after = records[-1].key


async def _copy_records(source: JobArchive, target: JobArchive, namespace: str) -> int:
    here, there = source.storage(namespace), target.storage(namespace)
    after, number = None, 0
    while records := await here.scan(after=after, limit=RECORDS):
        after = records[-1].key
        known = {key: found for key in (record.key for record in records) if (found := await there.get(key))}
        await there.batch([Write(record.key, record.value) for record in records if record.key not in known])
        for record in records:
            if (found := await there.get(record.key)) is None or found.value != record.value:
                raise StoreFailed(f"the record {record.key!r} of the plugin {namespace!r} was not kept as it was")
        number += len(records)
    return number
