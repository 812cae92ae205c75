//! The program itself: its start, its commands, its operations routes.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use socialhub_tests::support::{
    Profile, Server, client::PASSWORD, eventually, profile::OPERATOR_TOKEN, s3_server::S3Server,
    server::binary, smtp_server::SmtpServer,
};
use tokio::io::AsyncWriteExt;

use crate::{
    backup::newer::{OTHER_PASSWORD, reset_password},
    erasure::erase,
};

#[tokio::test]
async fn it_says_where_it_is_and_what_to_try() {
    let server = Server::start().await;
    let said = async || {
        let log = server.log();
        let all = log.contains(&server.url()) && log.contains("data") && log.contains("/docs");
        all.then_some(())
    };
    eventually("it says where it is and what to try", said).await;
    let client = server.client();
    client.get("/livez").await.expect_status(200);
    client.get("/readyz").await.expect_status(200);
    let request = client
        .request(reqwest::Method::GET, "/metrics")
        .header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
    let metrics = client.send(request).await.expect_status(200);
    assert!(
        String::from_utf8_lossy(&metrics.bytes).contains("socialhub_projection"),
        "{metrics:?}"
    );
    let page = client.get("/docs").await.expect_status(200);
    assert!(page.header("content-type").starts_with("text/html"));
}

#[tokio::test]
async fn the_openapi_document_names_every_route() {
    let server = Server::start().await;
    let document = server
        .client()
        .get("/openapi.json")
        .await
        .expect_status(200);
    assert!(document.text("/openapi").starts_with("3.1"));
    let paths: Vec<_> = document
        .at("/paths")
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    for wanted in [
        "/auth/signup",
        "/auth/login",
        "/auth/verify-user",
        "/auth/request-reset",
        "/auth/verify-otp",
        "/auth/reset-password",
        "/auth/me",
        "/users/profile/{userId}",
        "/users/profile",
        "/users/follow/{userId}",
        "/users/unfollow/{userId}",
        "/users/followers/{userId}",
        "/users/following/{userId}",
        "/users/search",
        "/posts/{postId}",
        "/posts/user/{userId}",
        "/posts/{postId}/like",
        "/posts/{postId}/comment",
        "/posts/{postId}/comments",
        "/posts/{postId}/comments/{commentId}",
        "/notify/notifications",
        "/notify/notifications/{id}/read",
        "/notify/notifications/read-all",
        "/notify/notifications/{id}",
        "/notify/stream",
        "/events/stream",
        "/livez",
        "/readyz",
    ] {
        assert!(
            paths.iter().any(|path| path == wanted),
            "{wanted} is not in {paths:?}"
        );
    }
}

