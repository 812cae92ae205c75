//! A way to a server that goes away, or falls silent, after so many bytes.

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
/// ones are refused; or what the server says is held back until it is let go.
pub struct Proxy {
    address: SocketAddr,
    way: Way,
}

/// What its connections share.
#[derive(Clone)]
struct Way {
    most: u64,
    carried: Arc<AtomicU64>,
    gone: watch::Sender<bool>,
    /// Of one that holds back.
    hold: Option<Hold>,
}

#[derive(Clone, Default)]
struct Hold {
    held: watch::Sender<bool>,
    let_go: watch::Sender<bool>,
}

async fn comes_true(condition: &watch::Sender<bool>) {
    // Never an error: the sender is here.
    let _ = condition.subscribe().wait_for(|true_now| *true_now).await;
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

    /// Starts one to the server of an address that holds back what comes after so many bytes.
    pub async fn holding(url: &str, most: u64) -> Self {
        Self::listen(host_of(url), most, Some(Hold::default())).await
    }

    /// Starts one to `host:port` that carries so many bytes at most.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(server: &str, most: u64) -> Self {
        Self::listen(server, most, None).await
    }

    async fn listen(server: &str, most: u64, hold: Option<Hold>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Way {
            most,
            carried: Arc::default(),
            gone: watch::Sender::new(false),
            hold,
        };
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            way: way.clone(),
        };
        let server = server.to_owned();
        tokio::spawn(async move {
            loop {
                let client = tokio::select! {
                    () = comes_true(&way.gone) => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (server, way) = (server.clone(), way.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = comes_true(&way.gone) => {}
                        _ = carry(client, &server, &way) => {}
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
        comes_true(&self.way.gone).await;
    }

    /// Waits until it has carried enough and holds something back.
    ///
    /// # Panics
    /// When it is none that does.
    pub async fn held(&self) {
        comes_true(&self.way.hold.as_ref().unwrap().held).await;
    }

    /// Holds nothing back any more.
    ///
    /// # Panics
    /// When it is none that does.
    pub fn let_go(&self) {
        self.way.hold.as_ref().unwrap().let_go.send_replace(true);
    }

    /// How many bytes of the server it has carried.
    pub fn carried(&self) -> u64 {
        self.way.carried.load(Ordering::Relaxed)
    }
}

/// Nobody comes through any more.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.way.gone.send_replace(true);
    }
}

async fn carry(client: TcpStream, server: &str, way: &Way) -> std::io::Result<()> {
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
            if way.carried.fetch_add(read as u64, Ordering::Relaxed) + read as u64 > way.most {
                let Some(hold) = &way.hold else {
                    way.gone.send_replace(true);
                    return Ok(0);
                };
                hold.held.send_replace(true);
                comes_true(&hold.let_go).await;
            }
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    tokio::select! {
        done = there => done.map(|_| ()),
        done = back => done.map(|_: u64| ()),
    }
}
