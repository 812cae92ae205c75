//! The contract of a store of files: [`Media`] with its [`MediaStore`](socialhub_commands::ports::MediaStore) and
//! [`MediaReader`](socialhub_api::MediaReader).
//!
//! Each case gets an empty store with the usual limits, and a look into it from outside: "leaves nothing" is asked of
//! what the server holds, unfinished files included. [`crate::media_contract`] stamps a test for each case and adapter.

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, TryStreamExt as _, future::try_join_all};
use sha2::{Digest, Sha256};
use socialhub_api::{ByteRange, MediaError};
use socialhub_commands::ports::{StagedFile, UploadError};
use socialhub_domain::{Clock, IdGenerator, PostId, Timestamp};
use socialhub_infra::{
    clock::{RandomIds, SystemClock},
    media::{Media, PostExists, Swept},
};

use crate::support::eventually;

/// A store under test.
pub struct Store {
    /// The store.
    pub media: Arc<dyn Media>,
    /// How many files are there, finished or not.
    pub stored: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Stamps the suite: `media_contract!(local => expression; s3 => expression)`. Each expression makes a fresh, empty
/// [`Store`] and answers it with whatever must live as long as the test.
#[macro_export]
macro_rules! media_contract {
    (@stamp $factory:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _keep) = $factory;
                $crate::contract::media::$case(store).await;
            }
        )+
    };
    ($($adapter:ident => $factory:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                $crate::media_contract!(@stamp $factory;
                    what_was_uploaded_comes_back,
                    any_part_can_be_asked_for,
                    each_kind_is_served_as_what_it_is,
                    what_is_not_there_is_not_found,
                    a_file_that_is_too_large_leaves_nothing,
                    a_file_of_another_kind_leaves_nothing,
                    an_upload_that_is_dropped_leaves_nothing,
                    an_upload_that_is_dropped_while_finishing_leaves_nothing,
                    a_post_has_ten_files_at_most,
                    files_of_a_post_go_with_it,
                    a_sweep_removes_old_files_of_unknown_posts_only,
                );
            }
        )+
    };
}

/// The most bytes of a file.
const LIMIT: usize = 10 * 1024 * 1024;
/// What S3 takes as a part.
const PART: usize = 5 * 1024 * 1024;
const GIF: &[u8] = b"GIF89a\x01\0\x01\0";

/// A fresh post.
pub fn post() -> PostId {
    PostId(RandomIds.next_id())
}

/// A GIF of a size, no two stretches of it alike.
pub fn gif(size: usize) -> Bytes {
    let mut content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    content[..GIF.len()].copy_from_slice(GIF);
    content.into()
}

/// Uploads a file in pieces.
///
/// # Errors
/// What the store says.
pub async fn upload(
    media: &dyn Media,
    post: PostId,
    index: usize,
    content: &Bytes,
    piece: usize,
) -> Result<StagedFile, UploadError> {
    let mut upload = media.begin(post, index).await?;
    for chunk in content.chunks(piece) {
        upload.write(content.slice_ref(chunk)).await?;
    }
    upload.finish().await
}

/// Reads a file, or a part of it: its type, its size, which part it is, and the bytes.
///
/// # Errors
/// What the store says.
pub async fn read(
    media: &dyn Media,
    post: PostId,
    name: &str,
    range: Option<ByteRange>,
) -> Result<(String, u64, Option<(u64, u64)>, Vec<u8>), MediaError> {
    let open = media.open(post, name, range).await?;
    assert!(!open.etag.is_empty() && open.etag.bytes().all(|b| b.is_ascii_graphic() && b != b'"'));
    let pieces: Vec<Bytes> = open.body.try_collect().await.expect("the whole body");
    Ok((open.content_type, open.size, open.range, pieces.concat()))
}

async fn left(store: &Store, count: usize, what: &str) {
    eventually(what, || async { ((store.stored)() == count).then_some(()) }).await;
}

/// Files come back byte for byte, however long, and however they were cut into pieces.
pub async fn what_was_uploaded_comes_back(store: Store) {
    for (index, (size, piece)) in [
        (GIF.len(), 1),
        (4_095, 100),
        (4_096, 4_096),
        (50_000, 8_192),
        (700_000, 300_000),
        (PART, 65_536),
        (PART + 1, 65_536),
        (LIMIT, 1_000_000),
    ]
    .into_iter()
    .enumerate()
    {
        let (post, content) = (post(), gif(size));
        let stored = upload(&*store.media, post, index, &content, piece).await;
        let wanted = StagedFile {
            url: format!("/media/{post}/{index}.gif"),
            content_type: "image/gif".to_owned(),
            size: size as u64,
            sha256: Sha256::digest(&content).into(),
        };
        assert_eq!(stored.expect("a stored file"), wanted);
        let name = format!("{index}.gif");
        for _ in 0..2 {
            let (content_type, length, range, body) = read(&*store.media, post, &name, None)
                .await
                .expect("a file");
            assert_eq!((content_type.as_str(), length), ("image/gif", size as u64));
            assert_eq!(range, None);
            assert!(body == content, "{size} bytes in pieces of {piece} differ");
        }
    }
    assert_eq!((store.stored)(), 8);
}

