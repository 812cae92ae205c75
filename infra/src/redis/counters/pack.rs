//! Batches cut into parts that one script writes in a moment, summed up and packed; and the records as they are stored.
//!
//! A post that is liked a thousand times in a part is written once. Sums of scores are whole numbers of 2^-40, sent and
//! kept as two doubles, so that scripts add them exactly.

use serde_json::{Value, json};
use socialhub_domain::{PostId, UserId, score::DecayedScore};
use socialhub_event_log::Position;
use socialhub_projections::{
    ParkedLetter,
    counters::{CounterChange, PersonCounts, PostCounts},
    projection::Projected,
    store::WriteBatch,
    verify::same,
};
use uuid::Uuid;

use crate::counter_sums::{PersonSums, PostSums, Sums};

/// Events of one part: Redis does nothing else while a script runs, so it must be done in a few milliseconds.
const EVENTS: usize = 384;
/// Letters of one part.
const LETTERS: usize = 64;

const RESTRICTED: u8 = 2;
const PUBLIC: u8 = 1;
/// In the flags of a change.
const GONE: u8 = 4;

/// What one script writes of a batch.
#[derive(Debug)]
pub(super) struct Part {
    /// What has been written of the source when its turn comes.
    pub(super) from: Position,
    /// What has been written when it is done.
    pub(super) upto: Position,
    /// Whether the batch is written with it.
    pub(super) last: bool,
    pub(super) posts: Vec<u8>,
    pub(super) people: Vec<u8>,
    /// Positions and letters in JSON.
    pub(super) letters: Vec<(Position, String)>,
}

/// The next parts of a batch, `most` at most, when everything up to `from` has been written.
pub(super) fn parts(
    batch: &WriteBatch<CounterChange>,
    mut from: Position,
    most: usize,
) -> Vec<Part> {
    let mut parts = Vec::new();
    while parts.len() < most {
        let part = next_part(batch, from);
        let last = part.last;
        from = part.upto;
        parts.push(part);
        if last {
            break;
        }
    }
    parts
}

fn next_part(batch: &WriteBatch<CounterChange>, from: Position) -> Part {
    let events = batch
        .projected
        .get(batch.projected.partition_point(|one| one.position <= from)..)
        .unwrap_or_default();
    let letters: Vec<&ParkedLetter> = batch
        .parked
        .iter()
        .filter(|letter| letter.position > from)
        .collect();
    let end = batch.checkpoint.position.max(from);
    // As far as the part may reach before it holds too many of either.
    let upto = [
        events.get(EVENTS).map(|next| next.position - 1),
        letters.get(LETTERS).map(|next| next.position - 1),
    ]
    .into_iter()
    .flatten()
    .fold(end, Position::min);
    let (posts, people) = pack(events.iter().take_while(|one| one.position <= upto));
    let letters = letters
        .into_iter()
        .take_while(|letter| letter.position <= upto)
        // A letter is text and numbers: this cannot fail.
        .map(|letter| {
            let text = serde_json::to_string(letter).unwrap_or_default();
            (letter.position, text)
        })
        .collect();
    Part {
        from,
        upto,
        last: upto == end,
        posts,
        people,
        letters,
    }
}

/// Changes of posts and of people, as `apply.lua` reads them.
pub(super) fn pack<'a>(
    events: impl IntoIterator<Item = &'a Projected<CounterChange>>,
) -> (Vec<u8>, Vec<u8>) {
    let sums = Sums::of(events);
    let (mut posts, mut people) = (Vec::new(), Vec::new());
    for (id, post) in &sums.posts {
        pack_post(*id, post, &mut posts);
    }
    for (id, person) in &sums.people {
        pack_person(*id, person, &mut people);
    }
    (posts, people)
}

fn pack_post(id: PostId, post: &PostSums, to: &mut Vec<u8>) {
    let appeared = match post.appeared {
        None => 0,
        Some(true) => PUBLIC,
        Some(false) => RESTRICTED,
    };
    to.extend_from_slice(id.0.as_bytes());
    to.push(appeared | if post.gone { GONE } else { 0 });
    number(post.likes as f64, to);
    number(post.comments as f64, to);
    number(post.changed as f64, to);
    let sums = match post.gone {
        true => Vec::new(),
        false => halves(&post.decay),
    };
    // At most one for each event of a part.
    let count = u16::try_from(sums.len()).unwrap_or(u16::MAX);
    to.extend_from_slice(&count.to_le_bytes());
    for (life, whole, part) in sums.into_iter().rev() {
        number(life, to);
        number(whole, to);
        number(part, to);
    }
}

