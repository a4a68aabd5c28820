//! Clients each of which does one thing over and over.

use std::{collections::VecDeque, iter, time::Duration};

use chatfn_proto::ingest::v1::{CreateReplayRequest, DeliveryState, Replay, ReplayFilter};
use rand::{RngExt as _, rngs::SmallRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{PACE, Publishers, pause};
use crate::{
    cluster::ACCOUNTS,
    history::{Kind, Template},
};

/// Conversations that are published in again though their template has fired: those of the last half minute.
const FIRED: usize = 50;

impl Publishers {
    /// Publishes three events of a conversation at once, over and over: either may come first.
    pub(super) async fn together(self, mut rng: SmallRng, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let conversation = format!("together-{}", rng.random_range(0..6));
            let mut on_their_way = JoinSet::new();
            for _ in 0..3 {
                let event = self.new_publication(ACCOUNTS[0].0, &conversation, (Template::Work, Kind::Good));
                let publishers = self.clone();
                on_their_way.spawn(async move { publishers.publish(event).await });
            }
            on_their_way.join_all().await;
            pause(&stop, PACE * 2).await;
        }
    }

    /// Publishes events of conversations whose template fires once: three at once in a new one, and one in another that has had it.
    pub(super) async fn firing_once(self, mut rng: SmallRng, stop: CancellationToken) {
        let mut earlier: VecDeque<(&str, String)> = VecDeque::new();
        while !stop.is_cancelled() {
            let account = ACCOUNTS[rng.random_range(0..ACCOUNTS.len())].0;
            let conversation = (account, format!("once-{}", self.records.next()));
            let again = earlier.get(rng.random_range(0..FIRED)).cloned();
            let mut on_their_way = JoinSet::new();
            for (account, conversation) in iter::repeat_n(conversation.clone(), 3).chain(again) {
                let event = self.new_publication(account, &conversation, (Template::Once, Kind::Good));
                let publishers = self.clone();
                on_their_way.spawn(async move { publishers.publish(event).await });
            }
            on_their_way.join_all().await;
            earlier.push_back(conversation);
            if earlier.len() > FIRED {
                earlier.pop_front();
            }
            pause(&stop, PACE * 2).await;
        }
    }

    /// Publishes batches in which some events are malformed.
    pub(super) async fn with_malformed(self, mut rng: SmallRng, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let account = ACCOUNTS[rng.random_range(0..ACCOUNTS.len())].0;
            let kinds = [Kind::Good, Kind::Malformed, Kind::Malformed, Kind::Good, Kind::Malformed];
            let batch = kinds.map(|kind| {
                let conversation = format!("batch-{}", self.records.next());
                self.new_publication(account, &conversation, (Template::Work, kind))
            });
            self.publish_batch(batch.into(), rng.random_range(0..5)).await;
            pause(&stop, Duration::from_secs(1)).await;
        }
    }

    /// Publishes events that it then asks to be replayed, twice at the same time.
    pub(super) async fn replayed(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let conversation = format!("replayed-{}", self.records.next());
            let mut event = self.new_publication(ACCOUNTS[1].0, &conversation, (Template::Work, Kind::Good));
            event.replays = 2;
            let (parent, conversation_id) =
                (format!("accounts/{}", event.account), event.conversation.clone());
            self.publish(event).await;
            pause(&stop, Duration::from_millis(500)).await;
            let filter = ReplayFilter {
                states: vec![DeliveryState::Succeeded.into()],
                conversation_id,
                ..ReplayFilter::default()
            };
            let replay = Replay { filter: Some(filter), ..Replay::default() };
            let request =
                CreateReplayRequest { parent, replay: Some(replay), ..CreateReplayRequest::default() };
            let (mut one, mut two) = (self.replays(0), self.replays(0));
            // Whether they are made or not: the effect has the same key.
            let _ = tokio::join!(one.create_replay(request.clone()), two.create_replay(request));
            pause(&stop, Duration::from_millis(500)).await;
        }
    }
}
