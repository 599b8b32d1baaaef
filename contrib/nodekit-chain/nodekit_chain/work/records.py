"""Records of work and their transitions. Pure: every change is a new `Work`; nothing here waits or reads a clock."""

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from eth_abi.abi import encode
from msgspec.structs import replace

from nodekit import JobId
from nodekit_chain.account.transactions import SignedTransaction
from nodekit_chain.protocol.address import Address
from nodekit_chain.protocol.containers import Delivery
from nodekit_chain.protocol.delegated import Signature
from nodekit_chain.protocol.keccak import keccak256
from nodekit_chain.protocol.subscription import SUBSCRIPTION_TYPE, Subscription


class State(StrEnum):
    """Progress of a record: seen → running → output → signed → mined → confirmed → done, failed or expired."""

    SEEN = "seen"
    RUNNING = "running"
    OUTPUT = "output"
    SIGNED = "signed"
    MINED = "mined"
    CONFIRMED = "confirmed"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"


FINAL = frozenset({State.DONE, State.FAILED, State.EXPIRED})
ON_CHAIN = frozenset({State.SIGNED, State.MINED, State.CONFIRMED})
"""States in which a transaction exists."""


class Delegation(msgspec.Struct, frozen=True, kw_only=True):
    """The signature by which the owner of a subscription lets a node create it, and the data that came with it.

    - `expiry`: Unix seconds at which the signature is void, for a subscription that was not created before.
    - `data`: JSON that the first container gets.
    """

    nonce: int
    expiry: int
    signature: Signature
    data: msgspec.Raw


class Sent(SignedTransaction, frozen=True, kw_only=True):
    """One version of a transaction. Its record was stored before it was sent to anybody.

    - `head`: Number of the newest block when it was signed.
    """

    head: int

    @classmethod
    def of(cls, signed: SignedTransaction, head: int) -> "Sent":
        return cls(**msgspec.structs.asdict(signed), head=head)


