"""Jobs in the messages of suites."""

from nodekit import ContainerOutput, Sequence, encode_payload
from nodekit.testing import make_job
from nodekit.testing.contracts.failure_messages import shown_result, shown_step


def test_payloads_are_shown_by_their_first_bytes() -> None:
    output = ContainerOutput(container="echo", output=encode_payload({"text": "x" * 500}))
    assert shown_result(output) == f'b\'{{"text":"{"x" * 71}\'…'
    step = Sequence().next_step(make_job("echo", data={"text": "hello"}))
    assert shown_step(step) == ("step 0, attempt 1, in 'echo', destination OFFCHAIN, data b'{\"text\":\"hello\"}'")
    assert shown_step(None) == "None"
