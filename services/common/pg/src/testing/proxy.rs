//! A TCP relay that a test can cut.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::TestDatabase;
use crate::pool::DatabaseUrl;

/// Relays connections to one address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    /// Changes to cut what is connected.
    cut: watch::Sender<u64>,
    /// Whether nothing is relayed any more, over connections that stay open.
    silent: watch::Sender<bool>,
    /// Changes to relay nothing any more over what is connected.
    dead: watch::Sender<u64>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts to relay to `target`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (cut, silent, dead) = (watch::Sender::new(0), watch::Sender::new(false), watch::Sender::new(0));
        let mut proxy = Self { address, target, cut, silent, dead, accepting: None };
        proxy.accept(listener);
        proxy
    }

    /// One in front of a test's database, and where that is behind it.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn before(database: &TestDatabase) -> (Self, DatabaseUrl) {
        let options = database.url().connect_options().expect("the URL was good a moment ago");
        let target = format!("{}:{}", options.get_host(), options.get_port());
        let proxy = Self::start(target.parse().expect("a test server has an address")).await;
        let url = database.url().expose().replacen(&target, &proxy.address().to_string(), 1);
        (proxy, url.into())
    }

    /// Where it is connected to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts what is connected; whoever connects again is let through.
    pub fn sever(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Relays nothing any more, and closes nothing: as if either end had been halted.
    pub fn fall_silent(&self) {
        self.silent.send_replace(true);
    }

    /// Relays nothing any more over what is connected, and does not close it; whoever connects again is let through.
    pub fn deaden(&self) {
        self.dead.send_modify(|times| *times += 1);
    }

    /// Cuts what is connected and refuses connections.
    pub async fn down(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
        self.sever();
    }

    /// Lets connections through again.
    ///
    /// # Panics
    /// If another process listens there by now.
    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("its port is still free");
        self.accept(listener);
    }

    fn accept(&mut self, listener: TcpListener) {
        let (target, cut, silent, dead) =
            (self.target, self.cut.clone(), self.silent.clone(), self.dead.clone());
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                let (mut cut, silent, dead) = (cut.subscribe(), silent.subscribe(), dead.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = relay(inbound, target, silent, dead) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
    }
}

async fn relay(
    mut inbound: TcpStream,
    target: SocketAddr,
    mut silent: watch::Receiver<bool>,
    mut dead: watch::Receiver<u64>,
) {
    if let Ok(mut outbound) = TcpStream::connect(target).await {
        let falls_silent = async { silent.wait_for(|silent| *silent).await.is_ok() };
        let is_silent = tokio::select! {
            biased;
            is_silent = falls_silent => is_silent,
            died = dead.changed() => died.is_ok(),
            _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => false,
        };
        if is_silent {
            std::future::pending::<()>().await;
        }
    }
}