class Work(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The work for one interval of one subscription. Times are Unix seconds.

    - `id`: Number of the subscription. 0: it came by HTTP, and the delivery creates it, as far as is known.
    - `interval`: Interval that the result is for. 0: not known before the job begins.
    - `read_at`: Block in which the subscription was read. Whoever has not read so far may not know it yet.
    - `containers`: Containers that the hash in the subscription stands for.
    - `attempts`: Jobs that have failed, and transactions that were reverted. Both are bounded together.
    - `job`: Job that runs, or has run.
    - `account`: Account that signed the transaction.
    - `sent`: Versions of the transaction, the newest last. All have the same nonce.
    - `closing`: True if the transaction is not the delivery, but ends a proof that nobody has judged in time.
    - `giving_up`: True if the newest version cancels the others by an empty transfer.
    - `block`, `block_hash`: Block that the transaction was mined in.
    - `not_before`: Time before which nothing is tried again.
    - `reason`: Why it ended, or why it is tried again.
    """

    coordinator: str
    subscription: Subscription
    id: int = 0
    interval: int = 0
    read_at: int = 0
    containers: tuple[str, ...] = ()
    delegation: Delegation | None = None
    state: State = State.SEEN
    attempts: int = 0
    job: JobId = ""
    payload: Delivery | None = None
    account: Address = ""
    sent: tuple[Sent, ...] = ()
    closing: bool = False
    giving_up: bool = False
    block: int = 0
    block_hash: str = ""
    not_before: float = 0.0
    reason: str = ""
    seen_at: float = 0.0
    changed_at: float = 0.0

    @property
    def key(self) -> str:
        """Key of the record. One subscription that a fork of the chain replaces by another has another key."""
        if self.delegation is not None:
            return delegated_work_key(self.coordinator, self.subscription.owner, self.delegation.nonce)
        return f"{self.coordinator.lower()}/{self.id:010}.{digest(self.subscription)}/{self.interval:010}"

    @property
    def nonce(self) -> int | None:
        """Nonce of the transaction; None if there is none."""
        return self.sent[-1].nonce if self.sent else None

    @property
    def final(self) -> bool:
        """True if nothing is left to do."""
        return self.state in FINAL

    @property
    def job_key(self) -> str:
        """Idempotency key of the job, so that a node that died after asking for it finds it again."""
        return f"{self.key}#{self.interval}.{self.attempts}"

    @property
    def with_proof(self) -> bool:
        """True if the delivery locks a payment until a verifier has judged its proof."""
        return self.subscription.needs_proof and self.subscription.payment_amount > 0

    def begun(self, interval: int, at: float) -> "Work":
        """Return the record of a delegated subscription with the interval that it is for."""
        return replace(self, interval=interval, changed_at=at)

    def running(self, job: JobId, at: float) -> "Work":
        """Return the record with its job. Its interval was frozen before."""
        return replace(self, state=State.RUNNING, job=job, reason="", changed_at=at)

    def with_output(self, payload: Delivery, at: float) -> "Work":
        """Return the record with what is to be delivered."""
        return replace(self, state=State.OUTPUT, payload=payload, reason="", changed_at=at)

    def signed(
        self, account: Address, sent: Sent, at: float, *, closing: bool = False, giving_up: bool = False
    ) -> "Work":
        """Return the record with its transaction, or with another version of it under the same nonce.

        `giving_up`: That version is an empty transfer, which takes the place of the others.
        """
        versions = (*self.sent, sent) if sent.nonce == self.nonce else (sent,)
        fresh = replace(self, account=account, sent=versions, closing=closing, giving_up=giving_up)
        return replace(fresh, state=State.SIGNED, changed_at=at)

    def mined(self, block: int, block_hash: str, at: float) -> "Work":
        """Return the record with the block that has its transaction."""
        return replace(self, state=State.MINED, block=block, block_hash=block_hash, changed_at=at)

    def unmined(self, at: float) -> "Work":
        """Return the record after its block has left the chain: the same transaction is sent again."""
        return replace(self, state=State.SIGNED, block=0, block_hash="", reason="", changed_at=at)

    def reopened(self, at: float) -> "Work":
        """Return the record after the block that ended it has left the chain. Without a transaction it begins again."""
        if self.sent:
            return self.unmined(at)
        return replace(self.again(State.SEEN, self.reason, at, 0.0), attempts=self.attempts)

    def confirmed(self, at: float) -> "Work":
        """Return the record after its block is deep enough. The payload is not needed any more.

        It is done, unless a verifier has yet to judge the proof.
        """
        awaits_verdict = self.with_proof and not self.closing
        state = State.CONFIRMED if awaits_verdict else State.DONE
        reason = "its proof was not judged in time" if self.closing else self.reason
        return replace(self, state=state, reason=reason, payload=None, changed_at=at)

    def unclosed(self, at: float) -> "Work":
        """Return the record after a transaction that was to end its proof did not."""
        fresh = replace(self, sent=(), closing=False, giving_up=False)
        return replace(fresh, state=State.CONFIRMED, changed_at=at)

    def ended(self, state: State, reason: str, at: float) -> "Work":
        """Return the record with its end. Bulky parts go."""
        return replace(self, state=state, reason=reason, payload=None, changed_at=at)

    def again(self, state: State, reason: str, at: float, delay_seconds: float) -> "Work":
        """Return the record for another attempt, from its job (`SEEN`) or from its output (`OUTPUT`) on."""
        fresh = replace(self, sent=(), closing=False, giving_up=False, block=0, block_hash="")
        attempts, not_before = self.attempts + 1, at + delay_seconds
        fresh = replace(fresh, payload=self.payload if state is State.OUTPUT else None)
        return replace(fresh, state=state, reason=reason, attempts=attempts, not_before=not_before, changed_at=at)

    def anew(self, reason: str, at: float) -> "Work":
        """Return the record for a later interval, as if it had just been seen."""
        fresh = self.again(State.SEEN, reason, at, 0.0)
        return replace(fresh, attempts=self.attempts, interval=0, job="", payload=None)

    def waiting(self, reason: str, at: float, delay_seconds: float) -> "Work":
        """Return the record that waits for something that is not its fault. It counts as no attempt."""
        return replace(self, reason=reason, not_before=at + delay_seconds, changed_at=at)


def digest(subscription: Subscription) -> str:
    """Return 16 hexadecimal digits that tell a subscription from others with the same id."""
    return keccak256(encode([SUBSCRIPTION_TYPE], [subscription.row]))[:8].hex()


def delegated_work_key(coordinator: str, owner: str, nonce: int) -> str:
    """Return the key of the work for a delegated subscription."""
    return f"{coordinator.lower()}/{owner.lower()}/{nonce:010}"


def by_state(records: Sequence[Work]) -> dict[str, int]:
    """Return the number of records in each state."""
    counts = dict.fromkeys(map(str, State), 0)
    for record in records:
        counts[record.state] += 1
    return counts
