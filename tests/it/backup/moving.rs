//! From the embedded to the distributed profile.

use socialhub_tests::support::{
    Profile, Server, fake_cloudinary::FakeCloudinary, s3_server::S3Server,
};

use super::{
    Exports, FLAGS, ended, fresh,
    network::{Network, is_all_there, network},
    send, start, waiting_for,
};

/// The embedded profile's data goes to the servers, files to S3, and everybody finds everything there. From there it goes on,
/// with an export, to somebody whose files are at Cloudinary.
#[tokio::test]
async fn a_team_moves_from_the_embedded_to_the_distributed_profile() {
    let mut old = fresh(Profile::Embedded).await;
    old.restart().await;
    let network = network(&old).await;
    old.caught_up().await;
    let answers = network.answers().await;
    let bucket = S3Server::start().await;
    let mut new = with_media_at(&bucket.url("media"), Profile::Distributed).await;
    let from = format!("sqlite:{}", old.data_dir().display());
    let to = new.setting("DATABASE_URL").to_owned();
    let migrate = ["replay", "migrate", "--from", &from, "--to", &to];
    let running = new.fail(&migrate).await;
    assert!(running.contains("stop that one first"), "{running}");
    assert!(old.stop().await);
    for (wrong, says) in [
        (
            [
                "replay",
                "migrate",
                "--from",
                "sqlite:/nowhere",
                "--to",
                &to,
            ],
            "there is no event log",
        ),
        (
            ["replay", "migrate", "--from", "postgres://x/y", "--to", &to],
            "--from: must be `sqlite:`",
        ),
        (
            ["replay", "migrate", "--from", &from, "--to", "sqlite:x"],
            "--to: must start with",
        ),
    ] {
        let said = new.fail(&wrong).await;
        assert!(said.contains(says), "{said}");
    }
    kill_in_the_middle_of_moving(&new, &migrate).await;
    let said = new.succeed(&migrate).await;
    assert!(said.contains("JWT_SECRET_FILE="), "{said}");
    let again = new.succeed(&migrate).await;
    assert!(again.contains("media: 0, and 1 were there"), "{again}");
    new.restart().await;
    is_all_there(&new, &network, &answers).await;
    assert_eq!(bucket.stored(), 1);
    goes_on_to_cloudinary(&new, &network).await;
    let running = new.fail(&migrate).await;
    let wanted = "stop every process on that log first";
    assert!(running.contains(wanted), "{running}");
    assert!(new.stop().await);
    new.is_alone().await;
    // What has gone on elsewhere cannot be written over.
    let refused = new.fail(&migrate).await;
    assert!(refused.contains("must be empty"), "{refused}");
}

async fn with_media_at(url: &str, profile: Profile) -> Server {
    let mut environment = profile.environment().await;
    environment.retain(|(name, _)| name != "MEDIA_URL");
    environment.push(("MEDIA_URL".to_owned(), url.to_owned()));
    Server::prepare(&FLAGS, environment)
}

/// Files come out of S3 and go into Cloudinary, under the names that the posts tell.
async fn goes_on_to_cloudinary(server: &Server, network: &Network) {
    let there = network.on(server).await;
    server.caught_up().await;
    let answers = there.answers().await;
    let exports = Exports::new();
    let folder = exports.name("on");
    server
        .succeed(&["replay", "export", &folder, "--all", "--media", "copy"])
        .await;
    let cloud = FakeCloudinary::start().await;
    let mut next = with_media_at(&cloud.url(), Profile::Embedded).await;
    next.succeed(&["replay", "import", &folder]).await;
    assert_eq!(cloud.stored(), 1);
    next.restart().await;
    is_all_there(&next, network, &answers).await;
}

/// A backup that is taken before an upgrade, by the new program, must not be its first step.
#[tokio::test]
async fn an_export_leaves_the_tables_of_an_older_program_as_they_are() {
    use sqlx::Connection;
    let mut server = fresh(Profile::Distributed).await;
    server.restart().await;
    assert!(server.stop().await);
    let mut tables = sqlx::PgConnection::connect(server.setting("DATABASE_URL"))
        .await
        .unwrap();
    let older = "UPDATE schema_versions SET version = version - 1 WHERE component = 'event log' RETURNING version";
    let older: i64 = sqlx::query_scalar(older)
        .fetch_one(&mut tables)
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("export");
    let refused = server
        .fail(&["replay", "export", into.to_str().unwrap(), "--all"])
        .await;
    assert!(
        refused.contains("run `socialhub migrate` first"),
        "{refused}"
    );
    let version = "SELECT version FROM schema_versions WHERE component = 'event log'";
    let version: i64 = sqlx::query_scalar(version)
        .fetch_one(&mut tables)
        .await
        .unwrap();
    assert_eq!(version, older);
}

/// Kills a move before its first event is written, and when the log is written and the chat is not.
async fn kill_in_the_middle_of_moving(new: &Server, migrate: &[&str]) {
    use sqlx::{Connection, Executor, PgConnection};
    let connect = || PgConnection::connect(new.setting("DATABASE_URL"));
    let (mut holding, mut looking) = (connect().await.unwrap(), connect().await.unwrap());
    for (hold, waits_for, arrived) in [
        (
            "SELECT pg_advisory_lock(8316291640277037)",
            "advisory",
            false,
        ),
        (
            "BEGIN; LOCK TABLE chat_messages IN SHARE MODE",
            "relation",
            true,
        ),
    ] {
        holding.execute(hold).await.unwrap();
        let child = start(new.prepare_command(migrate));
        waiting_for(&mut looking, waits_for, 1).await;
        send(&child, "KILL");
        assert!(!ended(child).await.status.success());
        drop(std::mem::replace(&mut holding, connect().await.unwrap()));
        let events: i64 = sqlx::query_scalar("SELECT count(*) FROM events")
            .fetch_one(&mut looking)
            .await
            .unwrap();
        assert_eq!(events > 0, arrived, "{events}");
        if arrived {
            let refused = new.fail(&["serve", "--listen", "127.0.0.1:0"]).await;
            assert!(refused.contains("run it again"), "{refused}");
        }
    }
}