#[tokio::test]
async fn the_demo_fills_a_server_through_the_front_door() {
    let server = Server::start().await;
    for _ in 0..2 {
        let output = Command::new(binary())
            .args(["demo", "--url", &server.url()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("ada"), "{text}");
    }
    server.verify_all().await;
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(binary())
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

#[test]
fn a_bad_setting_is_refused_by_name() {
    for (arguments, environment, wanted) in [
        (&["serve", "--listen", "nowhere"][..], &[][..], "--listen"),
        (&["serve", "--nosuch", "1"], &[], "--nosuch"),
        (
            &["serve"],
            &[("DATABASE_URL", "mysql://localhost/x")],
            "DATABASE_URL",
        ),
        (
            &["serve"],
            &[("DATABASE_URL", "postgres://localhost/x")],
            "KAFKA_BROKERS",
        ),
        (
            &["serve"],
            &[("REDIS_URL", "redis://localhost/")],
            "REDIS_URL",
        ),
        (
            &["serve"],
            &[
                ("DATABASE_URL", "postgres://localhost/x"),
                ("KAFKA_BROKERS", ""),
                ("MONGODB_URL", "mongodb://localhost/x"),
                ("REDIS_URL", "redis://localhost/"),
            ],
            "KAFKA_BROKERS",
        ),
        (
            &["serve"],
            &[
                ("DATABASE_URL", "postgres://localhost/x"),
                ("KAFKA_BROKERS", "localhost:9092"),
                ("MONGODB_URL", "nonsense"),
                ("REDIS_URL", "redis://localhost/"),
            ],
            "MONGODB_URL",
        ),
        (
            &["serve"],
            &[
                ("DATABASE_URL", "postgres://localhost/x"),
                ("KAFKA_BROKERS", "localhost:9092"),
                ("MONGODB_URL", "mongodb://localhost/x"),
                ("REDIS_URL", "nonsense"),
            ],
            "REDIS_URL",
        ),
        (&["relay"], &[], "DATABASE_URL"),
        (&["service", "nosuch"], &[], "nosuch"),
        (&["project", "nosuch"], &[], "nosuch"),
        (&["serve"], &[("JWT_SECRET", "short")], "JWT_SECRET"),
        (&["serve"], &[("OPERATOR_TOKEN", "short")], "OPERATOR_TOKEN"),
        (&["serve", "--config", "missing.toml"], &[], "missing.toml"),
    ] {
        let (ok, text) = run(arguments, environment);
        assert!(
            !ok && text.contains(wanted),
            "{arguments:?} {environment:?}: {text}"
        );
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// An address of nobody, with a password that must not be seen.
fn nobody(scheme: &str) -> String {
    format!("{scheme}://somebody:verysecret@127.0.0.1:1/social")
}

/// Databases that answer, and let this program not in: the program ends and says which.
#[tokio::test]
async fn a_database_that_turns_the_program_away_ends_it_by_name() {
    for setting in ["DATABASE_URL", "READ_MODEL_URL", "CHAT_DATABASE_URL"] {
        let server = Server::prepare(&[], Profile::Distributed.environment().await);
        let (front, _) = server.setting("DATABASE_URL").rsplit_once('/').unwrap();
        let (_, host) = front
            .rsplit_once('@')
            .unwrap_or(front.split_once("//").unwrap());
        for (url, wanted) in [
            (format!("{front}/nosuchdatabase"), "nosuchdatabase"),
            (
                format!("postgres://nosuchperson:verysecret@{host}/postgres"),
                "nosuchperson",
            ),
        ] {
            let mut command = server.prepare_command(&["serve", "--listen", "127.0.0.1:0"]);
            command.env(setting, url);
            let output = tokio::task::spawn_blocking(move || command.output());
            let output = output.await.unwrap().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{setting}: {said}");
            let line = said
                .lines()
                .find(|line| line.contains(&format!("{setting}: Postgres does not")));
            assert!(
                line.is_some_and(|line| line.contains(wanted)),
                "{setting}: {said}"
            );
            assert!(!said.contains("verysecret"), "{said}");
        }
    }
}

/// Servers that are away are waited for, and each is named by its setting and its place.
#[tokio::test]
async fn a_server_that_is_away_is_named_and_its_password_is_not() {
    for (setting, url) in [
        ("DATABASE_URL", nobody("postgres")),
        ("READ_MODEL_URL", nobody("postgres")),
        ("CHAT_DATABASE_URL", nobody("postgres")),
        ("MONGODB_URL", nobody("mongodb")),
        ("REDIS_URL", nobody("redis").replace("/social", "/0")),
        ("KAFKA_BROKERS", "127.0.0.1:1".to_owned()),
    ] {
        let server = Server::prepare(&[], Profile::Distributed.environment().await);
        // What migrates waits for the chat's database; a service does not.
        let arguments = match setting {
            "KAFKA_BROKERS" => &["relay"][..],
            _ => &["service", "feed", "--listen", "127.0.0.1:0"],
        };
        let migrated = server.command(&["migrate"]).await;
        assert!(migrated.status.success(), "{migrated:?}");
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = server.prepare_command(arguments);
        command
            .env(setting, url)
            .stdout(log.reopen().unwrap())
            .stderr(log.reopen().unwrap());
        let mut child = command.spawn().unwrap();
        let what = format!("the server of {setting} is named");
        eventually(&what, || async {
            let said = std::fs::read_to_string(log.path()).unwrap();
            let mut lines = said.lines();
            lines
                .any(|line| line.contains(setting) && line.contains("127.0.0.1:1"))
                .then_some(())
        })
        .await;
        assert!(
            child.try_wait().unwrap().is_none(),
            "{setting}: it has ended"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let said = std::fs::read_to_string(log.path()).unwrap();
        assert!(!said.contains("verysecret"), "{setting}: {said}");
    }
}

/// A server that is to send mail and keep files at these addresses.
async fn with_mail_and_files(mail: String, files: String) -> Server {
    let mut environment = Profile::chosen().environment().await;
    let settings = [("SMTP_URL", mail), ("MEDIA_URL", files)];
    environment.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    Server::start_in(&["--rate-limits", "off"], environment).await
}

/// Mail and files are not needed to start. What cannot be used is named once, by its setting, and the program runs.
#[tokio::test]
async fn mail_and_files_that_cannot_be_used_are_named_and_the_program_runs() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let (mail, files) = (SmtpServer::start().await, S3Server::start().await);
    let endpoint = |place: &str| format!("endpoint=http://{place}");
    for (mail, files) in [
        (
            nobody("smtp"),
            format!(
                "s3://somebody:verysecret@bucket/files?{}",
                endpoint("127.0.0.1:1")
            ),
        ),
        // They take connections, and say nothing.
        (
            format!("smtp://somebody:verysecret@{silent}"),
            format!(
                "cloudinary://somebody:verysecret@cloud?{}",
                endpoint(&silent.to_string())
            ),
        ),
        // They answer, and do not let this program in.
        (
            mail.url_with("verysecret"),
            files.url_with("verysecret", "files"),
        ),
    ] {
        let server = with_mail_and_files(mail, files).await;
        let named = |setting: &str| {
            let log = server.log();
            let lines = log.lines();
            lines.filter(|line| line.contains(setting)).count()
        };
        let both = || async { (named("SMTP_URL") > 0 && named("MEDIA_URL") > 0).then_some(()) };
        eventually("what cannot be used is named", both).await;
        let log = server.log();
        assert!(log.contains("each mail tries again"), "{log}");
        assert!(log.contains("each file tries again"), "{log}");
        assert!(!log.contains("verysecret"), "{log}");
        let person = server.client().sign_up("anyway").await;
        person.write_post("without a file", "public").await;
        assert_eq!((named("SMTP_URL"), named("MEDIA_URL")), (1, 1), "{log}");
    }
}

#[tokio::test]
async fn mail_and_files_that_can_be_used_are_not_worth_a_line() {
    let (mail, files) = (SmtpServer::start().await, S3Server::start().await);
    let mut server = with_mail_and_files(mail.url(), files.url("files")).await;
    eventually("it looks at the mail server", || async {
        (mail.conversations() > 0).then_some(())
    })
    .await;
    server.client().sign_up("writer").await;
    assert!(server.stop().await);
    let log = server.log();
    assert!(
        !log.contains("SMTP_URL") && !log.contains("MEDIA_URL"),
        "{log}"
    );
    assert!(mail.mails().is_empty(), "nobody was to get a mail");
}

#[test]
fn a_key_that_the_file_has_and_we_do_not_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "lissen = '127.0.0.1:0'\n").unwrap();
    let (ok, text) = run(&["serve", "--config", file.to_str().unwrap()], &[]);
    assert!(!ok && text.contains("lissen"), "{text}");
}

#[test]
fn a_cost_of_passwords_that_nobody_can_pay_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for cost in ["3", "15", "much"] {
        let data = folder.path().to_str().unwrap();
        let serve = ["serve", "--data-dir", data, "--password-cost", cost];
        let (ok, text) = run(&serve, &[]);
        let named = text.contains("PASSWORD_COST") || text.contains("--password-cost");
        assert!(!ok && named, "{cost}: {text}");
    }
}

/// A log on SQLite belongs to one process; one on Postgres does not, and the second server is simply another one.
#[tokio::test]
async fn two_servers_on_one_folder_are_refused() {
    let server = Server::start().await;
    if Profile::chosen() == Profile::Distributed {
        return two_servers_share_what_they_have(&server).await;
    }
    let output = server.command(&["serve", "--listen", "127.0.0.1:0"]).await;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("another"),
        "{text}"
    );
}

