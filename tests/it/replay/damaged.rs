//! Every kind of damage to a read model is found, with the event behind it, and made right by `replay repair`.

use std::collections::BTreeSet;

use serde_json::Value;
use socialhub_tests::support::{Server, client::PASSWORD, printed};

use super::{
    damage::{Damage, all, lines},
    repair::{busy_life, differences},
};
use crate::erasure::{erase, erased_everywhere};

/// The positions of the events behind differences: made-up things have none.
fn assert_positions(damage: &Damage, found: &[Value], head: u64) {
    for difference in found {
        let position = difference["position"].as_u64().unwrap();
        let made_up = difference["expected"].is_null() && position == 0;
        assert!(
            (1..=head).contains(&position) || made_up,
            "{}: no event behind {difference}",
            damage.told()
        );
    }
}

async fn head(server: &Server) -> u64 {
    let tail = server.succeed(&["replay", "tail", "--json"]).await;
    lines(&tail).last().unwrap()["position"].as_u64().unwrap()
}

#[tokio::test]
async fn every_kind_of_damage_to_the_feed_is_found_and_made_right() {
    every_kind_of_damage_is_found_and_made_right("feed").await;
}

#[tokio::test]
async fn every_kind_of_damage_to_notifications_is_found_and_made_right() {
    every_kind_of_damage_is_found_and_made_right("notifications").await;
}

#[tokio::test]
async fn every_kind_of_damage_to_counters_is_found_and_made_right() {
    every_kind_of_damage_is_found_and_made_right("counters").await;
}

async fn every_kind_of_damage_is_found_and_made_right(model: &str) {
    let mut server = Server::start().await;
    let [anna, ..] = busy_life(&server).await;
    let dora = server.client().sign_up("dora").await;
    let follow = format!("/users/follow/{}", anna.id);
    dora.post(&follow, Value::Null).await.expect_status(200);
    erase(&dora, PASSWORD).await.expect_status(204);
    erased_everywhere(&server, &dora.id).await;
    assert!(server.stop().await, "{}", server.log());
    server.verify_all().await;
    let head = head(&server).await;
    let (clean, generation) = differences(&server, model).await;
    assert_eq!(clean, Vec::<Value>::new());
    let mut kinds = BTreeSet::new();
    for damage in all().iter().filter(|damage| damage.model == model) {
        damage.inflict(&server, generation).await;
        let (found, _) = differences(&server, model).await;
        let is_found = found.iter().any(|one| one["table"] == damage.kind);
        assert!(is_found, "{}: {found:?}", damage.told());
        assert_positions(damage, &found, head);
        if kinds.insert(damage.kind) {
            nothing_is_repaired_dry(&server, damage, &found).await;
        }
        let repaired = server.succeed(&["replay", "repair", model, "--json"]).await;
        let mut said = lines(&repaired);
        let summary = said.pop().unwrap();
        assert_eq!(summary["differences"], 0, "{}: {repaired}", damage.told());
        for difference in &found {
            let same = |one: &Value| {
                (&one["table"], &one["key"]) == (&difference["table"], &difference["key"])
            };
            assert!(
                said.iter().any(same),
                "{}: {difference}: {repaired}",
                damage.told()
            );
        }
        let (left, after) = differences(&server, model).await;
        assert_eq!(left, Vec::<Value>::new(), "after {}", damage.told());
        assert_eq!(after, generation, "no other generation is current");
    }
    let again = server.succeed(&["replay", "repair", model]).await;
    assert!(again.contains("nothing repaired"), "{again}");
    server.restart().await;
    server.verify_all().await;
}

async fn nothing_is_repaired_dry(server: &Server, damage: &Damage, found: &[Value]) {
    let dry = ["replay", "repair", damage.model, "--dry-run"];
    let dry = server.command(&dry).await;
    assert_eq!(dry.status.code(), Some(1), "{}", printed(&dry));
    assert_eq!(differences(server, damage.model).await.0, found);
}
