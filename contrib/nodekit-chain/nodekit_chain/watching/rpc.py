"""Questions to the chain, as the watch asks them."""

from nodekit_chain.rpc.questions import Question, Refused, Rpc, call, result, result_bytes

__all__ = ["Question", "Refused", "Rpc", "call", "result", "result_bytes"]
