//! `socialhub serve`: starts everything, and stops it in the order in which nothing is lost.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, LogFormat, USUAL_COST},
    server, telemetry,
    wire::{self, Roles},
};

/// Connections to the listener of probes and metrics.
const OPERATIONS_CONNECTIONS: usize = 64;

/// Plays its roles until SIGTERM or SIGINT.
///
/// # Errors
/// A line for the operator: what cannot be started and why.
pub async fn run(config: Config, roles: Roles) -> Result<(), String> {
    let metrics = telemetry::start_metrics()?;
    warn_of_what_is_for_development(&config);
    let program = wire::start(&config, &roles, metrics).await?;
    // Before anybody is served: a signal that nobody listens for ends a process at once, whatever it is at.
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let serving = TaskTracker::new();
    if let Some(router) = program.router() {
        let (listener, address) = listen("LISTEN", config.listen_or(roles.port())).await?;
        say_hello(&config, &roles, address);
        serving.spawn(server::serve(
            listener,
            router,
            config.max_connections,
            stop.clone(),
        ));
    }
    // Probes and metrics are answered until the very end.
    let operations = CancellationToken::new();
    if let Some(address) = config.metrics_listen {
        let (listener, address) = listen("METRICS_LISTEN", address).await?;
        tracing::info!(%address, "serving liveness, readiness and metrics");
        tokio::spawn(server::serve(
            listener,
            program.operations(),
            OPERATIONS_CONNECTIONS,
            operations.clone(),
        ));
    }
    serving.close();
    tracing::info!(%roles, "running");
    signals.one().await;
    tracing::info!("stopping: taking no new connections, finishing what is under way");
    let patience = Duration::from_secs(config.shutdown_seconds);
    let orderly = async {
        stop.cancel();
        // Streams and sockets are told first, or their connections would never end.
        program.end_streams(patience / 2).await;
        serving.wait().await;
        program.stop().await;
        operations.cancel();
    };
    tokio::select! {
        () = orderly => {}
        () = tokio::time::sleep(patience) => {
            return Err(format!("not everything had ended after {} s", patience.as_secs()));
        }
        signal = second_signal() => {
            signal?;
            return Err("stopped at once, on a second signal".to_owned());
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// What the development secrets begin with, which stand in the repository for everybody to read.
const PUBLIC_SECRET: &str = "for-development-only";

fn warn_of_what_is_for_development(config: &Config) {
    let cost = config.password_cost;
    if cost < USUAL_COST {
        tracing::warn!("PASSWORD_COST is {cost}: hashes are quickly guessed; for tests alone");
    }
    let secrets = [
        ("JWT_SECRET", &config.jwt_secret),
        ("GATEWAY_SECRET", &config.gateway_secret),
        ("OPERATOR_TOKEN", &config.operator_token),
    ];
    for (name, secret) in secrets {
        if secret
            .as_ref()
            .is_some_and(|secret| secret.starts_with(PUBLIC_SECRET))
        {
            tracing::warn!(
                "{name} is the public one for development: whoever knows it can be anybody; set another before anything but a laptop"
            );
        }
    }
}

/// A signal that was meant: shells and supervisors often send the first one twice, to the process and to its group.
///
/// # Errors
/// When signals cannot be waited for.
pub async fn second_signal() -> Result<(), String> {
    tokio::time::sleep(Duration::from_secs(1)).await;
    wait_for_signal().await
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When signals cannot be waited for.
pub async fn wait_for_signal() -> Result<(), String> {
    Signals::listen()?.one().await;
    Ok(())
}

/// SIGTERM and SIGINT, from the moment on in which it is made.
struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, String> {
        let listen =
            |kind| signal(kind).map_err(|error| format!("cannot wait for signals: {error}"));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    async fn one(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn listen(setting: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), String> {
    let refused = |error| format!("{setting}: cannot listen on {address}: {error}");
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

/// Where it is, where its data is, and what to try first.
fn say_hello(config: &Config, roles: &Roles, address: SocketAddr) {
    let folder = config
        .data_dir
        .canonicalize()
        .unwrap_or_else(|_| config.data_dir.clone());
    tracing::info!(%address, data = %folder.display(), "listening");
    if config.log_format == LogFormat::Text && roles.services.len() > 1 {
        // As it was called: after `cargo run` it is on no `PATH`.
        let program = std::env::args().next();
        let program = program.as_deref().unwrap_or("socialhub");
        eprintln!(
            "\n  SocialHub is on   http://{address}\n  its data is in    {}\n  try first         http://{address}/docs\n  \
             or, elsewhere     {program} demo --url http://{address}\n",
            folder.display()
        );
    }
}
