"""The suites can fail: each component here breaks a promise, and the tests that must fail are named.

The broken components and plugins are in `broken`: a module for each kind, with its suite and a sound one.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from kit.broken import (
    durable,
    engine_faults,
    guards,
    http,
    identities,
    observers,
    pipelines,
    runners,
    shared,
    steps,
    stores,
    tables,
    transports,
)
from kit.nested import Outcomes, run
from paths import ROOT

from nodekit.testing import (
    DurableJobStoreContract,
    EngineFaultContract,
    GuardContract,
    IdentityContract,
    JobTableContract,
    ObserverContract,
    PipelineContract,
    SharedStoreContract,
    StepContract,
    StreamingRunnerContract,
    TransportContract,
)

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # breaks leave things open


class Break:
    """A broken component, and the tests that fail for it."""

    def __init__(self, subject: type, *caught_by: str) -> None:
        self.kind, self.subject, self.caught_by = sys.modules[subject.__module__], subject, caught_by

    def __str__(self) -> str:
        return f"{kind_name(self.kind)}-{self.subject.__name__}"


def kind_name(kind: ModuleType) -> str:
    return kind.__name__.rpartition(".")[2]


LEFT = "test_a_node_with_it_starts_and_stops_and_nothing_is_left"
KILLED = "test_what_a_call_has_kept_survives_a_kill"
KILLED_AGAIN = "test_what_was_reported_survives_kills_at_any_moment"
FULL = "test_what_does_not_fit_on_the_disk_is_refused_as_a_whole"
STORE_LEFT = "test_nothing_is_left_of_one_that_was_left"
KEEPING_MUCH = "test_keeping_much_does_not_block_the_event_loop"
RUNNER_LEFT = "test_exit_leaves_no_tasks_descriptors_or_threads"
HOSTILE = "test_whatever_a_client_sends_it_is_let_in_or_refused"
TOLD_WHY = "test_who_is_unwelcome_is_refused_with_a_reason"
NODE = ("test_a_node_takes_jobs_to_their_end", "test_no_stored_step_is_called_again_after_a_crash")
UNKNOWN = "test_unknown_callers_are_turned_away_with_a_reason"
ODD_CALLERS = "test_whatever_a_caller_sends_it_is_known_or_turned_away"
IN_VAIN = "test_what_a_caller_sends_in_vain_changes_no_answer"
HOSTILE_OUTPUTS = "test_whatever_containers_answer_it_lets_through_or_fails_the_step"
NOT_THERE = "test_check_refuses_a_job_whose_containers_are_not_there"
RESTARTED = "test_a_job_goes_on_after_a_restart"
ENDS = "test_each_job_comes_to_an_end"
ANSWERED = "test_every_call_during_a_fault_answers_or_raises_store_failed"
WORKS_AGAIN = "test_a_store_works_again_after_a_fault_without_being_reopened"
WAITED = "test_claims_that_wait_during_a_fault_get_what_is_added_after_it"
HEARD = "test_a_listener_hears_of_what_changed_during_a_fault_or_that_it_missed_it"
ADDED_ONCE = "test_jobs_are_added_once_wholly_or_not_at_all"
SAVED = "test_a_save_is_kept_once_it_was_answered_and_each_job_ends_once"
NEVER_BOTH = "test_after_a_short_fault_a_claim_is_valid_or_cancelled_and_given_to_another"
GIVEN_AGAIN = "test_claims_whose_answer_was_lost_are_given_again_while_their_store_is_open"
CUT_OFF = "test_a_store_that_is_cut_off_for_longer_than_its_lease_cancels_its_claims_and_others_get_the_jobs"
LIVE_AGAIN = "test_a_node_is_live_again_for_the_others_after_a_fault"
LEAVING = "test_leaving_a_store_that_cannot_reach_its_engine_ends_and_loses_nothing"
KEPT_BY_ENGINE = "test_what_was_acknowledged_survives_a_kill_of_the_engine"
CLAIMS_BEFORE = "test_claims_from_before_a_kill_are_known_or_lost_and_each_job_ends_once"
READ_ONLY = "test_while_the_engine_is_read_only_reads_work_and_writes_fail"
KEPT_BY_NODE = "test_a_result_that_cannot_be_written_is_kept_and_its_step_is_called_once"
NODES = "test_nodes_finish_all_jobs_once_though_the_engine_fails_for_a_while"

BREAKS = (
    Break(pipelines.ThrowsDice, "test_the_same_job_always_gets_the_same_answer", RESTARTED, *NODE),
    Break(pipelines.ReadsTheClock, "test_the_answer_does_not_depend_on_the_time"),
    Break(pipelines.LooksBack, "test_it_reads_no_output_but_the_last_one_unless_it_says_so"),
    Break(pipelines.RemembersItsJobs, RESTARTED),
    Break(pipelines.ChangesTheJob, "test_asking_changes_nothing_of_the_job"),
    Break(pipelines.ChangesWhatIsOffered, "test_check_changes_nothing_of_what_it_is_given", *NODE),
    Break(pipelines.CountsFromOne, "test_steps_say_which_job_and_which_step_they_are"),
    Break(pipelines.IsAlwaysTheFirstAttempt, "test_a_step_stays_due_while_its_attempts_fail"),
    Break(pipelines.NeverEnds, ENDS),
    Break(pipelines.TriesForEver, ENDS),
    Break(pipelines.LosesTheOutcome, "test_an_outcome_is_an_end_and_has_a_result"),
    Break(pipelines.ChokesOnOutputs, "test_whatever_containers_answer_it_knows_what_follows"),
    Break(pipelines.ChecksNothing, NOT_THERE),
    Break(pipelines.ChecksByAccident, "test_check_raises_nothing_but_refusals"),
    Break(pipelines.GoesElsewhere, "test_steps_are_in_containers_that_are_there", NOT_THERE, *NODE),
    Break(pipelines.GoesPastTheGuards, "test_steps_are_in_containers_that_the_request_names", *NODE),
    Break(pipelines.StreamsEveryStep, "test_a_stream_is_refused_or_is_of_the_last_step"),
    Break(pipelines.NeverStreams, "test_a_stream_is_refused_or_is_of_the_last_step"),
    Break(guards.ChokesOnOddData, HOSTILE),
    Break(guards.ChokesOnHugeNumbers, HOSTILE),
    Break(guards.LetsAnybodyIn, TOLD_WHY),
    Break(guards.LetsNobodyIn, "test_who_is_welcome_is_let_in"),
    Break(guards.RacesWithItself, "test_who_is_refused_alone_is_refused_among_many"),
    Break(guards.ChangesRequests, "test_asking_changes_nothing_of_the_request_or_the_node"),
    Break(guards.KeepsRequests, "test_it_holds_on_to_nothing_that_it_was_asked_about"),
    Break(guards.SaysNothing, TOLD_WHY, HOSTILE),
    Break(guards.SaysWhatNoClientCanRead, TOLD_WHY, HOSTILE),
    Break(guards.BlocksTheLoop, "test_asking_does_not_block_the_event_loop"),
    Break(guards.IsStuckOnceItIsCancelled, "test_one_that_was_cancelled_while_it_was_asked_can_be_asked_again"),
    Break(guards.LeavesATask, LEFT),
    Break(guards.BlocksTheStart, LEFT),
    Break(
        guards.HoldsUpTheEnd,
        "test_an_error_while_a_node_runs_comes_back_as_it_is",
        "test_a_node_with_it_can_be_cancelled",
    ),
    Break(
        observers.Raises,
        "test_it_observes_jobs_that_succeed_fail_and_are_cancelled",
        "test_it_accepts_every_kind_of_event",
    ),
    Break(observers.ChokesOnNewEvents, "test_events_that_it_does_not_know_are_nothing_to_it"),
    Break(observers.Blocks, "test_receiving_events_does_not_block"),
    Break(observers.KeepsEvents, "test_it_does_not_keep_the_events_that_it_received"),
    Break(
        observers.ChangesJobs,
        "test_jobs_go_on_as_without_it",
        "test_it_observes_jobs_that_succeed_fail_and_are_cancelled",
    ),
    Break(
        steps.ForgetsToReturn,
        "test_outputs_of_containers_come_through",
        "test_steps_that_run_at_once_do_not_meet",
        "test_a_stream_comes_through",
        HOSTILE_OUTPUTS,
    ),
    Break(steps.TranslatesFailures, "test_a_container_that_fails_fails_its_step_or_is_answered_for"),
    Break(
        steps.ShieldsItsCall,
        "test_a_job_that_is_cancelled_ends_its_call",
        "test_a_step_whose_time_is_over_ends",
    ),
    Break(steps.TurnsTimeoutsIntoFaults, "test_a_step_whose_time_is_over_ends"),
    Break(steps.LosesPieces, "test_a_stream_comes_through"),
    Break(steps.KeepsTheStep, "test_steps_that_run_at_once_do_not_meet"),
    Break(steps.ExpectsObjects, HOSTILE_OUTPUTS),
    Break(identities.CountsCallers, "test_known_callers_get_their_identity_again_and_again", IN_VAIN),
    Break(identities.LetsAnybodyIn, UNKNOWN),
    Break(identities.GivesNoReason, UNKNOWN, ODD_CALLERS),
    Break(identities.NeedsTwoWords, ODD_CALLERS),
    Break(identities.RaisesAnother, UNKNOWN, ODD_CALLERS),
    Break(identities.LocksOut, IN_VAIN),
    Break(identities.ReadsItsTokensInTheLoop, "test_asking_who_it_is_does_not_block"),
    Break(observers.MumblesItsProblems, "test_it_says_in_sentences_what_is_wrong"),
    Break(runners.NamesAnotherInstance, "test_run_gives_the_output_and_names_where_it_came_from"),
    Break(runners.LeavesWhatWasGivenUp, RUNNER_LEFT),
    Break(runners.BlocksTheLoop, "test_calls_do_not_block_the_event_loop"),
    Break(runners.RaisesWhatItLikes, "test_a_failure_is_a_container_failed_that_says_why"),
    Break(runners.MixesUpItsCalls, "test_calls_at_the_same_time_do_not_mix_their_results"),
    Break(runners.EndsQuietly, "test_a_container_that_fails_in_mid_stream_is_no_end"),
    Break(runners.ReadsAhead, "test_no_more_is_read_than_is_asked_for"),
    Break(runners.WaitsForTheEnd, "test_pieces_come_before_the_end_and_leaving_gives_up_the_call_at_once"),
    Break(tables.LosesTheOther, "test_add_answers_what_it_kept"),
    Break(
        tables.AddsTwice,
        "test_add_of_a_known_idempotency_key_answers_the_job_that_is_there",
        "test_an_idempotency_key_holds_within_one_add_too",
    ),
    Break(tables.Overwrites, "test_add_of_a_known_id_answers_the_job_that_is_there"),
    Break(tables.Unsorted, "test_get_answers_in_the_order_asked_each_once"),
    Break(tables.ReadsNoLastStep, "test_get_reads_the_parts_of_a_job_that_are_asked_for"),
    Break(tables.ShowsOtherClients, "test_get_leaves_out_unknown_jobs_and_those_of_other_clients"),
    Break(tables.FindsOtherClients, "test_find_by_client_finds_that_clients_jobs_only"),
    Break(tables.IgnoresStatus, "test_find_by_status_finds_jobs_as_they_are_now"),
    Break(
        tables.HasOneOrder,
        "test_newest_is_the_reverse_of_oldest",
        "test_the_order_finished_has_finished_jobs_as_they_ended",
    ),
    Break(tables.KeepsOneLess, "test_the_last_surplus_is_the_number_before_those_that_are_kept"),
    Break(tables.NeedsTheCursor, "test_find_goes_on_behind_an_id_that_is_not_there"),
    Break(tables.AddsNoSteps, "test_add_keeps_the_steps_that_a_job_begins_with"),
    Break(tables.FindsErrorsOfSteps, "test_find_by_error_looks_at_the_end_of_a_job_and_not_at_its_steps"),
    Break(tables.FindsWithoutCase, "test_find_by_error_finds_jobs_that_ended_with_it"),
    Break(tables.FindsPatterns, "test_errors_are_looked_for_by_their_texts_as_they_are"),
    Break(tables.FindsContainersByTheirBeginning, "test_find_by_error_finds_jobs_that_ended_with_it"),
    Break(tables.MeasuresDataOnly, "test_sizes_are_those_of_the_payloads"),
    Break(tables.DeletesWhatIsShared, "test_a_retry_is_whole_whatever_becomes_of_the_old_job"),
    Break(tables.SharesUnseen, "test_a_job_that_only_names_an_old_one_has_its_own_payloads"),
    Break(tables.EndsWithAShortPage, "test_pages_lead_through_all_jobs_that_match"),
    Break(tables.DeletesUnfinished, "test_delete_forgets_finished_jobs_only"),
    Break(tables.DropsOpenSteps, "test_save_keeps_the_newest_snapshot"),
    Break(tables.SavesNothing, "test_find_by_status_follows_what_was_saved"),
    Break(tables.ForgetsWhatIsDue, "test_unfinished_answers_what_is_not_finished_oldest_first"),
    Break(tables.OffersFinished, "test_unfinished_answers_what_is_not_finished_oldest_first"),
    Break(stores.ShowsNumbersTooEarly, "test_who_follows_finished_jobs_misses_and_repeats_none"),
    Break(stores.ExpiresTheLast, "test_expire_deletes_finished_jobs_first_those_that_finished_first"),
    Break(
        stores.IgnoresConditions,
        "test_a_change_with_a_condition_is_made_on_that_version_only",
        "test_of_changes_on_one_version_at_the_same_time_one_is_made",
        "test_a_batch_is_made_as_a_whole_or_not_at_all",
    ),
    Break(stores.WritesOneByOne, "test_a_batch_is_made_as_a_whole_or_not_at_all"),
    Break(stores.HasOneNamespace, "test_namespaces_share_nothing"),
    Break(stores.ScansByWriting, "test_a_scan_goes_through_the_keys_of_a_prefix_in_order"),
    Break(stores.BeginsVersionsAnew, "test_a_record_is_what_was_put_last"),
    Break(stores.ForgetsToAskForErrors, "test_find_by_error_finds_jobs_that_ended_with_it"),
    Break(
        stores.AddsWithoutSteps,
        "test_add_keeps_the_steps_that_a_job_begins_with",
        "test_a_job_that_begins_with_steps_is_claimed_with_them",
    ),
    Break(
        stores.CompletesTwice,
        "test_save_of_a_finished_job_ends_the_claim",
        "test_a_claim_ends_with_its_release",
        "test_settle_takes_the_claim_from_whoever_runs_the_job",
    ),
    Break(stores.ClaimsTwice, "test_a_claimed_job_is_not_offered_again", "test_one_job_never_goes_to_two_claims"),
    Break(stores.Reorders, "test_claim_gives_the_oldest_first"),
    Break(stores.KnowsNoRoom, "test_claim_gives_jobs_whose_payloads_have_room_together"),
    Break(stores.KeepsWhatItIsGiven, "test_outputs_that_are_left_out_stay_as_they_were_stored"),
    Break(stores.LeavesThemOut, "test_a_retry_has_the_outputs_that_are_left_out_in_it"),
    Break(stores.ReadsFromTheStart, "test_steps_gives_those_from_a_place_on_that_have_room"),
    Break(
        stores.IgnoresRoom,
        "test_a_claim_gives_no_group_more_than_its_room",
        "test_a_group_without_room_waits_and_others_do_not",
        "test_room_is_for_a_group_in_all_containers_and_priorities",
    ),
    Break(stores.IgnoresPipelines, "test_claim_gives_only_jobs_of_the_pipelines_asked_for"),
    Break(stores.CountsAllGroups, "test_pending_counts_the_groups_that_are_asked_for"),
    Break(stores.TellsEverybody, "test_changes_of_some_jobs_reports_those_alone"),
    Break(stores.IgnoresPriority, "test_claim_gives_lower_priorities_first"),
    Break(
        stores.StarvesAClient,
        "test_claim_goes_round_the_clients",
        "test_a_client_with_many_jobs_does_not_starve_another",
    ),
    Break(stores.IgnoresDelay, "test_a_job_released_with_a_delay_is_offered_then_and_not_before"),
    Break(stores.IgnoresQueueTimeout, "test_a_job_that_waited_too_long_is_given_as_expired_then_and_not_before"),
    Break(stores.IgnoresJobTimeout, "test_a_job_that_is_too_old_is_given_as_expired_even_while_it_is_delayed"),
    Break(stores.CountsDelayAsWaiting, "test_a_delay_is_not_waiting_and_waiting_begins_anew_with_a_release"),
    Break(stores.ExpiresWhatRuns, "test_a_claimed_job_does_not_expire"),
    Break(
        stores.IgnoresContainers,
        "test_claim_gives_only_jobs_that_are_due_in_the_containers_asked_for",
        "test_a_job_can_be_released_for_another_container",
    ),
    Break(stores.LosesWhatIsCancelled, "test_cancelling_claim_loses_nothing"),
    Break(
        stores.SettleOverwrites,
        "test_settle_of_a_finished_job_changes_nothing",
        "test_settle_takes_the_claim_from_whoever_runs_the_job",
        "test_of_a_settlement_and_a_last_save_at_once_one_wins",
    ),
    Break(stores.ForgetsTheCall, "test_a_settlement_keeps_the_call_that_it_cuts_short"),
    Break(stores.SettlesForAnybody, "test_settle_does_not_touch_jobs_of_other_clients"),
    Break(stores.LeavesRunning, "test_settle_takes_the_claim_from_whoever_runs_the_job"),
    Break(stores.OffersStreams, "test_a_streaming_job_is_claimed_as_it_is_added"),
    Break(stores.MiscountsClients, "test_pending_counts_by_origin_and_client"),
    Break(stores.CountsForever, "test_pending_counts_a_job_from_its_acceptance_to_its_end"),
    Break(stores.Silent, "test_changes_reports_every_change_from_now_on", "test_every_listener_hears_of_a_change"),
    Break(stores.MissesQuietly, "test_a_slow_listener_sees_every_change_or_learns_that_it_missed_some"),
    Break(stores.StopsAdding, "test_cancelling_add_leaves_no_job_behind_that_is_not_queued"),
    Break(durable.WritesNowAndThen, KILLED, KILLED_AGAIN),
    Break(durable.WritesWhenItAdds, KILLED, KILLED_AGAIN),
    Break(durable.WritesThroughABuffer, KILLED, KILLED_AGAIN),
    Break(durable.WritesInPlace, FULL),
    Break(durable.ShowsWhatItRefused, FULL),
    Break(durable.RaisesWhatTheDiskSays, FULL),
    Break(durable.LeavesADescriptor, STORE_LEFT, "test_a_store_that_was_left_leaves_nothing_open"),
    Break(durable.BlocksTheLoop, KEEPING_MUCH),
    Break(
        durable.KeepsNothing,
        "test_added_jobs_survive",
        "test_finished_jobs_survive_and_are_not_offered",
        "test_released_jobs_survive",
    ),
    Break(durable.LetsAnotherIn, "test_only_one_node_at_a_time_holds_the_data"),
    Break(durable.LosesNumbers, "test_what_finishes_after_a_restart_comes_behind_what_finished_before"),
    Break(durable.LosesSteps, "test_jobs_that_were_being_run_are_offered_again_with_what_was_saved"),
    Break(durable.LosesKeys, "test_added_jobs_survive"),
    Break(durable.ForgetsStreams, "test_a_stream_that_was_cut_off_has_failed"),
    Break(durable.ForgetsDelays, "test_a_delay_survives"),
    Break(durable.RunsFinishedAgain, "test_finished_jobs_survive_and_are_not_offered"),
    Break(
        shared.LosesTheFence,
        "test_a_claim_that_was_taken_over_keeps_nothing",
        "test_a_settlement_while_a_node_is_paused_stays",
    ),
    Break(shared.ReleasesWithoutFence, "test_a_claim_that_was_taken_over_and_given_back_keeps_nothing"),
    Break(
        shared.CompletesTwice,
        "test_at_the_end_of_a_lease_a_job_is_finished_by_one_claim",
        "test_of_a_last_save_and_settlements_elsewhere_at_once_one_wins",
    ),
    Break(
        shared.RenewsNothing,
        "test_a_claim_is_renewed_while_a_step_runs_long",
        "test_an_announcement_stays_as_long_as_its_node_lives",
    ),
    Break(
        shared.NeverTakesOver,
        "test_what_a_dead_node_had_claimed_goes_to_another_with_what_was_saved",
        "test_a_job_that_a_dead_node_waited_for_goes_to_another",
        "test_a_dead_nodes_job_that_is_too_old_is_given_as_expired",
        "test_the_jobs_of_a_node_that_dies_in_the_middle_are_finished_by_the_others",
    ),
    Break(shared.TakesOverTooEarly, "test_a_node_that_is_held_up_for_less_than_its_lease_keeps_its_claims"),
    Break(shared.CountsNoTakeovers, "test_takeovers_in_a_row_are_counted"),
    Break(shared.CountsWhatWasGivenBack, "test_a_released_job_goes_on_in_another_store_as_it_was_released"),
    Break(
        shared.ForgetsWhatWasSaved,
        "test_what_a_dead_node_had_claimed_goes_to_another_with_what_was_saved",
        "test_the_jobs_of_a_node_that_dies_in_the_middle_are_finished_by_the_others",
    ),
    Break(shared.KeepsRunning, "test_a_node_that_was_paused_finds_its_steps_cancelled"),
    Break(
        shared.LeavesRunning,
        "test_settle_through_another_store_takes_the_claim",
        "test_a_settlement_elsewhere_ends_a_stream",
        "test_a_job_that_is_cancelled_through_another_node_is_aborted_where_it_runs",
    ),
    Break(shared.RerunsStreams, "test_the_stream_of_a_dead_node_fails_and_is_never_offered"),
    Break(shared.KeepsWhatWasLeft, "test_leaving_a_store_loses_nothing_of_what_it_had_claimed"),
    Break(shared.TrustsClocks, "test_no_node_trusts_the_clock_of_another"),
    Break(shared.RenewsByItsClock, "test_no_node_trusts_the_clock_of_another"),
    Break(
        shared.Prefetches,
        "test_the_oldest_job_comes_first_through_whichever_store_it_was_added",
        "test_priorities_hold_across_stores",
    ),
    Break(shared.StarvesAClient, "test_clients_take_turns_across_stores"),
    Break(
        shared.IgnoresDelay,
        "test_a_delay_holds_in_every_store",
        "test_delays_and_time_limits_outlive_the_node_that_set_them",
    ),
    Break(
        shared.ClaimsTwice,
        "test_a_job_goes_to_one_of_many_claims_at_once",
        "test_nodes_on_one_store_finish_all_jobs_and_run_each_step_once",
    ),
    Break(shared.LosesWhatIsCancelled, "test_cancelling_claims_of_several_stores_loses_nothing"),
    Break(
        shared.LooksOnce,
        "test_a_waiting_claim_wakes_up_when_another_store_adds_a_job",
        "test_a_waiting_claim_wakes_up_when_another_store_gives_a_job_back",
    ),
    Break(
        shared.KeepsToItself,
        "test_a_job_that_waits_in_its_own_store_for_a_claim_that_cannot_take_it_goes_to_another",
        "test_what_is_too_much_for_the_claim_that_waits_in_its_own_store_goes_to_another",
        "test_a_job_goes_to_another_store_if_the_claim_that_waits_in_its_own_is_cancelled",
    ),
    Break(shared.ExpiresItsOwnOnly, "test_each_job_whose_time_is_over_goes_to_one_store"),
    Break(
        shared.KeysOfItsOwn,
        "test_an_idempotency_key_holds_in_every_store",
        "test_of_adds_with_one_key_through_several_stores_at_once_one_is_kept",
    ),
    Break(shared.CountsItsOwn, "test_pending_counts_the_jobs_of_all_stores"),
    Break(shared.HearsItself, "test_changes_reports_what_other_stores_did"),
    Break(shared.NeverForgetsNodes, "test_a_node_that_dies_is_gone_after_its_lease_and_remembered"),
    Break(shared.RemembersWhoLeft, "test_a_node_that_has_left_is_gone_at_once_and_remembered"),
    Break(
        shared.ForgetsWhoLeft,
        "test_a_node_that_dies_is_gone_after_its_lease_and_remembered",
        "test_a_node_that_has_left_is_gone_at_once_and_remembered",
        "test_jobs_for_the_only_node_with_a_container_are_accepted_while_it_restarts",
    ),
    Break(shared.KnowsNames, "test_a_node_that_starts_again_is_another_incarnation"),
    Break(shared.ForgetsByName, "test_a_node_that_starts_again_is_another_incarnation"),
    Break(shared.IgnoresPipelines, "test_a_pipeline_runs_only_on_nodes_that_know_it"),
    Break(
        shared.TreatsSuspectsLikeOthers,
        "test_one_job_that_was_taken_over_is_given_at_a_time",
        "test_a_job_that_ends_its_nodes_fails_and_those_beside_it_do_not",
    ),
    Break(shared.NeverForgives, "test_a_stored_step_begins_the_count_of_takeovers_anew"),
    Break(shared.ForgivesTooSoon, "test_takeovers_in_a_row_are_counted"),
    Break(shared.SharesTurns, "test_ten_thousand_clients_take_turns"),
    Break(
        shared.HasNoClock,
        "test_the_engine_has_one_clock",
        "test_ids_and_times_of_nodes_with_wrong_clocks_follow_the_engine",
    ),
    Break(shared.CountsWhatRuns, "test_queues_says_how_many_jobs_wait_for_each_container_and_how_long"),
    Break(
        shared.KnowsHoldersForEver,
        "test_held_names_the_node_that_has_a_claim",
        "test_a_client_waits_at_one_node_for_a_job_that_another_runs",
    ),
    Break(
        shared.HidesWhatRuns,
        "test_a_container_that_goes_away_at_one_node_is_called_at_another",
        "test_each_step_runs_on_the_node_that_has_its_container",
        "test_a_stream_runs_on_the_node_that_was_asked_or_names_those_that_can",
    ),
    Break(shared.CountsWhatItAdded, "test_the_limit_of_unfinished_jobs_holds_for_all_nodes_together"),
    Break(shared.UpgradesWithForce, "test_nodes_of_two_versions_work_on_one_queue"),
    Break(shared.NextVersionHoards, "test_nodes_of_two_versions_take_over_from_each_other"),
    Break(shared.LosesHalfOfIt, "test_what_a_node_announces_is_known_to_all"),
    Break(shared.NeverSeesAgain, "test_an_announcement_stays_as_long_as_its_node_lives"),
    Break(shared.AddsToAnnouncements, "test_what_a_node_announces_anew_replaces_what_it_had_announced"),
    Break(engine_faults.NeverConnectsAgain, WORKS_AGAIN, WAITED, HEARD, LIVE_AGAIN, NODES),
    Break(engine_faults.WaitsForAnswers, ANSWERED),
    Break(engine_faults.NeverNoticesSilence, WORKS_AGAIN),
    Break(engine_faults.RaisesWhatSocketsRaise, ANSWERED),
    Break(engine_faults.WaitsOnTheOldConnection, WAITED),
    Break(engine_faults.IsSilentAfterwards, HEARD),
    Break(engine_faults.SaysThatItMissedSomethingAndIsSilent, HEARD),
    Break(engine_faults.MissesQuietly, HEARD),
    Break(engine_faults.AnnouncesOnce, LIVE_AGAIN),
    Break(engine_faults.LeavesOnceItCan, LEAVING),
    Break(engine_faults.KeepsItsClaims, CUT_OFF),
    Break(engine_faults.ForgetsWhatItGaveUp, GIVEN_AGAIN),
    Break(engine_faults.AddsOneByOne, ADDED_ONCE),
    Break(engine_faults.AddsAgain, ADDED_ONCE),
    Break(engine_faults.AnswersBeforeItSaves, SAVED),
    Break(engine_faults.SavesWithAnyClaim, SAVED, CUT_OFF),
    Break(engine_faults.WritesWhenItReads, READ_ONLY),
    Break(engine_faults.HidesThatItIsReadOnly, READ_ONLY),
    Break(engine_faults.DropsWhatCannotBeWritten, KEPT_BY_NODE),
    Break(engine_faults.IsAlwaysWell, NODES),
    Break(engine_faults.ForgetsWhatItGranted, GIVEN_AGAIN),
    Break(engine_faults.TakesOverWithoutAWord, NEVER_BOTH),
    Break(engine_faults.NeverTakesOver, CUT_OFF, LEAVING),
    Break(engine_faults.LosesTheFence, CUT_OFF),
    Break(engine_faults.SaysThatItSaved, CLAIMS_BEFORE),
    Break(
        engine_faults.ForgetsAtRestart,
        KEPT_BY_ENGINE,
        "test_records_of_plugins_survive_a_kill_of_the_engine",
    ),
    Break(transports.IgnoresCancellation, "test_it_ends_soon_once_it_is_cancelled"),
    Break(transports.SaysTooEarly, "test_it_says_once_where_it_listens_and_not_before_it_does"),
    Break(transports.SaysNothing, "test_it_says_once_where_it_listens_and_not_before_it_does"),
    Break(transports.FailsWithoutAnAddress, "test_a_port_that_is_taken_is_an_error_that_names_the_address"),
    Break(transports.StartsWithoutListening, "test_a_port_that_is_taken_is_an_error_that_names_the_address"),
    Break(transports.KeepsItsPort, "test_its_port_is_free_again_when_the_node_has_ended"),
    Break(transports.LeaksATask, "test_it_leaves_nothing_behind"),
    Break(transports.StopsReadingWhileItDrains, "test_while_the_node_drains_it_still_answers"),
    Break(transports.SharesTheFirstNode, "test_those_of_two_nodes_share_nothing"),
    Break(transports.MixesReplies, "test_clients_at_once_each_get_their_own"),
    Break(transports.BlocksTheLoop, "test_the_event_loop_goes_round_while_it_serves"),
    Break(transports.ServesOneClientAtATime, "test_clients_that_stall_hold_up_no_other"),
    Break(transports.AnswersOneRequestAtATime, "test_a_request_that_takes_long_holds_up_no_other"),
    Break(transports.EndsWithAClient, "test_clients_that_go_away_harm_nobody"),
    Break(transports.ForgetsData, "test_a_job_is_reported_as_it_is"),
    Break(transports.AnswersBeforeItKeeps, "test_an_id_is_sent_only_after_its_job_is_kept"),
    Break(transports.ForgetsParams, "test_a_refusal_is_sent_with_its_reason_and_params"),
    Break(transports.SaysNotWhenToComeBack, "test_a_node_that_takes_no_more_says_so_and_when_to_ask_again"),
    Break(transports.EndsWithAFault, "test_a_fault_of_the_node_ends_one_request_and_no_more"),
    Break(transports.AsksNoLimit, "test_too_many_requests_of_a_client_are_refused"),
    Break(transports.TakesAllForOneClient, "test_the_jobs_of_one_client_are_no_others"),
    Break(observers.CanBeMadeOnce, "test_a_new_one_can_follow_in_the_same_process"),
    Break(
        http.ForgetsTheKey,
        "test_a_request_that_is_repeated_with_its_key_is_the_same_job",
        "test_a_key_that_is_none_or_would_not_be_kept_is_400",
        "test_a_key_is_taken_as_it_is",
    ),
    Break(http.TellsNoKinds, "test_a_history_says_how_a_job_failed_or_that_it_was_cancelled"),
    Break(http.WaitsForNothing, "test_a_job_that_finishes_while_its_client_waits_is_the_reply"),
    Break(http.DoesNotWaitForResults, "test_asking_can_wait_until_all_jobs_are_finished"),
    Break(http.ReadsNoPriority, "test_an_urgency_is_that_of_the_job_or_of_all_jobs_of_a_batch"),
    Break(http.ReadsNoRequestId, "test_request_ids_come_back_or_are_made"),
    Break(http.TellsAllEventsAgain, "test_events_report_a_job_from_its_start_to_its_end"),
    Break(
        http.TellsAtTheEnd, "test_events_come_as_they_happen", "test_the_id_comes_first_and_then_the_bytes_as_they_come"
    ),
    Break(http.TakesPagesOfAnySite, "test_pages_of_other_sites_cannot_call_the_node"),
    Break(http.TakesAnyHost, "test_on_loopback_it_answers_to_names_of_loopback_only"),
    Break(http.BelievesOneOfTwoFramings, "test_two_framings_of_one_body_are_400_and_the_end_of_the_connection"),
    Break(http.SaysNotWhenToComeBack, "test_past_max_pending_it_is_503_and_says_when_to_come_back"),
    Break(http.NamesNoOtherMethods, "test_other_methods_are_405_as_json_and_name_the_right_ones"),
    Break(http.LinksNoNextPage, "test_pages_lead_through_all_by_link_or_by_after"),
    Break(http.IgnoresPending, "test_lists_are_oldest_first_and_choose_by_pending"),
    Break(
        http.AnswersErrorsAsText,
        "test_what_is_not_there_is_404_as_json_and_paths_match_exactly",
        "test_a_refusal_is_sent_with_its_reason_and_params",
    ),
    Break(
        http.ReordersLists,
        "test_results_come_in_the_order_asked_each_once",
        "test_a_batch_answers_every_item_in_its_order",
    ),
    Break(http.DecodesPayloads, "test_digits_and_duplicate_keys_pass_unchanged"),
    Break(http.IsAlwaysWell, "test_health_says_what_is_wrong_and_whether_anything_works"),
    Break(http.ShowsItsInside, "test_a_fault_is_500_that_shows_nothing_of_the_inside"),
    Break(http.TakesNoSubscriptions, "test_subscriptions_go_to_the_plugin_that_takes_them"),
    Break(http.RefusesAsOthersDo, "test_refusals_are_verbatim_and_in_their_order"),
    Break(http.TakesBodiesOfAnySize, "test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not"),
    Break(http.TakesJsonOfAnyDepth, "test_what_is_no_json_is_400_also_for_a_whole_batch"),
    Break(http.TakesReportsFromAnybody, "test_reports_of_what_came_of_jobs_are_taken_from_nobody_unless_said"),
    Break(
        http.EndsBrokenStreams,
        "test_a_stream_that_fails_is_cut_off_and_never_looks_whole",
        "test_a_job_that_is_cancelled_cuts_its_stream_off",
    ),
    Break(http.TellsTheIdLate, "test_the_id_comes_before_a_container_is_called"),
    Break(http.AcceptsTooSoon, "test_the_id_of_a_job_waits_until_it_is_kept"),
    Break(http.TakesSlashes, "test_what_is_not_there_is_404_as_json_and_paths_match_exactly"),
    Break(
        http.OneClientForAll,
        "test_another_client_neither_reads_nor_cancels",
        "test_another_client_learns_nothing_and_retries_nothing",
    ),
)

SOUND_ELSEWHERE = (shared, engine_faults)
"""Kinds whose whole suite is slow, and run on the sound one already: by tests/kit/test_shared_store.py, and by
tests/kit/test_engine_faults.py."""


TRIES = 4


def outcomes(kind: ModuleType, subject: type, tests: Sequence[str], folder: Path, **settings: object) -> Outcomes:
    """Run tests of the suite of that kind on a component."""
    body: dict[str, Any] = {"subject": subject, "backends": ("asyncio",), **settings}
    return run(type(f"Test{subject.__name__}", (kind.Suite,), body), tests, folder)


@pytest.mark.parametrize("one", BREAKS, ids=str)
def test_what_is_broken_is_caught_by_the_tests_that_are_named(one: Break, tmp_path: Path) -> None:
    """A broken component gets less time than a sound one: some breaks show because something never arrives.

    Others show in a moment that a busy machine can miss. So it has several tries until each test has failed once.
    """
    missing = set(one.caught_by)
    for attempt in range(TRIES):
        told = outcomes(one.kind, one.subject, sorted(missing), tmp_path / str(attempt), **one.kind.HURRIED)
        if not (missing := missing - told.failed.keys()):
            return
    pytest.fail(f"{one} is not caught by {missing}: {told}")


@pytest.mark.parametrize(
    "kind", [kind for kind in dict.fromkeys(one.kind for one in BREAKS) if kind not in SOUND_ELSEWHERE], ids=kind_name
)
def test_what_is_sound_passes_the_same_tests(kind: ModuleType, tmp_path: Path) -> None:
    tests = sorted({test for one in BREAKS if one.kind is kind for test in one.caught_by})
    told = outcomes(kind, kind.Sound, tests, tmp_path)
    assert (told.failed, told.skipped, told.passed) == ({}, {}, set(tests))


SWITCHED_OFF = {
    "waits": "test_asking_can_wait_until_all_jobs_are_finished",
    "idempotency_keys": "test_a_key_is_for_one_body_of_one_client",
    "priorities": "test_an_urgency_is_that_of_the_job_or_of_all_jobs_of_a_batch",
    "request_ids": "test_request_ids_come_back_or_are_made",
    "histories": "test_a_history_has_steps_and_times_and_no_outputs",
    "events": "test_events_come_as_they_happen",
    "retries": "test_another_try_goes_on_where_it_failed_or_begins_anew",
    "filters": "test_lists_choose_by_status_container_and_error",
    "described": "test_the_api_is_described_for_programs_and_people",
}


def test_what_a_transport_does_not_claim_is_not_asked_of_it(tmp_path: Path) -> None:
    off: dict[str, Any] = dict.fromkeys(SWITCHED_OFF, False)
    told = outcomes(http, http.Sound, [*SWITCHED_OFF.values()], tmp_path, **off)
    assert (told.failed, told.passed) == ({}, set())
    for capability, test in SWITCHED_OFF.items():
        assert f"{capability} = False" in told.skipped[test]


def test_the_reference_says_what_each_test_catches() -> None:
    page = (ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(test_\w+)` \|", page, re.MULTILINE))
    suites = (
        *(PipelineContract, GuardContract, ObserverContract, StepContract, IdentityContract),
        *(TransportContract, StreamingRunnerContract),
        *(JobTableContract, DurableJobStoreContract, SharedStoreContract, EngineFaultContract),
    )
    assert told == {name for suite in suites for name in dir(suite) if name.startswith("test_")}


def test_the_reference_names_all_settings_of_the_suites_of_stores_and_runners() -> None:
    page = (ROOT / "docs" / "reference" / "testing.md").read_text(encoding="utf-8")
    suites = (
        *(JobTableContract, DurableJobStoreContract, SharedStoreContract),
        *(EngineFaultContract, StreamingRunnerContract),
    )
    settings = {name for suite in suites for each in suite.__mro__ for name in vars(each).get("__annotations__", ())}
    assert settings >= {"exclusive", "kills", "kill_seconds", "quiet_seconds", "lease_seconds", "buffered_bytes"}
    assert settings <= set(re.findall(r"`(\w+)", page))
