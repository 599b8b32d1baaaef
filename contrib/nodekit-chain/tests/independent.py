"""An independent library that signs, to compare with."""

import sys

_limit = sys.getrecursionlimit()
from eth_account import Account  # noqa: E402
from eth_account.messages import encode_typed_data  # noqa: E402

sys.setrecursionlimit(_limit)  # py_ecc raises it to 100 000, and recursion in C then crashes the process

__all__ = ["Account", "encode_typed_data"]
