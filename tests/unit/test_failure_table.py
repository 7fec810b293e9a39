"""Every row of the failure table in `deploy/README.md` has tests that are named for the failure."""

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy" / "README.md"

TO_DO = (
    "Write a test whose name says the failure, or rename the test that shows it. Then add it to TESTS in "
    "tests/unit/test_failure_table.py, under the row's first column up to its first ':' or '('."
)
FILLERS = {
    *("a", "after", "an", "and", "at", "be", "by", "can", "for", "in", "is", "it", "no", "not", "of", "on", "one"),
    *("or", "s", "t", "than", "that", "the", "to", "was", "which", "with"),
}

# By the row's first column, up to its first ":" or "(". The files are those below `tests/`.
TESTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "a malformed, oversized or unknown record": {
        "unit/loop/test_intake.py": (
            "test_a_malformed_record_is_a_dead_letter_and_holds_the_commit_until_it_is_acknowledged",
        ),
        "unit/events/test_record_limits.py": ("test_an_oversized_record_or_text_is_refused",),
        "unit/events/test_decoder.py": ("test_an_unknown_type_is_refused_and_not_quoted",),
        "fuzz/test_malformed_records.py": ("test_a_malformed_record_becomes_a_dead_letter_with_a_known_reason",),
    },
    "an edit that makes a text repeat itself": {
        "unit/learning/test_learner_guard.py": (
            "test_an_edit_that_repeats_itself_far_more_than_the_draft_is_not_learnt",
        ),
        "unit/loop/test_stages.py": ("test_rejected_edits_are_logged_by_their_number_and_reasons",),
    },
    "a step that is not finite, or drifts past `guard.max_drift_nats`": {
        "unit/learning/test_learner_guard.py": (
            "test_one_pair_that_is_not_finite_is_rejected_and_its_neighbours_in_the_step_are_applied",
            "test_only_the_pair_that_drifts_too_far_alone_is_guilty",
            "test_a_rejected_step_leaves_the_very_adapter_and_every_bit_on_the_device",
        ),
        "unit/learning/test_rehearsal.py": (
            "test_a_passage_that_is_not_finite_any_more_keeps_no_pair_from_being_learnt",
        ),
    },
    "the device runs out of memory in a step": {
        "unit/learning/test_learner_memory.py": (
            "test_a_step_that_runs_out_of_memory_is_split_and_stays_the_same",
            "test_a_single_pair_that_runs_out_of_memory_is_rejected_alone",
        ),
    },
    "broker or topic away at the start": {
        "integration/test_start_refusals.py": (
            "test_a_broker_that_is_away_at_the_start_is_named_after_the_deadline",
            "test_a_missing_topic_is_named",
        ),
    },
    "bucket away at the start": {
        "contract/test_object_store.py": ("test_a_bucket_that_is_away_is_said_in_a_sentence",),
    },
    "the hub away at the start, and the model not in its cache": {
        "unit/learning/model/test_resident.py": (
            "test_a_hub_that_is_away_without_the_model_in_its_cache_may_answer_later",
        ),
    },
    "the hub away at the start, and the model in its cache": {
        "unit/learning/model/test_resident.py": ("test_a_model_is_taken_from_the_cache_if_the_hub_is_away",),
        "unit/learning/model/test_unsupported.py": ("test_the_log_says_that_the_hub_is_asked_before_a_long_wait",),
    },
    "a model that corlld can't train": {
        "integration/test_unsupported_models.py": (
            "test_check_refuses_a_model_that_corlld_can_t_train_in_one_sentence",
            "test_run_refuses_a_model_that_corlld_can_t_train_in_the_same_sentence",
            "test_a_wrong_model_is_found_before_the_broker_is_waited_for",
        ),
    },
    "too little free memory for the model at the start, a GPU that is busy, or a disk that does not answer": {
        "integration/test_unsupported_models.py": ("test_too_little_free_memory_for_the_model_may_be_free_later",),
        "unit/learning/model/test_resident.py": ("test_a_model_larger_than_the_whole_gpu_is_refused",),
        "unit/learning/model/test_unsupported.py": (
            "test_an_error_of_memory_gpu_disk_or_hub_becomes_one_sentence_with_its_exit_code",
        ),
    },
    "a broker that lacks a feature, or whose answer can't be understood": {
        "unit/sources/kafka/test_features.py": (
            "test_an_older_broker_is_refused_with_what_it_lacks",
            "test_an_answer_that_is_not_understood_is_a_sentence",
        ),
    },
    "a right on a topic or the group is missing, or a topic can never acknowledge": {
        "integration/test_kafka_rights.py": (
            "test_a_reader_without_a_right_ends_at_once_with_the_rule_that_gives_it",
            "test_a_daemon_is_not_ready_until_it_may_write",
            "test_a_topic_with_too_few_replicas_is_refused_only_if_the_broker_acknowledges_nothing",
        ),
    },
    "broker away later, disk full later": {
        "integration/test_kafka_source.py": (
            "test_polling_goes_on_while_the_broker_is_away_and_reading_when_it_is_back",
        ),
        "integration/test_full_disks.py": ("test_a_disk_that_fills_up_later_is_waited_for_and_nothing_is_lost",),
    },
    "rebalance": {
        "integration/test_rebalance.py": ("test_a_second_daemon_joins_and_leaves_twice_mid_run",),
        "integration/test_kafka_source.py": (
            "test_eager_rebalance_begins_new_tenures_at_the_commit_also_for_partitions_that_stay",
        ),
        "unit/loop/test_daemon.py": ("test_waiting_edits_of_an_ended_tenure_are_not_trained_here",),
        "unit/loop/test_deferral.py": (
            "test_i6_an_ended_tenures_unsaved_updates_are_dropped_and_its_next_owner_trains_them",
        ),
    },
    "kill -9, power loss": {
        "crash/test_kill.py": ("test_no_event_is_lost_or_applied_twice_through_20_kills",),
        "unit/state/test_store.py": (
            "test_a_kill_before_any_system_call_leaves_the_old_state_or_the_new_one",
            "test_a_power_loss_finds_content_durable_before_its_name_and_the_name_before_the_generation_before_goes",
        ),
        "unit/sources/test_dead_letters.py": ("test_the_key_names_user_topic_partition_and_offset",),
    },
    "host memory full of states": {
        "unit/loop/memory/test_cache.py": ("test_the_least_recently_used_goes_first",),
        "unit/loop/test_deferral.py": ("test_i9_the_user_trained_longest_ago_is_stored_where_host_memory_is_full",),
    },
    "a torn or corrupt state": {
        "integration/test_run.py": ("test_a_torn_state_sets_its_user_aside_and_others_go_on",),
        "unit/loop/test_intake.py": (
            "test_an_unreadable_state_sends_that_users_records_to_the_dead_letters_and_others_go_on",
        ),
    },
    "the states of many users can't be read": {
        "unit/loop/test_store_breaker.py": (
            "test_a_store_that_nobody_can_read_stops_the_daemon_before_a_record_is_set_aside_or_committed",
            "test_a_few_users_whose_states_are_torn_are_set_aside_and_others_go_on",
            "test_a_store_that_breaks_later_stops_the_daemon_at_the_third_user_or_after_a_while",
        ),
    },
    "a user's state is lost, or an older backup of the states is restored": {
        "integration/test_run.py": ("test_i5_a_user_whose_state_was_lost_goes_on_above_all_versions_that_are_out",),
        "unit/loop/test_durability.py": ("test_what_is_older_than_the_versions_that_are_out_is_not_published_again",),
    },
    "corlld was replaced by an older version, after a newer one wrote states in a newer format": {
        "integration/test_run.py": (
            "test_an_older_version_after_a_newer_one_refuses_the_store_and_sets_nothing_aside",
        ),
        "contract/test_state_store.py": (
            "test_the_program_of_format_1_refuses_the_store_once_a_state_was_stored_and_not_before",
        ),
    },
    "a bucket shows a part of a state that is just being written": {
        "contract/test_object_store.py": (
            "test_a_part_of_a_state_that_a_bucket_shows_is_read_again",
            "test_a_torn_state_is_read_twice_before_it_is_said_to_be_torn",
        ),
    },
    "the answer to a write at the start is lost, or a kill comes in the start": {
        "contract/test_object_store.py": (
            "test_a_start_survives_a_lost_answer_to_any_of_its_writes",
            "test_a_kill_at_any_moment_of_a_start_leaves_nothing_behind",
        ),
    },
    "a batch of records is damaged": {
        "integration/test_codecs.py": (
            "test_a_damaged_batch_is_refused_and_the_command_of_the_sentence_goes_around_it",
        ),
        "unit/sources/kafka/test_unpacking.py": ("test_a_batch_that_cannot_be_unpacked_raises_at_each_call",),
    },
    "the package that unpacks lz4, snappy or zstd is missing": {
        "integration/test_codecs.py": (
            "test_a_run_that_meets_a_codec_without_its_package_ends_with_one_sentence",
            "test_check_names_the_codec_of_the_topic_and_the_package_that_is_missing",
        ),
    },
    "a followed file is rotated by rename and create": {
        "integration/test_run.py": ("test_a_file_that_is_rotated_while_it_is_followed_is_read_on",),
        "unit/sources/jsonl/test_rotation.py": (
            "test_the_old_file_is_read_to_its_end_and_then_the_new_one_in_the_same_tenure",
        ),
    },
    "a file that is compressed, in UTF-16, or a JSON array": {
        "unit/sources/jsonl/test_source.py": (
            "test_a_file_that_is_compressed_utf_16_or_an_array_is_refused_at_the_start_or_once_it_is_written",
        ),
    },
    "a file with no valid event": {
        "integration/test_run.py": ("test_a_file_with_nothing_valid_in_it_is_exit_code_65",),
    },
    "the group's commits have expired": {
        "integration/test_kafka_source.py": ("test_a_group_whose_commits_have_expired_is_not_new_and_skips_nothing",),
        "integration/test_end_to_end.py": (
            "test_a_group_whose_commits_expired_learns_what_it_missed_and_nothing_twice",
        ),
    },
    "topic recreated, offsets out of range, file replaced, truncated or deleted": {
        "integration/test_kafka_source.py": (
            "test_a_recreated_topic_is_refused_with_what_to_do",
            "test_a_commit_whose_offset_is_out_of_range_is_refused_with_what_to_do",
        ),
        "unit/sources/jsonl/test_source.py": (
            "test_a_file_replaced_or_truncated_at_the_start_is_refused_with_what_to_do",
            "test_a_followed_file_that_is_replaced_truncated_or_deleted_is_refused",
        ),
    },
    "another secret, model, adapter shape or group than the store's": {
        "integration/test_start_refusals.py": (
            "test_a_store_of_another_secret_is_refused",
            "test_a_store_of_another_model_is_refused",
        ),
        "contract/test_state_store.py": ("test_a_store_of_other_settings_is_refused_by_what_differs",),
    },
    "corlld or PEFT was upgraded, and the new version adapts other modules of the model": {
        "contract/test_state_store.py": (
            "test_a_store_with_adapters_of_other_modules_may_be_of_another_corlld_or_peft",
        ),
        "unit/learning/model/test_adapted_modules.py": (
            "test_what_is_not_trained_or_not_loaded_is_left_out_with_its_reason",
        ),
    },
    "the loop, a step, or a call of the state store or the publisher hangs": {
        "integration/test_hangs.py": ("test_a_store_that_never_returns_is_not_ready_and_is_abandoned_by_a_stop",),
        "unit/operations/test_liveness.py": (
            "test_a_loop_that_turns_is_alive_and_one_that_does_not_is_stuck_after_the_limit",
            "test_a_trainer_without_progress_is_stuck_though_the_loop_turns",
            "test_a_call_of_store_or_publisher_that_never_returns_is_stuck_though_the_loop_turns",
        ),
        "integration/test_systemd.py": (
            "test_a_daemon_that_no_longer_turns_is_ended_by_the_watchdog_and_started_again",
        ),
    },
    "SIGTERM while the main thread hangs, in the start or in the loop": {
        "integration/test_hangs.py": ("test_a_main_thread_that_hangs_is_not_ready_and_sigterm_ends_it",),
    },
    "paths of the settings that would harm each other": {
        "unit/settings/test_path_conflicts.py": (
            "test_nothing_may_lie_in_what_the_state_store_removes_from_and_lists",
            "test_nothing_may_lie_among_the_versions_of_a_user",
            "test_the_same_place_is_found_through_symbolic_links",
            "test_dead_letters_are_not_appended_to_what_is_read",
            "test_paths_of_the_settings_that_do_not_harm_each_other_are_accepted",
        ),
    },
    "a folder or file of the state store, the adapters or the dead letters that can't be written at the start": {
        "integration/test_missing_rights.py": (
            "test_a_folder_of_the_store_that_belongs_to_another_user_is_refused_at_the_start",
            "test_a_place_in_a_pseudo_filesystem_is_refused_also_of_root",
        ),
    },
    "settings that are set and not used, such as `kafka.topic` beside a file": {
        "integration/test_check.py": ("test_check_and_run_name_the_settings_that_are_not_used",),
    },
    "the port of `/metrics` is taken": {
        "unit/operations/test_http.py": (
            "test_a_port_that_is_taken_is_reported_with_the_setting_and_may_be_tried_again",
        ),
        "integration/test_start_refusals.py": (
            "test_a_port_in_use_is_said_with_the_setting_before_anything_is_loaded",
        ),
    },
    "more than `dead_letters.max_share` of a partition's recent records are invalid": {
        "integration/test_set_aside.py": (
            "test_poison_in_one_partition_pauses_it_alone_and_it_goes_on_once_the_newest_records_are_good",
        ),
        "unit/loop/test_intake.py": ("test_too_large_a_share_of_dead_letters_stops_the_daemon_if_the_input_ends",),
        "unit/loop/test_poison.py": (
            "test_the_next_owner_begins_with_the_pause_and_goes_on_once_the_newest_records_are_good",
        ),
    },
    "the topic of announcements, or of dead letters, away for longer than the delivery time-out": {
        "integration/test_outbox.py": (
            "test_a_broker_that_stops_for_longer_than_the_delivery_time_out_ends_no_announcements_and_holds_no_stop_up",
        ),
        "integration/test_kafka_producers.py": (
            "test_an_outage_longer_than_the_delivery_time_out_ends_no_sender_for_ever",
        ),
    },
    "a stop or a crash before a new version or an erasure is announced": {
        "integration/test_outbox.py": (
            "test_what_a_killed_daemon_had_not_announced_the_next_one_announces_without_a_new_event",
            "test_a_stop_does_not_wait_for_the_topic_and_the_next_start_announces",
        ),
        "unit/loop/test_committing.py": (
            "test_a_version_that_is_not_announced_is_noted_before_its_offset_is_committed",
            "test_an_erasure_that_is_not_announced_is_noted_before_its_offset_is_committed",
        ),
    },
    "a step that ends the process, or never ends": {
        "crash/test_poison.py": (
            "test_an_event_that_aborts_the_process_is_set_aside_and_all_others_are_learnt_to_the_bit",
            "test_an_event_whose_step_never_ends_is_set_aside_after_as_many_kills_by_the_watchdog",
        ),
        "unit/loop/test_crashed_events.py": (
            "test_history_that_is_delivered_later_brings_a_guilty_event_back_without_a_crash",
        ),
    },
    "a file of the journal of attempts": {
        "contract/test_attempt_store.py": (
            "test_a_file_that_answers_with_an_error_counts_as_corrupt_unless_all_of_the_disk_does",
        ),
        "unit/loop/test_attempts.py": (
            "test_corrupt_attempts_are_reported_and_counting_begins_anew",
            "test_a_partition_whose_attempts_cannot_be_read_waits_alone",
        ),
        "unit/loop/test_attempt_saves.py": (
            "test_a_partition_whose_attempts_cannot_be_saved_waits_alone",
            "test_a_partition_that_waited_goes_on_by_itself_once_its_attempts_are_saved",
        ),
    },
    "a published version differs from its user's state, by a bit of any of its files": {
        "integration/test_set_aside.py": (
            "test_a_flipped_bit_in_a_published_version_sets_its_user_aside_until_it_is_repaired",
        ),
        "unit/loop/test_set_aside.py": ("test_versions_of_too_many_users_that_differ_stop_the_daemon",),
    },
    "a single user's state or folder of versions answers with an error for ever": {
        "integration/test_set_aside.py": (
            "test_a_state_that_answers_with_an_error_for_ever_sets_its_user_aside_and_others_go_on",
        ),
        "unit/loop/test_set_aside.py": (
            "test_a_version_that_cannot_be_published_sets_its_user_aside_and_others_go_on",
            "test_a_store_that_is_away_for_everybody_sets_nobody_aside",
        ),
        "unit/commands/test_damaged_states.py": (
            "test_a_state_that_the_disk_can_not_read_is_repaired_from_the_generation_before",
            "test_a_disk_that_is_away_is_no_damage_of_a_state",
        ),
    },
    "a file of an erased user can't be removed, since the disk refuses that file alone": {
        "unit/loop/test_durability.py": (
            "test_i8_versions_of_an_erased_user_are_withdrawn_though_a_damaged_file_can_not_be_removed",
        ),
        "unit/commands/test_damaged_states.py": (
            "test_a_tombstone_is_loaded_and_all_else_goes_though_a_damaged_file_can_not_be_removed",
            "test_a_tombstone_waits_for_a_disk_that_is_away_and_for_what_is_no_damage",
            "test_verify_names_what_is_left_of_an_erased_user_also_after_the_user_came_back",
        ),
    },
    "a record does not finish, and others behind it do": {
        "unit/loop/test_offsets.py": (
            "test_what_is_finished_behind_an_unfinished_record_is_counted_and_forgotten_when_the_watermark_moves",
        ),
        "unit/loop/test_bounded_waiting.py": (
            "test_i9_a_low_watermark_that_cannot_move_pauses_its_partition_until_it_moves",
        ),
    },
    "the log can't be written": {
        "integration/test_unwritable_outputs.py": (
            "test_a_log_that_can_t_be_written_ends_the_start",
            "test_a_log_whose_reader_leaves_ends_the_run_and_the_next_one_goes_on",
        ),
    },
}


