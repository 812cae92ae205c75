//! What black-box tests share: a real server process of their own, and a client that speaks the public contract.

pub mod client;
pub mod fake_cloudinary;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod profile;
pub mod proxy;
pub mod s3_server;
pub mod server;
pub mod servers;
pub mod smtp_server;
mod split;
pub mod stack;

pub use client::{Answer, Client};
pub use ports::free_port;
pub use process::Process;
pub use profile::Profile;
pub use server::{Server, binary};
pub use stack::{Stack, Turn};

use std::{
    future::Future,
    process::{Child, Output},
    time::Duration,
};

/// So many lines of what a command said are shown when it fails.
const LAST_LINES: usize = 20;

/// Everything a command printed.
pub fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What a command said last, which is where it says how it ended: long output is cut in its middle by whoever keeps it.
pub fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    match lines.len().saturating_sub(LAST_LINES) {
        0 => said.to_owned(),
        left_out => format!("[{left_out} lines]\n{}", lines[left_out..].join("\n")),
    }
}

/// Fails the test when a process has ended that it still needs: what it waits for would never come.
///
/// # Panics
/// When it has ended.
pub fn running(process: &mut Child) {
    if let Some(status) = process.try_wait().unwrap() {
        panic!("process {} has ended: {status}", process.id());
    }
}

/// Waits until `condition` answers something. Fails the test after [`PATIENCE`](server::PATIENCE), saying what it waited for.
///
/// # Panics
/// When the condition did not come true in time.
#[track_caller]
pub fn eventually<'a, T, F, C>(what: &'a str, mut condition: C) -> impl Future<Output = T> + 'a
where
    C: FnMut() -> F + 'a,
    F: Future<Output = Option<T>> + 'a,
    T: 'a,
{
    let place = std::panic::Location::caller();
    async move {
        let give_up = tokio::time::Instant::now() + server::PATIENCE;
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(
                tokio::time::Instant::now() < give_up,
                "{place}: never came true within {:?}: {what}",
                server::PATIENCE
            );
            // Between two looks at the condition, not instead of one.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
