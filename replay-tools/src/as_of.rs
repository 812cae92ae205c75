//! `replay as-of`: read models as they were at a moment, in a folder of their own.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use clap::Args;
use serde::{Deserialize, Serialize};
use socialhub_event_log::{LogError, Position};
use socialhub_projections::{
    ModelName,
    runtime::{ModelControl, RebuildError},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    ReplayError, ReplayTarget, Selection, Verdict, advice,
    moment::{self, Moment},
    progress, reading, show,
};

/// Between two looks whether somebody was erased while a folder is served.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What says that a folder is complete, of which log, and as of when.
const MANIFEST: &str = "as-of.json";

/// Read models in folders of their own, apart from those that the program serves.
#[async_trait]
pub trait PastModels: Send + Sync {
    /// A model in a folder; empty when it is not there yet.
    ///
    /// # Errors
    /// A line for the operator.
    fn open(&self, folder: &Path, model: ModelName) -> Result<Arc<dyn ModelControl>, String>;

    /// The file in the folder that the model's tables are in.
    fn file(&self, folder: &Path, model: ModelName) -> PathBuf;

    /// Answers the public queries from the models in a folder, as somebody would have got them, until `stop` is
    /// cancelled.
    ///
    /// # Errors
    /// A line for the operator.
    async fn serve(&self, serving: Serving, stop: CancellationToken) -> Result<(), String>;
}

/// What is served.
#[derive(Debug, Clone)]
pub struct Serving {
    /// Where the models are.
    pub folder: PathBuf,
    /// As of when they are.
    pub position: Position,
    /// The port, on the loopback address.
    pub port: u16,
    /// As whom every request is answered.
    pub username: String,
}

/// Options of `as-of`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    selection: Selection,
    /// When: a position of the log, or a time in RFC 3339
    #[arg(long, value_name = "TIME|POSITION")]
    at: Moment,
    /// A new folder; or one that was built as of the same moment, to be served
    #[arg(long, value_name = "FOLDER")]
    into: PathBuf,
    /// Then answer queries on this port of the loopback address, until interrupted
    #[arg(
        long,
        value_name = "PORT",
        requires = "username",
        conflicts_with = "name"
    )]
    serve: Option<u16>,
    /// Whose eyes the queries are answered for
    #[arg(long = "as", value_name = "USERNAME", requires = "serve")]
    username: Option<String>,
    /// Print JSON, one line for each model
    #[arg(long)]
    json: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    position: Position,
    /// The event there: another log has another one.
    event: Uuid,
    /// The last erasure that was complete when it was built. Whoever was erased later stands in the folder in clear.
    erased: Position,
    models: Vec<String>,
}

/// What a folder must hold to be taken for what is wanted.
struct Wanted {
    manifest: Manifest,
    /// The last erasure of all, whether it is complete or not: nobody is shown who asked to be forgotten.
    last_erasure: Position,
}

/// The erasures of a log. Asked before anything of it is read: of who is erased meanwhile the key may be known already.
struct Erasures {
    /// The last one that is complete, and all before it.
    complete: Position,
    last: Position,
}

impl Erasures {
    async fn of(target: &ReplayTarget) -> Result<Self, ReplayError> {
        // Of those after it the key may be there yet.
        let open = target.erasures.pending(0).await?;
        let open = open.first().map_or(Position::MAX, |open| open.position);
        Ok(Self {
            complete: target.erasures.last_erased(open).await?,
            last: target.erasures.last_erased(Position::MAX).await?,
        })
    }
}

impl Wanted {
    /// As of now.
    async fn now(
        target: &ReplayTarget,
        position: Position,
        names: &[ModelName],
    ) -> Result<Self, ReplayError> {
        Self::of(target, position, names, Erasures::of(target).await?).await
    }

    /// What is to be built, beside these erasures.
    async fn of(
        target: &ReplayTarget,
        position: Position,
        names: &[ModelName],
        Erasures {
            complete: erased,
            last: last_erasure,
        }: Erasures,
    ) -> Result<Self, ReplayError> {
        let event = target.log.read_all(position - 1, 1).await?;
        let event = event.first().ok_or_else(|| LogError::Damaged {
            position,
            reason: "there is no event".to_owned(),
        })?;
        let manifest = Manifest {
            position,
            event: event.event_id,
            erased,
            models: names.iter().map(ToString::to_string).collect(),
        };
        Ok(Self {
            manifest,
            last_erasure,
        })
    }