/// Ranges, as players ask for them.
pub async fn any_part_can_be_asked_for(store: Store) {
    const SIZE: usize = 600_000;
    let (post, content, size) = (post(), gif(SIZE), SIZE as u64);
    upload(&*store.media, post, 0, &content, 65_536)
        .await
        .expect("a stored file");
    for (asked, first, last) in [
        (ByteRange::Between(10, 299_999), 10, 299_999),
        (ByteRange::Between(0, 0), 0, 0),
        (ByteRange::From(1), 1, size - 1),
        (ByteRange::From(size - 1), size - 1, size - 1),
        (ByteRange::Last(7), size - 7, size - 1),
        (ByteRange::Last(size + 7), 0, size - 1),
        (ByteRange::Between(0, u64::MAX), 0, size - 1),
    ] {
        let (_, length, range, body) = read(&*store.media, post, "0.gif", Some(asked))
            .await
            .unwrap_or_else(|error| panic!("{asked:?}: {error}"));
        assert_eq!((length, range), (size, Some((first, last))), "{asked:?}");
        assert!(body == content[first as usize..=last as usize], "{asked:?}");
    }
    for beyond in [
        ByteRange::From(size),
        ByteRange::Between(size, size + 10),
        ByteRange::Last(0),
    ] {
        let refused = read(&*store.media, post, "0.gif", Some(beyond)).await;
        let Err(MediaError::RangeNotSatisfiable { size: told }) = refused else {
            panic!("{beyond:?}: {refused:?}");
        };
        assert_eq!(told, size);
    }
}

/// The type is that of the first bytes.
pub async fn each_kind_is_served_as_what_it_is(store: Store) {
    let post = post();
    for (index, (content, content_type, name)) in [
        (&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], "image/png", "0.png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg", "1.jpg"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "video/mp4", "2.mp4"),
        (b"ID3\x03\0\0\0\0\0\0", "audio/mpeg", "3.mp3"),
        (b"fLaC\0\0\0\x22", "audio/flac", "4.flac"),
    ]
    .into_iter()
    .enumerate()
    {
        let content = Bytes::from_static(content);
        let stored = upload(&*store.media, post, index, &content, 3)
            .await
            .expect("a stored file");
        assert_eq!(stored.content_type, content_type);
        assert_eq!(stored.url, format!("/media/{post}/{name}"));
        let range = Some(ByteRange::From(2));
        let (served, _, _, body) = read(&*store.media, post, name, range)
            .await
            .expect("a file");
        assert_eq!((served.as_str(), &body[..]), (content_type, &content[2..]));
    }
}

/// A file has one address.
pub async fn what_is_not_there_is_not_found(store: Store) {
    let stored = post();
    upload(&*store.media, stored, 0, &gif(5_000), 5_000)
        .await
        .expect("a stored file");
    assert!(store.media.open(stored, "0", None).await.is_ok());
    let names = [
        "0.png",
        "0.gif.html",
        "1.gif",
        "00x",
        "",
        "9999999999999999999999",
    ];
    for name in names {
        for range in [None, Some(ByteRange::From(1))] {
            let open = store.media.open(stored, name, range).await;
            assert!(matches!(open, Err(MediaError::NotFound)), "{name}");
        }
    }
    let open = store.media.open(post(), "0.gif", None).await;
    assert!(matches!(open, Err(MediaError::NotFound)));
}

/// 413, and nothing is there, though most of it had been sent.
pub async fn a_file_that_is_too_large_leaves_nothing(store: Store) {
    let error = upload(&*store.media, post(), 3, &gif(LIMIT + 1), 1 << 20).await;
    let error = error.expect_err("a refusal");
    assert!(matches!(error, UploadError::TooLarge(_)), "{error}");
    assert_eq!(error.to_string(), "file 4 has more than 10485760 bytes");
    left(&store, 0, "a file too large leaves nothing").await;
}

/// 415 for what is no picture, video or sound; 400 for nothing at all.
pub async fn a_file_of_another_kind_leaves_nothing(store: Store) {
    let mut svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\">".to_vec();
    for size in [40, 100_000] {
        svg.resize(size, b' ');
        let error = upload(&*store.media, post(), 0, &svg.clone().into(), 4096).await;
        let error = error.expect_err("a refusal");
        assert!(matches!(error, UploadError::UnsupportedType(_)), "{error}");
    }
    let error = upload(&*store.media, post(), 0, &Bytes::new(), 1).await;
    assert!(matches!(error, Err(UploadError::Broken(_))));
    let mut refused = store.media.begin(post(), 0).await.expect("an upload");
    assert!(refused.write(vec![b' '; 5000].into()).await.is_err());
    let again = refused.write(gif(5000)).await;
    assert!(matches!(again, Err(UploadError::Broken(_))));
    assert!(matches!(
        refused.finish().await,
        Err(UploadError::Broken(_))
    ));
    left(&store, 0, "a file of another kind leaves nothing").await;
}

