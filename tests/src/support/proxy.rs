//! A way to a server that goes away after so many bytes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Carries connections to a server, until it has carried enough of what the server said: then all are cut, and further
/// ones are refused.
pub struct Proxy {
    address: SocketAddr,
    carried: Arc<AtomicU64>,
    gone: watch::Sender<bool>,
}

/// The `host:port` of an address.
///
/// # Panics
/// When it is no address of a server.
pub fn host_of(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap();
    let place = rest.split_once('/').map_or(rest, |(place, _)| place);
    place.rsplit_once('@').map_or(place, |(_, host)| host)
}

impl Proxy {
    /// Starts one to the server of an address.
    pub async fn to(url: &str, most: u64) -> Self {
        Self::start(host_of(url), most).await
    }

    /// Starts one to `host:port` that carries so many bytes at most.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(server: &str, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            carried: Arc::default(),
            gone: watch::Sender::new(false),
        };
        let (server, carried, gone) =
            (server.to_owned(), proxy.carried.clone(), proxy.gone.clone());
        tokio::spawn(async move {
            let mut going = gone.subscribe();
            loop {
                let client = tokio::select! {
                    _ = going.wait_for(|gone| *gone) => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (server, carried, gone) = (server.clone(), carried.clone(), gone.clone());
                tokio::spawn(async move {
                    let mut going = gone.subscribe();
                    tokio::select! {
                        _ = going.wait_for(|gone| *gone) => {}
                        _ = carry(client, &server, most, &carried, &gone) => {}
                    }
                });
            }
        });
        proxy
    }

    /// Its `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Waits until it has carried enough and is cut.
    pub async fn cut(&self) {
        // Never an error: the sender is ours.
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    /// How many bytes of the server it has carried.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

/// Nobody comes through any more.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.gone.send_replace(true);
    }
}

async fn carry(
    client: TcpStream,
    server: &str,
    most: u64,
    carried: &AtomicU64,
    gone: &watch::Sender<bool>,
) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let there = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let back = async {
        let mut buffer = vec![0; 4_096];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return Ok(0);
            }
            if carried.fetch_add(read as u64, Ordering::Relaxed) + read as u64 > most {
                gone.send_replace(true);
                return Ok(0);
            }
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    tokio::select! {
        done = there => done.map(|_| ()),
        done = back => done.map(|_: u64| ()),
    }
}
