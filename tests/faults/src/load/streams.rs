//! Clients that publish over streams, with several events on their way, and resume as the contract says.

use std::{collections::VecDeque, time::Duration};

use chatfn_proto::ingest::v1::{StreamEventsRequest, StreamEventsResponse, stream_events_response::Result};
use chatfn_rpc::RequestExt as _;
use rand::{RngExt as _, rngs::SmallRng};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use super::{
    PACE, Publishers,
    publish::{PAUSE, event, is_final},
};
use crate::{
    cluster::ACCOUNTS,
    history::{Answer, Kind, Micros, Place, Publication, Repeat, Template, now},
};

/// Events on their way, at most.
const WINDOW: usize = 16;
/// Conversations of such a client.
const CONVERSATIONS: u32 = 4;
/// How long a stream lasts at most: so that one is resumed without a fault, too, and one that is cut off unnoticed is given up.
const LIFE: Duration = Duration::from_secs(10);

/// What has no answer yet, in the order in which it is to be published.
type Unanswered = VecDeque<Publication>;

impl Publishers {
    /// Publishes over one stream after the other.
    pub(super) async fn streaming(self, number: usize, mut rng: SmallRng, stop: CancellationToken) {
        let mut unanswered = Unanswered::new();
        let mut turn = number;
        while !(stop.is_cancelled() && unanswered.is_empty()) {
            self.stream(turn, number, &mut unanswered, (&mut rng, &stop)).await;
            turn += 1;
            let oldest = now().saturating_sub(self.patience.as_micros() as Micros);
            while let Some(hopeless) = unanswered.pop_front_if(|first| first.sent < oldest) {
                self.records.add(Publication { answered: now(), ..hopeless });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Publishes over one stream, first what has no answer from the one before, until it ends or there is nothing more.
    async fn stream(
        &self,
        turn: usize,
        number: usize,
        unanswered: &mut Unanswered,
        (rng, stop): (&mut SmallRng, &CancellationToken),
    ) {
        let (requests, receiver) = mpsc::channel(2 * WINDOW);
        let request = Request::new(ReceiverStream::new(receiver)).with_timeout(LIFE);
        let Ok(answers) = self.ingest(turn).stream_events(request).await else { return };
        let mut answers = answers.into_inner();
        let stream = self.records.next();
        let mut sequence = 0;
        let mut on_their_way = VecDeque::new();
        let mut send = |publication: &Publication, on_their_way: &mut VecDeque<i64>| {
            sequence += 1;
            on_their_way.push_back(sequence);
            // Whoever takes none any more says why in what is read below.
            let _ = requests
                .try_send(StreamEventsRequest { client_sequence: sequence, event: Some(event(publication)) });
        };
        for publication in unanswered.iter() {
            send(publication, &mut on_their_way);
        }
        while !(stop.is_cancelled() && unanswered.is_empty()) {
            let may_send = unanswered.len() < WINDOW && !stop.is_cancelled();
            tokio::select! {
                answer = answers.message() => {
                    let Ok(Some(answer)) = answer else { return };
                    let is_next = on_their_way.pop_front() == Some(answer.client_sequence);
                    let Some(publication) = unanswered.pop_front_if(|_| is_next) else {
                        let wrong = Some(format!("answer {} came out of turn", answer.client_sequence));
                        self.records.add_repeat(Repeat { event: format!("stream {stream}"), wrong });
                        return;
                    };
                    if let Some(again) = self.told(publication, stream, answer) {
                        tokio::time::sleep(PAUSE).await;
                        send(&again, &mut on_their_way);
                        unanswered.push_back(again);
                    }
                }
                () = tokio::time::sleep(PACE.mul_f64(rng.random::<f64>() / 2.0)), if may_send => {
                    let publication = self.streamed(number, rng);
                    send(&publication, &mut on_their_way);
                    unanswered.push_back(publication);
                }
            }
        }
    }

    fn streamed(&self, number: usize, rng: &mut SmallRng) -> Publication {
        let (account, _) = ACCOUNTS[number % ACCOUNTS.len()];
        let conversation = format!("stream-{number}-{}", rng.random_range(0..CONVERSATIONS));
        let mut publication = self.new_publication(account, &conversation, (Template::Work, Kind::Good));
        publication.sent = now();
        publication
    }

    /// Writes down what the answer says; gives the publication back if it says that it is to be published again.
    fn told(
        &self,
        mut publication: Publication,
        stream: u64,
        answer: StreamEventsResponse,
    ) -> Option<Publication> {
        publication.answer = match answer.result {
            Some(Result::Acknowledgement(acknowledgement)) => {
                let (number, is_new) = (answer.client_sequence, !acknowledgement.duplicate);
                publication.streamed = Some(Place { stream, number, is_new });
                Answer::Acknowledged
            }
            Some(Result::Error(error)) if is_final(Code::from(error.code)) => Answer::Refused(error.message),
            _ => return Some(publication),
        };
        publication.answered = now();
        self.records.add(publication);
        None
    }
}
