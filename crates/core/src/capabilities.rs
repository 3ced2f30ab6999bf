/// What a store is able to do and what its writes survive. The tracker verifies and uses it; a false claim is a bug
/// that the conformance suite finds.
///
/// ```
/// use idempotency_core::{Capabilities, Durability, Survives};
///
/// let mut capabilities = Capabilities::default();
/// assert!(!capabilities.durability.covers(Durability::new(Survives::ProcessCrash, 0)));
/// capabilities.durability = Durability::new(Survives::PowerLoss, 1);
/// assert!(capabilities.durability.covers(Durability::new(Survives::ProcessCrash, 0)));
/// ```
///
/// The default promises nothing: memory, not shared, none of the extras.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// What an acknowledged write survives (I6). Verified at `setup`.
    pub durability: Durability,
    /// Whether several processes may use it at once; then it decides by its own clock.
    pub shared: bool,
    /// How many batches are best under way at once, where [`apply`](crate::Store::apply) is cheaper than its commands one by
    /// one: two where each is a commit, so that the next is gathered meanwhile; more where a server does them. Where it is not,
    /// 0: then each command travels alone, and a slow one holds up no other.
    pub batches: usize,
    /// Whether every call completes without waiting for anything, so that it may run on the tracker's own thread.
    /// A store that says so and waits stops the renewals of all claims.
    pub immediate: bool,
    /// Whether expired records vanish by themselves; then `prune` has nothing to do.
    pub native_expiry: bool,
    /// Whether [`scan`](crate::Store::scan) works.
    pub scan: bool,
    /// Whether [`restore`](crate::Store::restore) works.
    pub restore: bool,
    /// Whether [`watch`](crate::Store::watch) and [`settled`](crate::Store::settled) work.
    pub push: bool,
}

/// What an acknowledged write survives.
///
/// ```
/// use idempotency_core::{Durability, Survives};
///
/// let redis = Durability::new(Survives::ProcessCrash, 2);
/// let file = Durability::new(Survives::PowerLoss, 0);
/// // Compared field by field: neither covers the other.
/// assert!(!redis.covers(file) && !file.covers(redis));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Durability {
    /// The worst that it survives on the machine that acknowledged it.
    pub local: Survives,
    /// How many other machines had it when it was acknowledged.
    pub replicas: u8,
}

impl Durability {
    /// Both fields.
    pub fn new(local: Survives, replicas: u8) -> Self {
        Self { local, replicas }
    }

    /// Whether this is at least as durable as `other`, in both fields.
    pub fn covers(self, other: Self) -> bool {
        self.local >= other.local && self.replicas >= other.replicas
    }
}

/// The worst that a write survives on one machine, in ascending order.
///
/// ```
/// use idempotency_core::Survives;
///
/// assert!(Survives::Memory < Survives::ProcessCrash && Survives::ProcessCrash < Survives::PowerLoss);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Survives {
    /// Nothing: it is gone with the process.
    #[default]
    Memory,
    /// The process is killed; the machine stays up.
    ProcessCrash,
    /// The machine loses its power.
    PowerLoss,
}

impl Survives {
    /// By its name in a configuration: `memory`, `process_crash` or `power_loss`.
    ///
    /// ```
    /// use idempotency_core::Survives;
    ///
    /// assert_eq!(Survives::from_name("power_loss"), Some(Survives::PowerLoss));
    /// assert_eq!(Survives::from_name("anything"), None);
    /// ```
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "memory" => Some(Self::Memory),
            "process_crash" => Some(Self::ProcessCrash),
            "power_loss" => Some(Self::PowerLoss),
            _ => None,
        }
    }
}
