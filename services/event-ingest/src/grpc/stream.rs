//! One stream of events.
//!
//! One task reads, hands over and answers. It does not read while too much is in progress, or while the event
//! it has read last must wait, so that HTTP/2's flow control holds the client back; and it does not answer faster than
//! the client takes answers. What has been handed over is recorded whatever becomes of the stream.

use std::{panic::resume_unwind, time::Duration};

use chatfn_domain::name::AccountId;
use chatfn_proto::{
    ingest::v1::{
        Event, StreamEventsRequest, StreamEventsResponse, stream_events_response::Result as Outcome,
    },
    validate::Violations,
};
use chatfn_rpc::{ApiError, CallContext, unreadable};
use futures_util::{StreamExt as _, future::pending, stream::FuturesOrdered};
use rand::RngExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status, Streaming};

use super::publish::{acknowledgement, to_wire};
use crate::{
    committer::{Pending, Refused},
    config::StreamConfig,
    error,
    event::NewEvent,
    intake::check_account,
    metrics::IngestMetrics,
    publisher::{Call, Publisher},
};

/// How long an event may wait for its account's quota, for a look whether it was recorded, or for room in the queue, before it is refused.
const LONGEST_HOLD: Duration = Duration::from_secs(10);
/// Pause before the queue is tried again: the time of a few commits.
const QUEUE_PAUSE: Duration = Duration::from_millis(5);
/// Pause before the next look: the time of a few.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// A stream and what it needs.
pub(super) struct Session {
    pub(super) context: CallContext,
    /// Counts it.
    pub(super) call: Call,
    pub(super) requests: Streaming<StreamEventsRequest>,
    pub(super) answers: mpsc::Sender<Result<StreamEventsResponse, Status>>,
    /// Ends the call when its client does not take answers.
    pub(super) reset: CancellationToken,
    pub(super) publisher: Publisher,
    pub(super) config: StreamConfig,
    pub(super) draining: CancellationToken,
}

/// Nobody takes answers any more.
struct Gone;

/// An event that must wait. Nothing is read meanwhile.
struct Held {
    sequence: i64,
    stage: Stage,
    retry_at: Instant,
    refuse_at: Instant,
}

enum Stage {
    /// For its account's quota.
    Unpaid(AccountId, Event),
    /// For a look whether it was recorded days ago.
    Unlooked(NewEvent),
    /// For room in the queue.
    Unqueued(NewEvent),
}