fn pack_person(id: UserId, person: &PersonSums, to: &mut Vec<u8>) {
    to.extend_from_slice(id.0.as_bytes());
    for value in [person.followers, person.following, person.posts] {
        number(value as f64, to);
    }
    number(person.changed as f64, to);
}

fn number(value: f64, to: &mut Vec<u8>) {
    to.extend_from_slice(&value.to_le_bytes());
}

/// The sums of a score: half-life, whole part, and the rest in 2^-40, ascending.
fn halves(score: &DecayedScore) -> Vec<(f64, f64, f64)> {
    const BITS: u32 = 40;
    score
        .to_bytes()
        .chunks_exact(24)
        .filter_map(|chunk| {
            let (life, sum) = chunk.split_at(8);
            let life = i64::from_be_bytes(life.try_into().ok()?);
            let sum = i128::from_be_bytes(sum.try_into().ok()?);
            let part = sum & ((1 << BITS) - 1);
            Some((life as f64, (sum >> BITS) as f64, part as f64))
        })
        .collect()
}

/// The numbers at the start of a packed record, from a byte on.
fn numbers<const N: usize>(bytes: &[u8], at: usize) -> Option<[f64; N]> {
    let mut found = [0.0; N];
    for (index, value) in found.iter_mut().enumerate() {
        let start = at + index * 8;
        *value = f64::from_le_bytes(bytes.get(start..start + 8)?.try_into().ok()?);
    }
    Some(found)
}

/// Counts as they are shown: what is below zero for a moment is zero.
fn shown(count: f64) -> u64 {
    count.max(0.0) as u64
}

/// The counts in the first 17 bytes of a post's record.
pub(super) fn post_counts(record: &[u8]) -> Option<PostCounts> {
    let [likes, comments] = numbers(record, 1)?;
    Some(PostCounts {
        likes: shown(likes),
        comments: shown(comments),
    })
}

/// The counts of a person's record.
pub(super) fn person_counts(record: &[u8]) -> Option<PersonCounts> {
    let [followers, following, posts] = numbers(record, 0)?;
    Some(PersonCounts {
        followers: shown(followers),
        following: shown(following),
        posts: shown(posts),
    })
}

/// An id from its 16 bytes.
pub(super) fn id(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes).ok()
}

/// A post's record in the form that is verified, with the score that it is ranked by.
pub(super) fn post_row(record: &[u8], score: Option<f64>) -> Option<(Value, Position)> {
    let [likes, comments, changed] = numbers(record, 1)?;
    let state = match *record.first()? {
        PUBLIC => "public",
        RESTRICTED => "restricted",
        3 => "deleted",
        _ => "unknown",
    };
    let mut value = json!({
        "state": state,
        "likes": likes as i64,
        "comments": comments as i64,
        "log2Score": score,
    });
    // The sums that the next like is added to must be those of the score that is served.
    let summed = log2_of(record.get(25..)?)?;
    if state == "public" && !same(&json!(summed), &json!(score)) {
        value["log2Sums"] = json!(summed);
    }
    Some((value, changed as Position))
}

/// The score that the sums of a record come to; the outer none when they are no sums.
#[expect(clippy::option_option, reason = "no sums have no score")]
fn log2_of(sums: &[u8]) -> Option<Option<f64>> {
    let (sums, rest) = sums.as_chunks::<24>();
    if !rest.is_empty() {
        return None;
    }
    let mut newest = f64::NEG_INFINITY;
    let mut found = Vec::with_capacity(sums.len());
    for sum in sums {
        let [life, whole, part] = numbers(sum, 0)?;
        newest = newest.max(life);
        found.push((life, whole + part / (1_u64 << 40) as f64));
    }
    let total: f64 = found
        .iter()
        .map(|(life, sum)| sum * (life - newest).exp2())
        .sum();
    Some((total > 0.0).then(|| newest + total.log2()))
}

/// A person's record in the form that is verified.
pub(super) fn person_row(record: &[u8]) -> Option<(Value, Position)> {
    let [followers, following, posts, changed] = numbers(record, 0)?;
    let value = json!({
        "followers": followers as i64,
        "following": following as i64,
        "posts": posts as i64,
    });
    Some((value, changed as Position))
}
