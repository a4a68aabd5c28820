//! What a service tells of itself over HTTP.

use std::{collections::BTreeMap, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An answer: its status, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; 0 if the connection was closed without one.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// Asks for a path.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    // One that has enough connections closes this one, maybe before the request.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, body: body.to_owned() }
}

/// Metrics at one moment.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// As they came.
    pub text: String,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Asks a service for its metrics.
    pub async fn of(address: SocketAddr) -> Self {
        let Answer { status, body: text } = get(address, "/metrics").await;
        assert_eq!(status, 200, "{text}");
        assert!(text.ends_with("# EOF\n"), "it is cut off: {text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        });
        let series = series.collect();
        Self { text, series }
    }

    /// The value of a series, written as it is scraped; 0 if it is not there.
    pub fn value(&self, series: &str) -> u64 {
        self.series.get(series).map_or(0, |value| *value as u64)
    }

    /// The sum over all labels.
    pub fn sum(&self, name: &str) -> u64 {
        let of_name = self.series.iter().filter(|(series, _)| series.split('{').next() == Some(name));
        of_name.map(|(_, value)| *value as u64).sum()
    }

    /// The metrics, as their types are told.
    pub fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
    }
}