async fn two_servers_share_what_they_have(one: &Server) {
    let other = one.another().await;
    let (ada, bob) = (
        one.client().sign_up("here").await,
        other.client().sign_up("there").await,
    );
    let post = ada.write_post("from one process", "public").await;
    // Each is asked at the server that does not know it yet.
    let bob_here = one.client().with_token(&bob.id, &bob.username, &bob.token);
    bob_here
        .get(&format!("/posts/{post}"))
        .await
        .expect_status(200);
    let ada_there = other
        .client()
        .with_token(&ada.id, &ada.username, &ada.token);
    // A person reads their own writes, whichever process they ask.
    let mine = ada_there
        .get(&format!("/posts/user/{}", ada.id))
        .await
        .expect_status(200);
    assert_eq!(mine.list("/posts").len(), 1);
    // A token that ends in one process ends in the other, which has taken it a moment ago.
    reset_password(one, &ada).await;
    erase(&bob, PASSWORD).await.expect_status(204);
    for (who, server) in [(&ada_there, "other"), (&bob_here, "one")] {
        eventually("the token has ended there, too", || async {
            let answer = who.get_as_is("/auth/me").await;
            // The model may know that they are gone before the process knows that their token is.
            let awaited = [200, 404, 401].contains(&answer.status);
            assert!(awaited, "{server}: {answer:?}");
            (answer.status == 401).then_some(())
        })
        .await;
    }
    let again = json!({ "identifier": ada.username, "password": OTHER_PASSWORD });
    let again = other.client().post("/auth/login", again).await;
    let again = again.expect_status(200);
    let ada = one
        .client()
        .with_token(&ada.id, &ada.username, again.text("/token"));
    ada.get("/auth/me").await.expect_status(200);
    one.caught_up().await;
    one.verify_all().await;
}

