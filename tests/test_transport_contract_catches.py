"""The suites of transports can fail: each of these transports breaks one promise, and a test says which."""

import gc
import inspect
from collections.abc import Callable
from typing import Any

import anyio
import broken_transports as broken
import pytest
from lines_transport import LinesTransport
from test_transport_contract import LinesSuite

from nodekit.testing import HttpTransportContract, TransportContract

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of what crashed on purpose, and was not closed
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FAILURES = (Exception, BaseExceptionGroup, pytest.fail.Exception)


class Lines(LinesSuite):
    timeout_seconds = 1.0
    stop_seconds = 1.0


class Http(HttpTransportContract):
    timeout_seconds = 1.0


def run(suite: TransportContract, test: str, transport: Any) -> None:
    """Run one test of a suite, as pytest would."""
    function = getattr(suite, test)
    try:
        if inspect.iscoroutinefunction(function):
            anyio.run(function, transport)
        else:
            function(transport, "asyncio", {})
    finally:
        if hasattr(transport, "close"):
            transport.close()
        gc.collect()


OF_ANY_KIND: list[tuple[type[LinesTransport], str]] = [
    (broken.IgnoresCancellation, "test_it_ends_soon_once_it_is_cancelled"),
    (broken.SaysTooEarly, "test_it_says_once_where_it_listens_and_not_before_it_does"),
    (broken.SaysNothing, "test_it_says_once_where_it_listens_and_not_before_it_does"),
    (broken.FailsWithoutAnAddress, "test_a_port_that_is_taken_is_an_error_that_names_the_address"),
    (broken.StartsWithoutListening, "test_a_port_that_is_taken_is_an_error_that_names_the_address"),
    (broken.KeepsItsPort, "test_its_port_is_free_again_when_the_node_has_ended"),
    (broken.LeaksATask, "test_it_leaves_nothing_behind"),
    (broken.LeaksADescriptor, "test_it_leaves_nothing_behind"),
    (broken.StopsReadingWhileItDrains, "test_while_the_node_drains_it_still_answers"),
    (broken.SharesTheFirstNode, "test_those_of_two_nodes_share_nothing"),
    (broken.MixesReplies, "test_clients_at_once_each_get_their_own"),
    (broken.BlocksTheLoop, "test_the_event_loop_goes_round_while_it_serves"),
    (broken.ServesOneClientAtATime, "test_clients_that_stall_hold_up_no_other"),
    (broken.AnswersOneRequestAtATime, "test_a_request_that_takes_long_holds_up_no_other"),
    (broken.EndsWithAClient, "test_clients_that_go_away_harm_nobody"),
    (broken.ForgetsData, "test_a_job_is_told_as_it_is"),
    (broken.AnswersBeforeItKeeps, "test_an_id_is_told_only_once_its_job_is_kept"),
    (broken.ForgetsParams, "test_a_refusal_is_told_with_its_reason_and_params"),
    (broken.SaysNotWhenToComeBack, "test_a_node_that_takes_no_more_says_so_and_when_to_ask_again"),
    (broken.EndsWithAFault, "test_a_fault_of_the_node_ends_one_request_and_no_more"),
    (broken.AsksNoLimit, "test_who_asks_too_often_is_told_so"),
    (broken.TakesAllForOneClient, "test_the_jobs_of_one_client_are_no_others"),
]


@pytest.mark.parametrize(("transport", "test"), OF_ANY_KIND)
def test_the_suite_of_transports_catches(transport: type[LinesTransport], test: str) -> None:
    with pytest.raises(FAILURES):
        run(Lines(), test, transport())


@pytest.mark.parametrize("test", sorted({test for _, test in OF_ANY_KIND}))
def test_the_suite_of_transports_passes_a_sound_one(test: str) -> None:
    run(LinesSuite(), test, LinesTransport())


SWITCHED_OFF = {
    "waits": "test_asking_can_wait_until_all_jobs_are_finished",
    "idempotency_keys": "test_a_key_is_for_one_body_of_one_client",
    "priorities": "test_an_urgency_is_that_of_the_job_or_of_all_jobs_of_a_batch",
    "request_ids": "test_request_ids_come_back_or_are_made",
    "histories": "test_a_history_tells_steps_and_times_and_no_outputs",
    "events": "test_events_come_as_they_happen",
    "retries": "test_another_try_goes_on_where_it_failed_or_begins_anew",
    "filters": "test_lists_choose_by_status_container_and_error",
    "described": "test_the_api_is_described_for_programs_and_people",
}


@pytest.mark.parametrize("capability", SWITCHED_OFF)
def test_what_a_transport_does_not_claim_is_not_asked_of_it(capability: str) -> None:
    suite = type("Suite", (Http,), {capability: False})()
    with pytest.raises(pytest.skip.Exception, match=f"{capability} = False"):
        run(suite, SWITCHED_OFF[capability], broken.BrokenHttp())


UNREAD, UNSAID, CONFIGURED, REWRITTEN = broken.Unread, broken.Unsaid, broken.Configured, broken.Rewritten

