//! What `replay export`, `import` and `migrate` copy, on the stores of each profile.
//!
//! **To add a part** implement [`Part`] and [`Lines`] for it and add it to [`Side::parts`] and
//! [`lines`]; everything else follows. Parts are written in this order: what others refer to goes first.

mod chat;
mod files;

use std::{path::Path, process::ExitCode, sync::Arc};

use socialhub_chat::ChatArchive;
use socialhub_domain::Clock;
use socialhub_event_log::{LogArchive, Position};
use socialhub_infra::{
    clock::SystemClock,
    media::{MediaLimits, is_folder, open_media},
    security::AesGcmCipher,
    sqlite::{chat_archive::SqliteChatArchive, event_log::SqliteLogArchive},
};
use socialhub_replay_tools::{
    Verdict,
    transfer::{
        CredentialsLines, EventLines, Events, ExportOptions, ImportOptions, KeyLines, Lines,
        MediaChoice, Part, PeoplesCredentials, PeoplesKeys, Target, Transfer, export, import,
        media::{Contents, FolderFiles, Media, MediaFiles, MediaLines},
    },
};
use tokio_util::sync::CancellationToken;

use self::{
    chat::{ChatMessages, ChatNames, MessageLines, NameLines},
    files::StoreFiles,
};
use super::{secret_file, text};
use crate::config::{Config, Profile};

/// Runs a command that copies everything.
///
/// # Errors
/// A line for the operator.
pub async fn transfer(
    config: Config,
    command: Transfer,
    stop: CancellationToken,
) -> Result<ExitCode, String> {
    let verdict = match command {
        Transfer::Export(options) => run_export(&config, &options, stop).await?,
        Transfer::Import(options) => run_import(&config, &options, stop).await?,
        #[cfg(feature = "distributed")]
        Transfer::Migrate(options) => {
            super::distributed::transfer::run(&config, &options, stop).await?
        }
        #[cfg(not(feature = "distributed"))]
        Transfer::Migrate(_) => return Err(super::left_out()),
    };
    Ok(verdict.into())
}

/// The stores of one side of a copy.
pub struct Side {
    /// The log and what lies in its database.
    pub log: Arc<dyn LogArchive>,
    /// The chat log.
    pub chat: Arc<dyn ChatArchive>,
    /// Uploaded files.
    pub media: Arc<dyn MediaFiles>,
}

impl Side {
    /// The events of a log that ends at a position; with `contents` everything else, too.
    pub fn parts(&self, last: Position, contents: Option<Contents>) -> Vec<Arc<dyn Part>> {
        let log = || Arc::clone(&self.log);
        let mut parts: Vec<Arc<dyn Part>> = vec![Arc::new(Events::new(log(), last))];
        if let Some(contents) = contents {
            let (files, cipher) = (Arc::clone(&self.media), Arc::new(AesGcmCipher));
            let media = Media::new(log(), last, files, contents, cipher);
            // After the events: a key is there before the first event that needs it. Credentials before the keys: whoever is
            // erased meanwhile may be there with credentials and no key, and is erased again, but never with a key alone.
            parts.push(Arc::new(PeoplesCredentials::new(log(), last)));
            parts.push(Arc::new(PeoplesKeys::new(log())));
            // The names before what they name: see `ChatArchive`.
            parts.push(Arc::new(ChatNames(Arc::clone(&self.chat))));
            parts.push(Arc::new(ChatMessages(Arc::clone(&self.chat))));
            parts.push(Arc::new(media));
        }
        parts
    }
}

/// What checks the lines of each part of an export in a folder.
fn lines(folder: &Path) -> [Arc<dyn Lines>; 6] {
    [
        Arc::new(EventLines::default()),
        Arc::new(KeyLines::default()),
        Arc::new(CredentialsLines),
        Arc::new(NameLines),
        Arc::new(MessageLines),
        Arc::new(MediaLines::new(Arc::new(FolderFiles::new(folder)))),
    ]
}

/// A store of files at an address.
///
/// # Errors
/// A line for the operator.
pub fn media_files(url: Option<&str>, data_dir: &Path) -> Result<Arc<dyn MediaFiles>, String> {
    let media = open_media(url, data_dir, MediaLimits::default());
    let media = media.map_err(|error| format!("MEDIA_URL: {error}"))?;
    Ok(Arc::new(StoreFiles(media)))
}

