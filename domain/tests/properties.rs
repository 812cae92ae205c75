//! What holds for every history that the deciders allow.

use proptest::prelude::*;
use socialhub_domain::{
    Aggregate, CommentId, Event, NotificationId, PostId, Timestamp, UserId,
    comment::{Comment, CommentCommand, NewComment},
    event::Visibility,
    follow::{Follow, FollowCommand, Pair},
    notification::{Inbox, InboxCommand, Mark, Notification, NotificationCommand},
    post::{NewPost, Post, PostCommand},
    reaction::{Reaction, ReactionCommand, Wish},
    testing::id,
    user::{User, UserCommand},
};

/// Carries the commands out, keeping refusals apart: the stream and the state that came of it.
fn run<A: Aggregate>(commands: Vec<A::Command>) -> (Vec<Event>, A::State) {
    let mut state = A::State::default();
    let mut stream = Vec::new();
    for command in commands {
        let before = state.clone();
        let first = A::decide(&state, command.clone());
        assert_eq!(first, A::decide(&state, command), "decide is deterministic");
        assert_eq!(state, before, "decide leaves the state alone");
        for event in first.unwrap_or_default() {
            A::evolve(&mut state, &event);
            stream.push(event);
        }
    }
    (stream, state)
}

/// What holds for every aggregate.
fn lawful<A: Aggregate>(commands: Vec<A::Command>) -> (Vec<Event>, A::State) {
    let (stream, state) = run::<A>(commands);
    assert_eq!(A::replay(&stream), state, "replaying gives the same state");
    let stored: Vec<Event> = stream
        .iter()
        .map(|event| {
            let payload = event.to_payload().expect("events encode");
            let (kind, version) = (event.event_type(), event.event_version());
            socialhub_domain::upcast::decode(kind, version, &payload)
                .expect("what was written today reads today")
        })
        .collect();
    assert_eq!(stored, stream, "storing and reading changes nothing");
    (stream, state)
}

fn at() -> impl Strategy<Value = Timestamp> {
    (0..10_000_000_000_000_i64).prop_map(Timestamp)
}

fn person() -> impl Strategy<Value = UserId> {
    (1..4_u128).prop_map(|n| UserId(id(n)))
}

fn post_id() -> impl Strategy<Value = PostId> {
    (8..10_u128).prop_map(|n| PostId(id(n)))
}

fn users() -> impl Strategy<Value = UserCommand> {
    let text = || proptest::option::of("[a-c]{0,2}");
    prop_oneof![
        1 => (person(), ".{1,5}", at()).prop_map(|(id, name, at)| UserCommand::Register {
            id, username: "someone".into(), name, at,
        }),
        4 => (text(), text(), text(), at())
            .prop_map(|(name, bio, avatar, at)| UserCommand::UpdateProfile { name, bio, avatar, at }),
    ]
}

fn follows() -> impl Strategy<Value = FollowCommand> {
    let pair = Pair {
        follower: UserId(id(1)),
        follower_username: "ada".into(),
        following: UserId(id(2)),
    };
    (0..3, any::<bool>(), at()).prop_map(move |(kind, notify, at)| {
        let pair = pair.clone();
        match kind {
            0 => FollowCommand::Follow { pair, notify, at },
            1 => FollowCommand::ChangeNotify { pair, notify, at },
            _ => FollowCommand::Unfollow { pair, at },
        }
    })
}

fn posts() -> impl Strategy<Value = PostCommand> {
    let visibility = prop_oneof![
        Just(Visibility::Public),
        Just(Visibility::Followers),
        Just(Visibility::Private)
    ];
    prop_oneof![
        (post_id(), person(), ".*", visibility, at()).prop_map(
            |(id, author, content, visibility, at)| {
                let post = NewPost {
                    id,
                    author,
                    username: "ada".into(),
                    content,
                    visibility,
                    media: Vec::new(),
                };
                PostCommand::Create { post, at }
            }
        ),
        (person(), at()).prop_map(|(by, at)| PostCommand::Delete { by, at }),
    ]
}

fn reaction(wish: Wish, at: Timestamp) -> ReactionCommand {
    ReactionCommand {
        wish,
        post: PostId(id(9)),
        post_author: UserId(id(1)),
        liker: UserId(id(2)),
        liker_username: "bob".into(),
        at,
    }
}

fn reactions() -> impl Strategy<Value = ReactionCommand> {
    let wish = prop_oneof![Just(Wish::Like), Just(Wish::Unlike), Just(Wish::Toggle)];
    (wish, at()).prop_map(|(wish, at)| reaction(wish, at))
}

