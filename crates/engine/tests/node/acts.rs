//! What a node and its store do: events go to the real engine, its commands to a store that is the real table.

use super::*;

impl Nodes {
    pub(super) fn track(&self, caller: usize) -> Track {
        let stranger = self.stranger && caller == 1;
        let fingerprint = Fingerprint::from_parts(Scheme::RAW, [stranger.into(); 32]);
        let mut claim = Claim::new(ID, Owner::from_u128(caller as u128 + 1), fingerprint);
        (claim.lease, claim.retention) = (LEASE, RETENTION);
        let on_concurrent = if self.waits && caller == 1 {
            OnConcurrent::Wait { at_most: Duration::from_secs(2) }
        } else {
            OnConcurrent::Conflict
        };
        let work_limit = Duration::from_secs(4);
        Track { work_limit, on_orphan: self.on_orphan, on_concurrent, ..Track::new(claim) }
    }

    pub(super) fn tell(&self, world: &mut World, node: usize, event: Event) {
        let mut commands = Vec::new();
        world.engines[node].handle(at(world.now), event, &mut commands);
        for command in commands {
            match command {
                Command::Call { command, .. } => {
                    let sent = match command {
                        StoreCommand::Insert(claim) => Sent::Insert(Arc::unwrap_or_clone(claim)),
                        StoreCommand::Update(update) => Sent::Update(Arc::unwrap_or_clone(update)),
                        StoreCommand::Lookup(_) | StoreCommand::Watch(_) => Sent::Lookup,
                        other => unreachable!("{other:?}"),
                    };
                    if world.calls[node].replace(sent).is_some() {
                        world.wrong = Some("two calls of one key at once");
                    }
                }
                Command::Answer(Caller(caller), answer) => self.answered(world, caller as usize, answer),
                Command::Dismiss(Caller(caller)) => {
                    if world.askers[caller as usize] != Asker::Gone {
                        world.wrong = Some("a caller was dismissed that had not gone");
                    }
                    world.askers[caller as usize] = Asker::Over;
                }
                // Somebody asks the outside world, under a permit as any other.
                Command::Resolve { caller: Caller(caller), permit } => {
                    self.taken_over.store(true, Ordering::Relaxed);
                    world.monitor.init();
                    world.resolving[caller as usize] = Some(permit.claim.owner);
                }
                Command::Held { .. }
                | Command::Lost { .. }
                | Command::Ended { .. }
                | Command::Settled { .. }
                | Command::BodyLetGo { .. }
                | Command::Happened(..) => {}
            }
        }
    }

    fn answered(&self, world: &mut World, caller: usize, answer: Answer) {
        // The shutdown's own answer.
        let Some(asker) = world.askers.get(caller).copied() else { return };
        world.askers[caller] = match (asker, answer) {
            (Asker::Waiting, Answer::Tracked(Ok(tracked))) => match tracked {
                Tracked::Init(granted) => {
                    self.taken_over.fetch_or(granted.claim.takes_over.is_some(), Ordering::Relaxed);
                    world.monitor.init();
                    Asker::Holding(granted.claim.owner)
                }
                Tracked::Cached { response, expires_at, .. } => {
                    if expires_at <= at(world.now) {
                        world.wrong = Some("an expired response was replayed");
                    }
                    if self.stranger && caller == 1 && response.bytes().is_some_and(|bytes| bytes != body(2))
                    {
                        world.wrong = Some("another payload was answered with a replay");
                    }
                    Asker::Over
                }
                _ => Asker::Over,
            },
            (Asker::Waiting | Asker::Gone, Answer::Tracked(_)) => Asker::Over,
            (Asker::Settling, Answer::Settled(_)) => Asker::Over,
            (other, _) => {
                world.wrong = Some("an answer to somebody who did not wait for it");
                other
            }
        };
    }

    /// The store carries a command out: the real table.
    pub(super) fn apply(&self, world: &mut World, sent: &Sent) -> StoreReply {
        let now = at(world.now);
        let before = world.record.clone();
        match sent {
            Sent::Lookup => StoreReply::Found(before.filter(|record| !record.is_expired(now)).map(Box::new)),
            Sent::Insert(claim) => {
                let step = Record::on_insert(before.as_ref(), claim, now);
                let may_rerun = self.on_orphan != OnOrphan::Halt;
                let takes_over = claim.takes_over.is_some();
                let who = number(claim.owner);
                world.monitor.inserted(who, takes_over, may_rerun, before.as_ref(), &step.answer, now);
                write(world, step.write);
                StoreReply::Inserted(step.answer)
            }
            Sent::Update(update) => {
                let step = Record::on_update(before.as_ref(), update, now);
                world.ended |= step.write != Write::Keep && !matches!(update.change, Change::Renew { .. });
                write(world, step.write);
                let after = world.record.as_ref();
                let who = number(update.owner);
                world.monitor.updated(who, &update.change, before.as_ref(), after, step.answer, now);
                StoreReply::Updated(step.answer)
            }
        }
    }

    pub(super) fn settle(&self, world: &mut World, caller: usize, change: Change, waits: bool) {
        let Asker::Holding(owner) = world.askers[caller] else { return };
        world.askers[caller] = if waits { Asker::Settling } else { Asker::Over };
        let caller_waits = waits.then_some(Caller(caller as u64));
        let event = Event::Settle { update: Update::new(ID, owner, change).into(), caller: caller_waits };
        self.tell(world, self.callers[caller], event);
    }

    /// A resolver settles what it took over.
    pub(super) fn resolved(&self, world: &mut World, caller: usize, change: Change) {
        let Some(owner) = world.resolving[caller].take() else { return };
        if change == Change::Release {
            // It knows that nothing was done: whoever works next works for the first time.
            world.monitor.never_begun();
        }
        let update = Update::new(ID, owner, change).into();
        self.tell(world, self.callers[caller], Event::Settle { update, caller: None });
    }

    pub(super) fn crash(&self, world: &mut World, node: usize) {
        world.ends += 1;
        world.engines[node] = Engine::new(config(), at(world.now), 0);
        world.late.extend(world.calls[node].take());
        for caller in (0..world.askers.len()).filter(|caller| self.callers[*caller] == node) {
            if let Asker::Holding(owner) = world.askers[caller] {
                world.monitor.holder_died(number(owner));
            }
            if let Some(owner) = world.resolving[caller].take() {
                world.monitor.holder_died(number(owner));
            }
            if world.askers[caller] != Asker::Idle {
                world.askers[caller] = Asker::Over;
            }
        }
    }

    /// Answered by its repetition, of which the engine hears.
    pub(super) fn serve_again(&self, world: &mut World, node: usize, sent: &Sent) {
        self.tell(world, node, Event::Resent { id: ID });
        let reply = self.apply(world, sent);
        self.reply(world, node, Ok(reply));
    }

    pub(super) fn reply(&self, world: &mut World, node: usize, reply: Result<StoreReply, StoreError>) {
        self.tell(world, node, Event::Replied { call: Call::Lane(ID), reply });
    }
}

fn write(world: &mut World, write: Write) {
    match write {
        Write::Keep => {}
        Write::Put(record) => world.record = Some(record),
        Write::Delete => world.record = None,
    }
}

pub(super) fn lost() -> StoreError {
    StoreError::new(StoreErrorKind::TimedOut, "no answer")
}
