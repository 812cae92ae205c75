//! The calls of Cloudinary's interface.

use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use futures::{StreamExt, TryStreamExt, stream};
use reqwest::{
    Client, RequestBuilder, Response, StatusCode,
    header::RANGE,
    multipart::{Form, Part},
};
use serde::Deserialize;
use socialhub_domain::{Clock, Timestamp};

use super::sign;
use crate::{
    clock::SystemClock,
    media::{
        OpenMediaError,
        kind::MediaKind,
        name::FileName,
        remote::{Bucket, Pieces, RemoteError, SweptFile, invalid},
    },
    tls,
};

const API: &str = "https://api.cloudinary.com";
const DELIVERY: &str = "https://res.cloudinary.com";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may be silent.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an upload may take as a whole: longer than a client may take to send it.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(20 * 60);
/// Files removed at a time.
const REMOVING: usize = 5;
/// Files in one page of a listing, the most there may be.
const PAGE: usize = 500;
/// Pages of one sweep. Listing is an administrator's call, of which there are a few hundred an hour.
const PAGES: usize = 10;

/// One cloud, and the folder in it.
pub(super) struct Cloud {
    /// For everything but uploads, which may be silent for as long as their sender is.
    http: Client,
    uploads: Client,
    key: String,
    secret: String,
    folder: String,
    /// Everything before the last part of a call's address.
    api: String,
    delivery: String,
}

#[derive(Deserialize)]
struct Destroyed {
    result: String,
}

#[derive(Deserialize)]
struct Page {
    resources: Vec<Resource>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Resource {
    public_id: String,
    created_at: String,
}

impl Cloud {
    pub(super) fn new(
        key: &str,
        secret: &str,
        cloud: &str,
        folder: &str,
        endpoint: Option<&str>,
    ) -> Result<Self, OpenMediaError> {
        tls::install();
        let client = || Client::builder().connect_timeout(CONNECT_TIMEOUT);
        let failed = |error| invalid(format!("cloudinary:// cannot be used: {error}"));
        Ok(Self {
            http: client()
                .read_timeout(READ_TIMEOUT)
                .build()
                .map_err(failed)?,
            uploads: client().timeout(UPLOAD_TIMEOUT).build().map_err(failed)?,
            key: key.to_owned(),
            secret: secret.to_owned(),
            folder: folder.to_owned(),
            api: format!("{}/v1_1/{cloud}", endpoint.unwrap_or(API)),
            delivery: format!("{}/{cloud}", endpoint.unwrap_or(DELIVERY)),
        })
    }

    fn public_id(&self, name: FileName) -> String {
        format!("{}/{}", self.folder, name.key())
    }

    /// The fields of a call about a file, signed.
    fn signed(&self, name: FileName, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("public_id", self.public_id(name)),
            ("timestamp", (SystemClock.now().0 / 1_000).to_string()),
            ("type", "authenticated".to_owned()),
        ];
        fields.extend(more.iter().map(|&(name, value)| (name, value.to_owned())));
        let signature = sign::call(&fields, &self.secret);
        fields.push(("signature", signature));
        fields.push(("api_key", self.key.clone()));
        fields
    }

    async fn destroy(&self, name: FileName) -> Result<(), RemoteError> {
        // Caches on the way out forget it, too.
        let fields = self.signed(name, &[("invalidate", "true")]);
        let call = self.http.post(format!("{}/raw/destroy", self.api));
        let answer: Destroyed = json(call.form(&fields)).await?;
        match answer.result.as_str() {
            "ok" | "not found" => Ok(()),
            other => Err(RemoteError(format!("destroy was answered: {other}"))),
        }
    }

    /// Asks for a file, or for the part between two bytes, both included.
    pub(super) async fn fetch(
        &self,
        name: FileName,
        part: Option<(u64, u64)>,
    ) -> Result<Response, RemoteError> {
        let public_id = self.public_id(name);
        let signature = sign::delivery(&public_id, &self.secret);
        let mut request = self.http.get(format!(
            "{}/raw/authenticated/s--{signature}--/v1/{public_id}",
            self.delivery
        ));
        if let Some((first, last)) = part {
            request = request.header(RANGE, format!("bytes={first}-{last}"));
        }
        request.send().await.map_err(failed)
    }

    /// A page of the listing with so many files at most, from a cursor on.
    async fn page(&self, most: usize, cursor: Option<String>) -> Result<Page, RemoteError> {
        let mut query = vec![
            ("prefix", format!("{}/", self.folder)),
            ("max_results", most.to_string()),
        ];
        query.extend(cursor.map(|cursor| ("next_cursor", cursor)));
        let call = self
            .http
            .get(format!("{}/resources/raw/authenticated", self.api))
            .basic_auth(&self.key, Some(&self.secret))
            .query(&query);
        json(call).await
    }

    /// Asks for as little as there is to ask for.
    pub(super) async fn look(&self) -> Result<(), RemoteError> {
        self.page(1, None).await.map(drop)
    }

    /// Reads the next stretch of the listing, and where the one after it begins.
    pub(super) async fn list(
        &self,
        mut cursor: Option<String>,
    ) -> Result<(Vec<SweptFile>, Option<String>), RemoteError> {
        let mut files = Vec::new();
        for _ in 0..PAGES {
            let page = self.page(PAGE, cursor).await?;
            files.extend(page.resources.iter().filter_map(|file| self.listed(file)));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok((files, cursor))
    }

    /// A file in a listing; none when it is not one of ours, or its time cannot be told.
    fn listed(&self, file: &Resource) -> Option<SweptFile> {
        let key = file.public_id.strip_prefix(&self.folder)?;
        let written = DateTime::parse_from_rfc3339(&file.created_at).ok()?;
        Some(SweptFile {
            name: FileName::parse_key(key.strip_prefix('/')?)?,
            written: Timestamp(written.timestamp_millis()),
        })
    }
}

#[async_trait]
impl Bucket for Cloud {
    async fn put(&self, name: FileName, _: MediaKind, pieces: Pieces) -> Result<(), RemoteError> {
        let fields = self.signed(name, &[]);
        let form = fields
            .into_iter()
            .fold(Form::new(), |form, (name, value)| form.text(name, value));
        let file = Part::stream(reqwest::Body::wrap_stream(pieces)).file_name("file");
        let call = self.uploads.post(format!("{}/raw/upload", self.api));
        let answer: Resource = json(call.multipart(form.part("file", file))).await?;
        if answer.public_id == self.public_id(name) {
            Ok(())
        } else {
            Err(RemoteError("upload was answered with another name".into()))
        }
    }

    async fn remove(&self, names: Vec<FileName>) -> Result<(), RemoteError> {
        let removing = names.into_iter().map(|name| self.destroy(name));
        let removing = stream::iter(removing).buffer_unordered(REMOVING);
        removing.try_collect().await
    }
}

/// Sends a call and reads its answer.
async fn json<T: for<'de> Deserialize<'de>>(call: RequestBuilder) -> Result<T, RemoteError> {
    let answer = call.send().await.map_err(failed)?;
    let status = answer.status();
    if status != StatusCode::OK {
        return Err(RemoteError(format!("Cloudinary answers {status}")));
    }
    answer.json().await.map_err(failed)
}

/// What went wrong, without the address, which may be signed.
pub(super) fn failed(error: reqwest::Error) -> RemoteError {
    RemoteError(error.without_url().to_string())
}
