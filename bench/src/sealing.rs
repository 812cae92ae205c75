//! What sealing costs an append: the same commands through the appender that the server uses, with personal fields sealed
//! and as they are, in turns in one run.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use socialhub_domain::{
    CommentId, Event, IdGenerator, PostId, StreamId, Timestamp, UserId,
    event::{PostCommented, PostCreated, PostLiked, Visibility},
};
use socialhub_event_log::{
    Append, EventLog, FieldCipher, Metadata, NewEvent, PersonKeys, SealedLog,
};
#[cfg(feature = "distributed")]
use socialhub_infra::postgres::event_log::PgEventLog;
use socialhub_infra::{
    clock::{RandomIds, SystemClock},
    security::AesGcmCipher,
    sqlite::event_log::SqliteEventLog,
};

use crate::{client::BenchError, offline::runtime};

/// Compares appends with sealed and with clear fields.
#[derive(Debug, Args)]
pub struct SealingArgs {
    /// Commands a round: posts of 150 characters, likes and comments in turn.
    #[arg(long, default_value_t = 40_000)]
    events: usize,
    /// How often each way has its turn; the one in the middle counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Commands under way at once.
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// People who act, whose keys are there.
    #[arg(long, default_value_t = 1_000)]
    people: usize,
    /// A folder on the disk that is meant; what is made there is removed.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// A database of Postgres to append to instead, which is left with what was appended
    #[cfg(feature = "distributed")]
    #[arg(long)]
    postgres: Option<String>,
}

fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Usage(error.to_string())
}

/// Measures and prints both ways and their ratio.
///
/// # Errors
/// When a log cannot be written.
pub fn sealing(args: &SealingArgs) -> Result<(), BenchError> {
    let (mut clear, mut sealed) = (Vec::new(), Vec::new());
    for nth in 0..args.rounds {
        // What grows from round to round is no disadvantage of either.
        for is_sealed in [nth % 2 == 1, nth % 2 == 0] {
            let rate = round(args, is_sealed)?;
            let rates = if is_sealed { &mut sealed } else { &mut clear };
            rates.push(rate);
        }
    }
    let (clear, sealed) = (middle(clear), middle(sealed));
    println!("| in flight | clear, events/s | sealed, events/s | sealed / clear |");
    println!("|---|---|---|---|");
    println!(
        "| {} | {clear:.0} | {sealed:.0} | {:.3} |",
        args.in_flight,
        sealed / clear
    );
    Ok(())
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Events a second of one round: on a fresh log in a file, or on the one that grows in Postgres.
fn round(args: &SealingArgs, sealed: bool) -> Result<f64, BenchError> {
    #[cfg(feature = "distributed")]
    if let Some(url) = &args.postgres {
        return runtime()?.block_on(round_on_postgres(args, url, sealed));
    }
    let folder = args.dir.join(format!("sealing-{}", RandomIds.next_id()));
    fs::create_dir_all(&folder)?;
    let rate = runtime()?.block_on(round_on_a_file(args, &folder.join("events.db"), sealed));
    fs::remove_dir_all(&folder)?;
    rate
}

async fn round_on_a_file(args: &SealingArgs, path: &Path, sealed: bool) -> Result<f64, BenchError> {
    let store = SqliteEventLog::open(path, Arc::new(SystemClock)).map_err(failed)?;
    let store = Arc::new(store);
    let rate = append_all(args, &store, sealed).await;
    store.close();
    rate
}

#[cfg(feature = "distributed")]
async fn round_on_postgres(args: &SealingArgs, url: &str, sealed: bool) -> Result<f64, BenchError> {
    PgEventLog::migrate(url).await.map_err(failed)?;
    let store = PgEventLog::connect(url, Arc::new(SystemClock)).await;
    let store = Arc::new(store.map_err(failed)?);
    let rate = append_all(args, &store, sealed).await;
    store.close().await;
    rate
}

async fn append_all<S: EventLog + PersonKeys + 'static>(
    args: &SealingArgs,
    store: &Arc<S>,
    sealed: bool,
) -> Result<f64, BenchError> {
    let people: Vec<UserId> = (0..args.people.max(1))
        .map(|_| UserId(RandomIds.next_id()))
        .collect();
    let offered = people.iter().map(|user| (*user, AesGcmCipher.new_key()));
    store.obtain(offered.collect()).await.map_err(failed)?;
    let log: Arc<dyn EventLog> = if sealed {
        Arc::new(SealedLog::new(
            store.clone(),
            store.clone(),
            Arc::new(AesGcmCipher),
        ))
    } else {
        store.clone()
    };
    // Before the clock: making commands is not what is measured.
    let commands: Vec<Append> = (0..args.events).map(|nth| command(nth, &people)).collect();
    let begin = Instant::now();
    stream::iter(commands)
        .map(|command| log.append(command))
        .buffer_unordered(args.in_flight.max(1))
        .try_for_each(|_| async { Ok(()) })
        .await
        .map_err(failed)?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(args.events as f64 / seconds)
}

fn command(nth: usize, people: &[UserId]) -> Append {
    let who = people[nth % people.len()];
    let other = people[(nth * 7 + 1) % people.len()];
    let (post_id, username) = (PostId(RandomIds.next_id()), "somebody_real".to_owned());
    let timestamp = Timestamp(1_800_000_000_000 + nth as i64);
    let event: Event = match nth % 3 {
        0 => PostCreated {
            post_id,
            user_id: who,
            username,
            content: "What one says in a hundred and fifty characters. ".repeat(3),
            visibility: Visibility::Public,
            media: Vec::new(),
            timestamp,
        }
        .into(),
        1 => PostLiked {
            post_id,
            post_author_id: other,
            liker_id: who,
            liker_username: username,
            timestamp,
        }
        .into(),
        _ => PostCommented {
            post_id,
            comment_id: CommentId(RandomIds.next_id()),
            post_author_id: other,
            commenter_id: who,
            commenter_username: username,
            comment: "A comment of about sixty characters, as people write them.".to_owned(),
            timestamp,
        }
        .into(),
    };
    Append {
        command_id: RandomIds.next_id(),
        stream: StreamId::new("bench", RandomIds.next_id()),
        expected_version: 0,
        events: vec![NewEvent {
            event_id: RandomIds.next_id(),
            event,
            payload: None,
        }],
        metadata: Metadata {
            actor: Some(who),
            occurred_at: timestamp,
            ..Metadata::default()
        },
        side: Vec::new(),
    }
}
