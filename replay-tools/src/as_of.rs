//! `replay as-of`: read models as they were at a moment, in a folder of their own.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use clap::Args;
use serde::{Deserialize, Serialize};
use socialhub_event_log::Position;
use socialhub_projections::{
    ModelName,
    runtime::{ModelControl, RebuildError},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ReplayError, ReplayTarget, Selection, Verdict, advice,
    moment::{self, Moment},
    progress, show,
};

/// What says that a folder is complete, and as of when.
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
    models: Vec<String>,
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
    let position = moment::resolve(target, options.at).await?;
    if position == 0 {
        return Err(ReplayError::BeforeTheLog);
    }
    let manifest = Manifest {
        position,
        models: names.iter().map(ToString::to_string).collect(),
    };
    let mut verdict = Verdict::Clean;
    if !is_built(&options.into, &manifest)? {
        for name in names {
            let one = build(options, target, name, position, out, &stop).await?;
            if one == Verdict::Wrong {
                verdict = Verdict::Wrong;
            }
        }
        let text = serde_json::to_string_pretty(&manifest)?;
        fs::write(options.into.join(MANIFEST), text).map_err(in_folder(&options.into))?;
    }
    if let (Some(port), Some(username)) = (options.serve, &options.username) {
        out.flush()?;
        let serving = Serving {
            folder: options.into.clone(),
            position,
            port,
            username: username.clone(),
        };
        let served = target.past.serve(serving, stop).await;
        served.map_err(ReplayError::Past)?;
    }
    Ok(verdict)
}

fn in_folder(folder: &Path) -> impl Fn(std::io::Error) -> ReplayError {
    let folder = folder.display().to_string();
    move |error| ReplayError::Past(format!("{folder}: {error}"))
}

/// Whether the folder holds what is asked for. One that holds anything else is not touched.
fn is_built(folder: &Path, wanted: &Manifest) -> Result<bool, ReplayError> {
    fs::create_dir_all(folder).map_err(in_folder(folder))?;
    let manifest = folder.join(MANIFEST);
    if manifest.exists() {
        let text = fs::read_to_string(manifest).map_err(in_folder(folder))?;
        let found: Option<Manifest> = serde_json::from_str(&text).ok();
        if found.as_ref() == Some(wanted) {
            return Ok(true);
        }
    }
    let mut entries = fs::read_dir(folder).map_err(in_folder(folder))?;
    if entries.next().is_some() {
        return Err(ReplayError::Past(format!(
            "{} holds something else, or was not built to its end: name a new folder, or remove it",
            folder.display()
        )));
    }
    Ok(false)
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
