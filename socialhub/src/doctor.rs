//! `socialhub doctor`: looks at everything the program depends on and says what is wrong, without changing anything.

use std::{fs, net::TcpListener, path::Path, process::ExitCode};

use socialhub_domain::upcast;
use socialhub_event_log::EventLog;
use socialhub_infra::sqlite::{connection::check_file, event_log::SqliteEventLog};

use crate::config::{Config, Profile};

/// What one look found.
enum Finding {
    Good(String),
    /// Works, but somebody should know.
    Note(String),
    Bad(String),
}

/// Runs every check; the code is a failure when one found something bad.
///
/// # Errors
/// Never: what is wrong is a finding.
pub fn run(config: &Config) -> Result<ExitCode, String> {
    let mut findings = vec![upcasters(), address(config), folder(&config.data_dir)];
    findings.extend(secrets(&config.data_dir));
    findings.extend(files(&config.data_dir));
    match &config.profile {
        Profile::Embedded { log_file } => findings.push(event_log(log_file)),
        Profile::Distributed(_) => {}
    }
    let mut bad = 0;
    for finding in &findings {
        match finding {
            Finding::Good(text) => println!("ok    {text}"),
            Finding::Note(text) => println!("note  {text}"),
            Finding::Bad(text) => {
                bad += 1;
                println!("BAD   {text}");
            }
        }
    }
    println!("\n{} checks, {bad} bad", findings.len());
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn upcasters() -> Finding {
    match upcast::check() {
        Ok(()) => Finding::Good("every version of every event can be read".to_owned()),
        Err(error) => Finding::Bad(format!("upcasters: {error}")),
    }
}

fn address(config: &Config) -> Finding {
    let address = config.listen_or(8080);
    match TcpListener::bind(address) {
        Ok(_) => Finding::Good(format!("{address} is free to listen on")),
        Err(error) => Finding::Note(format!("{address}: {error} (is the server running?)")),
    }
}

fn folder(path: &Path) -> Finding {
    let shown = path.display();
    match fs::metadata(path) {
        Err(_) => Finding::Note(format!(
            "{shown} is not there yet: the first start makes it"
        )),
        Ok(data) if !data.is_dir() => Finding::Bad(format!("{shown} is not a folder")),
        Ok(_) => match tempfile_in(path) {
            Ok(()) => Finding::Good(format!("{shown} can be written")),
            Err(error) => Finding::Bad(format!("{shown} cannot be written: {error}")),
        },
    }
}

fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    fs::write(&path, b"x")?;
    fs::remove_file(path)
}

/// Secrets that others on the machine can read are no secrets.
fn secrets(data_dir: &Path) -> Vec<Finding> {
    use std::os::unix::fs::PermissionsExt;
    let Ok(entries) = fs::read_dir(data_dir.join("secrets")) else {
        return Vec::new();
    };
    let look = |entry: fs::DirEntry| {
        let shown = entry.path().display().to_string();
        match entry.metadata() {
            Ok(data) if data.permissions().mode() & 0o077 == 0 => {
                Finding::Good(format!("{shown} is the owner's alone"))
            }
            Ok(_) => Finding::Bad(format!("{shown} can be read by others: chmod 600 {shown}")),
            Err(error) => Finding::Bad(format!("{shown}: {error}")),
        }
    };
    entries.filter_map(Result::ok).map(look).collect()
}

/// Every database file, asked for damage.
fn files(data_dir: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for folder in [data_dir.to_owned(), data_dir.join("read-models")] {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        let mut paths: Vec<_> = entries
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "db"));
        paths.sort();
        findings.extend(paths.iter().map(|path| match check_file(path) {
            Ok(()) => Finding::Good(format!("{} is undamaged", path.display())),
            Err(error) => Finding::Bad(format!("{}: {error}", path.display())),
        }));
    }
    findings
}

fn event_log(path: &Path) -> Finding {
    if !path.exists() {
        return Finding::Note(format!(
            "{} is not there yet: the first start makes it",
            path.display()
        ));
    }
    match SqliteEventLog::open_read_only(path) {
        Ok(log) => Finding::Good(format!(
            "the event log has {} events",
            *log.watch_head().borrow()
        )),
        Err(error) => Finding::Bad(error.to_string()),
    }
}
