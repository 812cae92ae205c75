//! The seam to `cqrs_es`: the stock framework runs over our store, and our store says what it must.

use std::{collections::HashMap, sync::Arc};

use cqrs_es::{AggregateError, CqrsFramework, EventStore};
use socialhub_commands::cqrs::{EVENT_ID, Fact, Folded, LogStore, POSITION, position_of};
use socialhub_domain::{
    Aggregate, PostId, Timestamp, UserId,
    reaction::{Reaction, ReactionCommand, Wish},
    testing::id,
};
use socialhub_event_log::{AppendError, MemoryEventLog};

use crate::support::World;

fn command(wish: Wish) -> ReactionCommand {
    ReactionCommand {
        wish,
        post: PostId(id(1)),
        post_author: UserId(id(2)),
        liker: UserId(id(3)),
        liker_username: "bob".into(),
        at: Timestamp(1),
    }
}

fn stream() -> String {
    Reaction::stream(PostId(id(1)), UserId(id(3))).aggregate_id
}

fn store(world: &World) -> LogStore {
    LogStore::new(world.log.clone(), world.ports.ids.clone())
}

async fn commit(
    store: &LogStore,
    wish: Wish,
) -> Result<
    Vec<cqrs_es::EventEnvelope<Folded<Reaction>>>,
    AggregateError<<Reaction as Aggregate>::Error>,
> {
    let context = EventStore::<Folded<Reaction>>::load_aggregate(store, &stream()).await?;
    let events = Reaction::decide(&context.folded.state, command(wish));
    let facts = events.unwrap_or_default().into_iter().map(Fact).collect();
    store.commit(facts, context, HashMap::new()).await
}

#[tokio::test]
async fn the_stock_framework_runs_over_our_store() {
    let world = World::new();
    let framework = CqrsFramework::<Folded<Reaction>, _>::new(store(&world), vec![], ());
    for wish in [Wish::Like, Wish::Like, Wish::Unlike] {
        framework.execute(&stream(), command(wish)).await.unwrap();
    }
    assert_eq!(world.event_types(), ["post.liked", "post.unliked"]);
}

#[tokio::test]
async fn envelopes_say_position_and_event_id() {
    let world = World::new();
    let store = store(&world);
    world.person("ada").await;
    let envelopes = commit(&store, Wish::Like).await.unwrap();
    let recorded = world.log.events().pop().unwrap();
    assert_eq!(envelopes.len(), 1);
    assert_eq!(envelopes[0].sequence, 1);
    assert_eq!(envelopes[0].metadata[POSITION], "2");
    assert_eq!(
        envelopes[0].metadata[EVENT_ID],
        recorded.event_id.to_string()
    );
    assert_eq!(position_of(&envelopes), Some(2));
    let loaded = EventStore::<Folded<Reaction>>::load_events(&store, &stream())
        .await
        .unwrap();
    assert_eq!(loaded[0].metadata, envelopes[0].metadata);
    assert_eq!(loaded[0].payload, envelopes[0].payload);
}

#[tokio::test]
async fn a_conflict_is_a_conflict_and_a_fault_is_a_fault() {
    let log = Arc::new(MemoryEventLog::new());
    let store = LogStore::new(log.clone(), World::new().ports.ids);
    let late = EventStore::<Folded<Reaction>>::load_aggregate(&store, &stream())
        .await
        .unwrap();
    commit(&store, Wish::Like).await.unwrap();
    let facts = Reaction::decide(&late.folded.state, command(Wish::Like)).unwrap();
    let facts = facts.into_iter().map(Fact).collect();
    let conflict = store.commit(facts, late, HashMap::new()).await;
    assert!(matches!(conflict, Err(AggregateError::AggregateConflict)));

    log.fail_next(AppendError::OutcomeUnknown);
    let Err(AggregateError::DatabaseConnectionError(cause)) = commit(&store, Wish::Unlike).await
    else {
        panic!("expected a fault");
    };
    assert!(cause.is::<AppendError>());
}
