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
/// What takes no requests.
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
    /// Where it says whether it is ready; a service takes its requests there, too.
    pub(super) port: u16,
}

impl Part {
    fn new(names: &[&str], listens: &str) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let arguments = [names, &[listens, &listen]].concat();
        Self {
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            port,
        }
    }
}

/// The processes of one server, not started yet: the services first.
pub(super) fn parts() -> Vec<Part> {
    let services = SERVICES
        .iter()
        .map(|(name, _)| Part::new(&["service", name], "--listen"));
    let workers = WORKERS
        .iter()
        .map(|names| Part::new(names, "--metrics-listen"));
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
    let services = SERVICES.iter().zip(parts);
    let upstreams: Vec<_> = services
        .map(|((_, name), part)| {
            (
                format!("{name}_UPSTREAM"),
                format!("127.0.0.1:{}", part.port),
            )
        })
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