/// The stores of a data folder, only to be read, also while its server runs.
fn embedded_source(config: &Config, log_file: &Path) -> Result<Side, String> {
    if !log_file.exists() {
        return Err(super::replay::no_log(log_file));
    }
    let chat = config.data_dir.join("chat.db");
    Ok(Side {
        log: Arc::new(SqliteLogArchive::open_read_only(log_file).map_err(text)?),
        chat: Arc::new(SqliteChatArchive::open_read_only(&chat).map_err(text)?),
        media: media_files(config.media_url.as_deref(), &config.data_dir)?,
    })
}

/// The stores of a data folder that nobody else writes; made if they are not there.
///
/// # Errors
/// A line for the operator.
pub fn embedded_alone(
    data_dir: &Path,
    log_file: &Path,
    media_url: Option<&str>,
) -> Result<Side, String> {
    std::fs::create_dir_all(data_dir)
        .map_err(|error| format!("DATA_DIR: {}: {error}", data_dir.display()))?;
    // First: it holds the folder's lock.
    let log = SqliteLogArchive::open(log_file).map_err(text)?;
    let chat = SqliteChatArchive::open(&data_dir.join("chat.db"));
    Ok(Side {
        log: Arc::new(log),
        chat: Arc::new(chat.map_err(|error| format!("the chat log: {error}"))?),
        media: media_files(media_url, data_dir)?,
    })
}

async fn run_export(
    config: &Config,
    options: &ExportOptions,
    stop: CancellationToken,
) -> Result<Verdict, String> {
    let side = match &config.profile {
        Profile::Embedded { log_file } => embedded_source(config, log_file)?,
        #[cfg(feature = "distributed")]
        Profile::Distributed(servers) => {
            super::distributed::transfer::open_as_they_are(config, servers).await?
        }
        #[cfg(not(feature = "distributed"))]
        Profile::Distributed(_) => return Err(super::left_out()),
    };
    let usual = match is_folder(config.media_url.as_deref()) {
        true => MediaChoice::Copy,
        false => MediaChoice::Name,
    };
    let media = options.all.then(|| options.media.unwrap_or(usual));
    let contents = media.map(|media| match media {
        MediaChoice::Copy => Contents::In(Arc::new(FolderFiles::new(options.folder()))),
        MediaChoice::Name => Contents::Named,
    });
    let log = Arc::clone(&side.log);
    let parts = |last| side.parts(last, contents);
    let now = SystemClock.now();
    let mut out = std::io::stdout();
    export(options, &*log, parts, media, now, &mut out, stop)
        .await
        .map_err(text)
}

async fn run_import(
    config: &Config,
    options: &ImportOptions,
    stop: CancellationToken,
) -> Result<Verdict, String> {
    let contents = || Contents::In(Arc::new(FolderFiles::new(options.folder())));
    let open = || async {
        let side = match &config.profile {
            Profile::Embedded { log_file } => {
                embedded_alone(&config.data_dir, log_file, config.media_url.as_deref())?
            }
            #[cfg(feature = "distributed")]
            Profile::Distributed(servers) => {
                super::distributed::transfer::open(config, servers).await?
            }
            #[cfg(not(feature = "distributed"))]
            Profile::Distributed(_) => return Err(super::left_out()),
        };
        Ok(Target {
            parts: side.parts(Position::MAX, Some(contents())),
            log: side.log,
        })
    };
    let mut out = std::io::stdout();
    let lines = lines(options.folder());
    let verdict = import(options, &lines, open, &mut out, stop)
        .await
        .map_err(text)?;
    if !options.checks_only() && !options.json() {
        say_what_is_next(config);
    }
    Ok(verdict)
}

/// What the copy cannot do.
fn say_what_is_next(config: &Config) {
    match &config.profile {
        Profile::Embedded { .. } => println!(
            "Next: put the old server's key for tokens to {} (or set JWT_SECRET), or everybody has to log in again; start the \
             server, which fills its read models; `socialhub replay verify --all`.",
            secret_file(&config.data_dir, "jwt").display()
        ),
        Profile::Distributed(_) => println!(
            "Next: start the relay, the projectors and the services, with the JWT_SECRET of the old ones, or everybody has to log \
             in again; `socialhub replay status` until nothing is behind; `socialhub replay verify --all`. If topics or read \
             models hold another log, stop, `socialhub replay republish --yes`, `socialhub replay rebuild --all`."
        ),
    }
}
