use std::time::Duration;

use actix::Message;
use idempotency_core::{Claim, Fingerprint, HaltReason, Meta, Owner, RequestId, StoredResponse, Tenant};
use idempotency_engine::{self as engine, OnConcurrent};
use time::OffsetDateTime;
use tracing::Span;

use crate::{Error, OnOrphan, Permit, Resolver};

/// The message that asks, before the work, whether to do it.
///
/// ```
/// use idempotency_core::{Fingerprint, RequestId, Scope};
/// use idempotency_tracker::{OnOrphan, Track};
/// use std::time::Duration;
///
/// let id = RequestId::derive(None, &Scope::global(), [&b"key-1"[..]]);
/// let fingerprint = Fingerprint::derive(None, [&b"amount=10"[..]]);
/// let track = Track::new(id, fingerprint)
///     .lease(Duration::from_secs(30))
///     .on_orphan(OnOrphan::Rerun);
/// ```
///
/// What is left unsaid takes the tracker's defaults.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Tracked, Error>")]
#[non_exhaustive]
pub struct Track {
    /// The request.
    pub id: RequestId,
    /// What is asked for.
    pub fingerprint: Fingerprint,
    /// Kept unchanged with the record.
    pub meta: Meta,
    /// How long the claim stands without a sign of life.
    pub lease: Option<Duration>,
    /// How long the record is kept once it is settled.
    pub retention: Option<Duration>,
    /// How long the claim is renewed.
    pub work_limit: Option<Duration>,
    /// What to do where the earlier caller is gone.
    pub on_orphan: Option<OnOrphan>,
    /// What to do where the earlier caller is at work.
    pub on_concurrent: Option<OnConcurrent>,
    /// How long it waits at most for somebody else's work, if it waits at all.
    pub patience: Option<Duration>,
    /// Whose limits it counts against.
    pub tenant: Option<Tenant>,
    /// An operator takes over from this owner, whatever the policy.
    pub(crate) takes_over: Option<Owner>,
    /// What its store calls belong to.
    pub(crate) span: Span,
}

impl Track {
    /// Asks with all defaults.
    pub fn new(id: RequestId, fingerprint: Fingerprint) -> Self {
        Self {
            id,
            fingerprint,
            meta: Meta::default(),
            lease: None,
            retention: None,
            work_limit: None,
            on_orphan: None,
            on_concurrent: None,
            patience: None,
            tenant: None,
            takes_over: None,
            span: Span::none(),
        }
    }

    /// Keeps these bytes with the record.
    #[must_use]
    pub fn meta(mut self, meta: Meta) -> Self {
        self.meta = meta;
        self
    }

    /// How long the claim stands without a sign of life; at least three store limits.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// How long the record is kept once it is settled; more than nothing.
    #[must_use]
    pub fn retention(mut self, retention: Duration) -> Self {
        self.retention = Some(retention);
        self
    }

    /// How long the claim is renewed; then it lapses although its holder still works.
    #[must_use]
    pub fn work_limit(mut self, work_limit: Duration) -> Self {
        self.work_limit = Some(work_limit);
        self
    }

    /// What to do where the earlier caller is gone.
    #[must_use]
    pub fn on_orphan(mut self, on_orphan: OnOrphan) -> Self {
        self.on_orphan = Some(on_orphan);
        self
    }

    /// What to do where the earlier caller is at work: say so, or wait for what it makes of it.
    #[must_use]
    pub fn on_concurrent(mut self, on_concurrent: OnConcurrent) -> Self {
        self.on_concurrent = Some(on_concurrent);
        self
    }

    /// Shortens how long it waits for somebody else's work, if it waits at all: what a client asks for.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Counts it against the limits of this tenant; see [`TenantLimits`](crate::TenantLimits).
    #[must_use]
    pub fn tenant(mut self, tenant: Tenant) -> Self {
        self.tenant = Some(tenant);
        self
    }

