//! What operators ask of a lane's owner.

use std::sync::Arc;

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use tokio::sync::oneshot;

use super::{
    super::{journal::Record, queue::ConversationKey},
    Lane,
    read::or_pause,
};
use crate::metrics::Intervened;
use crate::store::interventions::{self, Action, Asked};

/// Interventions that are done together.
const TOGETHER: i64 = 64;
/// Statements that find them: one, and one for each of them at most, if all are of days far apart.
const STATEMENTS: u32 = 1 + TOGETHER as u32;

/// Something asked for that is about to be done.
pub(super) struct Doing {
    action: Action,
    conversation: ConversationKey,
    sequence: i64,
}

/// How far asking is.
pub(super) enum Step {
    /// What is asked for was read.
    Read(Result<Vec<Asked>, sqlx::Error>),
    /// It is durable.
    Durable(Vec<Doing>),
}

impl Lane {
    /// Reads what is asked for, if anything may be.
    pub(super) fn look_for_interventions(&mut self) -> Option<BoxFuture<'static, Step>> {
        if !std::mem::take(&mut self.may_be_asked) {
            return None;
        }
        let (reads, lane, read_to) = (self.shared.reads.clone(), self.lease.lane(), self.queue.read_to());
        let read = async move {
            let pending = interventions::pending(reads.pool(), lane, read_to, TOGETHER);
            Step::Read(or_pause(reads.ask_all(STATEMENTS, pending)).await)
        };
        Some(read.boxed())
    }

    /// Goes on; gives what is to be waited for next.
    pub(super) async fn intervene(&mut self, step: Step) -> Option<BoxFuture<'static, Step>> {
        match step {
            Step::Read(Ok(asked)) => {
                self.is_failing = false;
                self.begin(asked).await
            }
            Step::Read(Err(error)) => {
                self.may_be_asked = true;
                self.read_failed(&error);
                None
            }
            Step::Durable(done) => {
                // There may be more.
                self.may_be_asked = true;
                for Doing { action, conversation, sequence } in done {
                    match action {
                        // Unless it was read with what else was recorded, and has ended already.
                        Action::Replay if self.reopening.remove(&sequence) => {
                            self.queue.reopen(&conversation, sequence);
                        }
                        Action::Replay => {}
                        Action::Resume => self.queue.resume(&conversation, sequence),
                        Action::Skip => {}
                    }
                    self.shared.metrics.intervened(match action {
                        Action::Replay => Intervened::Replay,
                        Action::Resume => Intervened::Resume,
                        Action::Skip => Intervened::Skip,
                    });
                }
                None
            }
        }
    }

    async fn begin(&mut self, asked: Vec<Asked>) -> Option<BoxFuture<'static, Step>> {
        let (mut doing, mut durable) = (Vec::new(), Vec::new());
        for Asked { sequence, wanted } in asked {
            if sequence > self.queue.read_to() {
                // The queue does not know yet what is before it. Looked for again when there was more to read.
                self.is_asked_ahead = true;
                continue;
            }
            let is_wanted = wanted.is_some();
            if let Some((action, account, conversation_id)) = wanted {
                let conversation = Arc::new((account, conversation_id));
                if action != Action::Replay && !self.queue.is_halted_at(&conversation, sequence) {
                    continue;
                }
                if action == Action::Skip {
                    // Before it is recorded, as with every outcome: the cursor that is recorded with it must count on what
                    // comes after the event, which its row in `parked` covers no longer.
                    self.queue.finished(&conversation, sequence);
                }
                if action == Action::Replay {
                    self.reopening.insert(sequence);
                }
                doing.push(Doing { action, conversation, sequence });
            }
            let (sender, receiver) = oneshot::channel();
            self.record(sequence, Record::Intervene { is_wanted, durable: sender }).await;
            durable.push(receiver);
        }
        if durable.is_empty() {
            return None;
        }
        let lost = self.lease.clone();
        let wait = async move {
            if join_all(durable).await.iter().any(Result::is_err) {
                // Not recorded: the lease is lost, which ends this future.
                lost.lost().await;
                return std::future::pending().await;
            }
            Step::Durable(doing)
        };
        Some(wait.boxed())
    }
}
