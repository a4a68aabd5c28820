//! A TCP proxy that does to a link what networks do.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// Bytes that are on the way in one direction of a connection.
const BUFFER: usize = 16 * 1024;
/// Connections of a link.
const CONNECTIONS: u32 = 2048;
/// How long the other end may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// It passes on what comes.
    Clear,
    /// It passes it on later, in each direction.
    Slow(Duration),
    /// It holds everything back; when the weather clears it arrives, as with packets that are sent again.
    Partition,
    /// It swallows everything, and connections of this time stay dead when the weather clears: their other end is gone
    /// and nobody was told.
    HalfOpen,
    /// Connections are reset, and so is who tries to connect.
    Resets,
}

/// A link. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    dead: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// A link to `target` in clear weather.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        // Those beyond it would wait here, and not for what is tested.
        let listener = socket.listen(CONNECTIONS)?;
        let address = listener.local_addr()?;
        let weather = watch::Sender::new(Weather::Clear);
        let mut task = JoinSet::new();
        let (died, dead) = watch::channel(0);
        task.spawn(serve(listener, target, weather.subscribe(), died));
        Ok(Self { address, weather, dead, _task: task })
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until so many connections have died in [`Weather::HalfOpen`].
    pub async fn dead(&self, count: usize) {
        let _ = self.dead.clone().wait_for(|dead| *dead >= count).await;
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn serve(
    listener: TcpListener,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    died: watch::Sender<usize>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if connections.len() < CONNECTIONS as usize {
            connections.spawn(connection(stream, target, weather.clone(), died.clone()));
        }
    }
}

async fn connection(
    client: TcpStream,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    died: watch::Sender<usize>,
) {
    let mut begin = weather.clone();
    // Accepted by the kernel long ago: what comes next is what differs.
    let _ = begin.wait_for(|weather| *weather != Weather::Partition).await;
    let at_first = *begin.borrow();
    match at_first {
        Weather::Resets => {
            let _ = client.set_zero_linger();
            return;
        }
        Weather::HalfOpen => return dead(client).await,
        _ => {}
    }
    let Ok(Ok(server)) = timeout(CONNECT, TcpStream::connect(target)).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((client_read, client_write), (server_read, server_write)) =
        (client.into_split(), server.into_split());
    let (there, back) =
        (copy(client_read, server_write, weather.clone()), copy(server_read, client_write, weather));
    match both(there, back).await {
        End::Dead(halves) => {
            died.send_modify(|died| *died += 1);
            // Held open, and nothing is read any more.
            std::future::pending::<()>().await;
            drop(halves);
        }
        End::Reset(halves) => halves.iter().for_each(|half| {
            let _ = half.as_ref().set_zero_linger();
        }),
        End::Over => {}
    }
}

/// How a connection ends.
enum End {
    Over,
    Dead(Vec<OwnedWriteHalf>),
    Reset(Vec<OwnedWriteHalf>),
}

/// Both directions. An end of one is passed on while the other goes on; a reset of one is a reset of both, at once.
async fn both(there: impl Future<Output = End> + Send, back: impl Future<Output = End> + Send) -> End {
    let (mut there, mut back) = (pin!(there), pin!(back));
    let (first, other) = tokio::select! {
        end = &mut there => (end, back as Pin<&mut (dyn Future<Output = End> + Send)>),
        end = &mut back => (end, there as Pin<&mut (dyn Future<Output = End> + Send)>),
    };
    match first {
        End::Over => other.await,
        End::Reset(_) => first,
        End::Dead(mut halves) => {
            // The same weather.
            if let End::Dead(more) = other.await {
                halves.extend(more);
            }
            End::Dead(halves)
        }
    }
}

async fn dead(stream: TcpStream) {
    std::future::pending::<()>().await;
    drop(stream);
}

/// What ends connections.
async fn storm(weather: &mut watch::Receiver<Weather>) -> Weather {
    let storm = weather.wait_for(|weather| matches!(weather, Weather::HalfOpen | Weather::Resets)).await;
    match storm.map(|storm| *storm) {
        Ok(storm) => storm,
        // The proxy is gone, and this connection with it.
        Err(_) => std::future::pending().await,
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) -> End {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = tokio::select! {
            biased;
            storm = storm(&mut weather) => return match storm {
                Weather::HalfOpen => End::Dead(vec![to]),
                _ => End::Reset(vec![to]),
            },
            read = from.read(&mut buffer) => read,
        };
        let count = match read {
            Ok(count) => count,
            Err(_) => return End::Reset(vec![to]),
        };
        let _ = weather.wait_for(|weather| *weather != Weather::Partition).await;
        let now = *weather.borrow();
        if let Weather::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            let _ = to.shutdown().await;
            return End::Over;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return End::Reset(vec![to]);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<[u8; 1]> {
        stream.write_all(b"x").await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    async fn link() -> (Proxy, TcpStream) {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), *b"x");
        (proxy, stream)
    }

    #[tokio::test]
    async fn a_partition_delivers_when_it_is_over() {
        let (proxy, mut stream) = link().await;
        proxy.set(Weather::Partition);
        stream.write_all(b"y").await.unwrap();
        let mut answer = [0];
        assert!(timeout(Duration::from_millis(100), stream.read_exact(&mut answer)).await.is_err());
        proxy.set(Weather::Clear);
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"y");
    }

    #[tokio::test]
    async fn half_open_connections_stay_dead_and_new_ones_work() {
        let (proxy, mut stream) = link().await;
        proxy.set(Weather::HalfOpen);
        proxy.dead(1).await;
        proxy.set(Weather::Clear);
        assert!(timeout(Duration::from_millis(200), ask(&mut stream)).await.is_err());
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut other).await.unwrap(), *b"x");
    }

    #[tokio::test]
    async fn resets_are_resets() {
        let (proxy, mut stream) = link().await;
        proxy.set(Weather::Resets);
        let mut byte = [0];
        let end = stream.read(&mut byte).await;
        assert!(end.as_ref().map_or(true, |count| *count == 0), "{end:?}");
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut other).await.is_err());
        proxy.set(Weather::Clear);
        let mut third = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut third).await.unwrap(), *b"x");
    }

    #[tokio::test]
    async fn an_end_that_is_killed_ends_the_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"x").await.unwrap();
        // As the system does for a process that ends with something unread.
        client.set_zero_linger().unwrap();
        drop(client);
        let mut buffer = Vec::new();
        let end = timeout(Duration::from_secs(60), server.read_to_end(&mut buffer)).await;
        assert!(end.is_ok(), "the server was not told");
    }

    #[tokio::test]
    async fn slow_links_are_slow() {
        let (proxy, mut stream) = link().await;
        proxy.set(Weather::Slow(Duration::from_millis(50)));
        let start = Instant::now();
        ask(&mut stream).await.unwrap();
        assert!(start.elapsed() >= Duration::from_millis(100));
    }
}
