use std::future::Future;

use actix::Message;

use crate::{Forget, Halt, Lookup, Prune, PutResponse, Release, Status, Swap, Track, TrackerHandle};

/// A message that [`TrackerHandle::send`] takes. Sealed: the tracker understands these and no others.
///
/// ```
/// use idempotency_tracker::{TrackerHandle, TrackerMessage};
///
/// async fn logged<M: TrackerMessage>(tracker: &TrackerHandle, message: M) -> M::Result {
///     println!("sending {}", std::any::type_name::<M>());
///     tracker.send(message).await
/// }
/// ```
pub trait TrackerMessage: Message + sealed::Sealed + Send {
    #[doc(hidden)]
    fn ask(self, tracker: &TrackerHandle) -> impl Future<Output = Self::Result> + Send;
}

mod sealed {
    pub trait Sealed {}
}

/// Each message is the method of the same name.
macro_rules! ask {
    ($($message:ty, |$this:pat_param, $tracker:ident| $answer:expr;)*) => {$(
        impl sealed::Sealed for $message {}

        impl TrackerMessage for $message {
            fn ask(self, $tracker: &TrackerHandle) -> impl Future<Output = Self::Result> + Send {
                let $this = self;
                $answer
            }
        }
    )*};
}

ask! {
    Track, |track, tracker| tracker.track(track);
    PutResponse, |PutResponse { permit, response }, _tracker| permit.complete(response);
    Halt, |Halt { permit, reason }, _tracker| permit.halt(reason);
    Release, |Release { permit }, _tracker| permit.release();
    Lookup, |Lookup { id }, tracker| tracker.lookup(id);
    Forget, |Forget { id, owner, reason }, tracker| tracker.forget(id, owner, reason);
    Prune, |Prune, tracker| tracker.prune();
    Status, |Status, tracker| tracker.status();
    Swap, |Swap { store, policy }, tracker| tracker.swap(store, policy);
}
