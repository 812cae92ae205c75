//! An S3-compatible server in this process, of a crate that nobody here wrote: it checks the signature of each request,
//! and of its body, and keeps objects as files in a folder.

use std::path::{Path, PathBuf};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinSet};

/// What requests must be signed with.
pub const KEY: &str = "test-key";
/// Its secret; with characters that an address must encode.
pub const SECRET: &str = "test/secret+with=signs";
const BUCKET: &str = "media";

/// A running server with one bucket; ends with this value.
pub struct S3Server {
    folder: TempDir,
    endpoint: String,
    _tasks: JoinSet<()>,
}

impl S3Server {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self {
            folder,
            endpoint,
            _tasks: tasks,
        }
    }

    /// An address for `MEDIA_URL` below a prefix, with the right keys.
    pub fn url(&self, prefix: &str) -> String {
        self.url_with("test%2Fsecret%2Bwith%3Dsigns", prefix)
    }

    /// The same with another secret.
    pub fn url_with(&self, secret: &str, prefix: &str) -> String {
        format!(
            "s3://{KEY}:{secret}@{BUCKET}/{prefix}?endpoint={}",
            self.endpoint
        )
    }

    /// How many objects, and parts of unfinished ones, are there. Asked of the disk, not of the server.
    pub fn stored(&self) -> usize {
        let parts = std::fs::read_dir(self.folder.path()).unwrap();
        let parts = parts.filter_map(Result::ok).filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(".upload_id-") || name.starts_with(".tmp.")
        });
        files_below(&self.bucket()) + parts.count()
    }

    /// The folder of the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join(BUCKET)
    }
}

/// How many files are below a folder.
pub fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let count = |entry: std::fs::DirEntry| {
        if entry.path().is_dir() {
            files_below(&entry.path())
        } else {
            1
        }
    };
    entries.filter_map(Result::ok).map(count).sum()
}