impl Session {
    /// Serves the stream until either side ends it.
    pub(super) async fn run(mut self) {
        let ended = match self.serve().await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => self.tell(Err(status)).await,
            Err(Gone) => Err(Gone),
        };
        if ended.is_err() {
            tracing::debug!("a client of a stream has left, or takes no answers");
        }
    }

    /// Gives the status to end with, after all that was handed over is answered.
    async fn serve(&mut self) -> Result<Result<(), Status>, Gone> {
        let old_at = Instant::now() + self.config.max_age.mul_f64(rand::rng().random_range(0.9..1.1));
        let mut idle_at = Instant::now() + self.config.idle;
        let mut in_progress = FuturesOrdered::new();
        let mut held: Option<Box<Held>> = None;
        let mut looking: Option<Looking> = None;
        let mut end: Option<Result<(), Status>> = None;
        let mut last_sequence = 0;
        let metrics = self.publisher.metrics().clone();
        let answer = |sequence, handed_over| answer(metrics.clone(), sequence, handed_over);
        loop {
            if let Some(end) = end.take_if(|_| in_progress.is_empty()) {
                return Ok(end);
            }
            let is_reading = end.is_none();
            let may_read =
                is_reading && held.is_none() && looking.is_none() && in_progress.len() < self.config.window;
            let wake_at = held.as_ref().map_or(old_at, |held| held.retry_at.min(old_at));
            // A stream that holds an event is not idle.
            let may_idle = in_progress.is_empty() && held.is_none() && looking.is_none();
            let wake_at = if may_idle { wake_at.min(idle_at) } else { wake_at };
            let mut step = None;
            tokio::select! {
                biased;
                () = self.answers.closed() => return Err(Gone),
                Some(answer) = in_progress.next(), if !in_progress.is_empty() => {
                    self.tell(Ok(answer)).await?;
                    idle_at = Instant::now() + self.config.idle;
                    continue;
                }
                () = self.draining.cancelled(), if is_reading => {
                    // What is held was not handed over: to the client it is one of those without an answer.
                    (held, looking) = (None, None);
                    end = Some(Err(error::draining().into()));
                    continue;
                }
                looked = next(&mut looking), if looking.is_some() => {
                    looking = None;
                    match looked {
                        Some(looked) => step = Some(looked),
                        None => end = Some(Err(error::draining().into())),
                    }
                }
                () = sleep_until(wake_at), if is_reading => {}
                request = self.requests.message(), if may_read => {
                    match request {
                        Ok(Some(request)) => {
                            idle_at = Instant::now() + self.config.idle;
                            if request.client_sequence <= last_sequence {
                                end = Some(Err(error::stream_order().into()));
                                continue;
                            }
                            last_sequence = request.client_sequence;
                            match self.first_stage(request.event) {
                                Ok(stage) => held = Some(Box::new(Held::new(last_sequence, stage))),
                                Err(Refusal::Event(status)) => {
                                    in_progress.push_back(answer(last_sequence, Err(status)));
                                }
                                Err(Refusal::Stream(error)) => end = Some(Err(error.into())),
                            }
                        }
                        Ok(None) => end = Some(Ok(())),
                        // The client has left, or sent what is no request.
                        Err(status) => end = Some(Err(unreadable(status))),
                    }
                }
            }
            let now = Instant::now();
            if let Some(due) = held.take_if(|held| now >= held.retry_at) {
                step = Some((due.sequence, self.hand_over(due)));
            }
            match step {
                Some((sequence, Next::Answer(pending))) => in_progress.push_back(answer(sequence, pending)),
                Some((_, Next::Again(again))) => held = Some(again),
                Some((_, Next::Look(look))) => looking = Some(look),
                None => {}
            }
            if end.is_some() {
                // The reason to end is known.
            } else if now >= old_at {
                (held, looking) = (None, None);
                end = Some(Err(error::stream_aged().into()));
            } else if now >= idle_at && held.is_none() && looking.is_none() && in_progress.is_empty() {
                end = Some(Err(error::stream_idle().into()));
            }
        }
    }
}

/// A look at the event of that sequence, and what follows from it. A task of its own: a stream whose client takes no answers must not keep
/// others waiting for their turn.
type Looking = AbortOnDropHandle<(i64, Next)>;

/// What [`Looking`] comes to; `None`: the process ends. Never, if there is nothing. Cancel safe.
async fn next(looking: &mut Option<Looking>) -> Option<(i64, Next)> {
    match looking {
        Some(looking) => match looking.await {
            Ok(looked) => Some(looked),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(_) => None,
        },
        None => pending().await,
    }
}

/// What becomes of an event that has waited.
enum Next {
    /// It is answered, or will be.
    Answer(Result<Pending, Status>),
    /// It has to wait again.
    Again(Box<Held>),
    /// It may have been recorded days ago.
    Look(Looking),
}

/// What is refused.
enum Refusal {
    Event(Status),
    Stream(ApiError),
}

impl Held {
    /// To be handed over at once.
    fn new(sequence: i64, stage: Stage) -> Self {
        let now = Instant::now();
        Self { sequence, stage, retry_at: now, refuse_at: now + LONGEST_HOLD }
    }
}

impl Session {
    /// The first that has to be done about an event. The stream counts as a call of the account of its first event.
    fn first_stage(&mut self, event: Option<Event>) -> Result<Stage, Refusal> {
        let missing = || Refusal::Event(Violations::one("event", "is required").into());
        let event = event.ok_or_else(missing)?;
        check_account(&event, &self.context).map_err(|not_found| Refusal::Event(not_found.into()))?;
        let Ok(account) = event.account.parse::<AccountId>() else {
            // The check says what is wrong with it.
            return self.check(event).map(Stage::Unqueued).map_err(Refusal::Event);
        };
        self.call.is_of(&account).map_err(Refusal::Stream)?;
        Ok(Stage::Unpaid(account, event))
    }

