//! What is kept comes back as it was.

use idempotency_core::{Body, Digest, HaltReason, Meta, State, Store, StoredResponse, Update, Updated};

use crate::{
    StoreFactory,
    world::{World, id, owner, response_of},
};

/// A mebibyte, every byte there is, and none at all.
pub async fn i3_big_and_binary_responses_come_back_byte_for_byte<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(1024 * 1024).collect();
    let bodies: [Vec<u8>; 4] = [every_byte, Vec::new(), vec![0], b"\r\n'\";\\\xff\0".to_vec()];
    for (number, body) in (1..).zip(bodies) {
        world.claimed(&world.long_claim(number, 1)).await;
        let response = StoredResponse::new(body.clone());
        assert_eq!(
            world.update(number, 1, world.complete_for_long(response.clone())).await,
            Updated::Applied
        );
        let record = world.record(number).await;
        assert_eq!(response_of(&record).digest(), response.digest());
        assert!(response_of(&record).body() == &Body::Kept(body.into()), "number {number} has changed");
        assert!(response_of(&world.existing(&world.claim(number, 2)).await) == &response);
    }
}

/// The marker keeps the digest of what it stands for.
pub async fn i3_a_response_that_was_not_kept_says_so<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    let marker = StoredResponse::not_kept(Digest::of(b"a stream"));
    assert_eq!(world.update(1, 1, world.complete_for_long(marker.clone())).await, Updated::Applied);
    assert_eq!(response_of(&world.record(1).await), &marker);
    // Nothing kept is not the same as nothing to keep.
    assert_ne!(response_of(&world.record(1).await).body(), &Body::Kept(Vec::new().into()));
}

/// Up to a kibibyte of any bytes, which only the next owner changes.
pub async fn meta_comes_back_and_a_takeover_sets_it_anew<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    let meta = |byte: u8| Meta::new((0..=byte).cycle().take(1024).collect::<Vec<u8>>()).expect("1 KiB");
    let mut claim = world.long_claim(1, 1);
    claim.meta = meta(255);
    world.claimed(&claim).await;
    world.update(1, 1, world.renew()).await;
    assert_eq!(world.record(1).await.meta, meta(255));
    world.update(1, 1, world.halt(HaltReason::Cancelled)).await;
    assert_eq!(world.record(1).await.meta, meta(255));
    let mut next = world.takeover(1, 2, 1);
    next.meta = meta(9);
    world.claimed(&next).await;
    assert_eq!(world.record(1).await.meta, meta(9));
}

/// The reason is what a retry hears.
pub async fn every_halt_reason_comes_back<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    use HaltReason::{Cancelled, OwnerLost, Panicked, Shutdown, TimedOut, Unknown, Unresolved};
    let reasons = [Cancelled, Shutdown, Panicked, TimedOut, Unknown, Unresolved, OwnerLost];
    for (number, reason) in (1..).zip(reasons) {
        world.claimed(&world.long_claim(number, 1)).await;
        assert_eq!(world.update(number, 1, world.halt(reason)).await, Updated::Applied);
        assert_eq!(world.record(number).await.state, State::Halted(reason));
    }
}

/// The reply was lost, so it is said again.
pub async fn a_repeated_settle_after_a_lost_reply_is_known<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    for (number, change) in (1..).zip([world.complete_for_long("response"), world.halt(HaltReason::Panicked)])
    {
        world.claimed(&world.long_claim(number, 1)).await;
        assert_eq!(world.update(number, 1, change.clone()).await, Updated::Applied);
        let before = world.record(number).await;
        for _ in 0..2 {
            assert_eq!(world.update(number, 1, change.clone()).await, Updated::AlreadyApplied);
            world.unchanged(number, &before).await;
        }
    }
}

/// What a store has no room for it refuses as a whole. The claim stands, and a smaller response is taken.
pub async fn i12_a_response_past_all_limits_is_kept_whole_or_refused<F: StoreFactory>(factory: F) {
    let world = World::new(factory).await;
    world.claimed(&world.long_claim(1, 1)).await;
    let body: Vec<u8> = (0..32 << 20).map(|at: u32| (at % 251) as u8).collect();
    let update = Update::new(id(1), owner(1), world.complete_for_long(body.clone()));
    match world.store.update(&update, world.now()).await {
        Ok(answer) => {
            assert_eq!(answer, Updated::Applied);
            let record = world.record(1).await;
            match response_of(&record).bytes() {
                Some(kept) => assert!(*kept == body, "another body came back"),
                // A store in memory keeps the fact where it has no room for the body.
                None => assert_eq!(response_of(&record).digest(), Digest::of(&body)),
            }
        }
        Err(refused) => {
            assert!(refused.was_not_applied(), "{refused:?}");
            assert!(!world.record(1).await.state.is_settled());
            assert_eq!(world.update(1, 1, world.complete_for_long("smaller")).await, Updated::Applied);
        }
    }
}
