//! `replay status`.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use clap::Args;
use serde::Serialize;
use socialhub_domain::Timestamp;
use socialhub_event_log::{LogError, Position, behind_for};
use socialhub_projections::{
    GenerationId, ModelName,
    runtime::{Generation, GenerationState, ModelControl, RebuildError},
};

use crate::{
    ReplayError, ReplayTarget, Verdict,
    analytics::{self, AnalyticsView, Place},
    erasures::{self, ErasuresView},
    processes::{self, LastError, ProcessView},
    relay::{self, Lag, Look, RelayView},
    show,
};

/// Between two looks at what is behind: who works has moved by then.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// Options of `status`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Show how far each source of a model has been read, too
    #[arg(long)]
    sources: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusView {
    head: Position,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<RelayView>,
    erasures: ErasuresView,
    models: Vec<ModelView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    analytics: Option<AnalyticsView>,
    processes: Vec<ProcessView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ModelView {
    model: ModelName,
    /// Why nothing is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<String>,
    generations: Vec<GenerationView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationView {
    generation: GenerationId,
    state: GenerationState,
    activity: Activity,
    created_at: Timestamp,
    position: Position,
    lag_events: u64,
    lag_seconds: f64,
    /// Events a second it has moved by between two looks, when there was a reason to look twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    parked: u64,
    /// Sequences that wait behind a parked event, with the event.
    parked_sequences: u64,
    has_writer: bool,
    /// What went wrong last where it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
    bytes: u64,
    /// Why nothing of it can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<String>,
    sources: Vec<SourceView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceView {
    source: String,
    partition: i32,
    position: Position,
    next_offset: Option<i64>,
}

/// What is going on with a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Activity {
    Running,
    Stuck,
    Silent,
    WaitingForRelay,
    NotRunning,
    AheadOfLog,
    Broken,
    BeingFilled,
    HalfBuilt,
    HalfBuiltByAnother,
    BeingCaughtUp,
    Kept,
}

impl Activity {
    fn words(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stuck => "stuck",
            Self::Silent => "held by a process that is not heard of: it hangs, or was killed",
            Self::WaitingForRelay => "waiting for the relay",
            Self::NotRunning => "not running",
            Self::AheadOfLog => "ahead of the log: rebuild it",
            Self::Broken => "cannot be read",
            Self::BeingFilled => "being filled",
            Self::HalfBuilt => "left half-built; rebuild goes on with it",
            Self::HalfBuiltByAnother => "left half-built by another program; rebuild begins anew",
            Self::BeingCaughtUp => "being caught up",
            Self::Kept => "kept for rollback",
        }
    }
}

/// The generations of a model and where they are, or why that cannot be known.
type Places = Result<Vec<(Generation, Position)>, RebuildError>;

/// Everything at one moment.
struct Moment {
    at: Instant,
    head: Position,
    relay: Option<Look>,
    models: Vec<(ModelName, Places)>,
}

impl Moment {
    async fn of(target: &ReplayTarget) -> Result<Self, ReplayError> {
        let mut models = Vec::new();
        for model in &target.models {
            models.push((model.name(), places(&**model).await));
        }
        let relay = match &target.relay {
            Some(relay) => Some(Look::at(relay).await?),
            None => None,
        };
        // Read after the positions, so that nothing seems to be ahead of the log.
        let head = target.log.head().await?;
        Ok(Self {
            at: Instant::now(),
            head,
            relay,
            models,
        })
    }

    /// Whether a second look has to tell who moves. A relay is always looked at twice: one that refuses leads for a
    /// moment.
    fn needs_a_second_look(&self) -> bool {
        self.relay.is_some()
            || self
                .models
                .iter()
                .filter_map(|(_, places)| places.as_ref().ok())
                .any(|places| has_work(places, self.head) || is_changing_over(places))
    }

    fn position(&self, model: ModelName, id: GenerationId) -> Option<Position> {
        let (_, places) = self.models.iter().find(|(name, _)| *name == model)?;
        let mut places = places.as_ref().ok()?.iter();
        let found = places.find(|(generation, _)| generation.id == id);
        found.map(|(_, position)| *position)
    }

    /// Events a second of something that was at one place at another moment, and is at another now; none when both are the
    /// same moment.
    fn rate(&self, before: &Self, earlier: Position, position: Position) -> Option<f64> {
        let between = (self.at - before.at).as_secs_f64();
        (between > 0.0).then(|| position.saturating_sub(earlier) as f64 / between)
    }

    /// `hangs`: of whoever projects the model, nobody is heard of.
    fn activity(
        &self,
        before: Option<Position>,
        generation: &Generation,
        position: Position,
        hangs: bool,
    ) -> Activity {
        if generation.broken.is_some() {
            return Activity::Broken;
        }
        let furthest = generation.checkpoints.iter().map(|place| place.position);
        if generation.state == GenerationState::Current && furthest.max() > Some(self.head) {
            return Activity::AheadOfLog;
        }
        match (generation.state, generation.has_writer) {
            (GenerationState::Current, false) => Activity::NotRunning,
            (GenerationState::Current, true) => {
                // None: it was looked at once.
                let moved = before.map(|before| position > before);
                let published = self.relay.as_ref().map(|relay| relay.frontier.position);
                if hangs && moved != Some(true) {
                    // With nothing to do it would look like one that does its work.
                    Activity::Silent
                } else if position >= self.head || moved != Some(false) {
                    Activity::Running
                } else if published.is_some_and(|published| position >= published) {
                    Activity::WaitingForRelay
                } else {
                    Activity::Stuck
                }
            }
            (GenerationState::Building, true) => Activity::BeingFilled,
            (GenerationState::Building, false) if generation.is_of_this_program => {
                Activity::HalfBuilt
            }
            (GenerationState::Building, false) => Activity::HalfBuiltByAnother,
            (GenerationState::Previous, true) => Activity::BeingCaughtUp,
            (GenerationState::Previous, false) => Activity::Kept,
        }
    }
}

async fn places(model: &dyn ModelControl) -> Places {
    let mut places = Vec::new();
    for generation in model.generations().await? {
        let position = model.place(&generation).await?;
        places.push((generation, position));
    }
    Ok(places)
}

/// Whether somebody writes the current generation and has not come to the head.
fn has_work(places: &[(Generation, Position)], head: Position) -> bool {
    places.iter().any(|(generation, position)| {
        generation.state == GenerationState::Current && generation.has_writer && *position < head
    })
}

/// Whether the pointer has moved and the projector has not followed yet: it still holds the generation before.
fn is_changing_over(places: &[(Generation, Position)]) -> bool {
    let held = |state| {
        let mut in_state = places.iter().filter(|(found, _)| found.state == state);
        in_state.any(|(generation, _)| generation.has_writer)
    };
    held(GenerationState::Previous) && !held(GenerationState::Current)
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let before = Moment::of(target).await?;
    let view = if before.needs_a_second_look() {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let now = Moment::of(target).await?;
        view(&before, &now, target).await?
    } else {
        view(&before, &before, target).await?
    };
    if options.json {
        show::json_line(out, &view)?;
    } else {
        print(&view, options.sources, out)?;
    }
    let unread = |model: &ModelView| {
        let mut generations = model.generations.iter();
        model.unavailable.is_some() || generations.any(|generation| generation.broken.is_some())
    };
    let unknown = view.models.iter().any(unread)
        || view
            .analytics
            .as_ref()
            .is_some_and(|view| view.unavailable.is_some());
    Ok(if unknown {
        Verdict::Wrong
    } else {
        Verdict::Clean
    })
}

async fn view(
    before: &Moment,
    now: &Moment,
    target: &ReplayTarget,
) -> Result<StatusView, ReplayError> {
    let processes = processes::views(&*target.processes).await?;
    let mut models = Vec::new();
    for (model, (name, places)) in target.models.iter().zip(&now.models) {
        models.push(match places {
            Ok(places) => ModelView {
                model: *name,
                unavailable: None,
                generations: generations(before, now, &**model, places, &processes, target).await?,
            },
            Err(error) => ModelView {
                model: *name,
                unavailable: Some(error.to_string()),
                generations: Vec::new(),
            },
        });
    }
    let relay = match (&before.relay, &now.relay) {
        (Some(earlier), Some(relay)) => {
            let position = relay.frontier.position;
            let lag = Lag {
                events: now.head.saturating_sub(position),
                seconds: lag_seconds(target, position, now.head).await?,
                rate: now.rate(before, earlier.frontier.position, position),
            };
            let last_error = processes::last_error(&processes, "relay");
            Some(relay.view(earlier, now.head, lag, last_error))
        }
        _ => None,
    };
    Ok(StatusView {
        head: now.head,
        relay,
        analytics: analytics(now, target, &processes).await?,
        processes,
        erasures: erasures::view(&*target.log, &*target.erasures, target.clock.now()).await?,
        models,
    })
}

async fn analytics(
    now: &Moment,
    target: &ReplayTarget,
    processes: &[ProcessView],
) -> Result<Option<AnalyticsView>, ReplayError> {
    let (Some(objects), Some(relay)) = (&target.analytics, &now.relay) else {
        return Ok(None);
    };
    let time = target.clock.now();
    let place = Place::find(&**objects, &relay.frontier, processes, time).await;
    let position = match &place {
        Ok(Some(place)) => place.position,
        _ => 0,
    };
    let lag = lag_seconds(target, position, now.head).await?;
    let files_at = objects.address("").trim_end_matches('/').to_owned();
    let view = AnalyticsView::of(place, lag, now.head, processes, files_at);
    Ok(view)
}

async fn generations(
    before: &Moment,
    now: &Moment,
    model: &dyn ModelControl,
    places: &[(Generation, Position)],
    processes: &[ProcessView],
    target: &ReplayTarget,
) -> Result<Vec<GenerationView>, ReplayError> {
    let mut views = Vec::new();
    for (generation, position) in places {
        let earlier = before.position(model.name(), generation.id);
        let rate = earlier.and_then(|earlier| now.rate(before, earlier, *position));
        let current = generation.state == GenerationState::Current;
        let hangs = processes::all_silent(processes, &format!("project {}", model.name()));
        views.push(GenerationView {
            generation: generation.id,
            state: generation.state,
            activity: now.activity(earlier, generation, *position, hangs),
            created_at: generation.created_at,
            position: *position,
            lag_events: now.head.saturating_sub(*position),
            lag_seconds: lag_seconds(target, *position, now.head).await?,
            rate,
            parked: generation.parked,
            parked_sequences: model.parked_sequences(generation).await?,
            has_writer: generation.has_writer,
            last_error: current
                .then(|| processes::last_error(processes, &processes::projection(model.name())))
                .flatten(),
            bytes: generation.bytes,
            broken: generation.broken.clone(),
            sources: sources(generation),
        });
    }
    Ok(views)
}

/// The age of the first event after a position; 0 when there is none.
async fn lag_seconds(
    target: &ReplayTarget,
    position: Position,
    head: Position,
) -> Result<f64, LogError> {
    if position >= head {
        return Ok(0.0);
    }
    behind_for(&*target.log, position, target.clock.now()).await
}

fn sources(generation: &Generation) -> Vec<SourceView> {
    let source = generation.checkpoints.iter().map(|place| SourceView {
        source: place.source.name.clone(),
        partition: place.source.partition,
        position: place.position,
        next_offset: place.next_offset,
    });
    source.collect()
}

fn print(
    view: &StatusView,
    with_sources: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), ReplayError> {
    writeln!(out, "The log is at position {}.\n", view.head)?;
    if let Some(relay) = &view.relay {
        relay::print(relay, out)?;
    }
    erasures::print(&view.erasures, out)?;
    writeln!(
        out,
        "{:<14} {:>3}  {:<9} {:>10} {:>8} {:>9} {:>8} {:>7} {:>10}  activity",
        "model", "gen", "state", "position", "behind", "lag", "events/s", "parked", "size"
    )?;
    for model in &view.models {
        if let Some(reason) = &model.unavailable {
            writeln!(out, "{:<14}   -  unavailable: {reason}", model.model.0)?;
        }
        for generation in &model.generations {
            let more = match (&generation.broken, generation.parked_sequences) {
                (Some(reason), _) => format!(": {reason}"),
                (None, 0) => String::new(),
                (None, 1) => "; parked in one sequence".to_owned(),
                (None, sequences) => format!("; parked in {sequences} sequences"),
            };
            writeln!(
                out,
                "{:<14} {:>3}  {:<9} {:>10} {:>8} {:>7.1} s {:>8} {:>7} {:>10}  {}{more}",
                model.model.0,
                generation.generation.0,
                generation.state.to_string(),
                generation.position,
                generation.lag_events,
                generation.lag_seconds,
                show::rate(generation.rate),
                generation.parked,
                show::size(generation.bytes),
                generation.activity.words(),
            )?;
            if with_sources {
                print_sources(&generation.sources, out)?;
            }
        }
    }
    if let Some(analytics) = &view.analytics {
        analytics::print(analytics, out)?;
    }
    processes::print(&view.processes, out)
}

fn print_sources(sources: &[SourceView], out: &mut (dyn Write + Send)) -> Result<(), ReplayError> {
    for source in sources {
        let place = format!("{}-{}", source.source, source.partition);
        let offset = source
            .next_offset
            .map_or("-".to_owned(), |offset| offset.to_string());
        writeln!(
            out,
            "    {place:<24} {:>10}  next offset {offset}",
            source.position
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use socialhub_domain::Timestamp;
    use socialhub_projections::{Checkpoint, Source};

    use super::*;

    /// What is said of a generation at a position of a log of ten events, of which so many are published.
    fn told(
        generation: (GenerationState, bool),
        before: Option<Position>,
        position: Position,
        published: Option<Position>,
    ) -> &'static str {
        told_of(generation, before, position, published, false)
    }

    fn told_of(
        (state, has_writer): (GenerationState, bool),
        before: Option<Position>,
        position: Position,
        published: Option<Position>,
        hangs: bool,
    ) -> &'static str {
        let checkpoint = Checkpoint {
            source: Source::log(),
            position,
            event_id: uuid::Uuid::nil(),
            next_offset: None,
            partitions: None,
        };
        let generation = Generation {
            id: GenerationId(1),
            state,
            created_at: Timestamp(0),
            checkpoints: vec![checkpoint],
            parked: 0,
            has_writer,
            bytes: 0,
            is_of_this_program: true,
            broken: None,
        };
        let moment = Moment {
            at: Instant::now(),
            head: 10,
            relay: published.map(Look::published),
            models: Vec::new(),
        };
        let activity = moment.activity(before, &generation, position, hangs);
        activity.words()
    }

    #[test]
    fn what_is_held_by_a_process_that_hangs_is_not_said_to_run() {
        let (written, left) = (
            (GenerationState::Current, true),
            (GenerationState::Current, false),
        );
        let silent = Activity::Silent.words();
        for (generation, before, position, words) in [
            (written, Some(10), 10, silent),
            (written, None, 10, silent),
            (written, Some(5), 5, silent),
            // Whoever moves is there, though it may not reach where processes report.
            (written, Some(4), 5, "running"),
            (left, Some(10), 10, "not running"),
            ((GenerationState::Building, true), None, 3, "being filled"),
        ] {
            let told = told_of(generation, before, position, None, true);
            assert_eq!(told, words, "{before:?} {position}");
        }
    }

    #[test]
    fn what_is_dead_or_stuck_is_not_said_to_run() {
        use GenerationState::{Building, Current, Previous};
        let (written, left) = ((Current, true), (Current, false));
        for (generation, before, position, published, words) in [
            (written, Some(10), 10, None, "running"),
            (written, Some(4), 5, None, "running"),
            (written, Some(5), 5, None, "stuck"),
            (written, Some(5), 5, Some(8), "stuck"),
            (written, Some(8), 8, Some(8), "waiting for the relay"),
            (left, Some(10), 10, None, "not running"),
            (left, Some(5), 5, Some(10), "not running"),
            (written, Some(11), 11, None, "ahead of the log: rebuild it"),
            (left, Some(11), 11, None, "ahead of the log: rebuild it"),
            ((Building, true), None, 3, None, "being filled"),
            (
                (Building, false),
                Some(3),
                3,
                None,
                "left half-built; rebuild goes on with it",
            ),
            ((Previous, true), Some(3), 4, None, "being caught up"),
            ((Previous, false), Some(3), 3, None, "kept for rollback"),
        ] {
            let said = told(generation, before, position, published);
            assert_eq!(
                said, words,
                "{generation:?} at {position}, {before:?} before"
            );
        }
    }
}