    /// Why a folder with another manifest cannot be taken for it.
    fn refusal(&self, found: &Manifest) -> Option<String> {
        let wanted = &self.manifest;
        if (found.position, &found.models) != (wanted.position, &wanted.models) {
            return Some("holds something else: name a new folder, or remove it".to_owned());
        }
        if found.event != wanted.event {
            return Some(format!(
                "was built from another log, which has another event at position {}: name a new folder",
                wanted.position
            ));
        }
        if found.erased != wanted.erased {
            return Some(format!(
                "was built before the erasure at position {} was complete, and shows what is gone since: remove it, then \
                 build it again",
                wanted.erased
            ));
        }
        (found.erased != self.last_erasure).then(|| {
            format!(
                "may show somebody whose erasure at position {} is under way: remove it, and build it again when that is \
                 complete",
                self.last_erasure
            )
        })
    }
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
    stop: CancellationToken,
) -> Result<Verdict, ReplayError> {
    let names: Vec<ModelName> = target
        .select(&options.selection)?
        .iter()
        .map(|model| model.name())
        .collect();
    let erasures = Erasures::of(target).await?;
    let position = reading(&stop, moment::resolve(target, options.at)).await?;
    if position == 0 {
        return Err(ReplayError::BeforeTheLog);
    }
    let wanted = Wanted::of(target, position, &names, erasures).await?;
    let mut verdict = Verdict::Clean;
    if !is_built(&options.into, &wanted)? {
        for name in names.iter().copied() {
            let one = build(options, target, name, position, out, &stop).await?;
            if one == Verdict::Wrong {
                verdict = Verdict::Wrong;
            }
        }
        let text = serde_json::to_string_pretty(&wanted.manifest)?;
        finish(&options.into, &text).map_err(in_folder(&options.into))?;
    }
    if let (Some(port), Some(username)) = (options.serve, &options.username) {
        out.flush()?;
        let serving = Serving {
            folder: options.into.clone(),
            position,
            port,
            username: username.clone(),
        };
        serve(target, serving, &names, &wanted.manifest, stop).await?;
    }
    Ok(verdict)
}

/// Until it is interrupted, or somebody is erased who stands in the folder.
async fn serve(
    target: &ReplayTarget,
    serving: Serving,
    names: &[ModelName],
    manifest: &Manifest,
    stop: CancellationToken,
) -> Result<(), ReplayError> {
    let (folder, position) = (serving.folder.clone(), serving.position);
    let ended = stop.child_token();
    let served = target.past.serve(serving, ended.clone());
    let outdated = async {
        loop {
            // A log that does not answer is asked again.
            let now = Wanted::now(target, position, names).await;
            if let Some(reason) = now.ok().and_then(|now| now.refusal(manifest)) {
                return refused(&folder, &reason);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::pin!(served);
    tokio::select! {
        served = &mut served => served.map_err(ReplayError::Past),
        outdated = outdated => {
            ended.cancel();
            served.await.map_err(ReplayError::Past)?;
            Err(outdated)
        }
    }
}

fn refused(folder: &Path, reason: &str) -> ReplayError {
    ReplayError::Past(format!("{} {reason}", folder.display()))
}

fn in_folder(folder: &Path) -> impl Fn(io::Error) -> ReplayError {
    let folder = folder.display().to_string();
    move |error| ReplayError::Past(format!("{folder}: {error}"))
}

/// Whether the folder holds what is asked for. One that holds anything else is not touched; an empty one becomes its
/// owner's alone, since what is personal stands there in clear.
fn is_built(folder: &Path, wanted: &Wanted) -> Result<bool, ReplayError> {
    let refuse = |reason: &str| Err(refused(folder, reason));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(in_folder(folder))?;
    let manifest = folder.join(MANIFEST);
    if manifest.exists() {
        let text = fs::read_to_string(manifest).map_err(in_folder(folder))?;
        return match serde_json::from_str::<Manifest>(&text).map(|found| wanted.refusal(&found)) {
            Ok(None) => Ok(true),
            Ok(Some(reason)) => refuse(&reason),
            Err(_) => refuse("was built by another version of this program: remove it first"),
        };
    }
    let mut entries = fs::read_dir(folder).map_err(in_folder(folder))?;
    if entries.next().is_some() {
        return refuse(
            "holds something else, or was not built to its end: name a new folder, or remove it",
        );
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(in_folder(folder))?;
    Ok(false)
}

/// Makes every file its owner's alone and says that the folder is complete.
fn finish(folder: &Path, manifest: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(0o600))?;
    }
    let mut options = OpenOptions::new();
    let path = folder.join(MANIFEST);
    let mut file: File = options
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(manifest.as_bytes())?;
    file.sync_all()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Built<'a> {
    model: ModelName,
    position: Position,
    file: &'a Path,
    parked: usize,
}

async fn build(
    options: &Options,
    target: &ReplayTarget,
    name: ModelName,
    position: Position,
    out: &mut (dyn Write + Send),
    stop: &CancellationToken,
) -> Result<Verdict, ReplayError> {
    let opened = target.past.open(&options.into, name);
    let model = opened.map_err(ReplayError::Past)?;
    let progress = progress::suitable();
    let filled = model.fill(&target.log, position, &*progress, stop).await;
    filled.map_err(|error| {
        let reason = match &error {
            RebuildError::Interrupted => "interrupted".to_owned(),
            other => format!("{other}{}", advice(other)),
        };
        let folder = options.into.display();
        ReplayError::Past(format!(
            "{name}: {reason}; {folder} is not complete: remove it first"
        ))
    })?;
    let built = Built {
        model: name,
        position,
        file: &target.past.file(&options.into, name),
        parked: model.letters().await?.len(),
    };
    if options.json {
        show::json_line(out, &built)?;
    } else {
        writeln!(
            out,
            "{name}: as of position {position} in {}, {} parked.",
            built.file.display(),
            built.parked
        )?;
    }
    Ok(Verdict::Clean)
}
