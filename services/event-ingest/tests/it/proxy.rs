//! A TCP relay that a test can cut.

use std::net::SocketAddr;

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// Relays connections to one address.
pub(crate) struct Proxy {
    address: SocketAddr,
    target: SocketAddr,
    /// Changes to cut what is connected.
    cut: watch::Sender<u64>,
    accepting: Option<JoinHandle<()>>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut proxy = Self { address, target, cut: watch::Sender::new(0), accepting: None };
        proxy.accept(listener);
        proxy
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts what is connected; whoever connects again is let through.
    pub(crate) fn sever(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Cuts what is connected and refuses connections.
    pub(crate) async fn down(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
        self.sever();
    }

    /// Lets connections through again.
    pub(crate) async fn up(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.accept(listener);
    }

    fn accept(&mut self, listener: TcpListener) {
        let (target, cut) = (self.target, self.cut.clone());
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        () = relay(inbound, target) => {}
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

async fn relay(mut inbound: TcpStream, target: SocketAddr) {
    if let Ok(mut outbound) = TcpStream::connect(target).await {
        let _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound).await;
    }
}
