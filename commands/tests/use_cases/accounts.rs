//! Signing up, logging in, resetting a password, changing a profile.

use std::sync::atomic::Ordering;

use socialhub_commands::{
    CommandContext, CommandError, log_in::LogIn, reset_password::ResetPassword, sign_up::SignUp,
    update_profile::UpdateProfile,
};
use socialhub_event_log::{AppendError, CredentialsReader};

use crate::support::{OTP, SlowToAnswer, WithKey, World, bad_fields, by, new_person, refusal};

fn login(identifier: &str, password: &str) -> LogIn {
    LogIn {
        identifier: identifier.into(),
        password: password.into(),
    }
}

fn reset(otp: &str, new_password: &str) -> ResetPassword {
    ResetPassword {
        email: "Ada@Example.org".into(),
        otp: otp.into(),
        new_password: new_password.into(),
    }
}

#[tokio::test]
async fn a_person_signs_up() {
    let world = World::new();
    let done = world.sign_up("ada").await.unwrap();
    assert_eq!(done.position, 1);
    assert!(!done.replayed);
    assert_eq!(done.result.token, format!("{}@1", done.result.user.id));
    assert_eq!(world.event_types(), ["user.registered"]);
    let payload = &world.log.events()[0].payload;
    assert!(
        !payload.contains("example.org") && !payload.contains("hash"),
        "{payload}"
    );
}

#[tokio::test]
async fn the_white_space_around_is_not_theirs() {
    let world = World::new();
    let input = SignUp {
        name: "  Ada L. ".into(),
        email: " ada@example.org\n".into(),
        username: " ada ".into(),
        ..new_person("ada")
    };
    let ctx = CommandContext::default();
    let user = world
        .commands
        .sign_up(&ctx, input)
        .await
        .unwrap()
        .result
        .user;
    assert_eq!(
        (user.username.as_str(), user.name.as_str()),
        ("ada", "Ada L.")
    );
    let found = world.log.find_by_identifier("ada@example.org").await;
    assert_eq!(found.unwrap().unwrap().user_id, user.id);
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let world = World::new();
    let input = SignUp {
        name: " ".into(),
        email: "ada".into(),
        username: "a b".into(),
        password: "short".into(),
    };
    let outcome = world
        .commands
        .sign_up(&CommandContext::default(), input)
        .await;
    let fields = ["name", "email", "username", "password"];
    assert_eq!(bad_fields(outcome), fields.map(String::from).into());
}

