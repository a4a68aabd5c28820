//! What waits for one committer: a queue per account, served in turn.

use std::collections::{HashMap, VecDeque};

use chatfn_domain::name::AccountId;

use crate::event::NewEvent;

/// Bytes that an account may send whenever its turn comes (deficit round robin): large enough that one turn
/// is several usual events, small enough that many accounts get into one transaction.
const TURN_BYTES: usize = 16 * 1024;

/// Something that waits.
pub(super) trait Waits {
    /// The event to record.
    fn event(&self) -> &NewEvent;
}

/// Serves accounts in turn, byte for byte, and each account's events in their order.
#[derive(Debug)]
pub(super) struct Line<W> {
    accounts: HashMap<AccountId, Backlog<W>>,
    /// Who has something waiting, in the order of turns.
    turns: VecDeque<AccountId>,
}

#[derive(Debug)]
struct Backlog<W> {
    waiting: VecDeque<W>,
    /// Bytes that it may still send in this turn.
    credit: usize,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { accounts: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<W: Waits> Line<W> {
    pub(super) fn push(&mut self, waiting: W) {
        let account = &waiting.event().account;
        if let Some(backlog) = self.accounts.get_mut(account) {
            backlog.waiting.push_back(waiting);
            return;
        }
        let account = account.clone();
        self.turns.push_back(account.clone());
        self.accounts.insert(account, Backlog { waiting: VecDeque::from([waiting]), credit: TURN_BYTES });
    }

    /// Whose turn it is, one event further.
    pub(super) fn pop(&mut self) -> Option<W> {
        loop {
            let account = self.turns.front()?;
            let Some(backlog) = self.accounts.get_mut(account) else {
                self.turns.pop_front();
                continue;
            };
            let size = backlog.waiting.front().map_or(0, |waiting| waiting.event().size());
            if size > backlog.credit {
                // A large event saves up over several turns.
                backlog.credit += TURN_BYTES;
                self.turns.rotate_left(1);
                continue;
            }
            backlog.credit -= size;
            let next = backlog.waiting.pop_front();
            if backlog.waiting.is_empty() {
                // Credit is not kept while nothing waits: it would be a burst at the others' cost.
                self.accounts.remove(account);
                self.turns.pop_front();
            }
            return next;
        }
    }

    /// Takes out all that `of` is true for, in the order in which each account's came. Turns stay as they are.
    pub(super) fn take(&mut self, of: impl Fn(&NewEvent) -> bool) -> Vec<W> {
        let mut taken = Vec::new();
        for backlog in self.accounts.values_mut() {
            let (those, others) = std::mem::take(&mut backlog.waiting)
                .into_iter()
                .partition::<VecDeque<W>, _>(|it| of(it.event()));
            taken.extend(those);
            backlog.waiting = others;
        }
        self.accounts.retain(|_, backlog| !backlog.waiting.is_empty());
        self.turns.retain(|account| self.accounts.contains_key(account));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::new_event;

    impl Waits for NewEvent {
        fn event(&self) -> &NewEvent {
            self
        }
    }

    fn event(account: &str, id: usize, payload: usize) -> NewEvent {
        new_event(account, &id.to_string(), vec![b' '; payload])
    }

    fn pops(line: &mut Line<NewEvent>, count: usize) -> Vec<NewEvent> {
        (0..count).map_while(|_| line.pop()).collect()
    }

    fn of<'a>(events: &'a [NewEvent], account: &str) -> Vec<&'a NewEvent> {
        events.iter().filter(|event| event.account.as_str() == account).collect()
    }

    #[test]
    fn a_flood_does_not_come_before_those_who_come_later() {
        let mut line = Line::default();
        (0..2000).for_each(|n| line.push(event("flood", n, 500)));
        (0..10).for_each(|n| line.push(event("a", n, 500)));
        (0..10).for_each(|n| line.push(event("b", n, 500)));
        let batch = pops(&mut line, 64);
        assert_eq!((of(&batch, "a").len(), of(&batch, "b").len()), (10, 10));
        assert_eq!(pops(&mut line, 5000).len(), 2020 - 64, "everything comes");
    }

    #[test]
    fn shares_are_of_bytes_not_of_events() {
        let mut line = Line::default();
        (0..2000).for_each(|n| line.push(event("small", n, 500)));
        (0..100).for_each(|n| line.push(event("large", n, 100_000)));
        let batch = pops(&mut line, 1000);
        let bytes = |account| of(&batch, account).iter().map(|event| event.size()).sum::<usize>();
        let (small, large) = (bytes("small"), bytes("large"));
        assert!(small.abs_diff(large) <= 2 * 100_512, "{small} and {large} bytes");
    }

    #[test]
    fn what_is_taken_out_leaves_turns_to_the_others() {
        let mut line = Line::default();
        (0..100).for_each(|n| line.push(event(["a", "b", "c"][n % 3], n, 500)));
        let ids = |events: &[NewEvent]| events.iter().map(|it| it.event_id.to_string()).collect::<Vec<_>>();
        let taken = line.take(|event| event.account.as_str() == "b" || event.event_id.as_str() == "99");
        assert_eq!(taken.len(), 34);
        assert!(ids(&taken).contains(&"99".to_owned()));
        line.push(event("b", 100, 500));
        let left = pops(&mut line, 1000);
        assert_eq!((of(&left, "a").len(), of(&left, "b").len(), of(&left, "c").len()), (33, 1, 33));
        assert!(line.accounts.is_empty() && line.turns.is_empty(), "nothing is left behind");
    }

    #[test]
    fn an_account_keeps_its_order() {
        let mut line = Line::default();
        (0..100).for_each(|n| line.push(event(if n % 3 == 0 { "a" } else { "b" }, n, n * 1000)));
        let all = pops(&mut line, 1000);
        for account in ["a", "b"] {
            let ids: Vec<usize> =
                of(&all, account).iter().map(|event| event.event_id.as_str().parse().unwrap()).collect();
            assert!(ids.is_sorted(), "{ids:?}");
        }
        assert_eq!(all.len(), 100);
        assert!(line.accounts.is_empty() && line.turns.is_empty(), "nothing is left behind");
    }
}
