use std::future::Future;

/// Runs a case on a runtime of its own, with two threads, so that what races does race.
pub fn run(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime for a test").block_on(case);
}

/// Makes one `#[test]` per case for the stores of a [`StoreFactory`](crate::StoreFactory), which the expression makes
/// anew for each. See the [crate](crate).
///
/// ```
/// use idempotency_store_memory::{MemoryConfig, MemoryStore};
/// use idempotency_store_testkit::{OnManualClock, conformance};
///
/// conformance!(OnManualClock::new(|| MemoryStore::with_config(MemoryConfig::new().budget(64 * 1024 * 1024))));
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! conformance {
    ($factory:expr) => {
        mod conformance {
            #[allow(unused_imports, reason = "what the factory's expression needs")]
            use super::*;

            mod direct {
                #[allow(unused_imports, reason = "what the factory's expression needs")]
                use super::*;
                $crate::for_each_case!($crate::__case, $factory);
            }

            mod boxed {
                #[allow(unused_imports, reason = "what the factory's expression needs")]
                use super::*;
                $crate::for_each_case!($crate::__case, $crate::Boxed($factory));
            }

            mod shared {
                #[allow(unused_imports, reason = "what the factory's expression needs")]
                use super::*;
                $crate::for_each_case!($crate::__case, $crate::Shared($factory));
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __case {
    ($module:ident, $name:ident, $factory:expr) => {
        #[test]
        fn $name() {
            $crate::run($crate::cases::$module::$name($factory));
        }
    };
}

/// Calls a macro with the module and the name of every case, and whatever else it is given.
///
/// ```
/// macro_rules! count {
///     ($module:ident, $name:ident, $total:expr) => {
///         $total += 1;
///     };
/// }
///
/// let mut total = 0;
/// idempotency_store_testkit::for_each_case!(count, total);
/// assert!(total > 30);
/// ```
#[macro_export]
macro_rules! for_each_case {
    ($callback:path, $($more:expr)?) => {
        $crate::__cases! { $callback, ($($more)?);
            insert: i1_a_free_id_is_claimed, i1_a_second_claim_hears_of_the_first,
                i1_a_repeated_claim_after_a_lost_reply_is_claimed_again,
                i2_a_repeated_claim_never_runs_settled_work_again,
                i4_a_claim_with_another_fingerprint_takes_nothing_over,
                i8_a_lapsed_claim_is_taken_over_by_whoever_names_its_owner,
                i8_a_halted_record_is_taken_over, i7_an_expired_record_is_free;
            update: i5_what_is_not_there_is_not_found, i5_the_owner_moves_a_running_record_on,
                i5_the_owner_may_still_settle_after_its_lease_lapsed,
                i5_another_owner_is_fenced_in_every_state, i3_a_completed_record_stays_as_it_is,
                i5_a_halted_record_stays_halted, i10_a_result_after_a_shutdown_is_taken,
                i5_an_owner_of_an_earlier_generation_is_fenced,
                i5_a_caller_that_was_taken_over_is_fenced, i7_what_has_expired_is_not_found;
            time: i7_an_expired_record_is_not_looked_up, i8_a_lease_lapses_by_itself,
                i12_a_renewed_claim_outlives_its_first_lease, i12_a_renewal_never_shortens_a_lease,
                i12_prune_deletes_only_what_has_expired, trap_prune_deletes_no_running_request,
                prune_is_bounded_and_says_whether_there_is_more;
            races: i1_of_many_claims_at_once_one_is_claimed, i1_of_many_takeovers_at_once_one_is_claimed,
                i5_of_two_settles_at_once_one_is_applied, i1_claims_of_many_ids_do_not_disturb_each_other;
            values: i3_big_and_binary_responses_come_back_byte_for_byte,
                i3_a_response_that_was_not_kept_says_so, meta_comes_back_and_a_takeover_sets_it_anew,
                every_halt_reason_comes_back, a_repeated_settle_after_a_lost_reply_is_known;
            batches: a_batch_is_answered_in_order, a_batch_on_one_id_is_applied_one_after_the_other,
                a_poisoned_member_fails_alone, an_empty_batch_is_answered_with_nothing;
            keeping: i6_what_was_acknowledged_survives_reopening, i6_another_secret_is_refused,
                i11_a_retired_store_refuses_to_be_set_up, a_scan_finds_every_record_once_at_least,
                a_restored_record_is_whole, a_settled_record_is_not_overwritten_by_a_restore,
                what_is_not_offered_is_refused_as_unsupported;
            random: every_sequence_of_operations_is_answered_like_the_table;
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __cases {
    ($callback:path, $more:tt; $($module:ident: $($name:ident),+;)+) => {
        $($($crate::__call! { $callback, $module, $name, $more })+)+
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __call {
    ($callback:path, $module:ident, $name:ident, ($($more:expr)?)) => {
        $callback! { $module, $name, $($more)? }
    };
}