#[tokio::test]
async fn names_and_addresses_are_taken_whatever_the_case() {
    let world = World::new();
    world.person("ada").await;
    let taken = (400, "User already exists".to_owned());
    assert_eq!(refusal(world.sign_up("ADA").await), taken);
    let same_mail = SignUp {
        email: "ADA@example.ORG".into(),
        ..new_person("other")
    };
    let ctx = CommandContext::default();
    assert_eq!(
        refusal(world.commands.sign_up(&ctx, same_mail).await),
        taken
    );
    // Nobody pays for a hash that is thrown away.
    assert_eq!(world.hasher.hashed.load(Ordering::SeqCst), 1);
    assert_eq!(world.event_types(), ["user.registered"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_gets_the_name() {
    let world = World::new();
    let tries = (0..50).map(|_| {
        let commands = world.commands.clone();
        tokio::spawn(async move {
            let ctx = CommandContext::default();
            commands.sign_up(&ctx, new_person("ada")).await
        })
    });
    let mut won = 0;
    for outcome in tries.collect::<Vec<_>>() {
        match outcome.await.unwrap() {
            Ok(_) => won += 1,
            Err(CommandError::Refused("User already exists")) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(world.count("user.registered"), 1);
}

#[tokio::test]
async fn signing_up_again_with_the_key_gives_a_fresh_token() {
    let world = World::new();
    let ctx = || CommandContext::default().with_key("k", 1);
    let first = world
        .commands
        .sign_up(&ctx(), new_person("ada"))
        .await
        .unwrap();
    let again = world
        .commands
        .sign_up(&ctx(), new_person("ada"))
        .await
        .unwrap();
    assert!(again.replayed);
    assert_eq!(again.result.user, first.result.user);
    assert_eq!(again.position, first.position);
    assert!(again.result.token.ends_with("@1"));
    assert_eq!(world.count("user.registered"), 1);
}

#[tokio::test]
async fn people_log_in_by_name_and_by_address() {
    let world = World::new();
    let ada = world.person("ada").await;
    for identifier in ["ada", "ADA", "ada@example.org", " Ada@Example.org "] {
        let entered = world
            .commands
            .log_in(login(identifier, "correct horse"))
            .await
            .unwrap();
        assert_eq!(entered.user.id, ada.id);
        assert_eq!(entered.user.name, "The ada");
    }
}

#[tokio::test]
async fn a_failed_login_says_nothing_and_costs_the_same() {
    let world = World::new();
    world.person("ada").await;
    let long = "x".repeat(73);
    let tries = [
        ("ada", "wrong horse"),
        ("nobody", "correct horse"),
        ("ada", &long),
    ];
    for (nth, (identifier, password)) in tries.into_iter().enumerate() {
        let outcome = world.commands.log_in(login(identifier, password)).await;
        assert_eq!(refusal(outcome), (401, "Invalid credentials".to_owned()));
        assert_eq!(world.hasher.verified.load(Ordering::SeqCst), nth + 1);
    }
    let outcome = world.commands.log_in(login(" ", "")).await;
    assert_eq!(
        bad_fields(outcome),
        ["identifier", "password"].map(String::from).into()
    );
}

#[tokio::test]
async fn a_forgotten_password_is_reset_once() {
    let world = World::new();
    let ada = world.person("ada").await;
    let ctx = CommandContext::default();
    let mail = "ADA@example.org".to_owned();
    world
        .commands
        .request_reset(&ctx, mail.clone())
        .await
        .unwrap();
    world.commands.drain().await;
    let sent = world.mailer.sent.lock().clone();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].0, "ada@example.org");
    assert!(sent[0].1.contains(OTP));

    world.commands.verify_otp(mail, OTP.into()).await.unwrap();
    world
        .commands
        .reset_password(&ctx, reset(OTP, "new password"))
        .await
        .unwrap();
    assert_eq!(*world.tokens.raised.lock(), [(ada.id, 2)]);
    let entered = world
        .commands
        .log_in(login("ada", "new password"))
        .await
        .unwrap();
    assert_eq!(entered.token, format!("{}@2", ada.id));
    let old = world.commands.log_in(login("ada", "correct horse")).await;
    assert_eq!(refusal(old).0, 401);

    let again = world
        .commands
        .reset_password(&ctx, reset(OTP, "another one"))
        .await;
    assert_eq!(refusal(again), (400, "Invalid or expired OTP".to_owned()));
    assert_eq!(world.event_types(), ["user.registered"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_code_works_once_however_many_use_it_at_once() {
    let world = World::new();
    world.person("ada").await;
    let ctx = CommandContext::default();
    world
        .commands
        .request_reset(&ctx, "ada@example.org".into())
        .await
        .unwrap();
    world.commands.drain().await;
    let tries = (0..20).map(|nth| {
        let commands = world.commands.clone();
        tokio::spawn(async move {
            let input = reset(OTP, &format!("new password {nth}"));
            commands
                .reset_password(&CommandContext::default(), input)
                .await
        })
    });
    let mut won = 0;
    for outcome in tries.collect::<Vec<_>>() {
        won += usize::from(outcome.await.unwrap().is_ok());
    }
    assert_eq!(won, 1);
    assert_eq!(world.tokens.raised.lock().len(), 1);
}

#[tokio::test]
async fn unknown_addresses_get_the_same_answer_and_no_mail() {
    let world = World::new();
    world.person("ada").await;
    let ctx = CommandContext::default();
    // A username is no address.
    for unknown in ["nobody@example.org", "x@ada.org"] {
        world
            .commands
            .request_reset(&ctx, unknown.into())
            .await
            .unwrap();
    }
    world.commands.drain().await;
    assert!(world.mailer.sent.lock().is_empty());
    assert_eq!(world.otps.count(), 0, "nobody's codes take no room");
    let outcome = world
        .commands
        .verify_otp("nobody@example.org".into(), OTP.into())
        .await;
    assert_eq!(refusal(outcome), (400, "Invalid or expired OTP".to_owned()));
    let outcome = world.commands.request_reset(&ctx, "ada".into()).await;
    assert_eq!(bad_fields(outcome), ["email".to_owned()].into());
}

#[tokio::test]
async fn where_no_code_can_be_kept_nobody_is_promised_one() {
    let world = World::new();
    world.person("ada").await;
    let ctx = || CommandContext::default().with_key("k", 1);
    world.otps.down.store(true, Ordering::Relaxed);
    let mut refusals = Vec::new();
    for email in ["ada@example.org", "nobody@example.org"] {
        let outcome = world.commands.request_reset(&ctx(), email.into()).await;
        refusals.push(refusal(outcome));
    }
    assert_eq!(refusals[0].0, 503);
    assert_eq!(refusals[0], refusals[1], "it tells who is here");
    world.commands.drain().await;
    assert!(world.mailer.sent.lock().is_empty());
    // Nothing was done under the key.
    world.otps.down.store(false, Ordering::Relaxed);
    let outcome = world
        .commands
        .request_reset(&ctx(), "ada@example.org".into())
        .await;
    assert!(!outcome.unwrap().replayed);
    world.commands.drain().await;
    assert_eq!(world.mailer.sent.lock().len(), 1);
}

#[tokio::test]
async fn the_fifth_wrong_try_burns_the_code() {
    let world = World::new();
    world.person("ada").await;
    let ctx = CommandContext::default();
    world
        .commands
        .request_reset(&ctx, "ada@example.org".into())
        .await
        .unwrap();
    world.commands.drain().await;
    for _ in 0..5 {
        let wrong = world
            .commands
            .reset_password(&ctx, reset("000000", "new password"))
            .await;
        assert_eq!(refusal(wrong).0, 400);
    }
    let right = world
        .commands
        .reset_password(&ctx, reset(OTP, "new password"))
        .await;
    assert_eq!(refusal(right).0, 400);
}

#[tokio::test]
async fn a_bad_new_password_uses_up_nothing() {
    let world = World::new();
    world.person("ada").await;
    let ctx = CommandContext::default();
    world
        .commands
        .request_reset(&ctx, "ada@example.org".into())
        .await
        .unwrap();
    world.commands.drain().await;
    let outcome = world
        .commands
        .reset_password(&ctx, reset(OTP, "short"))
        .await;
    assert_eq!(bad_fields(outcome), ["newPassword".to_owned()].into());
    world
        .commands
        .reset_password(&ctx, reset(OTP, "long enough"))
        .await
        .unwrap();
}

#[tokio::test]
async fn after_an_unknown_outcome_the_store_says_which_tokens_are_old() {
    let world = World::new();
    let ada = world.person("ada").await;
    let ctx = CommandContext::default();
    world
        .commands
        .request_reset(&ctx, "ada@example.org".into())
        .await
        .unwrap();
    world.commands.drain().await;
    world.log.lose_next_outcome();
    let outcome = world
        .commands
        .reset_password(&ctx, reset(OTP, "new password"))
        .await;
    assert_eq!(refusal(outcome).0, 504);
    assert_eq!(*world.tokens.raised.lock(), [(ada.id, 2)]);
}

#[tokio::test]
async fn a_reset_that_was_not_applied_raises_nothing() {
    let world = World::new();
    world.person("ada").await;
    let ctx = CommandContext::default();
    world
        .commands
        .request_reset(&ctx, "ada@example.org".into())
        .await
        .unwrap();
    world.commands.drain().await;
    world.log.fail_next(AppendError::Unavailable("full".into()));
    let outcome = world
        .commands
        .reset_password(&ctx, reset(OTP, "new password"))
        .await;
    assert_eq!(refusal(outcome).0, 503);
    assert!(world.tokens.raised.lock().is_empty());
    world
        .commands
        .log_in(login("ada", "correct horse"))
        .await
        .unwrap();
}

/// Runs a command until it has committed, and drops it before it hears of that: the client has gone away.
async fn cut_off_after_the_commit<F>(log: &SlowToAnswer, command: F)
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let request = tokio::spawn(command);
    log.committed().await;
    request.abort();
    let _ = request.await;
    log.answer();
}

#[tokio::test]
async fn a_reset_whose_client_goes_away_still_ends_older_tokens() {
    let world = World::new();
    let ada = world.person("ada").await;
    let (commands, log) = world.over_a_slow_log();
    let ctx = CommandContext::default();
    let mail = "ada@example.org";
    commands.request_reset(&ctx, mail.into()).await.unwrap();
    commands.drain().await;
    let resetting = commands.clone();
    cut_off_after_the_commit(&log, async move {
        let input = reset(OTP, "new password");
        resetting.reset_password(&ctx, input).await.map(drop)
    })
    .await;
    // The address' next turn comes when this one has ended.
    let next = CommandContext::default();
    let used = commands.reset_password(&next, reset(OTP, "another one"));
    assert_eq!(refusal(used.await).0, 400);
    assert_eq!(*world.tokens.raised.lock(), [(ada.id, 2)]);
}

#[tokio::test]
async fn a_kept_request_is_mailed_though_its_client_goes_away() {
    let world = World::new();
    world.person("ada").await;
    let (commands, log) = world.over_a_slow_log();
    let requesting = commands.clone();
    cut_off_after_the_commit(&log, async move {
        let ctx = CommandContext::default().with_key("k", 1);
        let mail = "ada@example.org".into();
        requesting.request_reset(&ctx, mail).await.map(drop)
    })
    .await;
    commands.drain().await;
    assert_eq!(world.mailer.sent.lock().len(), 1);
}

#[tokio::test]
async fn a_repeated_request_mails_once() {
    let world = World::new();
    world.person("ada").await;
    for nth in 0..3 {
        let ctx = CommandContext::default().with_key("k", 1);
        let done = world
            .commands
            .request_reset(&ctx, "ada@example.org".into())
            .await
            .unwrap();
        assert_eq!(done.replayed, nth > 0);
    }
    world.commands.drain().await;
    assert_eq!(world.mailer.sent.lock().len(), 1);
}

#[tokio::test]
async fn profiles_change_by_what_is_told() {
    let world = World::new();
    let ada = world.person("ada").await;
    let input = UpdateProfile {
        bio: Some("I count".into()),
        avatar: Some(" https://example.org/a.png ".into()),
        ..UpdateProfile::default()
    };
    let done = world
        .commands
        .update_profile(&by(&ada), input.clone())
        .await
        .unwrap();
    assert_eq!(done.result.name, "The ada");
    assert_eq!(done.result.bio.as_deref(), Some("I count"));
    assert_eq!(
        done.result.avatar.as_deref(),
        Some("https://example.org/a.png")
    );
    let again = world
        .commands
        .update_profile(&by(&ada), input)
        .await
        .unwrap();
    assert_eq!(again.result, done.result);
    assert_eq!(again.position, done.position);
    assert_eq!(world.count("user.profile_updated"), 1);
    let bad = UpdateProfile {
        name: Some(String::new()),
        bio: Some("b".repeat(501)),
        avatar: Some("javascript:alert(1)".into()),
    };
    let outcome = world.commands.update_profile(&by(&ada), bad).await;
    assert_eq!(
        bad_fields(outcome),
        ["name", "bio", "avatar"].map(String::from).into()
    );
}
