//! Bounds the connections of each peer.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts open connections, in all and by address.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    open: Arc<Mutex<Open>>,
    max: usize,
    max_per_peer: usize,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// Counts one connection until dropped.
#[derive(Debug)]
pub(super) struct PeerSlot {
    open: Arc<Mutex<Open>>,
    peer: IpAddr,
}

impl Peers {
    pub(super) fn new(max: usize, max_per_peer: usize) -> Self {
        Self { open: Arc::default(), max, max_per_peer }
    }

    /// `None` if the peer, or everyone together, has as many connections as allowed.
    pub(super) fn admit(&self, peer: IpAddr) -> Option<PeerSlot> {
        let peer = peer.to_canonical();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = open.by_peer.get(&peer).copied().unwrap_or(0);
        if open.total >= self.max || of_peer >= self.max_per_peer {
            return None;
        }
        open.total += 1;
        open.by_peer.insert(peer, of_peer + 1);
        Some(PeerSlot { open: Arc::clone(&self.open), peer })
    }
}

impl Drop for PeerSlot {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(count) = open.by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.by_peer.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_back() {
        let peers = Peers::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = peers.admit(a).expect("free");
        let _second = peers.admit(a).expect("free");
        assert!(peers.admit(a).is_none(), "two per peer");
        let third = peers.admit(b).expect("another peer");
        assert!(peers.admit(b).is_none(), "three in all");
        drop(first);
        assert!(peers.admit(a).is_some());
        drop(third);
        assert!(
            !peers.open.lock().expect("not poisoned").by_peer.contains_key(&b),
            "no entry is left behind"
        );
    }
}
