use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use idempotency_core::{Clock, ManualClock, Store};
use time::OffsetDateTime;

/// Makes the stores that the suite runs on, and lets their time pass. Dropped at the end of a case, it cleans up.
///
/// ```
/// use std::time::Duration;
/// use async_trait::async_trait;
/// use idempotency_core::{Clock, ManualClock};
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_store_testkit::{StoreFactory, conformance};
/// use time::OffsetDateTime;
///
/// #[derive(Default)]
/// struct InMemory(ManualClock);
///
/// #[async_trait]
/// impl StoreFactory for InMemory {
///     type Store = MemoryStore;
///
///     async fn open(&self) -> MemoryStore {
///         MemoryStore::new()
///     }
///
///     fn now(&self) -> OffsetDateTime {
///         self.0.now()
///     }
///
///     async fn pass(&self, time: Duration) {
///         self.0.advance(time);
///     }
/// }
///
/// conformance!(InMemory::default());
/// # fn main() {}
/// ```
#[async_trait]
pub trait StoreFactory: Send + Sync + 'static {
    /// What is tested.
    type Store: Store;

    /// A new, empty store. It is not set up yet.
    async fn open(&self) -> Self::Store;

    /// Closes a store and opens what it kept. `None`, the default: it keeps nothing.
    ///
    /// A store whose capabilities say that it survives the end of the process must offer this.
    async fn reopen(&self, store: Self::Store) -> Option<Self::Store> {
        drop(store);
        None
    }

    /// What time it is for a caller of the store.
    fn now(&self) -> OffsetDateTime;

    /// Lets this much time pass: for a store on the tracker's clock by moving it, for one with a clock of its own by
    /// waiting.
    async fn pass(&self, time: Duration);

    /// The unit of time of the cases, which pass six of them at most: a second unless said otherwise. A store with a
    /// clock of its own says as little as it can tell apart reliably, such as 50 ms.
    fn tick(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Whether [`pass`](Self::pass) is exact, so that the records of the store can be compared to the instant. `false`
    /// for a store with a clock of its own.
    fn is_exact(&self) -> bool {
        true
    }

    /// How many random sequences of operations are tried.
    fn sequences(&self) -> u32 {
        100
    }
}

/// Stores on a clock that only moves when it is told to.
///
/// ```
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_store_testkit::{OnManualClock, StoreFactory};
/// use std::time::Duration;
///
/// let factory = OnManualClock::new(MemoryStore::new);
/// assert_eq!(factory.tick(), Duration::from_secs(1));
/// ```
#[derive(Debug)]
pub struct OnManualClock<O> {
    clock: ManualClock,
    open: O,
}

impl<S: Store, O: Fn() -> S + Send + Sync + 'static> OnManualClock<O> {
    /// `open` makes an empty store.
    pub fn new(open: O) -> Self {
        let clock = ManualClock::default();
        // No instant is a round one: a store that keeps whole seconds is to be noticed.
        clock.advance(Duration::from_nanos(123_456_789));
        Self { clock, open }
    }
}

#[async_trait]
impl<S: Store, O: Fn() -> S + Send + Sync + 'static> StoreFactory for OnManualClock<O> {
    type Store = S;

    async fn open(&self) -> S {
        (self.open)()
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

/// The stores of another factory behind `Box<dyn Store>`.
///
/// ```
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_store_testkit::{Boxed, OnManualClock, StoreFactory};
///
/// assert!(Boxed(OnManualClock::new(MemoryStore::new)).is_exact());
/// ```
#[derive(Debug)]
pub struct Boxed<F>(pub F);

/// The stores of another factory behind `Arc<dyn Store>`.
///
/// ```
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_store_testkit::{OnManualClock, Shared, StoreFactory};
///
/// assert!(Shared(OnManualClock::new(MemoryStore::new)).is_exact());
/// ```
#[derive(Debug)]
pub struct Shared<F>(pub F);

macro_rules! behind {
    ($factory:ident, $pointer:ident) => {
        #[async_trait]
        impl<F: StoreFactory> StoreFactory for $factory<F> {
            type Store = $pointer<dyn Store>;

            async fn open(&self) -> Self::Store {
                $pointer::new(self.0.open().await)
            }

            /// The type of the store is not known any more, so it is closed and cannot be opened again.
            async fn reopen(&self, store: Self::Store) -> Option<Self::Store> {
                drop(store);
                None
            }

            fn now(&self) -> OffsetDateTime {
                self.0.now()
            }

            async fn pass(&self, time: Duration) {
                self.0.pass(time).await;
            }

            fn tick(&self) -> Duration {
                self.0.tick()
            }

            fn is_exact(&self) -> bool {
                self.0.is_exact()
            }

            fn sequences(&self) -> u32 {
                self.0.sequences() / 10
            }
        }
    };
}

behind!(Boxed, Box);
behind!(Shared, Arc);
