use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::StoreFactory;

/// How often a case on real time is tried where the machine stands still.
const ATTEMPTS: u32 = 10;

/// Runs a case on a runtime of its own, with two threads, so that what races does race.
pub fn run(case: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime for a test").block_on(case);
}

/// Runs a case; one on real time once more if it failed, counted in ticks, and took a tick longer than it waited, for then
/// what was to be there may have lapsed or expired. Where nothing stands still it has one attempt, and so has a case that
/// asks for nothing that lapses while it runs.
#[doc(hidden)]
#[expect(clippy::disallowed_methods, reason = "how real time passes is the question")]
pub fn run_case<F: StoreFactory, C: Future<Output = ()>>(
    factory: impl Fn() -> F,
    case: impl Fn(Waiting<F>) -> C,
) {
    for attempt in 1.. {
        let (waited, in_ticks) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let factory = factory();
        let (exact, tick) = (factory.is_exact(), factory.tick());
        let factory = Waiting { factory, waited: waited.clone(), in_ticks: in_ticks.clone() };
        let since = Instant::now();
        let ran = catch_unwind(AssertUnwindSafe(|| run(case(factory))));
        let waited = Duration::from_micros(waited.load(Ordering::SeqCst));
        let stood = since.elapsed().saturating_sub(waited);
        match ran {
            Ok(()) => return,
            Err(_) if !exact && in_ticks.load(Ordering::SeqCst) && attempt < ATTEMPTS && stood > tick => {
                eprintln!("it took {stood:?} longer than it waited: attempt {attempt} does not count");
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// The same factory, with the time that a case has asked it to let pass, and whether it has asked what a tick is.
#[doc(hidden)]
#[derive(Debug)]
pub struct Waiting<F> {
    factory: F,
    waited: Arc<AtomicU64>,
    in_ticks: Arc<AtomicBool>,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<F: StoreFactory> StoreFactory for Waiting<F> {
    type Store = F::Store;

    async fn open(&self) -> F::Store {
        self.factory.open().await
    }

    async fn reopen(&self, store: F::Store) -> Option<F::Store> {
        self.factory.reopen(store).await
    }

    async fn another(&self, store: &F::Store) -> Option<F::Store> {
        self.factory.another(store).await
    }

    fn now(&self) -> OffsetDateTime {
        self.factory.now()
    }

    async fn pass(&self, time: Duration) {
        self.waited.fetch_add(time.as_micros() as u64, Ordering::SeqCst);
        self.factory.pass(time).await;
    }

    fn tick(&self) -> Duration {
        self.in_ticks.store(true, Ordering::SeqCst);
        self.factory.tick()
    }

    fn is_exact(&self) -> bool {
        self.factory.is_exact()
    }

    fn sequences(&self) -> u32 {
        self.factory.sequences()
    }

    fn is_erased(&self) -> bool {
        self.factory.is_erased()
    }
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
            $crate::run_case(|| $factory, $crate::cases::$module::$name);
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
                i5_of_two_settles_at_once_one_is_applied, i1_claims_of_many_ids_do_not_disturb_each_other,
                i5_of_a_takeover_and_a_late_put_one_wins, i12_a_prune_beside_a_claim_deletes_no_claim;
            claimed: i8_a_shared_store_decides_by_its_own_clock, i1_two_handles_of_a_shared_store_are_one,
                i7_what_expires_natively_vanishes_by_itself,
                whoever_watches_an_id_hears_that_it_is_settled;
            values: i3_big_and_binary_responses_come_back_byte_for_byte,
                i3_a_response_that_was_not_kept_says_so, meta_comes_back_and_a_takeover_sets_it_anew,
                every_halt_reason_comes_back, i12_a_response_past_all_limits_is_kept_whole_or_refused, a_repeated_settle_after_a_lost_reply_is_known;
            batches: a_batch_is_answered_in_order, a_batch_on_one_id_is_applied_one_after_the_other,
                a_poisoned_member_fails_alone, a_slow_member_fails_nobody, an_empty_batch_is_answered_with_nothing;
            keeping: i6_what_was_acknowledged_survives_reopening, i9_a_closed_store_answers_or_refuses, i6_another_secret_is_refused,
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
