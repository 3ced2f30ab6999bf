//! Stores and callers that are known to be wrong: the model finds each, by the promise it breaks.

use idempotency_engine::OnOrphan;

use crate::protocol::{Fault, Protocol, counterexample, two_callers_and_everything};

#[test]
fn each_of_eight_broken_variants_is_caught_with_its_counterexample() {
    let variants = [
        (Fault::LookUpThenInsert, "I1"),
        (Fault::UnconditionalComplete, "I5"),
        (Fault::CounterAsFence, "I5"),
        (Fault::NaivePrune, "I12"),
        (Fault::ExpiryIgnoredOnRead, "I7"),
        (Fault::HaltWrittenOnLapse, "I10"),
        (Fault::ReleaseOnDrop, "I8"),
        (Fault::RepeatedClaimOfSettledIsClaimed, "I1"),
    ];
    let mut caught = 0;
    for (fault, promise) in variants {
        let on_orphan = match fault {
            // Under the other policy working again is what was asked for.
            Fault::ReleaseOnDrop => OnOrphan::Halt,
            _ => OnOrphan::Rerun,
        };
        // A row that counts its owners does not even recognise a repeated claim; that is not the fault meant here.
        let repeats = u8::from(fault != Fault::CounterAsFence);
        let model = Protocol { fault, on_orphan, repeats, operations: false, ..two_callers_and_everything() };
        let Some((broken, steps)) = counterexample(model) else { panic!("{fault:?} was not caught") };
        assert_eq!(broken, promise, "{fault:?} breaks another promise: {steps:?}");
        eprintln!("broken {fault:?} breaks {broken}: {steps:?}");
        caught += 1;
    }
    eprintln!("broken {caught} of {} variants caught", variants.len());
}
