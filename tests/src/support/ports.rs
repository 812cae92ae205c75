//! Ports for the processes that tests start, and start again.

use std::{
    hash::{BuildHasher, RandomState},
    net::TcpListener,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Below the ports that Linux gives to outgoing connections, of which the tests make many: one of those could take the
/// port before its server has it, or between its end and its next start. And below those that `./stack` chooses from.
const FIRST: u32 = 10_000;
const COUNT: u32 = 10_000;

/// A port nobody listens on now, and that nobody else in this process was given.
///
/// # Panics
/// When there is none left.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    static START: OnceLock<u32> = OnceLock::new();
    // Elsewhere in each process: two of them may run side by side.
    let start = *START.get_or_init(|| RandomState::new().hash_one(0) as u32 % COUNT);
    loop {
        let nth = TAKEN.fetch_add(1, Ordering::Relaxed);
        assert!(nth < COUNT, "no port is left");
        let port = u16::try_from(FIRST + (start + nth) % COUNT).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