/// The client went away.
pub async fn an_upload_that_is_dropped_leaves_nothing(store: Store) {
    for size in [100, 50_000, PART + PART / 2, LIMIT] {
        let mut upload = store.media.begin(post(), 0).await.expect("an upload");
        for chunk in gif(size).chunks(65_536) {
            let piece = Bytes::copy_from_slice(chunk);
            upload.write(piece).await.expect("a piece is taken");
        }
        drop(upload);
    }
    left(&store, 0, "a dropped upload leaves nothing").await;
}

/// The client went away while the file was made durable: it may be there already, but does not stay.
pub async fn an_upload_that_is_dropped_while_finishing_leaves_nothing(store: Store) {
    for size in [100, 50_000, PART + 1] {
        // So that the drop meets each moment of the last requests.
        for polls in [1, 2, 5, 20] {
            let mut upload = store.media.begin(post(), 0).await.expect("an upload");
            upload.write(gif(size)).await.expect("a piece is taken");
            let mut finishing = upload.finish();
            for _ in 0..polls {
                if let Some(finished) = (&mut finishing).now_or_never() {
                    let stored = finished.expect("a stored file");
                    let post = stored.url.split('/').nth(2).expect("a post");
                    let post = post.parse().expect("an id");
                    store.media.remove_post(post).await.expect("removal");
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }
    // Meanwhile others are stored as ever.
    upload(&*store.media, post(), 0, &gif(PART + 1), 1 << 20)
        .await
        .expect("a stored file");
    left(&store, 1, "what was dropped while finishing is not left").await;
}

/// The eleventh is refused.
pub async fn a_post_has_ten_files_at_most(store: Store) {
    let post = post();
    assert!(store.media.begin(post, 9).await.is_ok());
    let Err(error) = store.media.begin(post, 10).await else {
        panic!("an eleventh file was taken");
    };
    assert!(matches!(error, UploadError::TooLarge(_)));
}

/// Ten at once, and all gone with the post; others stay.
pub async fn files_of_a_post_go_with_it(store: Store) {
    let (gone, stays) = (post(), post());
    let content: Vec<Bytes> = (0..10).map(|index| gif(5_000 + index)).collect();
    let uploads = content
        .iter()
        .enumerate()
        .map(|(index, content)| upload(&*store.media, gone, index, content, 1_000));
    let stored = try_join_all(uploads).await.expect("ten stored files");
    assert_eq!(stored[7].size, 5_007);
    upload(&*store.media, stays, 0, &content[0], 1_000)
        .await
        .expect("a stored file");
    assert_eq!((store.stored)(), 11);
    assert!(store.media.open(gone, "7.gif", None).await.is_ok());
    for _ in 0..2 {
        store.media.remove_post(gone).await.expect("removal");
        assert_eq!((store.stored)(), 1);
    }
    let open = store.media.open(gone, "7.gif", None).await;
    assert!(matches!(open, Err(MediaError::NotFound)));
    assert!(store.media.open(stays, "0.gif", None).await.is_ok());
}

/// Only what is old, and what the log does not know.
pub async fn a_sweep_removes_old_files_of_unknown_posts_only(store: Store) {
    let known = post();
    let posts = [post(), known, post(), post(), post()];
    for post in posts {
        upload(&*store.media, post, 0, &gif(500), 500)
            .await
            .expect("a stored file");
    }
    let last = upload(&*store.media, posts[0], 9, &gif(500), 500).await;
    last.expect("a stored file");
    let exists = move |post| async move { post == known }.boxed();
    let exists: &PostExists = &exists;
    let now = SystemClock.now();
    let (hour_ago, in_an_hour) = (Timestamp(now.0 - 3_600_000), Timestamp(now.0 + 3_600_000));
    let swept = store.media.sweep(hour_ago, exists).await.expect("a sweep");
    assert_eq!((swept, (store.stored)()), (Swept::default(), 6));
    let swept = store
        .media
        .sweep(in_an_hour, exists)
        .await
        .expect("a sweep");
    assert_eq!(swept.posts, 4);
    assert_eq!((store.stored)(), 1);
    let swept = store
        .media
        .sweep(in_an_hour, exists)
        .await
        .expect("a sweep");
    assert_eq!(swept, Swept::default());
    assert!(store.media.open(known, "0.gif", None).await.is_ok());
}
