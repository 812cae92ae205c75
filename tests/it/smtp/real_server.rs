//! The whole way of a code: from the request through a mail server that others wrote, over TLS and with a login, to a new
//! password.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use socialhub_commands::ports::Mailer;
use socialhub_tests::support::{Profile, Server, client::PASSWORD, eventually, free_port};
use tempfile::TempDir;

use super::{FROM, mailer, six_digits};

const USER: &str = "mailer@example.org";
const MAIL_PASSWORD: &str = "mail/secret";

/// How the mailer may speak with it.
#[derive(Debug, Clone, Copy)]
enum Way {
    StartTls,
    Tls,
}

/// aiosmtpd in a process of its own; ends with this value.
struct RealServer {
    process: Child,
    folder: TempDir,
    starttls: u16,
    tls: u16,
}

impl RealServer {
    fn start() -> Self {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
        let python = home.join(".venv/bin/python");
        assert!(
            python.exists(),
            "{} is not there: ./test.sh makes it",
            python.display()
        );
        let folder = tempfile::tempdir().unwrap();
        let (starttls, tls) = (free_port(), free_port());
        let log = File::create(folder.path().join("log")).unwrap();
        let mut process = Command::new(python)
            .arg(home.join("mail_server.py"))
            .arg(folder.path())
            .args([starttls.to_string(), tls.to_string()])
            .args([USER, MAIL_PASSWORD])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "listening\n");
        Self {
            process,
            folder,
            starttls,
            tls,
        }
    }

    /// An address for `SMTP_URL`.
    fn url(&self, way: Way, password: &str) -> String {
        let (scheme, port) = match way {
            Way::StartTls => ("smtp+starttls", self.starttls),
            Way::Tls => ("smtps", self.tls),
        };
        let password = password.replace('/', "%2F");
        format!("{scheme}://mailer%40example.org:{password}@127.0.0.1:{port}")
    }

    /// Whom to trust, to trust it.
    fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A mail by its number, from 1.
    fn mail(&self, nth: usize) -> Option<Value> {
        let path = self.folder.path().join(format!("mails/{nth}.json"));
        let text = fs::read(path).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            eprintln!("--- the mail server's log ---\n{}", log.unwrap_or_default());
        }
    }
}

async fn sent_over(way: Way) {
    let mail_server = RealServer::start();
    let mut environment = Profile::chosen().environment().await;
    let settings = [
        ("SMTP_URL", mail_server.url(way, MAIL_PASSWORD)),
        ("MAIL_FROM", FROM.to_owned()),
        (
            "SSL_CERT_FILE",
            mail_server.authority().to_str().unwrap().to_owned(),
        ),
    ];
    environment.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    let server = Server::start_in(&["--rate-limits", "off"], environment).await;
    let client = server.client();
    let person = client.sign_up("mailed").await;
    let email = format!("{}@example.com", person.username);
    let wish = json!({ "email": email });
    let asked = client.post("/auth/request-reset", wish).await;
    asked.expect_status(200);
    let mail = eventually("the mail is at the mail server", async || {
        mail_server.mail(1)
    })
    .await;
    assert_eq!(mail["sender"], "no-reply@example.org");
    assert_eq!(mail["recipients"], json!([email]));
    assert_eq!(mail["login"], USER);
    let tls = mail["tls"].as_str();
    assert!(tls.is_some_and(|it| it.starts_with("TLS")), "{mail}");
    assert_eq!(mail["defects"], json!([]), "{mail}");
    assert_eq!(mail["head"]["to"], email);
    assert_eq!(mail["head"]["from"], FROM);
    assert!(!mail["head"]["subject"].as_str().unwrap().is_empty());
    let otp = six_digits(mail["text"].as_str().unwrap()).unwrap();

    let reset = json!({ "email": email, "otp": otp, "newPassword": "another one 42" });
    let answer = client.post("/auth/reset-password", reset).await;
    answer.expect_status(200);
    let log_in = |password: &str| {
        let login = json!({ "identifier": email, "password": password });
        client.post("/auth/login", login)
    };
    log_in("another one 42").await.expect_status(200);
    let old = log_in(PASSWORD).await;
    old.expect_problem(401, "Invalid credentials");
    assert_eq!(mail_server.mail(2), None, "one mail was asked for");
    // Neither code nor address is anybody's who reads the log.
    let log = server.log();
    assert!(!log.contains(otp) && !log.contains(&email), "{log}");
}

#[tokio::test]
async fn a_code_that_went_over_starttls_resets_the_password() {
    sent_over(Way::StartTls).await;
}

#[tokio::test]
async fn a_code_that_went_over_tls_resets_the_password() {
    sent_over(Way::Tls).await;
}

/// Encrypted is not enough: a certificate of an authority that nobody here trusts may be anybody's.
#[tokio::test]
async fn nothing_is_told_to_a_server_that_is_not_trusted() {
    socialhub_infra::tls::install();
    let server = RealServer::start();
    for way in [Way::StartTls, Way::Tls] {
        let mailer = mailer(&server.url(way, MAIL_PASSWORD));
        let error = mailer.send("john@example.com", "Hi", "text").await;
        let error = error.unwrap_err().0;
        assert!(error.contains("UnknownIssuer"), "{way:?}: {error}");
    }
    assert_eq!(server.mail(1), None);
}
