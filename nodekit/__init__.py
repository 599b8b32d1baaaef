"""nodekit: a library for composing compute nodes."""

from nodekit.config.api_version import API_VERSION
from nodekit.config.compose import load_node, node_name, read_node_file
from nodekit.config.findings import Finding
from nodekit.config.formats import Format, NodeTables
from nodekit.config.providers import NodeFile, Offer
from nodekit.config.secrets import EnvValue, Secret
from nodekit.embedded.store import EmbeddedStore
from nodekit.errors import (
    ClaimLost,
    CompositionError,
    ContainerFailed,
    FailureKind,
    InvalidPayload,
    KeyReused,
    NodekitError,
    NotFailed,
    NotStarted,
    PluginDeprecationWarning,
    Problem,
    Refusal,
    StoreFailed,
    StoreInUse,
    TooManyJobs,
    TooManyRequests,
    Unavailable,
)
from nodekit.execution.descriptors import descriptor_share
from nodekit.execution.job_stream import JobStream, StreamBroken, StreamRecord
from nodekit.hooks.mounts import AsgiApplication, Mount
from nodekit.interfaces.pipeline import Pipeline, Sequence
from nodekit.interfaces.runner import ContainerRunner, DescribingRunner, InProcessRunner, PooledRunner, StreamingRunner
from nodekit.interfaces.store import (
    Announcement,
    Claim,
    EndingStore,
    JobStore,
    JobTable,
    Pending,
    Settlement,
    SharedStore,
    Unfinished,
)
from nodekit.interfaces.transport import Transport
from nodekit.model.container import (
    ClientId,
    Container,
    ContainerError,
    ContainerId,
    ContainerInput,
    ContainerOutput,
    ContainerResult,
    JobId,
    Location,
    Retry,
    Step,
)
from nodekit.model.events import Event, JobAccepted, JobFinished, RequestRefused, StepFinished, StoreCall
from nodekit.model.job import (
    FINISHED,
    UNFINISHED,
    UNSUCCESSFUL,
    Attempt,
    Job,
    JobRequest,
    JobStatus,
    Outcome,
    RetryFrom,
    StepRecord,
    last_output,
)
from nodekit.model.limits import ClientLimits
from nodekit.model.payload import MAX_DEPTH, decode_payload, encode_payload, parse_json
from nodekit.node.health import Health
from nodekit.node.node import Node

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "FINISHED",
    "MAX_DEPTH",
    "UNFINISHED",
    "UNSUCCESSFUL",
    "Announcement",
    "AsgiApplication",
    "Attempt",
    "Claim",
    "ClaimLost",
    "ClientId",
    "ClientLimits",
    "CompositionError",
    "Container",
    "ContainerError",
    "ContainerFailed",
    "ContainerId",
    "ContainerInput",
    "ContainerOutput",
    "ContainerResult",
    "ContainerRunner",
    "DescribingRunner",
    "EmbeddedStore",
    "EndingStore",
    "EnvValue",
    "Event",
    "FailureKind",
    "Finding",
    "Format",
    "Health",
    "InProcessRunner",
    "InvalidPayload",
    "Job",
    "JobAccepted",
    "JobFinished",
    "JobId",
    "JobRequest",
    "JobStatus",
    "JobStore",
    "JobStream",
    "JobTable",
    "KeyReused",
    "Location",
    "Mount",
    "Node",
    "NodeFile",
    "NodeTables",
    "NodekitError",
    "NotFailed",
    "NotStarted",
    "Offer",
    "Outcome",
    "Pending",
    "Pipeline",
    "PluginDeprecationWarning",
    "PooledRunner",
    "Problem",
    "Refusal",
    "RequestRefused",
    "Retry",
    "RetryFrom",
    "Secret",
    "Sequence",
    "Settlement",
    "SharedStore",
    "Step",
    "StepFinished",
    "StepRecord",
    "StoreCall",
    "StoreFailed",
    "StoreInUse",
    "StreamBroken",
    "StreamRecord",
    "StreamingRunner",
    "TooManyJobs",
    "TooManyRequests",
    "Transport",
    "Unavailable",
    "Unfinished",
    "__version__",
    "decode_payload",
    "descriptor_share",
    "encode_payload",
    "last_output",
    "load_node",
    "node_name",
    "parse_json",
    "read_node_file",
]
