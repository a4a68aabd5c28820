//! Clients whose conversations are halted at an event that always fails, and that then have them go on, as an operator would.

use chatfn_proto::ingest::v1::{
    Delivery, DeliveryState, GetDeliveryRequest, ResumeConversationRequest, SkipEventRequest,
};
use rand::{RngExt as _, rngs::SmallRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    PACE, Publishers, pause,
    publish::{PATIENCE, PAUSE},
};
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
                let went_on = self.go_on(&mut halted, is_resumed).await;
                for publication in &mut behind {
                    publication.held_until = Some(went_on);
                }
            }
            for publication in std::iter::once(halted).chain(behind) {
                self.records.add(publication);
            }
            pause(&stop, PACE).await;
        }
    }

    /// Has the conversation go on whenever it is halted, the first time with the event if `is_resumed` and then without it, until
    /// the event has its outcome; gives when it was first asked to go on without it.
    async fn go_on(&self, halted: &mut Publication, is_resumed: bool) -> Micros {
        let event = format!("accounts/{}/deliveries/{}", halted.account, halted.event);
        let conversation = format!("accounts/{}/conversations/{}", halted.account, halted.conversation);
        let mut asked = None;
        let start = Instant::now();
        let mut turn = 0;
        while start.elapsed() < PATIENCE {
            turn += 1;
            let mut deliveries = self.deliveries(turn);
            let delivery = deliveries.get_delivery(GetDeliveryRequest { name: event.clone() }).await.ok();
            // Whether it is done shows the next time.
            match delivery.and_then(|it| it.into_inner().delivery).as_ref().map(Delivery::state) {
                None | Some(DeliveryState::Pending | DeliveryState::Retrying) => {}
                Some(DeliveryState::Halted) if is_resumed && halted.resumes == 0 => {
                    halted.resumes += 1;
                    let (name, event_id) = (conversation.clone(), halted.event.clone());
                    let _ =
                        deliveries.resume_conversation(ResumeConversationRequest { name, event_id }).await;
                }
                Some(DeliveryState::Halted) => {
                    asked.get_or_insert_with(now);
                    let _ = deliveries.skip_event(SkipEventRequest { name: event.clone() }).await;
                }
                Some(_) => break,
            }
            tokio::time::sleep(PAUSE * 2).await;
        }
        asked.unwrap_or_else(now)
    }
}
