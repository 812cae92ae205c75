//! One call of `append_events`: commands as arrays, rows as outcomes.

use std::collections::HashMap;

use socialhub_domain::{Timestamp, UserId};
use socialhub_event_log::{
    AnswerKey, AppendError, Appended, CredentialField, Credentials, SideWrite, StoredAnswer,
    credential_key,
};
use sqlx::{FromRow, Postgres, postgres::PgArguments, query::Query};
use uuid::Uuid;

use crate::{
    event_rows::EncodedAppend,
    postgres::{
        connect::{from_sql, to_sql},
        session::Session,
    },
};

/// What became of one command.
pub(super) type Outcome = Result<Appended, AppendError>;

/// A call's answer: an outcome for each command, in their order, and whether there is more to prune.
pub(super) struct Answer {
    pub outcomes: Vec<Outcome>,
    pub more_to_prune: bool,
}

const CALL: &str = "SELECT * FROM append_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
     $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35,
     $36, $37, $38, $39)";

type Call<'q> = Query<'q, Postgres, PgArguments>;

/// Command, code, position, version; fingerprint, body, position and time of an answer.
type OutcomeRow = (
    i32,
    i32,
    Option<i64>,
    Option<i64>,
    Option<Vec<u8>>,
    Option<String>,
    Option<i64>,
    Option<i64>,
);

/// What two commands of a batch can meet in.
#[derive(PartialEq, Eq, Hash)]
enum Shared<'c> {
    Command(Uuid),
    Stream(&'c str, &'c str),
    Username(String),
    Email(String),
    User(UserId),
    Answer(&'c AnswerKey),
}

/// The wave of each command: the first, or the one after the last command before it that it shares anything with. An
/// erasure and what its person does share that person; two other commands of one person share nothing by that.
pub(super) fn waves<'c>(commands: impl Iterator<Item = &'c EncodedAppend>) -> Vec<i32> {
    let mut last: HashMap<Shared<'c>, i32> = HashMap::new();
    let (mut acted, mut erased) = (HashMap::new(), HashMap::new());
    let wave = |command: &'c EncodedAppend| {
        let shared = shared(command);
        let before = shared.iter().filter_map(|what| last.get(what));
        let erasure = command.actor.and_then(|actor| erased.get(&actor));
        let acts = erased_by(command).filter_map(|user| acted.get(&user));
        let wave = before
            .chain(erasure)
            .chain(acts)
            .max()
            .copied()
            .unwrap_or(0)
            + 1;
        last.extend(shared.into_iter().map(|what| (what, wave)));
        erased.extend(erased_by(command).map(|user| (user, wave)));
        if let Some(actor) = command.actor {
            let latest = acted.entry(actor).or_insert(wave);
            *latest = wave.max(*latest);
        }
        wave
    };
    commands.map(wave).collect()
}

fn erased_by(command: &EncodedAppend) -> impl Iterator<Item = UserId> {
    command.side.iter().filter_map(|side| match side {
        SideWrite::Erase { user_id } => Some(*user_id),
        _ => None,
    })
}

fn shared(command: &EncodedAppend) -> Vec<Shared<'_>> {
    let stream = &command.stream;
    let mut shared = vec![
        Shared::Command(command.command_id),
        Shared::Stream(&stream.aggregate_type, &stream.aggregate_id),
    ];
    for side in &command.side {
        match side {
            SideWrite::InsertCredentials(new) => {
                shared.push(Shared::Username(credential_key(&new.username)));
                shared.push(Shared::Email(credential_key(&new.email)));
                shared.push(Shared::User(new.user_id));
            }
            SideWrite::ResetPassword { user_id, .. } | SideWrite::Erase { user_id } => {
                shared.push(Shared::User(*user_id));
            }
            SideWrite::StoreAnswer { key, .. } => shared.push(Shared::Answer(key)),
        }
    }
    shared
}

/// Carries out commands in one round trip and one transaction.
///
/// # Errors
/// See `is_refusal` for what an error says about the commands.
pub(super) async fn call(
    connection: &mut Session,
    commands: &[&EncodedAppend],
    now: Timestamp,
    prune_step: i32,
) -> Result<Answer, sqlx::Error> {
    let columns = Columns::of(commands);
    let call = sqlx::query(CALL)
        .bind(now.0)
        .bind(StoredAnswer::LIFETIME_MS)
        .bind(prune_step);
    // All rows and the server's word that the transaction is over: only then is it committed.
    let rows = columns.bind(call).fetch_all(connection).await?;
    let mut outcomes: Vec<Outcome> = Vec::with_capacity(commands.len());
    outcomes.resize_with(commands.len(), || Err(AppendError::OutcomeUnknown));
    let mut more_to_prune = false;
    for row in &rows {
        let row = OutcomeRow::from_row(row)?;
        let Some(index) = usize::try_from(row.0).ok().and_then(|n| n.checked_sub(1)) else {
            more_to_prune = row.1 != 0;
            continue;
        };
        if let (Some(outcome), Some(command)) = (outcomes.get_mut(index), commands.get(index)) {
            *outcome = read_outcome(command, row);
        }
    }
    Ok(Answer {
        outcomes,
        more_to_prune,
    })
}