    fn check(&self, event: Event) -> Result<NewEvent, Status> {
        self.publisher.check(event, &self.context)
    }

    /// Looks whether an event was recorded days ago; that may have to wait until others have looked.
    fn look(&self, sequence: i64, event: NewEvent, refuse_at: Instant) -> Looking {
        let (publisher, context) = (self.publisher.clone(), self.context.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let (event, answer) = publisher.look(vec![event], &context).await.swap_remove(0);
            let retry_at = Instant::now() + LOOK_PAUSE;
            let next = match answer {
                None => Next::Again(Box::new(Held::new(sequence, Stage::Unqueued(event)))),
                Some(Err(error)) if is_passing(&error) && retry_at < refuse_at => {
                    Next::Again(Box::new(Held {
                        sequence,
                        stage: Stage::Unlooked(event),
                        retry_at,
                        refuse_at,
                    }))
                }
                Some(answer) => Next::Answer(Ok(Pending::ready(answer))),
            };
            (sequence, next)
        }))
    }

    /// Hands an event over to be recorded, or gives what to do first.
    fn hand_over(&self, held: Box<Held>) -> Next {
        let now = Instant::now();
        let Held { sequence, stage, refuse_at, .. } = *held;
        let again = |stage, pause, error: ApiError| {
            let retry_at = now + pause;
            if retry_at < refuse_at {
                Next::Again(Box::new(Held { sequence, stage, retry_at, refuse_at }))
            } else {
                Next::Answer(Err(error.into()))
            }
        };
        let event = match stage {
            Stage::Unqueued(event) => event,
            Stage::Unlooked(event) => return Next::Look(self.look(sequence, event, refuse_at)),
            Stage::Unpaid(account, event) => match self.publisher.charge(&account, &event) {
                Err(exceeded) => {
                    let error = error::quota_exceeded(&account, exceeded);
                    return again(Stage::Unpaid(account, event), exceeded.pause, error);
                }
                Ok(()) => match self.check(event) {
                    Ok(event) if self.publisher.is_look_due(&event) => {
                        return Next::Look(self.look(sequence, event, now + LONGEST_HOLD));
                    }
                    Ok(event) => event,
                    Err(status) => return Next::Answer(Err(status)),
                },
            },
        };
        match self.publisher.submit(event, &self.context) {
            Ok(pending) => Next::Answer(Ok(pending)),
            Err(Refused { error, mut events }) => match events.pop() {
                Some(event) if is_full(&error) => again(Stage::Unqueued(event), QUEUE_PAUSE, error),
                _ => Next::Answer(Err(error.into())),
            },
        }
    }

    /// Gives the client an answer, or cuts it off when it takes none.
    async fn tell(&self, answer: Result<StreamEventsResponse, Status>) -> Result<(), Gone> {
        match timeout(self.config.stall, self.answers.send(answer)).await {
            Ok(sent) => sent.map_err(|_| Gone),
            Err(_) => {
                tracing::info!("a stream was cut off: its client took no answer for {:?}", self.config.stall);
                self.reset.cancel();
                Err(Gone)
            }
        }
    }
}

/// Whether it may come to something soon.
fn is_passing(error: &ApiError) -> bool {
    is_full(error) || error.code() == Code::Unavailable
}

/// Whether there will be room.
fn is_full(error: &ApiError) -> bool {
    error.code() == Code::ResourceExhausted
}

/// The answer to a request, once it is known.
async fn answer(
    metrics: IngestMetrics,
    client_sequence: i64,
    handed_over: Result<Pending, Status>,
) -> StreamEventsResponse {
    let result = match handed_over {
        Ok(pending) => pending.answer().await.map_err(Status::from),
        Err(status) => Err(status),
    };
    let result = match result.inspect_err(|status| metrics.refused(status)) {
        Ok(ack) => Outcome::Acknowledgement(acknowledgement(ack)),
        Err(status) => Outcome::Error(to_wire(status)),
    };
    StreamEventsResponse { client_sequence, result: Some(result) }
}
