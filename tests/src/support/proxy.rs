//! A way to a server that fails as networks do.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

/// Carries connections to a server, as long as it is let.
///
/// It may be told how much it carries at most of what the server says: then all connections are cut, and further ones are
/// refused; or the rest is held back until it is let go.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    most: u64,
    /// Whether it holds the rest back.
    holds: bool,
    carried: AtomicU64,
    way: watch::Sender<Way>,
}

#[derive(Debug, Clone, Copy)]
struct Way {
    /// What the connections that are let in now are called.
    number: u32,
    /// Connections with a smaller number are cut.
    cut: u32,
    /// Those with a smaller number hear nothing any more.
    silent: u32,
    /// Whether what the server answers arrives.
    heard: bool,
    /// It has carried enough, and held the rest back.
    held: bool,
    /// Whether new connections are let in.
    open: bool,
    /// It has carried enough, or nobody needs it any more.
    gone: bool,
}

impl Way {
    fn is_cut(&self, connection: u32) -> bool {
        self.gone || connection < self.cut
    }

    fn is_over(&self, connection: u32) -> bool {
        self.is_cut(connection) || connection < self.silent
    }
}

/// The `host:port` of an address.
///
/// # Panics
/// When it is no address of a server.
fn host_of(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap();
    let place = rest.split_once('/').map_or(rest, |(place, _)| place);
    place.rsplit_once('@').map_or(place, |(_, host)| host)
}

impl Proxy {
    /// Starts one to the server of an address that carries so many bytes at most.
    pub async fn to(url: &str, most: u64) -> Self {
        Self::start(host_of(url), most, false).await
    }

    /// Starts one to the server of an address that holds back what comes after so many bytes.
    pub async fn holding(url: &str, most: u64) -> Self {
        Self::start(host_of(url), most, true).await
    }

    async fn start(server: &str, most: u64, holds: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let way = Way {
            number: 0,
            cut: 0,
            silent: 0,
            heard: true,
            held: false,
            open: true,
            gone: false,
        };
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            most,
            holds,
            carried: AtomicU64::new(0),
            way: watch::Sender::new(way),
        });
        tokio::spawn(listen(listener, Arc::clone(&shared)));
        Self { address, shared }
    }

    /// Its `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The address of the server, with this way to it.
    pub fn through(&self, url: &str) -> String {
        url.replace(host_of(url), &self.address())
    }

    /// How many bytes of the server it has carried.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }

    /// Waits until it has carried enough and is gone.
    pub async fn used_up(&self) {
        // Never an error: the sender is ours.
        let _ = self.shared.way.subscribe().wait_for(|way| way.gone).await;
    }

    /// Waits until it has carried enough and holds the rest back.
    pub async fn held(&self) {
        // Never an error: the sender is ours.
        let _ = self.shared.way.subscribe().wait_for(|way| way.held).await;
    }

    /// Holds nothing back any more.
    pub fn let_go(&self) {
        self.shared.way.send_modify(|way| way.heard = true);
    }

    /// From now on the server is not heard, though it hears. Until all is cut.
    pub fn deafen(&self) {
        self.shared.way.send_modify(|way| way.heard = false);
    }

    /// Cuts all connections, and lets new ones in. What was not heard before is never heard.
    pub fn cut(&self) {
        self.shared.way.send_modify(|way| way.cut_all(true));
    }

    /// Cuts all connections, and lets no new ones in, until they are cut again.
    pub fn shut(&self) {
        self.shared.way.send_modify(|way| way.cut_all(false));
    }

    /// As when the server's host vanishes and another one takes its place: its sessions end, who was connected hears nothing
    /// any more, not even that, and new connections are carried.
    pub fn fail_over(&self) {
        self.shared.way.send_modify(|way| {
            way.number += 1;
            way.silent = way.number;
        });
    }
}

impl Way {
    /// It has carried enough. Answers whether that is news.
    fn is_used_up(&mut self, holds: bool) -> bool {
        let known = self.held || self.gone;
        if holds && !known {
            (self.held, self.heard) = (true, false);
        }
        self.gone |= !holds;
        !known
    }

    fn cut_all(&mut self, open: bool) {
        self.number += 1;
        self.cut = self.number;
        self.heard = true;
        self.open = open;
    }
}

/// Nobody comes through any more.
impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.way.send_modify(|way| way.gone = true);
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut going = shared.way.subscribe();
    loop {
        let client = tokio::select! {
            _ = going.wait_for(|way| way.gone) => return,
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let way = *shared.way.borrow();
        if way.open {
            tokio::spawn(keep(client, way.number, Arc::clone(&shared)));
        }
    }
}

/// Keeps a client for as long as it is not cut, heard or not.
async fn keep(mut client: TcpStream, number: u32, shared: Arc<Shared>) {
    let mut way = shared.way.subscribe();
    let over = tokio::select! {
        // First: what has come and was not passed on is not, when the way is over.
        biased;
        _ = way.wait_for(|way| way.is_over(number)) => true,
        _ = carry(&mut client, number, &shared) => false,
    };
    if over || way.borrow().is_over(number) {
        let _ = way.wait_for(|way| way.is_cut(number)).await;
    }
}

async fn carry(client: &mut TcpStream, number: u32, shared: &Shared) -> std::io::Result<()> {
    let mut server = TcpStream::connect(&shared.server).await?;
    let (mut from_client, to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    tokio::select! {
        done = tokio::io::copy(&mut from_client, &mut to_server) => done.map(|_| ()),
        done = carry_back(from_server, to_client, number, shared) => done,
    }
}

async fn carry_back(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    number: u32,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut heard = shared.way.subscribe();
    let mut buffer = vec![0; 4_096];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let before = shared.carried.fetch_add(read as u64, Ordering::Relaxed);
        if before + read as u64 > shared.most {
            shared
                .way
                .send_if_modified(|way| way.is_used_up(shared.holds));
        }
        // Who cuts lets others be heard at the same moment: what was held back until then is never passed on.
        let way = heard.wait_for(|way| way.heard || way.is_over(number)).await;
        if way.is_ok_and(|way| way.is_over(number)) {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
    }
}
