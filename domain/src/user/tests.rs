//! Given/when/then tests of people.

use super::{User, UserCommand, UserError};
use crate::{
    Aggregate, Event, Timestamp, UserId,
    event::{UserErased, UserProfileUpdated, UserRegistered},
    testing::{given, id},
};

const ADA: UserId = UserId(id(1));

fn registered() -> Event {
    UserRegistered {
        user_id: ADA,
        username: "ada".into(),
        name: "Ada".into(),
        timestamp: Timestamp(1),
    }
    .into()
}

fn register() -> UserCommand {
    UserCommand::Register {
        id: ADA,
        username: "ada".into(),
        name: "Ada".into(),
        at: Timestamp(1),
    }
}

fn update(name: Option<&str>, bio: Option<&str>, avatar: Option<&str>) -> UserCommand {
    UserCommand::UpdateProfile {
        name: name.map(Into::into),
        bio: bio.map(Into::into),
        avatar: avatar.map(Into::into),
        at: Timestamp(2),
    }
}

fn updated(name: Option<&str>, bio: Option<&str>, avatar: Option<&str>) -> Event {
    UserProfileUpdated {
        user_id: ADA,
        name: name.map(Into::into),
        bio: bio.map(Into::into),
        avatar: avatar.map(Into::into),
        timestamp: Timestamp(2),
    }
    .into()
}

#[test]
fn somebody_registers_once() {
    given::<User>([])
        .when(register())
        .then([registered()])
        .when(register())
        .then_error(UserError::AlreadyRegistered);
}

#[test]
fn nobody_has_no_profile() {
    given::<User>([])
        .when(update(Some("X"), None, None))
        .then_error(UserError::NotFound);
}

#[test]
fn an_update_tells_only_what_changes() {
    given::<User>([registered()])
        .when(update(Some("Ada"), Some("I count"), None))
        .then([updated(None, Some("I count"), None)])
        .when(update(Some("Ada L."), Some("I count"), Some("/media/a")))
        .then([updated(Some("Ada L."), None, Some("/media/a"))]);
}

#[test]
fn an_update_that_changes_nothing_tells_nothing() {
    given::<User>([registered()])
        .when(update(Some("Ada"), Some(""), None))
        .then_nothing()
        .when(update(None, None, None))
        .then_nothing();
}

#[test]
fn empty_text_removes() {
    given::<User>([
        registered(),
        updated(None, Some("I count"), Some("/media/a")),
    ])
    .when(update(None, Some(""), Some("")))
    .then([updated(None, Some(""), Some(""))])
    .when(update(None, Some(""), Some("")))
    .then_nothing();
}

fn erase(at: i64) -> UserCommand {
    UserCommand::Erase { at: Timestamp(at) }
}

fn erased(at: i64) -> Event {
    UserErased {
        user_id: ADA,
        timestamp: Timestamp(at),
    }
    .into()
}

#[test]
fn erasing_twice_is_erasing_once() {
    given::<User>([registered()])
        .when(erase(3))
        .then([erased(3)])
        .when(erase(4))
        .then_nothing();
}

#[test]
fn nobody_who_is_not_there_can_be_erased() {
    given::<User>([])
        .when(erase(3))
        .then_error(UserError::NotFound);
}

#[test]
fn nothing_can_be_asked_of_the_erased() {
    given::<User>([registered(), erased(3)])
        .when(update(Some("Ada"), None, None))
        .then_error(UserError::NotFound);
    given::<User>([registered(), erased(3)])
        .when(register())
        .then_error(UserError::AlreadyRegistered);
}

#[test]
fn an_erased_person_is_the_same_whether_their_fields_were_read_or_not() {
    let clear = [registered(), updated(Some("A"), Some("bio"), Some("/a"))];
    let tombstones = clear
        .clone()
        .map(|event| crate::personal::redacted(&event, |_| true));
    assert_ne!(tombstones, clear);
    let after = |events: &[Event]| User::replay(events.iter().chain([&erased(3)]));
    assert_eq!(after(&clear), after(&tombstones));
    assert!(after(&clear).is_some_and(|person| person.erased && person.bio.is_none()));
}
