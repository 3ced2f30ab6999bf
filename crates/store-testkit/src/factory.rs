use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use idempotency_core::{Clock, ManualClock, Store, SystemClock};
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

    /// Another handle on the records of a store, as another process would have it. `None`, the default: there is none.
    ///
    /// A store whose capabilities say that it is shared must offer this.
    async fn another(&self, store: &Self::Store) -> Option<Self::Store> {
        let _ = store;
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

    /// Whether the type of the store is hidden, so that it cannot be opened again or twice.
    fn is_erased(&self) -> bool {
        false
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
    sequences: u32,
}

impl<S: Store, O: Fn() -> S + Send + Sync + 'static> OnManualClock<O> {
    /// `open` makes an empty store.
    pub fn new(open: O) -> Self {
        let clock = ManualClock::default();
        // No instant is a round one: a store that keeps whole seconds is to be noticed.
        clock.advance(Duration::from_nanos(123_456_789));
        Self { clock, open, sequences: 100 }
    }

    /// Tries so many random sequences of operations.
    #[must_use]
    pub fn sequences(mut self, sequences: u32) -> Self {
        self.sequences = sequences;
        self
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

    fn sequences(&self) -> u32 {
        self.sequences
    }
}

/// Stores with a clock of their own, many of them on one server: each under a name of its own, and opened again under it.
///
/// ```
/// use idempotency_store_memory::MemoryStore;
/// use idempotency_store_testkit::{OnRealTime, StoreFactory};
///
/// let factory = OnRealTime::new(async |name: String| {
///     // A table, a prefix, a folder of this name.
///     assert!(name.starts_with("store_"));
///     MemoryStore::new()
/// });
/// assert!(!factory.is_exact());
/// ```
#[derive(Debug)]
pub struct OnRealTime<O> {
    open: O,
    clock: SystemClock,
    name: Mutex<String>,
    is_opened_once: bool,
}

impl<S: Store, F: Future<Output = S> + Send, O: Fn(String) -> F + Send + Sync + 'static> OnRealTime<O> {
    /// `open` makes a store of this name, which is new, or opens the one that has it: text of lower case and digits.
    pub fn new(open: O) -> Self {
        Self { open, clock: SystemClock::new(), name: Mutex::default(), is_opened_once: false }
    }

    /// The store promises to survive nothing, and is not opened again.
    #[must_use]
    pub fn opened_once(mut self) -> Self {
        self.is_opened_once = true;
        self
    }

    async fn under_its_name(&self) -> S {
        let name = self.name.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.open)(name).await
    }
}

#[async_trait]
impl<S: Store, F: Future<Output = S> + Send, O: Fn(String) -> F + Send + Sync + 'static> StoreFactory
    for OnRealTime<O>
{
    type Store = S;

    async fn open(&self) -> S {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("store_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
        self.under_its_name().await
    }

    async fn reopen(&self, store: S) -> Option<S> {
        drop(store);
        if self.is_opened_once { None } else { Some(self.under_its_name().await) }
    }

    async fn another(&self, _: &S) -> Option<S> {
        if self.is_opened_once { None } else { Some(self.under_its_name().await) }
    }

    fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn tick(&self) -> Duration {
        Duration::from_millis(50)
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn sequences(&self) -> u32 {
        30
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

            fn is_erased(&self) -> bool {
                true
            }
        }
    };
}

behind!(Boxed, Box);
behind!(Shared, Arc);