#[tokio::test]
async fn the_doctor_finds_a_healthy_folder_healthy() {
    let mut server = Server::start().await;
    server.client().sign_up("doctor").await;
    assert!(server.stop().await);
    let output = server.command(&["doctor", "--listen", "127.0.0.1:0"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

/// A client that asks for a lot and takes nothing of it.
#[tokio::test]
async fn who_takes_nothing_does_not_hold_up_the_end() {
    let mut server = Server::start().await;
    let address = ("127.0.0.1", server.port());
    let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    // More than the buffers of both ends hold; the server stops reading where it cannot answer.
    let asking = async {
        for _ in 0..400 {
            client.write_all(request.as_bytes()).await.unwrap();
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), asking).await;
    // Others are served meanwhile.
    server.client().get("/livez").await.expect_status(200);
    assert!(server.stop().await, "it did not end in order");
}

#[tokio::test]
async fn answers_carry_request_ids() {
    let server = Server::start().await;
    let client = server.client();
    assert!(!client.get("/livez").await.header("x-request-id").is_empty());
    let request = client
        .request(reqwest::Method::GET, "/nowhere")
        .header("x-request-id", "my-own-id");
    let answer = client.send(request).await;
    assert_eq!(
        (answer.header("x-request-id"), answer.at("/requestId")),
        ("my-own-id", &Value::from("my-own-id"))
    );
}
