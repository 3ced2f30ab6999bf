use std::sync::Arc;

use time::OffsetDateTime;

use crate::{
    Claim, Cursor, Inserted, Page, Pruned, Record, RequestId, Restored, Setup, Store, StoreError,
    StoreErrorKind, Update, Updated,
};

/// One call of the [`Store`] trait as data: what travels to a backend, alone or in a batch. What is large is behind a
/// pointer: who sends a command keeps it until it is answered, and hands it on several times before.
///
/// ```
/// use idempotency_core::{RequestId, StoreCommand};
///
/// let command = StoreCommand::Lookup(RequestId::from_bytes([1; 32]));
/// assert_eq!(command.name(), "lookup");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreCommand {
    /// [`Store::setup`].
    Setup(Setup),
    /// [`Store::lookup`].
    Lookup(RequestId),
    /// [`Store::insert`].
    Insert(Arc<Claim>),
    /// [`Store::update`].
    Update(Arc<Update>),
    /// [`Store::prune`].
    Prune {
        /// How many records at most.
        limit: usize,
    },
    /// [`Store::scan`].
    Scan {
        /// Where the last page ended.
        cursor: Option<Cursor>,
        /// How many records at most.
        limit: usize,
    },
    /// [`Store::restore`].
    Restore {
        /// The request.
        id: RequestId,
        /// Its record.
        record: Arc<Record>,
    },
    /// [`Store::watch`].
    Watch(RequestId),
    /// [`Store::retire`].
    Retire {
        /// Where the records went.
        to: String,
    },
    /// [`Store::close`].
    Close,
}

/// What a [`StoreCommand`] is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreReply {
    /// To `Setup`, `Retire`, `Close`.
    Done,
    /// To `Lookup`, `Watch`.
    Found(Option<Box<Record>>),
    /// To `Insert`.
    Inserted(Inserted),
    /// To `Update`.
    Updated(Updated),
    /// To `Prune`.
    Pruned(Pruned),
    /// To `Scan`.
    Page(Page),
    /// To `Restore`.
    Restored(Restored),
}

macro_rules! only {
    ($($name:ident: $kind:ident($answer:ident) -> $type:ty { $taken:expr })+) => {
        /// What was asked for, or the error that something else was answered. For those who turn replies into results.
        ///
        /// ```
        /// use idempotency_core::StoreReply;
        ///
        /// assert_eq!(StoreReply::Found(None).found().unwrap(), None);
        /// assert!(StoreReply::Done.found().is_err());
        /// ```
        impl StoreReply {
            $(
                #[doc = concat!("The answer in `", stringify!($kind), "`.")]
                ///
                /// # Errors
                ///
                /// If it is another one.
                pub fn $name(self) -> Result<$type, StoreError> {
                    match self {
                        Self::$kind($answer) => Ok($taken),
                        _ => Err(StoreError::new(
                            StoreErrorKind::Other,
                            "the store did not answer what it was asked",
                        )),
                    }
                }
            )+
        }
    };
}

only! {
    found: Found(found) -> Option<Record> { found.map(|record| *record) }
    inserted: Inserted(inserted) -> Inserted { inserted }
    updated: Updated(updated) -> Updated { updated }
    pruned: Pruned(pruned) -> Pruned { pruned }
    page: Page(page) -> Page { page }
    restored: Restored(restored) -> Restored { restored }
}

impl StoreCommand {
    /// Calls the method that this command stands for.
    ///
    /// # Errors
    ///
    /// Those of the method.
    pub async fn call<S: Store + ?Sized>(
        &self,
        store: &S,
        now: OffsetDateTime,
    ) -> Result<StoreReply, StoreError> {
        Ok(match self {
            Self::Setup(setup) => {
                store.setup(setup).await?;
                StoreReply::Done
            }
            Self::Lookup(id) => StoreReply::Found(store.lookup(id, now).await?.map(Box::new)),
            Self::Insert(claim) => StoreReply::Inserted(store.insert(claim, now).await?),
            Self::Update(update) => StoreReply::Updated(store.update(update, now).await?),
            Self::Prune { limit } => StoreReply::Pruned(store.prune(now, *limit).await?),
            Self::Scan { cursor, limit } => StoreReply::Page(store.scan(cursor.clone(), *limit).await?),
            Self::Restore { id, record } => StoreReply::Restored(store.restore(id, record, now).await?),
            Self::Watch(id) => StoreReply::Found(store.watch(id, now).await?.map(Box::new)),
            Self::Retire { to } => {
                store.retire(to).await?;
                StoreReply::Done
            }
            Self::Close => {
                store.close().await?;
                StoreReply::Done
            }
        })
    }

    /// The request that it is about, if it is about one.
    pub fn id(&self) -> Option<&RequestId> {
        match self {
            Self::Lookup(id) | Self::Restore { id, .. } | Self::Watch(id) => Some(id),
            Self::Insert(claim) => Some(&claim.id),
            Self::Update(update) => Some(&update.id),
            Self::Setup(_) | Self::Prune { .. } | Self::Scan { .. } | Self::Retire { .. } | Self::Close => {
                None
            }
        }
    }

    /// One word for logs and metrics labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Setup(_) => "setup",
            Self::Lookup(_) => "lookup",
            Self::Insert(_) => "insert",
            Self::Update(update) => update.change.name(),
            Self::Prune { .. } => "prune",
            Self::Scan { .. } => "scan",
            Self::Restore { .. } => "restore",
            Self::Watch(_) => "watch",
            Self::Retire { .. } => "retire",
            Self::Close => "close",
        }
    }
}