fn read_outcome(command: &EncodedAppend, row: OutcomeRow) -> Outcome {
    let (_, code, position, version, fingerprint, body, answer_position, stored_at) = row;
    let version = version.map_or(0, from_sql);
    match code {
        0 | 1 => Ok(Appended {
            position: position.map_or(0, from_sql),
            version,
        }),
        2 => Err(AppendError::VersionConflict {
            expected: command.expected_version,
            actual: version,
        }),
        3 => Err(AppendError::CredentialsTaken(CredentialField::Username)),
        4 => Err(AppendError::CredentialsTaken(CredentialField::Email)),
        5 => {
            let fingerprint = fingerprint.and_then(|bytes| bytes.try_into().ok());
            let answer = StoredAnswer {
                fingerprint: fingerprint.unwrap_or_default(),
                body: body.unwrap_or_default(),
                position: answer_position.map_or(0, from_sql),
                stored_at: Timestamp(stored_at.unwrap_or(0)),
            };
            Err(AppendError::AnswerExists(Box::new(answer)))
        }
        6 => Err(AppendError::NoCredentials),
        7 => Err(AppendError::ActorErased),
        _ => Err(AppendError::OutcomeUnknown),
    }
}

/// A batch as the function takes it.
struct Columns<'c> {
    commands: Commands<'c>,
    events: Events<'c>,
    credentials: NewCredentials<'c>,
    resets: Resets<'c>,
    answers: Answers<'c>,
}

impl<'c> Columns<'c> {
    fn of(commands: &[&'c EncodedAppend]) -> Self {
        let mut columns = Self {
            commands: Commands::default(),
            events: Events::default(),
            credentials: NewCredentials::default(),
            resets: Resets::default(),
            answers: Answers::default(),
        };
        let waves = waves(commands.iter().copied());
        for ((command, wave), n) in commands.iter().zip(waves).zip(1..) {
            columns.commands.push(command, wave);
            columns.events.push(command, n);
            for (side, nth) in command.side.iter().zip(1..) {
                match side {
                    SideWrite::InsertCredentials(new) => columns.credentials.push(n, nth, new),
                    SideWrite::ResetPassword {
                        user_id,
                        password_hash,
                    } => columns.resets.push(n, nth, *user_id, Some(password_hash)),
                    SideWrite::Erase { user_id } => columns.resets.push(n, nth, *user_id, None),
                    SideWrite::StoreAnswer { key, answer } => {
                        columns.answers.push(n, nth, key, answer);
                    }
                }
            }
        }
        columns
    }

    /// In the order of the function's parameters.
    fn bind<'q>(self, call: Call<'q>) -> Call<'q>
    where
        'c: 'q,
    {
        let call = self.events.bind(self.commands.bind(call));
        let call = self.resets.bind(self.credentials.bind(call));
        self.answers.bind(call)
    }
}

#[derive(Default)]
struct Commands<'c> {
    ids: Vec<Uuid>,
    waves: Vec<i32>,
    types: Vec<&'c str>,
    streams: Vec<&'c str>,
    expected: Vec<i64>,
    events: Vec<i32>,
    remembered: Vec<bool>,
    actors: Vec<Option<Uuid>>,
}

impl<'c> Commands<'c> {
    fn push(&mut self, command: &'c EncodedAppend, wave: i32) {
        self.ids.push(command.command_id);
        self.waves.push(wave);
        self.types.push(&command.stream.aggregate_type);
        self.streams.push(&command.stream.aggregate_id);
        self.expected.push(to_sql(command.expected_version));
        let events = i32::try_from(command.events.len()).unwrap_or(i32::MAX);
        self.events.push(events);
        self.remembered
            .push(events == 0 && !command.side.is_empty());
        self.actors.push(command.actor.map(|user| user.0));
    }

