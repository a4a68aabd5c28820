//! Clients that publish, whatever happens, and write down what they are told.

mod halts;
mod jobs;
mod publish;
mod records;
mod streams;

use std::{sync::Arc, time::Duration};

use chatfn_proto::ingest::v1::{
    delivery_service_client::DeliveryServiceClient, event_ingest_service_client::EventIngestServiceClient,
    replay_service_client::ReplayServiceClient,
};
use chatfn_rpc::Client;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::records::Records;
use crate::{
    cluster::ACCOUNTS,
    history::{Answer, Kind, Micros, Publication, Template, now},
};

/// Clients that publish one event after the other.
const PRODUCERS: usize = 8;
/// Clients that publish over streams.
const STREAMS: usize = 2;
/// Clients whose conversations are halted, and that have them go on.
const OPERATORS: usize = 2;
/// Pause of a client between events, at most.
const PACE: Duration = Duration::from_millis(200);
/// Conversations of each.
const CONVERSATIONS: u32 = 12;

/// How the part of a payload begins that must be in no log.
pub const MARK: &str = "mark-5d2e";

/// What publishing needs. Cheap to clone.
#[derive(Clone)]
pub struct Publishers {
    /// One for each replica.
    clients: Vec<Client>,
    /// What was published.
    pub records: Arc<Records>,
    /// Sets the ids of this run apart.
    run: u64,
    /// How long a client tries before it gives up not knowing.
    patience: Duration,
}

/// The load. It ends when it is stopped.
pub struct Load {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Publishers {
    /// Publishes by way of these clients, which try for so long.
    pub fn new(clients: Vec<Client>, records: Arc<Records>, run: u64, patience: Duration) -> Self {
        Self { clients, records, run, patience }
    }

    /// Replicas take turns.
    fn client(&self, turn: usize) -> Client {
        self.clients[turn % self.clients.len()].clone()
    }

    fn ingest(&self, turn: usize) -> EventIngestServiceClient<Client> {
        EventIngestServiceClient::new(self.client(turn))
    }

    fn deliveries(&self, turn: usize) -> DeliveryServiceClient<Client> {
        DeliveryServiceClient::new(self.client(turn))
    }

    fn replays(&self, turn: usize) -> ReplayServiceClient<Client> {
        ReplayServiceClient::new(self.client(turn))
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
        tasks.spawn(self.clone().together(rng(100), stop.clone()));
        tasks.spawn(self.clone().with_malformed(rng(101), stop.clone()));
        tasks.spawn(self.clone().replayed(stop.clone()));
        tasks.spawn(self.clone().firing_once(rng(102), stop.clone()));
        for number in 0..STREAMS {
            tasks.spawn(self.clone().streaming(number, rng(110 + number as u64), stop.clone()));
        }
        for number in 0..OPERATORS {
            tasks.spawn(self.clone().halting(number, rng(120 + number as u64), stop.clone()));
        }
        Load { stop, tasks }
    }

    /// An event that nobody has published yet.
    pub fn new_publication(
        &self,
        account: &str,
        conversation: &str,
        (template, kind): (Template, Kind),
    ) -> Publication {
        let number = self.records.next();
        Publication {
            account: account.to_owned(),
            event: format!("e{:x}-{number}", self.run),
            conversation: format!("c{:x}-{conversation}", self.run),
            kind,
            template,
            mark: format!("{MARK}-{number}"),
            deliver_by: None,
            replays: 0,
            resumes: 0,
            told_resumed: false,
            skipped: None,
            told_skipped: false,
            held_until: None,
            streamed: None,
            sent: 0,
            answered: 0,
            answer: Answer::Unknown,
        }
    }

    /// Publishes events each in a conversation of its own, hence over all lanes; gives their ids once all are
    /// acknowledged.
    pub async fn probes(&self, count: usize) -> Vec<String> {
        let mut probes = JoinSet::new();
        for number in 0..count {
            let (account, _) = ACCOUNTS[number % ACCOUNTS.len()];
            let conversation = format!("probe-{}", self.records.next());
            let probe = self.new_publication(account, &conversation, (Template::Work, Kind::Good));
            let publishers = self.clone();
            probes.spawn(async move {
                let event = probe.event.clone();
                publishers.publish(probe).await;
                event
            });
        }
        probes.join_all().await
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
        let template = if is_work { Template::Work } else { Template::Poison };
        let kind = match (is_work, self.rng.random_range(0..100)) {
            (true, 0..3) => Kind::Flaky,
            (true, 3..6) => Kind::Slow,
            (false, 0..4) => Kind::Poison,
            _ => Kind::Good,
        };
        let mut event = self.publishers.new_publication(account, &conversation, (template, kind));
        let left: Option<Micros> = match self.rng.random_range(0..100) {
            0..4 => Some(self.rng.random_range(500..4_000)),
            // Much longer than what the checker allows an event to expire too early.
            4..6 => Some(30_000),
            _ => None,
        };
        event.deliver_by = left.filter(|_| is_work).map(|left| now() + left * 1_000);
        event
    }
}

async fn pause(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
