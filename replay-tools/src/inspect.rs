//! `replay inspect`.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};
use socialhub_domain::{
    Aggregate, Event, StreamId,
    comment::Comment,
    follow::Follow,
    notification::{Inbox, Notification},
    post::Post,
    reaction::Reaction,
    user::User,
};

use crate::{
    ReplayError, ReplayTarget, Verdict,
    moment::{self, Moment},
    show,
};

/// Options of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The stream as TYPE/ID, for example post/0198c1c2-0000-7000-8000-000000000000
    stream: String,
    /// Only what it was then: a position of the log, or a time in RFC 3339
    #[arg(long, value_name = "TIME|POSITION")]
    as_of: Option<Moment>,
    /// Print JSON: one line for each event, then one with the state
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(
    options: &Options,
    target: &ReplayTarget,
    out: &mut (dyn Write + Send),
) -> Result<Verdict, ReplayError> {
    let stream: StreamId = options
        .stream
        .parse()
        .map_err(|_| ReplayError::NotAStream(options.stream.clone()))?;
    let mut recorded = target.log.read_stream(&stream).await?;
    if recorded.is_empty() {
        return Err(ReplayError::NoSuchStream(stream));
    }
    let as_of = match options.as_of {
        None => None,
        Some(moment) => Some(moment::resolve(target, moment).await?),
    };
    if let Some(as_of) = as_of {
        let first = recorded.first().map_or(0, |event| event.position);
        recorded.retain(|event| event.position <= as_of);
        if recorded.is_empty() {
            return Err(ReplayError::NotBegun {
                stream,
                as_of,
                first,
            });
        }
    }
    let mut decoded = Vec::with_capacity(recorded.len());
    let mut verdict = Verdict::Clean;
    for event in &recorded {
        show::event(out, event, options.json)?;
        match event.decode() {
            Ok(event) => decoded.push(event),
            Err(error) => {
                verdict = Verdict::Wrong;
                eprintln!(
                    "the event at position {} cannot be read: {error}",
                    event.position
                );
            }
        }
    }
    let state = fold(&stream.aggregate_type, &decoded).transpose()?;
    if options.json {
        let line = json!({
            "stream": stream.to_string(), "version": recorded.len(), "asOf": as_of, "state": state,
        });
        show::json_line(out, &line)?;
    } else {
        let state = match state {
            Some(state) => serde_json::to_string_pretty(&state)?,
            None => "unknown: no aggregate has this type".to_owned(),
        };
        writeln!(
            out,
            "\nState of {stream} at version {}{}:\n{state}",
            recorded.len(),
            as_of.map_or(String::new(), |position| format!(
                ", as of position {position}"
            )),
        )?;
    }
    Ok(verdict)
}

/// The state that the events add up to, null before the first; none for an aggregate type nobody knows.
fn fold(aggregate_type: &str, events: &[Event]) -> Option<serde_json::Result<Value>> {
    fn state<A: Aggregate>(events: &[Event]) -> serde_json::Result<Value> {
        serde_json::to_value(A::replay(events))
    }
    Some(match aggregate_type {
        User::TYPE => state::<User>(events),
        Follow::TYPE => state::<Follow>(events),
        Post::TYPE => state::<Post>(events),
        Reaction::TYPE => state::<Reaction>(events),
        Comment::TYPE => state::<Comment>(events),
        Notification::TYPE => state::<Notification>(events),
        Inbox::TYPE => state::<Inbox>(events),
        _ => return None,
    })
}