    fn bind<'q>(self, call: Call<'q>) -> Call<'q>
    where
        'c: 'q,
    {
        call.bind(self.ids)
            .bind(self.waves)
            .bind(self.types)
            .bind(self.streams)
            .bind(self.expected)
            .bind(self.events)
            .bind(self.remembered)
            .bind(self.actors)
    }
}

#[derive(Default)]
struct Events<'c> {
    commands: Vec<i32>,
    nths: Vec<i32>,
    types: Vec<&'c str>,
    versions: Vec<&'c str>,
    payloads: Vec<&'c str>,
    metadatas: Vec<&'c str>,
    ids: Vec<Uuid>,
}

impl<'c> Events<'c> {
    fn push(&mut self, command: &'c EncodedAppend, n: i32) {
        for (event, nth) in command.events.iter().zip(1..) {
            self.commands.push(n);
            self.nths.push(nth);
            self.types.push(event.event_type);
            self.versions.push(&event.event_version);
            self.payloads.push(&event.payload);
            self.metadatas.push(&event.metadata);
            self.ids.push(event.event_id);
        }
    }

    fn bind<'q>(self, call: Call<'q>) -> Call<'q>
    where
        'c: 'q,
    {
        call.bind(self.commands)
            .bind(self.nths)
            .bind(self.types)
            .bind(self.versions)
            .bind(self.payloads)
            .bind(self.metadatas)
            .bind(self.ids)
    }
}

#[derive(Default)]
struct NewCredentials<'c> {
    commands: Vec<i32>,
    nths: Vec<i32>,
    users: Vec<Uuid>,
    usernames: Vec<&'c str>,
    username_keys: Vec<String>,
    emails: Vec<&'c str>,
    email_keys: Vec<String>,
    hashes: Vec<&'c str>,
    epochs: Vec<i64>,
}

impl<'c> NewCredentials<'c> {
    fn push(&mut self, n: i32, nth: i32, new: &'c Credentials) {
        self.commands.push(n);
        self.nths.push(nth);
        self.users.push(new.user_id.0);
        self.usernames.push(&new.username);
        self.username_keys.push(credential_key(&new.username));
        self.emails.push(&new.email);
        self.email_keys.push(credential_key(&new.email));
        self.hashes.push(&new.password_hash);
        self.epochs.push(to_sql(new.token_epoch));
    }

    fn bind<'q>(self, call: Call<'q>) -> Call<'q>
    where
        'c: 'q,
    {
        call.bind(self.commands)
            .bind(self.nths)
            .bind(self.users)
            .bind(self.usernames)
            .bind(self.username_keys)
            .bind(self.emails)
            .bind(self.email_keys)
            .bind(self.hashes)
            .bind(self.epochs)
    }
}

#[derive(Default)]
struct Resets<'c> {
    commands: Vec<i32>,
    nths: Vec<i32>,
    users: Vec<Uuid>,
    /// None: the person is erased.
    hashes: Vec<Option<&'c str>>,
}

impl<'c> Resets<'c> {
    fn push(&mut self, n: i32, nth: i32, user: UserId, hash: Option<&'c str>) {
        self.commands.push(n);
        self.nths.push(nth);
        self.users.push(user.0);
        self.hashes.push(hash);
    }

    fn bind<'q>(self, call: Call<'q>) -> Call<'q>
    where
        'c: 'q,
    {
        call.bind(self.commands)
            .bind(self.nths)
            .bind(self.users)
            .bind(self.hashes)
    }
}

#[derive(Default)]
struct Answers<'c> {
    commands: Vec<i32>,
    nths: Vec<i32>,
    owners: Vec<&'c str>,
    routes: Vec<&'c str>,
    keys: Vec<&'c str>,
    fingerprints: Vec<&'c [u8]>,
    bodies: Vec<&'c str>,
    stored: Vec<i64>,
}

impl<'c> Answers<'c> {
    fn push(&mut self, n: i32, nth: i32, key: &'c AnswerKey, answer: &'c StoredAnswer) {
        self.commands.push(n);
        self.nths.push(nth);
        self.owners.push(&key.owner);
        self.routes.push(&key.route);
        self.keys.push(&key.key);
        self.fingerprints.push(&answer.fingerprint);
        self.bodies.push(&answer.body);
        self.stored.push(answer.stored_at.0);
    }

    fn bind<'q>(self, call: Call<'q>) -> Call<'q>
    where
        'c: 'q,
    {
        call.bind(self.commands)
            .bind(self.nths)
            .bind(self.owners)
            .bind(self.routes)
            .bind(self.keys)
            .bind(self.fingerprints)
            .bind(self.bodies)
            .bind(self.stored)
    }
}