    /// The same with all defaults filled in.
    pub(crate) fn resolve(
        self,
        defaults: &Defaults,
        owner: Owner,
    ) -> Result<(engine::Track, Option<Resolver>), Error> {
        self.check(defaults)?;
        let mut claim = Claim::new(self.id, owner, self.fingerprint);
        claim.lease = self.lease.unwrap_or(defaults.lease);
        claim.retention = self.retention.unwrap_or(defaults.retention);
        claim.meta = self.meta;
        claim.takes_over = self.takes_over;
        let work_limit = self.work_limit.unwrap_or(defaults.work_limit);
        let (on_orphan, resolver) = self.on_orphan.unwrap_or_else(|| defaults.on_orphan.clone()).split();
        let on_concurrent = match (self.on_concurrent.unwrap_or(defaults.on_concurrent), self.patience) {
            (OnConcurrent::Wait { at_most }, Some(patience)) => {
                OnConcurrent::Wait { at_most: at_most.min(patience) }
            }
            (on_concurrent, _) => on_concurrent,
        };
        let tenant = self.tenant;
        let by_operator = self.takes_over.is_some();
        let track =
            engine::Track { claim: claim.into(), work_limit, on_orphan, on_concurrent, tenant, by_operator };
        Ok((track, resolver))
    }
}

impl Track {
    /// Whether its times make sense together.
    pub(crate) fn check(&self, defaults: &Defaults) -> Result<(), Error> {
        defaults.check(
            self.lease.unwrap_or(defaults.lease),
            self.retention.unwrap_or(defaults.retention),
            self.work_limit.unwrap_or(defaults.work_limit),
        )
    }

    /// Whether an operator asks, who is about to take over.
    pub(crate) fn is_of_operator(&self) -> bool {
        self.takes_over.is_some()
    }
}

impl From<(RequestId, Fingerprint)> for Track {
    fn from((id, fingerprint): (RequestId, Fingerprint)) -> Self {
        Self::new(id, fingerprint)
    }
}

/// What a [`Track`] leaves unsaid.
#[derive(Debug, Clone)]
pub(crate) struct Defaults {
    pub(crate) lease: Duration,
    pub(crate) retention: Duration,
    pub(crate) work_limit: Duration,
    pub(crate) on_orphan: OnOrphan,
    pub(crate) on_concurrent: OnConcurrent,
    pub(crate) store_limit: Duration,
}

impl Defaults {
    pub(crate) fn check(
        &self,
        lease: Duration,
        retention: Duration,
        work_limit: Duration,
    ) -> Result<(), Error> {
        if lease < self.store_limit.saturating_mul(3) {
            // Renewed at a third, a claim must survive one call that runs into the limit and its repetition.
            let (lease, limit) = (lease.as_millis(), self.store_limit.as_millis());
            let reason = format!("a lease of {lease} ms is less than three store limits of {limit} ms");
            return Err(Error::invalid(reason));
        }
        if retention.is_zero() {
            return Err(Error::invalid("a retention of nothing would forget every response at once"));
        }
        if work_limit.is_zero() {
            return Err(Error::invalid("a work limit of nothing keeps no claim alive"));
        }
        Ok(())
    }
}

/// What a [`Track`] hears.
///
/// ```
/// use idempotency_tracker::Tracked;
///
/// fn status(tracked: &Tracked) -> u16 {
///     match tracked {
///         Tracked::Init(_) => 201,          // do the work, then `permit.complete(..)`
///         Tracked::Cached { .. } => 201,    // answer what was answered before
///         Tracked::Processing { .. } => 409,
///         Tracked::Halted { .. } => 409,
///         Tracked::Mismatch { .. } => 422,
///         _ => 500,
///     }
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permit that is dropped halts its request"]
#[non_exhaustive]
pub enum Tracked {
    /// Nobody has done it: work, and say how it ended.
    Init(Permit),
    /// Somebody works on it.
    Processing {
        /// Since when, if that is known.
        since: Option<OffsetDateTime>,
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// The work was done, and this was the answer.
    Cached {
        /// Byte for byte what was put.
        response: StoredResponse,
        /// Until when it is kept.
        expires_at: OffsetDateTime,
        /// What its claim kept with it, such as the trace of the request that did the work.
        meta: Meta,
    },
    /// Whether the work was done is not known; it will not be done again.
    Halted {
        /// Why.
        reason: HaltReason,
        /// Until when that is kept.
        expires_at: OffsetDateTime,
    },
    /// The same id stands for another payload: a reused key.
    Mismatch {
        /// Until when.
        expires_at: OffsetDateTime,
        /// What its claim kept with it, such as digests that tell where the payloads differ.
        meta: Meta,
    },
}

impl Tracked {
    /// One word for logs and metrics labels.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Processing { .. } => "processing",
            Self::Cached { .. } => "cached",
            Self::Halted { .. } => "halted",
            Self::Mismatch { .. } => "mismatch",
        }
    }
}
