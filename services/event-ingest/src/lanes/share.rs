//! How many lanes a replica should hold.

use chatfn_domain::lane::LANES;

/// What a replica does about its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Take up to this many lanes, if they are free.
    Claim(usize),
    /// Give up this many.
    GiveUp(usize),
    /// It has what it should.
    Keep,
}

/// What a replica that holds `held` lanes does when `live` replicas share them.
///
/// The share is rounded up, so that no lane is left over; the replicas that then hold one less than
/// others are content with it, so that nothing moves to and fro.
pub(super) fn change(held: usize, live: usize) -> Change {
    let lanes = LANES.unsigned_abs().into();
    let share = usize::div_ceil(lanes, live.max(1));
    match held {
        held if held < share => Change::Claim(share - held),
        held if held > share => Change::GiveUp(held - share),
        _ => Change::Keep,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::cases;

    /// Lets every replica act in turn until nothing changes; gives what each holds.
    fn settle(mut held: Vec<usize>, live: usize) -> Vec<usize> {
        for _ in 0..1000 {
            let before = held.clone();
            for index in 0..held.len() {
                let free = 64 - held.iter().sum::<usize>();
                match change(held[index], live) {
                    Change::Claim(most) => held[index] += most.min(free),
                    Change::GiveUp(extra) => held[index] -= extra,
                    Change::Keep => {}
                }
            }
            if held == before {
                return held;
            }
        }
        panic!("never settles: {held:?}");
    }

    proptest! {
        #![proptest_config(cases())]

        #[test]
        fn all_lanes_end_up_held_and_no_replica_has_too_many(start in prop::collection::vec(0usize..65, 1..100)) {
            let mut free = 64;
            let start: Vec<usize> = start.into_iter().map(|wanted| { let got = wanted.min(free); free -= got; got }).collect();
            let live = start.len();
            let held = settle(start, live);
            prop_assert_eq!(held.iter().sum::<usize>(), 64);
            prop_assert!(held.iter().all(|held| *held <= 64usize.div_ceil(live)));
        }
    }
}
