//! Receives the form of a post: every file goes to the store as it arrives, and is made durable while the next one is
//! being received.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream},
    extract::{
        DefaultBodyLimit, FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
};
use bytes::Bytes;
use futures::Stream;
use http::StatusCode;
use parking_lot::Mutex;
use socialhub_commands::{
    create_post::PostDraft,
    ports::{StagedFile, UploadError},
};
use socialhub_domain::limits::{FILE_MAX_BYTES, FILES_MAX};
use tokio::task::JoinSet;

use crate::{
    error::ApiError,
    extract::{body, fields::Fields},
    state::App,
};

/// The most bytes of one field that is not a file: 10,000 characters fit in any encoding.
const TEXT_MAX: usize = 64 * 1024;
/// The most bytes of a form: room for an eleventh file, so that it is refused as what it is, and for the rest.
const BODY_MAX: usize = (FILES_MAX + 1) * (FILE_MAX_BYTES as usize) + 1024 * 1024;
/// The most parts of a form: ten files, the eleventh that is refused by name, and the fields.
const PARTS_MAX: usize = 32;

/// A form that has been received. Dropping the draft removes its files.
pub(super) struct Received {
    pub draft: PostDraft,
    pub fields: Fields,
    /// SHA-256 of each file, in the order they were sent.
    pub hashes: Vec<[u8; 32]>,
}

type Finished = (usize, Result<StagedFile, UploadError>);

/// A body that can be read on after its parser gave up.
#[derive(Clone)]
struct SharedBody(Arc<Mutex<BodyDataStream>>);

impl Stream for SharedBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.lock()).poll_next(context)
    }
}

/// Receives a form.
pub(super) async fn receive(app: &App, request: Request) -> Result<Received, ApiError> {
    let pause = app.api.settings.body_timeout;
    let (parts, body) = request.into_parts();
    let mut shared = SharedBody(Arc::new(Mutex::new(body.into_data_stream())));
    let mut request = Request::from_parts(parts, Body::from_stream(shared.clone()));
    DefaultBodyLimit::max(BODY_MAX).apply(&mut request);
    let mut form = Form {
        draft: app.api.commands.draft_post(),
        fields: Fields::default(),
        finishing: JoinSet::new(),
        files: 0,
        pause,
    };
    // As a whole, too: a form that outlives its request's time limit has nobody to answer to, and one that goes on for an
    // hour would lose its first files to the sweeper, which asks only how old they are.
    let read = in_time(app.api.settings.upload_timeout, form.read(request)).await;
    let read = read.and_then(|read| read);
    // In any case nothing may still be writing when the draft is dropped.
    let finished = form.finish().await;
    match read.and(finished) {
        Ok(hashes) => Ok(Received {
            draft: form.draft,
            fields: form.fields,
            hashes,
        }),
        Err(error) => {
            drop(form);
            body::drain(&mut shared, pause).await;
            Err(error)
        }
    }
}

/// A form that is being received.
struct Form {
    draft: PostDraft,
    fields: Fields,
    finishing: JoinSet<Finished>,
    files: usize,
    /// How long the client may pause.
    pause: Duration,
}

impl Form {
    async fn read(&mut self, request: Request) -> Result<(), ApiError> {
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|_| ApiError::bad_field("body", "has no usable multipart boundary"))?;
        for _ in 0..PARTS_MAX {
            let next = in_time(self.pause, form.next_field()).await?;
            let Some(field) = next.map_err(|error| malformed(&error))? else {
                return Ok(());
            };
            self.part(field).await?;
        }
        Err(ApiError::bad_field(
            "body",
            format!("must have at most {PARTS_MAX} parts"),
        ))
    }

    async fn part(&mut self, field: Field<'_>) -> Result<(), ApiError> {
        let name = field.name().unwrap_or_default().to_owned();
        match (name.as_str(), field.file_name()) {
            ("files" | "files[]", _) => self.file(field).await,
            (_, None) => self.text(&name, field).await,
            (_, Some(_)) => Err(ApiError::bad_field(name, "takes no file; use files")),
        }
    }

    async fn text(&mut self, name: &str, mut field: Field<'_>) -> Result<(), ApiError> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk(&mut field).await? {
            if text.len() + chunk.len() > TEXT_MAX {
                return Err(too_large(format!(
                    "{name}: must be at most {TEXT_MAX} bytes"
                )));
            }
            text.extend_from_slice(&chunk);
        }
        let text =
            String::from_utf8(text).map_err(|_| ApiError::bad_field(name, "must be UTF-8"))?;
        self.fields.add(name, text);
        Ok(())
    }

    /// Streams one file to the store. An empty part is what a browser sends when no file was chosen.
    async fn file(&mut self, mut field: Field<'_>) -> Result<(), ApiError> {
        let unnamed = field.file_name().is_none_or(str::is_empty);
        let mut chunk = self.chunk(&mut field).await?;
        if unnamed && chunk.is_none() {
            return Ok(());
        }
        let mut upload = self.draft.begin_file().await?;
        let index = self.files;
        self.files += 1;
        while let Some(bytes) = chunk {
            upload.write(bytes).await?;
            chunk = self.chunk(&mut field).await?;
        }
        self.finishing
            .spawn(async move { (index, upload.finish().await) });
        Ok(())
    }

    async fn chunk(&self, field: &mut Field<'_>) -> Result<Option<Bytes>, ApiError> {
        in_time(self.pause, field.chunk())
            .await?
            .map_err(|error| malformed(&error))
    }

    /// Waits for every file and adds it to the draft; answers their hashes.
    async fn finish(&mut self) -> Result<Vec<[u8; 32]>, ApiError> {
        let mut hashes = vec![[0; 32]; self.files];
        let mut refused = None;
        while let Some(joined) = self.finishing.join_next().await {
            match joined {
                Ok((index, Ok(file))) => {
                    hashes[index] = file.sha256;
                    self.draft.add_file(index, file);
                }
                Ok((_, Err(error))) => refused = Some(ApiError::from(error)),
                Err(error) => refused = Some(ApiError::internal(error.to_string())),
            }
        }
        refused.map_or(Ok(hashes), Err)
    }
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| body::too_slow())
}

fn too_large(detail: String) -> ApiError {
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "Too large").detail(detail)
}

/// The parser's complaint without its words, which may quote what was sent.
fn malformed(error: &MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        too_large("the body is too large for ten files of 10 MB".to_owned())
    } else {
        ApiError::bad_field("body", "is not a complete multipart form")
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge(detail) => too_large(detail),
            UploadError::UnsupportedType(detail) => {
                Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Unsupported media type")
                    .detail(detail)
            }
            UploadError::Broken(detail) => Self::bad_field("files", detail),
            UploadError::Unavailable(cause) => Self::unavailable(cause),
        }
    }
}
