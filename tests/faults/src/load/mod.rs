//! Clients that publish, whatever happens, and write down what they are told.

mod publish;
mod records;

use std::{sync::Arc, time::Duration};

use chatfn_proto::ingest::v1::{
    CreateReplayRequest, DeliveryState, Replay, ReplayFilter,
    event_ingest_service_client::EventIngestServiceClient, replay_service_client::ReplayServiceClient,
};
use chatfn_rpc::Client;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::records::Records;
use crate::{
    cluster::{ACCOUNTS, POISON, WORK},
    history::{Kind, Micros, Publication, now},
};

/// Clients that publish one event after the other.
const PRODUCERS: usize = 8;
/// Pause of such a client between events, at most.
const PACE: Duration = Duration::from_millis(200);
/// Conversations of each.
const CONVERSATIONS: u32 = 12;

/// How the part of a payload begins that must be in no log.
pub const MARK: &str = "mark-5d2e";

/// What publishing needs. Cheap to clone.
#[derive(Clone)]
pub struct Publishers {
    clients: Vec<EventIngestServiceClient<Client>>,
    replays: ReplayServiceClient<Client>,
    /// What was published.
    pub records: Arc<Records>,
    /// Sets the ids of this run apart.
    run: u64,
}

/// The load. It ends when it is stopped.
pub struct Load {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Publishers {
    /// Publishes by way of these clients.
    pub fn new(clients: Vec<Client>, records: Arc<Records>, run: u64) -> Self {
        let replays = ReplayServiceClient::new(clients[0].clone());
        let clients = clients.into_iter().map(EventIngestServiceClient::new).collect();
        Self { clients, replays, records, run }
    }

    /// Begins to publish.
    pub fn start(&self, seed: u64) -> Load {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let rng = move |number: u64| SmallRng::seed_from_u64(seed ^ (number << 32));
        for number in 0..PRODUCERS {
            let producer = Producer::new(self.clone(), number, rng(number as u64));
            let stop = stop.clone();
            tasks.spawn(async move { producer.run(stop).await });
        }
        let jobs = (self.clone(), self.clone(), self.clone());
        let stops = (stop.clone(), stop.clone(), stop.clone());
        tasks.spawn(async move { jobs.0.together(rng(100), stops.0).await });
        tasks.spawn(async move { jobs.1.with_malformed(rng(101), stops.1).await });
        tasks.spawn(async move { jobs.2.replayed(stops.2).await });
        Load { stop, tasks }
    }

    /// An event that nobody has published yet.
    pub fn new_publication(
        &self,
        account: &str,
        (conversation, kind, max_attempts): (&str, Kind, u32),
    ) -> Publication {
        let number = self.records.next();
        Publication {
            account: account.to_owned(),
            event: format!("e{:x}-{number}", self.run),
            conversation: format!("c{:x}-{conversation}", self.run),
            kind,
            mark: format!("{MARK}-{number}"),
            max_attempts,
            deliver_by: None,
            replays: 0,
            sent: 0,
            answered: 0,
            answer: crate::history::Answer::Unknown,
        }
    }

    /// Publishes events each in a conversation of its own, hence over all lanes; gives their ids once all are
    /// acknowledged.
    pub async fn probes(&self, count: usize) -> Vec<String> {
        let mut probes = JoinSet::new();
        for number in 0..count {
            let (account, _) = ACCOUNTS[number % ACCOUNTS.len()];
            let conversation = format!("probe-{}", self.records.next());
            let probe = self.new_publication(account, (&conversation, Kind::Good, WORK.1));
            let publishers = self.clone();
            probes.spawn(async move {
                let event = probe.event.clone();
                publishers.publish(probe).await;
                event
            });
        }
        probes.join_all().await
    }

    /// Publishes three events of a conversation at once, over and over: either may come first.
    async fn together(self, mut rng: SmallRng, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let conversation = format!("together-{}", rng.random_range(0..6));
            let mut on_their_way = JoinSet::new();
            for _ in 0..3 {
                let event = self.new_publication(ACCOUNTS[0].0, (&conversation, Kind::Good, WORK.1));
                let publishers = self.clone();
                on_their_way.spawn(async move { publishers.publish(event).await });
            }
            on_their_way.join_all().await;
            pause(&stop, PACE * 2).await;
        }
    }

    /// Publishes batches in which some events are malformed.
    async fn with_malformed(self, mut rng: SmallRng, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let account = ACCOUNTS[rng.random_range(0..ACCOUNTS.len())].0;
            let kinds = [Kind::Good, Kind::Malformed, Kind::Malformed, Kind::Good, Kind::Malformed];
            let batch = kinds.map(|kind| {
                let conversation = format!("batch-{}", self.records.next());
                self.new_publication(account, (&conversation, kind, WORK.1))
            });
            self.publish_batch(batch.into(), rng.random_range(0..5)).await;
            pause(&stop, Duration::from_secs(1)).await;
        }
    }

    /// Publishes events that it then asks to be replayed, twice at the same time.
    async fn replayed(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let conversation = format!("replayed-{}", self.records.next());
            let mut event = self.new_publication(ACCOUNTS[1].0, (&conversation, Kind::Good, WORK.1));
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
            let (mut one, mut two) = (self.replays.clone(), self.replays.clone());
            // Whether they are made or not: the effect has the same key.
            let _ = tokio::join!(one.create_replay(request.clone()), two.create_replay(request));
            pause(&stop, Duration::from_millis(500)).await;
        }
    }
}

impl Load {
    /// Publishes nothing new, and returns when all that was begun has its answer.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// A client that publishes one event after the other, so that the order is known.
struct Producer {
    publishers: Publishers,
    number: usize,
    rng: SmallRng,
}

impl Producer {
    fn new(publishers: Publishers, number: usize, rng: SmallRng) -> Self {
        Self { publishers, number, rng }
    }

    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let event = self.next();
            let event = self.publishers.publish(event).await;
            match self.rng.random_range(0..100) {
                0..4 => self.publishers.publish_again(&event).await,
                4..6 => self.publishers.publish_other(&event).await,
                _ => {}
            }
            pause(&stop, PACE.mul_f64(self.rng.random())).await;
        }
    }

    fn next(&mut self) -> Publication {
        let (account, _) = ACCOUNTS[self.number % ACCOUNTS.len()];
        let conversation = format!("{}-{}", self.number, self.rng.random_range(0..CONVERSATIONS));
        // A conversation has events of one template, and a quarter of them of the one that allows few attempts.
        let is_work = !conversation.ends_with(['0', '4', '8']);
        let (_, max_attempts) = if is_work { WORK } else { POISON };
        let kind = match (is_work, self.rng.random_range(0..100)) {
            (true, 0..3) => Kind::Flaky,
            (true, 3..6) => Kind::Slow,
            (false, 0..4) => Kind::Poison,
            _ => Kind::Good,
        };
        let mut event = self.publishers.new_publication(account, (&conversation, kind, max_attempts));
        if is_work && self.rng.random_range(0..100) < 4 {
            event.deliver_by = Some(now() + self.rng.random_range(500..4_000) * 1_000 as Micros);
        }
        event
    }
}

async fn pause(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
