//! A server that goes away in the middle of what changes letters or copies a log: it is said, with what to do, and the same
//! command does it afterwards.

use serde_json::{Value, json};
use socialhub_tests::support::{Profile, Server, printed, proxy::Proxy};

use super::{
    damage::lines,
    letters::{parked, reject_rows},
    outage::{LOG, cut_off_from, run, told, world},
    repair::seen,
};

/// Of what a server says to a command that is left alone.
const SHARES: [f64; 2] = [0.3, 0.7];

fn share_of(whole: u64, share: f64) -> u64 {
    (whole as f64 * share) as u64
}

/// A server of whose likes the feed took none.
async fn with_letters() -> Server {
    let server = Server::start().await;
    let me = server.client().sign_up("waits").await;
    let mut posts = Vec::new();
    for nth in 0..6 {
        posts.push(me.write_post(&format!("post {nth}"), "public").await);
    }
    seen(&me).await;
    reject_rows(&server, "likes", true).await;
    for post in posts {
        me.put(&format!("/posts/{post}/like"), Value::Null)
            .await
            .expect_status(200);
        let comment = json!({ "comment": "behind it" });
        me.post(&format!("/posts/{post}/comment"), comment)
            .await
            .expect_status(201);
    }
    seen(&me).await;
    assert_eq!(parked(&server, "feed").await.len(), 12);
    server
}

#[tokio::test]
async fn letters_whose_store_goes_away_stay_parked_in_order() {
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let server = with_letters().await;
    let list = ["replay", "dead-letters", "list", "feed"];
    let (alone, whole) = run(&server, LOG, &list, u64::MAX).await;
    assert!(alone.status.success(), "{}", printed(&alone));
    for share in SHARES {
        let said = cut_off_from(&server, LOG, &list, share_of(whole, share)).await;
        assert!(!said.contains("panicked"), "{said}");
    }

    // While it takes none, it says about as much as when it takes them.
    let retry = ["replay", "dead-letters", "retry", "feed"];
    let (alone, whole) = run(&server, LOG, &retry, u64::MAX).await;
    assert_eq!(alone.status.code(), Some(1), "{}", printed(&alone));
    reject_rows(&server, "likes", false).await;
    let mut left = parked(&server, "feed").await;
    let all = left.len();
    for share in [0.2, 0.25] {
        let said = cut_off_from(&server, LOG, &retry, share_of(whole, share)).await;
        // Of a letter that it never came to, nothing is said.
        assert!(!said.contains("stays"), "{said}");
        let still = parked(&server, "feed").await;
        // What was applied went first.
        assert!(left.ends_with(&still), "{share}: {left:?}, {still:?}");
        left = still;
    }
    assert!(
        (1..all).contains(&left.len()),
        "not in the middle: {left:?}"
    );
    let said = server.succeed(&retry).await;
    assert_eq!(said.matches("was applied").count(), left.len(), "{said}");
    assert_eq!(parked(&server, "feed").await, Vec::<u64>::new());
    server.verify_all().await;
}

#[tokio::test]
async fn an_export_whose_database_goes_away_is_gone_on_with() {
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let server = world().await;
    let folder = tempfile::tempdir().unwrap();
    let into = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let whole = into("whole");
    let export = |to: &str| ["replay", "export", to, "--all"].map(str::to_owned);
    let words = export(&whole);
    let words = words.each_ref().map(String::as_str);
    let (alone, heard) = run(&server, LOG, &words, u64::MAX).await;
    assert!(alone.status.success(), "{}", printed(&alone));
    for share in SHARES {
        let half = into(&format!("half {share}"));
        let words = export(&half);
        let words = words.each_ref().map(String::as_str);
        cut_off_from(&server, LOG, &words, share_of(heard, share)).await;
        let check = ["replay", "import", &half, "--check"];
        let refused = server.fail(&check).await;
        assert!(refused.contains("run the export again"), "{refused}");
        server.succeed(&words).await;
        let empty = Server::prepare(&[], Profile::Embedded.environment().await);
        let checked = empty.succeed(&[&check[..], &["--json"]].concat()).await;
        let checked = &lines(&checked)[0];
        let head = &server.status().await["head"];
        assert_eq!(&checked["parts"][0]["lines"], head, "{checked}");
    }
}

#[tokio::test]
async fn a_move_whose_database_goes_away_is_gone_on_with() {
    if Profile::chosen() == Profile::Embedded {
        return;
    }
    let mut old = Server::start_in(
        &["--rate-limits", "off"],
        Profile::Embedded.environment().await,
    )
    .await;
    let me = old.client().sign_up("mover").await;
    for nth in 0..60 {
        me.write_post(&format!("post {nth}"), "public").await;
    }
    assert!(old.stop().await, "{}", old.log());
    let from = format!("sqlite:{}", old.data_dir().display());
    let (_, whole) = moved(&from, u64::MAX).await;
    for share in SHARES {
        let most = share_of(whole, share);
        let (mut new, heard) = moved(&from, most).await;
        assert!(heard > most, "{share}: not in the middle");
        let to = new.setting(LOG).to_owned();
        new.succeed(&["replay", "migrate", "--from", &from, "--to", &to])
            .await;
        new.restart().await;
        new.caught_up().await;
        new.verify_all().await;
        let me = new.client().log_in_as(&me).await;
        let posts = me.get(&format!("/posts/user/{}?limit=100", me.id)).await;
        assert_eq!(posts.expect_status(200).list("/posts").len(), 60);
    }
}

/// Moves a data folder to fresh servers whose database says so much at most.
async fn moved(from: &str, most: u64) -> (Server, u64) {
    let new = Server::prepare(
        &["--rate-limits", "off"],
        Profile::Distributed.environment().await,
    );
    let url = new.setting(LOG).to_owned();
    let proxy = Proxy::to(&url, most).await;
    let to = proxy.through(&url);
    let migrate = ["replay", "migrate", "--from", from, "--to", &to];
    let output = new.command(&migrate).await;
    let heard = proxy.carried();
    if most == u64::MAX {
        assert!(output.status.success(), "{}", printed(&output));
    } else {
        // Who meets nobody has begun nothing.
        if !printed(&output).contains("cannot be reached") {
            told(&migrate, &output, heard, most);
        }
    }
    (new, heard)
}
