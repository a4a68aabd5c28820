//! Clients whose conversations are halted at an event that always fails, and that then have them go on, as an operator would.

use chatfn_proto::ingest::v1::{
    Delivery, DeliveryState, GetDeliveryRequest, OperatorAction, ResumeConversationRequest, SkipEventRequest,
};
use rand::{RngExt as _, rngs::SmallRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{PACE, Publishers, pause, publish::PAUSE};
use crate::{
    cluster::ACCOUNTS,
    history::{Answer, Kind, Publication, Template, now},
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
            // Of one of which nobody knows, too: it may have been recorded.
            if !matches!(halted.answer, Answer::Refused(_)) {
                let start = Instant::now();
                let is_resumed = rng.random_range(0..3) == 0;
                self.until_over(&mut halted, u32::from(is_resumed), start).await;
                for publication in &mut behind {
                    publication.held_until = halted.skipped;
                    // It fails only by faults, until there are none.
                    self.until_over(publication, u32::MAX, start).await;
                }
            }
            for publication in std::iter::once(halted).chain(behind) {
                self.records.add(publication);
            }
            pause(&stop, PACE).await;
        }
    }

    /// Has the conversation go on whenever it is halted at the event, at first with it, so many times, and then without it, until it
    /// has its outcome. Gives up when the patience that began at `start` is over.
    async fn until_over(&self, publication: &mut Publication, most_resumes: u32, start: Instant) {
        let Publication { account, conversation, event, .. } = &*publication;
        let delivery = format!("accounts/{account}/deliveries/{event}");
        let resume = ResumeConversationRequest {
            name: format!("accounts/{account}/conversations/{conversation}"),
            event_id: event.clone(),
        };
        // Resumptions that there had been when one more was promised.
        let mut promised = None;
        let mut turn = 0;
        while start.elapsed() < self.patience {
            turn += 1;
            let mut deliveries = self.deliveries(turn);
            let found = match deliveries.get_delivery(GetDeliveryRequest { name: delivery.clone() }).await {
                // It was never recorded, or is lost.
                Err(status) if status.code() == Code::NotFound => break,
                answer => answer.ok().and_then(|it| it.into_inner().delivery),
            };
            let resumed = found.as_ref().map(resumptions);
            // Whether what is asked for is done shows the next time.
            match found.map(|it| it.state()) {
                None | Some(DeliveryState::Pending | DeliveryState::Retrying) => {}
                Some(DeliveryState::Halted) if publication.resumes < most_resumes => {
                    // Asked once more before that is done, it might be resumed twice.
                    if promised != resumed {
                        let answer = deliveries.resume_conversation(resume.clone()).await;
                        if answer.is_ok() {
                            publication.told_resumed = true;
                            promised = resumed;
                        }
                        if !answer.is_err_and(|status| is_refused(&status)) {
                            publication.resumes += 1;
                        }
                    }
                }
                Some(DeliveryState::Halted) => {
                    let asked = now();
                    let answer = deliveries.skip_event(SkipEventRequest { name: delivery.clone() }).await;
                    publication.told_skipped |= answer.is_ok();
                    // While it is to be resumed it is not to be skipped.
                    if !answer.is_err_and(|status| is_refused(&status)) {
                        publication.skipped.get_or_insert(asked);
                    }
                }
                Some(_) => break,
            }
            tokio::time::sleep(PAUSE * 2).await;
        }
    }
}

/// How often it has been resumed.
fn resumptions(delivery: &Delivery) -> usize {
    delivery.past_states.iter().filter(|past| past.action() == OperatorAction::Resume).count()
}

/// Whether it is certain that what was asked for is not done.
fn is_refused(status: &Status) -> bool {
    matches!(status.code(), Code::Aborted | Code::FailedPrecondition)
}
