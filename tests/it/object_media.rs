//! Stores of files: the contract on a local folder, on an S3-compatible server and on Cloudinary, and what only a store
//! on another machine can be asked.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use socialhub_api::{ByteRange, MediaError};
use socialhub_commands::ports::UploadError;
use socialhub_domain::{Clock, Timestamp};
use socialhub_infra::{
    clock::SystemClock,
    media::{Media, MediaLimits, open_media},
};
use socialhub_tests::{
    contract::media::{Store, gif, post, read, upload},
    media_contract,
    support::{
        fake_cloudinary::FakeCloudinary,
        s3_server::{S3Server, files_below},
    },
};
use tempfile::TempDir;

fn open(url: &str) -> Arc<dyn Media> {
    open_media(Some(url), Path::new("unused"), MediaLimits::default()).unwrap()
}

fn local() -> (Store, Arc<TempDir>) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let media = open(&format!("file://{}", folder.path().display()));
    let inside = folder.clone();
    let stored = Box::new(move || files_below(inside.path()));
    (Store { media, stored }, folder)
}

async fn s3() -> (Store, Arc<S3Server>) {
    let server = Arc::new(S3Server::start().await);
    let media = open(&server.url("some/prefix"));
    let inside = server.clone();
    let stored = Box::new(move || inside.stored());
    (Store { media, stored }, server)
}

async fn cloudinary() -> (Store, Arc<FakeCloudinary>) {
    let server = Arc::new(FakeCloudinary::start().await);
    let media = open(&server.url());
    let inside = server.clone();
    let stored = Box::new(move || inside.stored());
    (Store { media, stored }, server)
}

media_contract!(local => local(); s3 => s3().await; cloudinary => cloudinary().await);

/// Everything fails, none of it as if the file were not there, and no secret is told.
async fn nothing_works(media: &dyn Media, secret: &str) {
    let begun = Instant::now();
    for size in [100, 6_000_000] {
        let refused = upload(media, post(), 0, &gif(size), 100_000).await;
        let Err(UploadError::Unavailable(message)) = refused else {
            panic!("{refused:?}");
        };
        assert!(!message.contains(secret), "{message}");
    }
    for range in [None, Some(ByteRange::From(1))] {
        let refused = read(media, post(), "0.gif", range).await;
        let Err(MediaError::Unavailable(message)) = refused else {
            panic!("{refused:?}");
        };
        assert!(!message.contains(secret), "{message}");
    }
    assert!(media.remove_post(post()).await.is_err());
    let exists = |_| async { false }.boxed();
    assert!(media.sweep(SystemClock.now(), &exists).await.is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "six failures took {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_refused() {
    let (store, server) = s3().await;
    nothing_works(
        &*open(&server.url_with("guessed", "some/prefix")),
        "guessed",
    )
    .await;
    assert_eq!((store.stored)(), 0);
    let (store, server) = cloudinary().await;
    nothing_works(&*open(&server.url_with("guessed")), "guessed").await;
    assert_eq!((store.stored)(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_an_error_in_bounded_time() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let s3 = open(&format!("s3://k:hushhush@b?endpoint=http://{address}"));
    let cloudinary = format!("cloudinary://k:hushhush@c?endpoint=http://{address}");
    let cloudinary = open(&cloudinary);
    tokio::join!(
        nothing_works(&*s3, "hushhush"),
        nothing_works(&*cloudinary, "hushhush")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn installations_in_one_bucket_leave_each_other_alone() {
    let server = S3Server::start().await;
    // One prefix is the beginning of the other's name.
    let (mine, other) = (open(&server.url("app")), open(&server.url("app2")));
    let (mine_post, other_post) = (post(), post());
    for (media, post) in [(&mine, mine_post), (&other, other_post)] {
        upload(&**media, post, 0, &gif(100), 100).await.unwrap();
    }
    let object = server.bucket().join(format!("app/{mine_post}/0"));
    assert_eq!(std::fs::read(object).unwrap(), gif(100));
    let soon = Timestamp(SystemClock.now().0 + 3_600_000);
    let exists = |_| async { false }.boxed();
    let swept = mine.sweep(soon, &exists).await.unwrap();
    assert_eq!((swept.posts, server.stored()), (1, 1));
    assert!(other.open(other_post, "0.gif", None).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_in_the_bucket_is_neither_served_nor_swept() {
    let server = S3Server::start().await;
    let media = open(&server.url(""));
    let stray = post();
    for path in [
        format!("{stray}/0"),
        format!("{stray}/note"),
        "x".to_owned(),
    ] {
        let path = server.bucket().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "<script>").unwrap();
    }
    for name in ["0", "0.gif", "0.html"] {
        let open = media.open(stray, name, None).await;
        assert!(matches!(open, Err(MediaError::NotFound)), "{name}");
    }
    let soon = Timestamp(SystemClock.now().0 + 3_600_000);
    let exists = |_| async { false }.boxed();
    media.sweep(soon, &exists).await.unwrap();
    // Named like a file of a post that is not there, the first is swept.
    assert_eq!(server.stored(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_knows_no_parts_does_not_matter() {
    let (store, server) = cloudinary().await;
    let (post, content) = (post(), gif(300_000));
    let media = &*store.media;
    upload(media, post, 0, &content, 65_536).await.unwrap();
    server.ignore_ranges();
    for (first, last) in [
        (10, 20),
        (0, 299_999),
        (299_999, 299_999),
        (100_000, 250_000),
    ] {
        let asked = ByteRange::Between(first, last);
        let (content_type, size, range, body) =
            read(media, post, "0.gif", Some(asked)).await.unwrap();
        assert_eq!((content_type.as_str(), size), ("image/gif", 300_000));
        assert_eq!(range, Some((first, last)));
        assert!(body == content[first as usize..=last as usize]);
    }
}
