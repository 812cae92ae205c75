//! The processes of one server of the distributed profile, each on its own, behind nginx.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::free_port;

/// The services, and the names of their upstreams in the gateway's template.
const SERVICES: [(&str, &str); 6] = [
    ("auth", "AUTH"),
    ("users", "USERS"),
    ("posts", "POSTS"),
    ("notifications", "NOTIFICATIONS"),
    ("feed", "FEED"),
    ("chat", "CHAT"),
];
/// What has no port of its own.
const WORKERS: [&[&str]; 4] = [
    &["relay"],
    &["project", "feed"],
    &["project", "notifications"],
    &["project", "counters"],
];

/// One of the processes.
pub(super) struct Part {
    /// What the program is told to be.
    pub(super) arguments: Vec<String>,
    /// Where it says whether it is ready, if it does.
    pub(super) port: Option<u16>,
}

/// The processes of one server, not started yet.
pub(super) fn parts() -> Vec<Part> {
    let services = SERVICES.iter().map(|(name, _)| {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let arguments = ["service", name, "--listen", &listen].map(str::to_owned);
        Part {
            arguments: arguments.to_vec(),
            port: Some(port),
        }
    });
    let workers = WORKERS.iter().map(|names| Part {
        arguments: names.iter().map(ToString::to_string).collect(),
        port: None,
    });
    services.chain(workers).collect()
}

/// nginx in front of them.
pub(super) fn gateway(
    folder: &Path,
    port: u16,
    parts: &[Part],
    environment: &[(String, String)],
) -> Command {
    let run = folder.join("gateway");
    std::fs::create_dir_all(&run).unwrap();
    let secret = environment
        .iter()
        .find(|(name, _)| name == "GATEWAY_SECRET");
    let mut values = vec![
        ("NGINX_USER", "root".to_owned()),
        ("RUN_DIR", run.display().to_string()),
        ("ACCESS_LOG", "off".to_owned()),
        ("GATEWAY_LISTEN", format!("127.0.0.1:{port}")),
        ("GATEWAY_SECRET", secret.unwrap().1.clone()),
        ("CORS_ORIGINS", "http://localhost:5173".to_owned()),
        ("RESOLVER", "127.0.0.1".to_owned()),
    ];
    let ports = parts.iter().filter_map(|part| part.port);
    let upstreams: Vec<_> = SERVICES
        .iter()
        .zip(ports)
        .map(|((_, name), port)| (format!("{name}_UPSTREAM"), format!("127.0.0.1:{port}")))
        .collect();
    values.extend(
        upstreams
            .iter()
            .map(|(name, value)| (&**name, value.clone())),
    );
    let mut text = std::fs::read_to_string(template()).unwrap();
    for (name, value) in values {
        text = text.replace(&format!("${{{name}}}"), &value);
    }
    let file = run.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    command
        .arg("-p")
        .arg(&run)
        .arg("-c")
        .arg(&file)
        // One process: a kill leaves no worker behind that holds the port.
        .args(["-e", "stderr", "-g", "daemon off; master_process off;"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn template() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nginx/nginx.conf.template")
}