THAT_SPEAK_HTTP: dict[str, tuple[Callable[[], broken.BrokenHttp], str]] = {
    "forgets the key": (
        lambda: UNREAD(b"idempotency-key"),
        "test_a_request_that_is_repeated_with_its_key_is_the_same_job",
    ),
    "takes any key": (
        lambda: UNREAD(b"idempotency-key"),
        "test_a_key_that_is_none_or_would_not_be_kept_is_400",
    ),
    "keeps no key": (lambda: UNREAD(b"idempotency-key"), "test_a_key_is_taken_as_it_is"),
    "tells no kind of failure": (
        lambda: REWRITTEN(broken.without_kinds),
        "test_a_history_tells_how_a_job_failed_or_that_it_was_cancelled",
    ),
    "waits for nothing": (
        lambda: UNREAD(b"prefer"),
        "test_a_job_that_finishes_while_its_client_waits_is_the_reply",
    ),
    "does not wait for results": (
        lambda: broken.OtherQuery(b"wait=15", b"wait=0"),
        "test_asking_can_wait_until_all_jobs_are_finished",
    ),
    "reads no priority": (
        lambda: UNREAD(b"priority"),
        "test_an_urgency_is_that_of_the_job_or_of_all_jobs_of_a_batch",
    ),
    "reads no request id": (lambda: UNREAD(b"x-request-id"), "test_request_ids_come_back_or_are_made"),
    "replays all events": (lambda: UNREAD(b"last-event-id"), "test_events_tell_a_job_from_its_start_to_its_end"),
    "tells events at the end": (
        lambda: REWRITTEN(broken.as_it_is),
        "test_events_come_as_they_happen",
    ),
    "takes pages of any site": (lambda: UNREAD(b"origin"), "test_pages_of_other_sites_cannot_call_the_node"),
    "takes any host": (lambda: UNREAD(b"host"), "test_on_loopback_it_answers_to_names_of_loopback_only"),
    "believes one of two framings": (
        lambda: UNREAD(b"content-length"),
        "test_two_framings_of_one_body_are_400_and_the_end_of_the_connection",
    ),
    "says not when to come back": (
        lambda: UNSAID(b"retry-after"),
        "test_past_max_pending_it_is_503_and_says_when_to_come_back",
    ),
    "names no other methods": (
        lambda: UNSAID(b"allow"),
        "test_other_methods_are_405_as_json_and_name_the_right_ones",
    ),
    "links no next page": (lambda: UNSAID(b"link"), "test_pages_lead_through_all_by_link_or_by_after"),
    "ignores pending": (
        lambda: broken.OtherQuery(b"pending", b"x"),
        "test_lists_are_oldest_first_and_choose_by_pending",
    ),
    "answers errors as text": (
        lambda: REWRITTEN(broken.errors_as_text),
        "test_what_is_not_there_is_404_as_json_and_paths_match_exactly",
    ),
    "tells refusals as text": (
        lambda: REWRITTEN(broken.errors_as_text),
        "test_a_refusal_is_told_with_its_reason_and_params",
    ),
    "reorders results": (
        lambda: REWRITTEN(broken.reversed_lists, "/api/jobs"),
        "test_results_come_in_the_order_asked_each_once",
    ),
    "reorders batches": (
        lambda: REWRITTEN(broken.reversed_lists, "/api/jobs/batch"),
        "test_a_batch_answers_every_item_in_its_order",
    ),
    "decodes payloads": (lambda: REWRITTEN(broken.decoded), "test_digits_and_duplicate_keys_pass_unchanged"),
    "is always well": (
        lambda: REWRITTEN(broken.always_200, "/health"),
        "test_health_says_what_is_wrong_and_whether_anything_works",
    ),
    "shows its inside": (
        lambda: REWRITTEN(broken.with_a_traceback),
        "test_a_fault_is_500_that_shows_nothing_of_the_inside",
    ),
    "refuses as others do": (
        lambda: CONFIGURED(profile="infernet-1.4"),
        "test_refusals_are_verbatim_and_in_their_order",
    ),
    "takes bodies of any size": (
        lambda: CONFIGURED(max_body_bytes=1 << 30),
        "test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not",
    ),
    "takes JSON of any depth": (
        lambda: CONFIGURED(max_json_depth=500),
        "test_what_is_no_json_is_400_also_for_a_whole_batch",
    ),
    "takes reports from anybody": (
        lambda: CONFIGURED(status_networks=("127.0.0.0/8",)),
        "test_reports_of_what_came_of_jobs_are_taken_from_nobody_unless_said",
    ),
    "ends broken streams": (broken.EndsBrokenStreams, "test_a_stream_that_fails_is_cut_off_and_never_looks_whole"),
    "ends the streams of cancelled jobs": (
        broken.EndsBrokenStreams,
        "test_a_job_that_is_cancelled_cuts_its_stream_off",
    ),
    "tells a stream at its end": (
        lambda: REWRITTEN(broken.as_it_is),
        "test_the_id_comes_first_and_then_the_bytes_as_they_come",
    ),
    "tells the id late": (broken.TellsTheIdLate, "test_the_id_comes_before_a_container_is_called"),
    "accepts too soon": (broken.AcceptsTooSoon, "test_the_id_of_a_job_waits_until_it_is_kept"),
    "takes slashes": (broken.TakesSlashes, "test_what_is_not_there_is_404_as_json_and_paths_match_exactly"),
    "lets others read": (broken.OneClientForAll, "test_another_client_neither_reads_nor_cancels"),
    "lets others retry": (broken.OneClientForAll, "test_another_client_is_told_nothing_and_tries_nothing_again"),
}


@pytest.mark.parametrize("fault", THAT_SPEAK_HTTP)
def test_the_suite_of_transports_that_speak_http_catches_one_that(fault: str) -> None:
    transport, test = THAT_SPEAK_HTTP[fault]
    with pytest.raises(FAILURES):
        run(Http(), test, transport())


@pytest.mark.parametrize("test", sorted({test for _, test in THAT_SPEAK_HTTP.values()}))
def test_the_suite_of_transports_that_speak_http_passes_a_sound_one(test: str) -> None:
    run(HttpTransportContract(), test, broken.BrokenHttp())