fn comments() -> impl Strategy<Value = CommentCommand> {
    prop_oneof![
        (post_id(), person(), person(), ".*", at()).prop_map(
            |(post, post_author, author, text, at)| {
                let comment = NewComment {
                    id: CommentId(id(20)),
                    post,
                    post_author,
                    author,
                    username: "bob".into(),
                    text,
                };
                CommentCommand::Create { comment, at }
            }
        ),
        (post_id(), person(), at()).prop_map(|(post, by, at)| CommentCommand::Delete {
            post,
            by,
            at
        }),
    ]
}

fn marks() -> impl Strategy<Value = NotificationCommand> {
    let mark = prop_oneof![4 => Just(Mark::Read), 1 => Just(Mark::Delete)];
    (mark, at()).prop_map(|(mark, at)| NotificationCommand {
        mark,
        id: NotificationId(id(5)),
        owner: UserId(id(1)),
        at,
    })
}

fn inboxes() -> impl Strategy<Value = InboxCommand> {
    (0..20_u64, at()).prop_map(|(up_to, at)| InboxCommand::MarkAllRead {
        owner: UserId(id(1)),
        up_to,
        at,
    })
}

fn history<C: std::fmt::Debug>(command: impl Strategy<Value = C>) -> impl Strategy<Value = Vec<C>> {
    proptest::collection::vec(command, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn people_are_lawful(commands in history(users())) {
        lawful::<User>(commands);
    }

    #[test]
    fn a_follow_count_is_zero_or_one(commands in history(follows())) {
        let (stream, state) = lawful::<Follow>(commands);
        let mut count = 0;
        for event in &stream {
            match event {
                Event::UserFollowed(_) => count += 1,
                Event::UserUnfollowed(_) => count -= 1,
                _ => {}
            }
            prop_assert!((0..=1).contains(&count));
        }
        prop_assert_eq!(count == 1, state.is_some_and(|relation| relation.active));
    }

    #[test]
    fn a_post_is_written_and_deleted_at_most_once(commands in history(posts())) {
        let (stream, _) = lawful::<Post>(commands);
        prop_assert!(stream.len() <= 2);
    }

    #[test]
    fn likes_and_unlikes_take_turns(commands in history(reactions())) {
        let (stream, state) = lawful::<Reaction>(commands);
        let mut liked_at = None;
        for event in &stream {
            match event {
                Event::PostLiked(like) => {
                    prop_assert_eq!(liked_at, None);
                    liked_at = Some(like.timestamp);
                }
                Event::PostUnliked(unlike) => {
                    prop_assert_eq!(liked_at, Some(unlike.original_timestamp));
                    liked_at = None;
                }
                other => prop_assert!(false, "not a reaction: {:?}", other),
            }
        }
        prop_assert_eq!(liked_at, state.liked_at);
    }

    #[test]
    fn liking_and_unliking_is_nothing(commands in history(reactions()), at in at()) {
        let (_, before) = run::<Reaction>(commands.clone());
        prop_assume!(before.liked_at.is_none());
        let both = [reaction(Wish::Like, at), reaction(Wish::Unlike, at)];
        let (_, after) = run::<Reaction>(commands.into_iter().chain(both).collect());
        prop_assert_eq!(before, after);
    }

    #[test]
    fn comments_are_lawful(commands in history(comments())) {
        let (stream, _) = lawful::<Comment>(commands);
        prop_assert!(stream.len() <= 2);
    }

    #[test]
    fn marks_are_set_once(commands in history(marks())) {
        let (stream, _) = lawful::<Notification>(commands);
        prop_assert!(stream.len() <= 2);
    }

    #[test]
    fn all_read_only_rises(commands in history(inboxes())) {
        let (stream, _) = lawful::<Inbox>(commands);
        let up_to = |event: &Event| match event {
            Event::NotificationAllRead(mark) => mark.up_to,
            other => panic!("not an inbox's: {other:?}"),
        };
        prop_assert!(stream.windows(2).all(|pair| up_to(&pair[0]) < up_to(&pair[1])));
    }

    /// Streams of other aggregates, and events in an order no decider allows, are folded without a panic.
    #[test]
    fn evolving_takes_anything(
        commands in history(comments()),
        others in history(follows()),
        reverse in any::<bool>(),
    ) {
        let (mut stream, _) = run::<Comment>(commands);
        stream.extend(run::<Follow>(others).0);
        if reverse {
            stream.reverse();
        }
        let _ = (User::replay(&stream), Follow::replay(&stream), Post::replay(&stream));
        let _ = (Reaction::replay(&stream), Comment::replay(&stream));
        let _ = (Notification::replay(&stream), Inbox::replay(&stream));
    }

    /// Whatever stands in a log, decoding answers or refuses.
    #[test]
    fn decoding_never_panics(kind in "[a-z._]{0,20}", version in any::<u32>(), payload in ".*") {
        let _ = socialhub_domain::upcast::decode(&kind, version, &payload);
        for (kind, today) in socialhub_domain::event::CATALOGUE {
            let _ = socialhub_domain::upcast::decode(kind, version % (today + 2), &payload);
        }
    }
}
