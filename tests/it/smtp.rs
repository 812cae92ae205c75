//! Mail through a server that speaks SMTP: one in this process, which can be told to refuse, and one that others wrote.

mod real_server;

use std::time::{Duration, Instant};

use socialhub_commands::ports::{Mailer, Secrets};
use socialhub_infra::{mail::SmtpMailer, security::OsSecrets};
use socialhub_tests::support::{eventually, smtp_server::SmtpServer};

const FROM: &str = "SocialHub <no-reply@example.org>";

fn mailer(url: &str) -> SmtpMailer {
    SmtpMailer::open(url, FROM).unwrap()
}

fn six_digits(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit())
        .find(|run| run.len() == 6)
}

#[tokio::test]
async fn a_code_arrives_as_it_was_mailed() {
    let server = SmtpServer::start().await;
    let mailer = mailer(&server.url());
    let otp = OsSecrets.otp();
    let text = format!("Hello,\n.a line with a dot\nyour code is {otp}. Grüße 🔑\n");
    mailer
        .send(
            "john@example.com",
            "Your code\r\nBcc: all@example.com",
            &text,
        )
        .await
        .unwrap();
    let mails = server.mails();
    let [mail] = mails.as_slice() else {
        panic!("{mails:?}");
    };
    assert_eq!(
        (mail.from.as_str(), mail.to.as_str()),
        ("no-reply@example.org", "john@example.com")
    );
    let (head, body) = mail.message.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("To: john@example.com"), "{head}");
    assert!(head.contains("no-reply@example.org"), "{head}");
    assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
    let encoded = head.contains("Content-Transfer-Encoding: base64");
    let body = if encoded {
        decoded(body)
    } else {
        body.to_owned()
    };
    assert_eq!(six_digits(&body), Some(otp.as_str()), "{body}");
}

fn decoded(body: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let bytes = STANDARD.decode(body.replace("\r\n", "")).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn connections_are_kept() {
    let server = SmtpServer::start().await;
    let mailer = mailer(&server.url());
    // A connection is given back in the background, so the next mail may still need another.
    eventually("a mail goes over a connection that is there", || async {
        let before = server.conversations();
        mailer.send("john@example.com", "Hi", "text").await.unwrap();
        (server.conversations() == before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn not_now_is_tried_again_and_no_is_not() {
    let server = SmtpServer::start().await;
    let mailer = mailer(&server.url());
    server.refuse_next(2);
    mailer.send("john@example.com", "Hi", "text").await.unwrap();
    assert_eq!(server.mails().len(), 1);
    server.refuse_next(100);
    let error = mailer.send("john@example.com", "Hi", "text").await;
    assert!(error.unwrap_err().0.contains("451"));
    server.refuse_next(0);
    // The server quotes the address; we don't.
    let error = mailer.send("unknown@example.com", "Hi", "text").await;
    let error = error.unwrap_err().0;
    assert!(
        error.contains("550") && !error.contains("unknown"),
        "{error}"
    );
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test]
async fn a_wrong_password_is_refused_without_being_told() {
    let server = SmtpServer::start().await;
    let mailer = mailer(&server.url_with("guessed"));
    let error = mailer.send("john@example.com", "Hi", "text").await;
    let error = error.unwrap_err().0;
    assert!(
        !error.contains("guessed") && !error.contains("john"),
        "{error}"
    );
    assert!(server.mails().is_empty());
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_an_error_in_bounded_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = closed.local_addr().unwrap();
    drop(closed);
    for address in [away, silent.local_addr().unwrap()] {
        let mailer = mailer(&format!("smtp://{address}"));
        let begun = Instant::now();
        let error = mailer.send("john@example.com", "Hi", "text").await;
        assert!(!error.unwrap_err().0.contains("john"));
        assert!(begun.elapsed() < Duration::from_secs(20), "{address}");
    }
}