def failures() -> list[str]:
    """Return the names of the table's rows, in their order."""
    page = PAGE.read_text("utf-8").splitlines()
    section = takewhile(lambda line: not line.startswith("## Dead letters"), page[page.index("## Failures") :])
    _, _, *rows = dropwhile(lambda line: not line.startswith("|"), section)  # without the heading and its rule
    return [re.split(r"[:(]", row.split("|")[1])[0].strip() for row in rows if row.startswith("|")]


def names_in(file: str) -> set[str]:
    """Return the names of a file's functions; none if there is no such file."""
    path = ROOT / "tests" / file
    nodes = ast.parse(path.read_text("utf-8")).body if path.exists() else []
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def words(text: str) -> Iterator[str]:
    """Yield the words that mean something, without the ends that change with the grammar."""
    for word in re.findall(r"[a-z]+", text.lower().removeprefix("test_").replace("_", " ")):
        if word not in FILLERS:
            yield word[:4]


def test_every_failure_of_the_table_has_tests_and_every_entry_a_failure() -> None:
    rows = failures()
    assert len(rows) == len(set(rows)), "two failures have one name"
    assert len(rows) > 30
    without = [row for row in rows if row not in TESTS]
    assert not without, f"failures without a test: {without}. {TO_DO}"
    gone = [row for row in TESTS if row not in rows]
    assert not gone, f"not in the table of deploy/README.md any more: {gone}. Rename the entry, or take it out"


@pytest.mark.parametrize("row", TESTS)
def test_the_tests_of_a_failure_exist_and_one_is_named_for_it(row: str) -> None:
    named = [(file, name) for file, names in TESTS[row].items() for name in names]
    missing = [f"tests/{file}::{name}" for file, name in named if name not in names_in(file)]
    assert not missing, f"{row}: there is no test {missing}. Was it renamed or moved? {TO_DO}"
    of_row = set(words(row))
    shared = {name: of_row & set(words(name)) for _, name in named}
    enough = 2 if len(of_row) > 3 else 1
    assert max(map(len, shared.values())) >= enough, f"{row}: no test is named for it: {list(shared)}. {TO_DO}"
