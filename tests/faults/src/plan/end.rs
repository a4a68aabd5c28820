//! After the faults: everything comes to rest, and what is left is evidence.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chatfn_proto::{
    ingest::v1::{
        Attempt, Delivery, DeliveryState, ListDeliveriesRequest, ReconcileRequest,
        delivery_service_client::DeliveryServiceClient,
    },
    invoker::v1::{FailureKind, run_report::Outcome},
};
use chatfn_rpc::Client;

use super::Run;
use crate::{
    cluster::ACCOUNTS,
    history::{Answer, End, Final, History, Micros, Past},
    load::MARK,
};

/// How long acknowledged events may take to their outcomes, once the faults are over.
pub const SETTLE: Duration = Duration::from_secs(60);

impl Run {
    /// Ends the faults and the load, waits for outcomes for at most `settle`, and gives the evidence.
    ///
    /// # Errors
    /// The evidence cannot be had.
    pub async fn end(mut self, folder: &Path, settle: Duration) -> anyhow::Result<History> {
        self.heal()?;
        self.cluster.serving().await?;
        if let Some(load) = self.load.take() {
            load.stop().await;
        }
        let (publications, repeats) = self.publishers.records.all();
        let acknowledged: HashSet<&str> = publications
            .iter()
            .filter(|publication| publication.answer == Answer::Acknowledged)
            .map(|publication| publication.event.as_str())
            .collect();
        self.tell(&format!("faults and load are over; {} events are acknowledged", acknowledged.len()));
        let client = self.cluster.ingest[1].client()?;
        let (start, mut told) = (Instant::now(), 0);
        let finals = loop {
            let finals = self.list(&client).await?;
            let open = acknowledged
                .iter()
                .filter(|event| finals.get(**event).is_none_or(|it| is_open(&it.state)))
                .count();
            if open == 0 || start.elapsed() > settle {
                break finals;
            }
            if open != std::mem::replace(&mut told, open) {
                self.tell(&format!("{open} events have no outcome yet"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        self.aside.unaccounted = unaccounted(&client).await?;
        self.aside.stale_writes = self.cluster.database.stale_writes().await?;
        // They write their last lines.
        for process in self.cluster.processes() {
            process.kill()?;
        }
        self.cluster.ledger.read_on()?;
        self.scan(folder)?;
        self.cluster.database.stop().await?;
        let canaries =
            ACCOUNTS.map(|(account, canary)| (account.to_owned(), canary.to_owned())).into_iter().collect();
        Ok(History {
            publications,
            repeats,
            finals: finals.into_values().collect(),
            effects: std::mem::take(&mut self.cluster.ledger.effects),
            canaries,
            aside: std::mem::take(&mut self.aside),
        })
    }

    async fn list(&mut self, client: &Client) -> anyhow::Result<HashMap<String, Final>> {
        let mut deliveries = DeliveryServiceClient::new(client.clone());
        let mut finals = HashMap::new();
        for (account, _) in ACCOUNTS {
            let mut request = ListDeliveriesRequest {
                parent: format!("accounts/{account}"),
                page_size: 200,
                include_logs: true,
                ..ListDeliveriesRequest::default()
            };
            loop {
                let page = deliveries.list_deliveries(request.clone()).await.context("ListDeliveries")?;
                let page = page.into_inner();
                for delivery in page.deliveries {
                    if let Some(canary) = secret_in(&format!("{delivery:?}")) {
                        self.aside.leaks.push(format!("the delivery {} holds {canary}", delivery.name));
                    }
                    finals.insert(delivery.event_id.clone(), told(delivery));
                }
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
        }
        Ok(finals)
    }

    /// Looks through the logs for what must not be in them.
    fn scan(&mut self, folder: &Path) -> anyhow::Result<()> {
        let postgres = folder.join("postgres/server.log");
        let mut logs: Vec<_> =
            self.cluster.processes().iter().map(|process| process.log().to_owned()).collect();
        logs.extend(postgres.exists().then_some(postgres));
        for log in logs {
            let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
            let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(secret) = secret_in(&text) {
                self.aside.leaks.push(format!("{name} holds {secret}"));
            }
            if text.contains("panicked at") {
                self.aside.beyond_bounds.push(format!("{name} tells of a panic"));
            }
        }
        Ok(())
    }
}

/// What the service tells of an event.
fn told(delivery: Delivery) -> Final {
    let name = |state: DeliveryState| state.as_str_name().trim_start_matches("DELIVERY_STATE_").to_owned();
    let past = delivery.past_states.iter().map(|past| Past {
        state: name(past.state()),
        attempts: past.attempt_count,
        action: past.action().as_str_name().trim_start_matches("OPERATOR_ACTION_").to_owned(),
    });
    Final {
        state: name(delivery.state()),
        attempts: delivery.attempts.len().try_into().unwrap_or(u32::MAX),
        ends: delivery.attempts.iter().map(|attempt| (attempt.number, ended(attempt))).collect(),
        finished: delivery.finish_time.as_ref().map(micros),
        past: past.collect(),
        event: delivery.event_id,
    }
}

fn ended(attempt: &Attempt) -> End {
    use FailureKind::{Crashed, NotLoadable, Timeout, Unspecified};
    match attempt.report.as_ref().and_then(|report| report.outcome.as_ref()) {
        Some(Outcome::ResultJson(_)) => End::Returned,
        // A machine that is busy enough lets a lambda's time pass after all it had to do.
        Some(Outcome::Failure(it)) if matches!(it.kind(), Timeout | Crashed | NotLoadable | Unspecified) => {
            End::Lost
        }
        Some(Outcome::Failure(_)) => End::Failed,
        None => End::Lost,
    }
}

fn micros(time: &prost_types::Timestamp) -> Micros {
    time.seconds.unsigned_abs() * 1_000_000 + Micros::from(time.nanos.unsigned_abs()) / 1_000
}

fn is_open(state: &str) -> bool {
    [DeliveryState::Unspecified, DeliveryState::Pending, DeliveryState::Retrying]
        .iter()
        .any(|open| open.as_str_name().ends_with(state))
}

/// The canary or payload in a text.
fn secret_in(text: &str) -> Option<&'static str> {
    let canaries = ACCOUNTS.map(|(_, canary)| canary);
    canaries.into_iter().chain([MARK]).find(|secret| text.contains(secret))
}

async fn unaccounted(client: &Client) -> anyhow::Result<i64> {
    let mut deliveries = DeliveryServiceClient::new(client.clone());
    let mut count = 0;
    for (account, _) in ACCOUNTS {
        let mut request =
            ReconcileRequest { parent: format!("accounts/{account}"), ..ReconcileRequest::default() };
        loop {
            let page = deliveries.reconcile(request.clone()).await.context("Reconcile")?.into_inner();
            count += page.unaccounted_count;
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
    }
    Ok(count)
}
