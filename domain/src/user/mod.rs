//! The `user` aggregate: a person and their profile. Credentials are not part of it: they are secrets and live beside
//! the log.

#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::{
    Aggregate, Event, StreamId, Timestamp, UserId,
    event::{UserErased, UserProfileUpdated, UserRegistered},
    personal::ERASED_TEXT,
};

/// The decider of people.
#[derive(Debug, Clone, Copy)]
pub struct User;

/// A registered person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Person {
    /// The person.
    pub id: UserId,
    /// Their username.
    pub username: String,
    /// Their display name.
    pub name: String,
    /// Their self-description.
    pub bio: Option<String>,
    /// Their picture's address.
    pub avatar: Option<String>,
    /// Whether they were erased: then nothing of the above is theirs, and nothing can be asked of them any more.
    pub erased: bool,
}

/// What may be asked of a person.
#[derive(Debug, Clone)]
pub enum UserCommand {
    /// Come into being.
    Register {
        /// The new person.
        id: UserId,
        /// Their username, checked by [`crate::validation::username`].
        username: String,
        /// Their display name, checked by [`crate::validation::name`].
        name: String,
        /// When.
        at: Timestamp,
    },
    /// Change the profile; what is left out stays.
    UpdateProfile {
        /// The new display name.
        name: Option<String>,
        /// The new self-description; empty removes it.
        bio: Option<String>,
        /// The new picture; empty removes it.
        avatar: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// Be forgotten, for good.
    Erase {
        /// When.
        at: Timestamp,
    },
}

/// Why a person said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// The id is somebody's already.
    #[error("User already exists")]
    AlreadyRegistered,
    /// Nobody has the id.
    #[error("User not found")]
    NotFound,
}

impl User {
    /// The stream of a person.
    pub fn stream(id: UserId) -> StreamId {
        StreamId::new(Self::TYPE, id)
    }
}

/// Keeps a wished value only when it differs from what is there; empty text and nothing are the same.
fn changed(wish: Option<String>, now: Option<&str>) -> Option<String> {
    wish.filter(|wish| wish.as_str() != now.unwrap_or_default())
}

/// Empty text removes.
fn kept(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

impl Aggregate for User {
    const TYPE: &'static str = "user";
    /// None before the person registered.
    type State = Option<Person>;
    type Command = UserCommand;
    type Error = UserError;

    fn decide(state: &Self::State, command: UserCommand) -> Result<Vec<Event>, UserError> {
        match (state, command) {
            (Some(_), UserCommand::Register { .. }) => Err(UserError::AlreadyRegistered),
            (
                None,
                UserCommand::Register {
                    id,
                    username,
                    name,
                    at,
                },
            ) => Ok(vec![
                UserRegistered {
                    user_id: id,
                    username,
                    name,
                    timestamp: at,
                }
                .into(),
            ]),
            (None, _) => Err(UserError::NotFound),
            // To ask twice is no fault: the answer to the first may have been lost.
            (Some(person), UserCommand::Erase { .. }) if person.erased => Ok(Vec::new()),
            (Some(person), UserCommand::Erase { at }) => Ok(vec![
                UserErased {
                    user_id: person.id,
                    timestamp: at,
                }
                .into(),
            ]),
            (Some(person), UserCommand::UpdateProfile { .. }) if person.erased => {
                Err(UserError::NotFound)
            }
            (
                Some(person),
                UserCommand::UpdateProfile {
                    name,
                    bio,
                    avatar,
                    at,
                },
            ) => {
                let update = UserProfileUpdated {
                    user_id: person.id,
                    name: changed(name, Some(&person.name)),
                    bio: changed(bio, person.bio.as_deref()),
                    avatar: changed(avatar, person.avatar.as_deref()),
                    timestamp: at,
                };
                let nothing =
                    update.name.is_none() && update.bio.is_none() && update.avatar.is_none();
                Ok(if nothing {
                    Vec::new()
                } else {
                    vec![update.into()]
                })
            }
        }
    }

    fn evolve(state: &mut Self::State, event: &Event) {
        match (state.as_mut(), event) {
            (_, Event::UserRegistered(e)) => {
                *state = Some(Person {
                    id: e.user_id,
                    username: e.username.clone(),
                    name: e.name.clone(),
                    bio: None,
                    avatar: None,
                    erased: false,
                });
            }
            // Whether the fields could still be read or not, the state is the same from here on.
            (Some(person), Event::UserErased(_)) => {
                ERASED_TEXT.clone_into(&mut person.username);
                ERASED_TEXT.clone_into(&mut person.name);
                person.bio = None;
                person.avatar = None;
                person.erased = true;
            }
            (Some(person), Event::UserProfileUpdated(e)) => {
                if let Some(name) = &e.name {
                    person.name.clone_from(name);
                }
                if let Some(bio) = &e.bio {
                    person.bio = kept(bio);
                }
                if let Some(avatar) = &e.avatar {
                    person.avatar = kept(avatar);
                }
            }
            _ => {}
        }
    }
}
