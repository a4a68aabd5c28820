//! A name server that the test controls, over UDP.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use tokio::net::UdpSocket;

/// A name server on a port of its own, until the test ends. Nothing that it says may be kept.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

/// What is said about names, and what was asked.
#[derive(Default)]
struct Zone {
    answers: HashMap<(String, RecordType), VecDeque<Vec<Record>>>,
    asked: Vec<String>,
}

/// One record of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry {
    /// An address of the name.
    At(&'static str),
    /// The name stands for another.
    Alias(&'static str),
    /// An address of another name, which the answer holds as well.
    Other(&'static str, &'static str),
}

/// A name that is never answered for.
pub(crate) const MUTE: &str = "mute.example";
/// A name for which the server only says that it is broken.
pub(crate) const BROKEN: &str = "broken.example";

impl NameServer {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::<Mutex<Zone>>::default();
        let served = Arc::clone(&zone);
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                let request = Message::from_vec(&bytes[..length]).unwrap();
                let answer = served.lock().unwrap().answer(&request);
                if let Some(answer) = answer {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        Self { address, zone }
    }

    /// The next answer for `name`, after those that it has; the last one stays.
    pub(crate) fn add(&self, name: &'static str, entries: &[Entry]) {
        let mut zone = self.zone.lock().unwrap();
        for kind in [RecordType::A, RecordType::AAAA] {
            let records = entries.iter().filter_map(|entry| entry.record(name, kind)).collect();
            zone.answers.entry((name.to_owned(), kind)).or_default().push_back(records);
        }
    }

    /// How often addresses of `name` were asked for.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.zone.lock().unwrap().asked.iter().filter(|asked| *asked == name).count()
    }
}

impl Zone {
    fn answer(&mut self, request: &Message) -> Option<Message> {
        let [Query { name, query_type, .. }] = &request.queries[..] else { panic!("one question") };
        let asked = name.to_ascii().trim_end_matches('.').to_lowercase();
        if *query_type == RecordType::A {
            self.asked.push(asked.clone());
        }
        let mut message = Message::response(request.metadata.id, OpCode::Query);
        message.add_query(request.queries[0].clone());
        match (&*asked, self.answers.get_mut(&(asked.clone(), *query_type))) {
            (MUTE, _) => return None,
            (BROKEN, _) => message.metadata.response_code = ResponseCode::ServFail,
            (_, None) => message.metadata.response_code = ResponseCode::NXDomain,
            (_, Some(answers)) => {
                let answer =
                    if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
                message.add_answers(answer);
            }
        }
        Some(message)
    }
}

impl Entry {
    fn record(self, name: &str, kind: RecordType) -> Option<Record> {
        let (name, data) = match self {
            Self::At(address) => (name, address_data(address)),
            Self::Other(other, address) => (other, address_data(address)),
            Self::Alias(other) => (name, RData::CNAME(CNAME(absolute(other)))),
        };
        let wanted = matches!(data, RData::CNAME(_)) || data.record_type() == kind;
        wanted.then(|| Record::from_rdata(absolute(name), 0, data))
    }
}

fn address_data(text: &str) -> RData {
    match text.parse().unwrap() {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn absolute(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).unwrap()
}
