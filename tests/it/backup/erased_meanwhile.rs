//! Somebody is erased while an export looks for their files.

use std::sync::Arc;

use async_trait::async_trait;
use socialhub_domain::{
    PostId, Timestamp, UserId,
    event::{self, PostCreated, Visibility},
    post::Post,
};
use socialhub_event_log::{Append, EventLog, NewEvent};
use socialhub_infra::{
    clock::SystemClock,
    security::AesGcmCipher,
    sqlite::event_log::{SqliteEventLog, SqliteLogArchive},
};
use socialhub_replay_tools::transfer::{
    Part, PartError,
    media::{Contents, Media, MediaBody, MediaFile, MediaFiles},
};
use socialhub_tests::contract::{
    event_log::{append, id},
    people::erase,
};

/// A store without files. Their author may be erased just before one is asked for.
struct NoFiles {
    log: SqliteEventLog,
    erased: Option<UserId>,
}

#[async_trait]
impl MediaFiles for NoFiles {
    async fn open(&self, _: &MediaFile) -> Result<Option<MediaBody>, PartError> {
        if let Some(author) = self.erased {
            self.log.append(erase(author, 0)).await.unwrap();
        }
        Ok(None)
    }

    async fn store(&self, _: &MediaFile, _: MediaBody) -> Result<(), PartError> {
        Ok(())
    }
}

fn post_with_a_file(author: UserId) -> Append {
    let post_id = PostId(id());
    let post = PostCreated {
        post_id,
        user_id: author,
        username: "ada".to_owned(),
        content: "a picture".to_owned(),
        visibility: Visibility::Public,
        media: vec![event::Media {
            url: format!("/media/{post_id}/0.png"),
            content_type: "image/png".to_owned(),
            size: 7,
        }],
        timestamp: Timestamp(5),
    };
    Append {
        events: vec![NewEvent {
            event_id: id(),
            event: post.into(),
            payload: None,
        }],
        ..append(&Post::stream(post_id), 0, 0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_somebody_who_is_erased_meanwhile_are_not_missing() {
    for is_erased in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.db");
        let log = SqliteEventLog::open(&file, Arc::new(SystemClock)).unwrap();
        let author = UserId(id());
        log.append(post_with_a_file(author)).await.unwrap();
        let store = NoFiles {
            log,
            erased: is_erased.then_some(author),
        };
        let archive = Arc::new(SqliteLogArchive::open_read_only(&file).unwrap());
        let (store, cipher) = (Arc::new(store), Arc::new(AesGcmCipher));
        let media = Media::new(archive, 1, store, Contents::Elsewhere, cipher);
        let page = media.read("").await.unwrap().unwrap();
        assert_eq!(page.remarks.is_empty(), is_erased, "{:?}", page.remarks);
    }
}
