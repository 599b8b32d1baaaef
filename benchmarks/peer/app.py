"""A peer of a node: FastAPI in front of arq, which keeps jobs and results in Redis. `uvicorn app:app`.

It takes jobs and batches and returns results by id, as a node does. It cannot wait for a job.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.constants import result_key_prefix
from arq.jobs import deserialize_result
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel

SETTINGS = RedisSettings(port=int(os.environ["REDIS_PORT"]))


class Job(BaseModel):
    containers: list[str]
    data: dict[str, Any]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.redis = await create_pool(SETTINGS)
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


async def accept(redis: Any, job: Job) -> dict[str, str]:
    id = str(uuid.uuid4())
    await redis.enqueue_job("run", job.containers, job.data, _job_id=id)
    return {"id": id}


@app.post("/api/jobs")
async def submit(job: Job, request: Request) -> dict[str, str]:
    return await accept(request.app.state.redis, job)


@app.post("/api/jobs/batch")
async def submit_many(jobs: list[Job], request: Request) -> list[dict[str, str]]:
    return [await accept(request.app.state.redis, job) for job in jobs]


@app.get("/api/jobs")
async def results(id: Annotated[list[str], Query()], request: Request) -> list[dict[str, Any]]:
    kept = await request.app.state.redis.mget([result_key_prefix + one for one in id])
    return [
        {"id": one, "status": "running", "result": None}
        if data is None
        else {
            "id": one,
            "status": "success",
            "result": {"container": "echo", "output": deserialize_result(data).result},
        }
        for one, data in zip(id, kept, strict=True)
    ]
