"""Settings of the work."""

import msgspec

from nodekit_chain.protocol.address import Address


class WorkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the work. `ChainConfig` has their defaults.

    - `payment_address`: Wallet contract that is paid.
    - `max_gas_limit`: Most gas of one transaction; what needs more is not sent.
    - `allowed_sim_errors`: Parts of error texts. A simulation that fails with one of them is sent nevertheless.
    - `confirmations`: Number of blocks, its own included, after which a transaction counts for good.
    - `attempts`: Jobs and transactions that may fail for one result.
    - `retry_seconds`: Pause after the first failure; it doubles with each further one.
    - `bump_after_blocks`: Number of blocks after which a transaction that waits is replaced, with higher fees.
    - `lease_seconds`: Time after which another node takes over from one that died.
    - `keep_days`: Days for which finished records are kept.
    - `json_output`: True if an output without the five keys is delivered as JSON, and not as Python writes it.
    """

    payment_address: Address
    max_gas_limit: int
    allowed_sim_errors: tuple[str, ...]
    confirmations: int
    attempts: int
    retry_seconds: float
    bump_after_blocks: int
    lease_seconds: float
    keep_days: float
    poll_seconds: float
    json_output: bool
