//! Clients whose conversations are halted at an event that always fails, and that then have them go on, as an operator would.

use chatfn_proto::ingest::v1::{
    DeliveryState, GetDeliveryRequest, ResumeConversationRequest, SkipEventRequest,
};
use rand::{RngExt as _, rngs::SmallRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{PACE, Publishers, pause, publish::PAUSE};
use crate::{
    cluster::ACCOUNTS,
    history::{Answer, Kind, Micros, Publication, Template, now},
};

impl Publishers {
    /// Has one conversation after the other halted, and go on.
    pub(super) async fn halting(self, number: usize, mut rng: SmallRng, stop: CancellationToken) {
        let (account, _) = ACCOUNTS[number % ACCOUNTS.len()];
        while !stop.is_cancelled() {
            let conversation = format!("halting-{}", self.records.next());
            let new = |kind| self.new_publication(account, &conversation, (Template::Halting, kind));
            let mut halted = self.answered(new(Kind::Poison)).await;
            let mut behind = Vec::new();
            for _ in 0..2 {
                behind.push(self.answered(new(Kind::Good)).await);
            }
            if halted.answer == Answer::Acknowledged {
                let is_resumed = rng.random_range(0..3) == 0;
                let went_on = self.until_over(&mut halted, u32::from(is_resumed)).await;
                for publication in &mut behind {
                    publication.held_until = Some(went_on);
                    // It fails only by faults, until there are none.
                    self.until_over(publication, u32::MAX).await;
                }
            }
            for publication in std::iter::once(halted).chain(behind) {
                self.records.add(publication);
            }
            pause(&stop, PACE).await;
        }
    }

    /// Has the conversation go on whenever it is halted at the event, at first with it, so many times, and then without it, until it
    /// has its outcome; gives when it was first asked to go on without it.
    async fn until_over(&self, publication: &mut Publication, most_resumes: u32) -> Micros {
        let Publication { account, conversation, event, .. } = &*publication;
        let delivery = format!("accounts/{account}/deliveries/{event}");
        let resume = ResumeConversationRequest {
            name: format!("accounts/{account}/conversations/{conversation}"),
            event_id: event.clone(),
        };
        let mut asked = None;
        let start = Instant::now();
        let mut turn = 0;
        while start.elapsed() < self.patience {
            turn += 1;
            let mut deliveries = self.deliveries(turn);
            let state = match deliveries.get_delivery(GetDeliveryRequest { name: delivery.clone() }).await {
                // It was acknowledged, and is lost.
                Err(status) if status.code() == Code::NotFound => break,
                answer => answer.ok().and_then(|it| it.into_inner().delivery).map(|it| it.state()),
            };
            // Whether what is asked for is done shows the next time.
            match state {
                None | Some(DeliveryState::Pending | DeliveryState::Retrying) => {}
                Some(DeliveryState::Halted) if publication.resumes < most_resumes => {
                    publication.resumes += 1;
                    let _ = deliveries.resume_conversation(resume.clone()).await;
                }
                Some(DeliveryState::Halted) => {
                    asked.get_or_insert_with(now);
                    let _ = deliveries.skip_event(SkipEventRequest { name: delivery.clone() }).await;
                }
                Some(_) => break,
            }
            tokio::time::sleep(PAUSE * 2).await;
        }
        asked.unwrap_or_else(now)
    }
}
