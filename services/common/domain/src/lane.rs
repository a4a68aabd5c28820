//! On which lane a conversation runs.

use sha2::{Digest as _, Sha256};

use crate::name::{AccountId, ConversationId};

/// Number of lanes. Stored with each event, so changing it needs a migration. More replicas of
/// event-ingest than lanes are of no use.
pub const LANES: i16 = 64;

/// The lane of a conversation: the same in every process and release.
pub fn lane_of(account: &AccountId, conversation: &ConversationId) -> i16 {
    let mut hash = Sha256::new();
    hash.update(account.as_str());
    // Neither id can hold a slash.
    hash.update("/");
    hash.update(conversation.as_str());
    let hash = hash.finalize();
    (u16::from_be_bytes([hash[0], hash[1]]) % LANES as u16) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_stable_and_even() {
        let account: AccountId = "acme".parse().unwrap();
        let lane = |n: u32| lane_of(&account, &format!("conversation-{n}").parse().unwrap());
        // Stored events rely on this value.
        assert_eq!(lane(1), lane_of(&account, &"conversation-1".parse().unwrap()));
        let mut counts = [0u32; LANES as usize];
        for n in 0..64_000 {
            counts[lane(n) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
