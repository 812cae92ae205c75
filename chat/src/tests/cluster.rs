//! What is heard of other instances, and what is made of it when nothing is.

use super::*;
use crate::ports::{PresenceError, RoomPeople};

/// A store of presence that says what it is told to.
#[derive(Default)]
struct Elsewhere {
    people: Mutex<Vec<ChatUser>>,
    /// Who is here, as it was last told.
    here: Mutex<Vec<ChatUser>>,
    broken: AtomicBool,
}

#[async_trait]
impl PresenceStore for Elsewhere {
    async fn exchange(&self, here: &[RoomPeople]) -> Result<Vec<Vec<ChatUser>>, PresenceError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(PresenceError("told to".to_owned()));
        }
        for one in here {
            self.here.lock().clone_from(&one.people);
        }
        Ok(vec![self.people.lock().clone(); here.len()])
    }

    async fn leave(&self) {}
}

#[tokio::test(start_paused = true)]
async fn what_another_instance_appended_is_read_and_delivered_in_its_place() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.append_elsewhere(450).await;
    world.send(0, "from here", None).await;
    world.settle().await;
    assert_eq!(ear.check_order(), Some(451));
    // With a hint nothing is read.
    world.inbox.link(true);
    world.settle().await;
    let reads = world.log.reads.load(Ordering::Relaxed);
    let first = world.append_elsewhere(3).await;
    let second = world.append_elsewhere(2).await;
    world.hint(&second);
    world.hint(&first);
    tokio::task::yield_now().await;
    world.drain().await;
    assert_eq!(ear.check_order(), Some(456));
    assert_eq!(world.log.reads.load(Ordering::Relaxed), reads);
}

#[tokio::test(start_paused = true)]
async fn a_room_is_read_every_second_while_nobody_can_be_heard() {
    let mut world = World::start();
    let ear = world.join(0, None).await;
    world.settle().await;
    world.inbox.link(false);
    for said in 1..=3u64 {
        world.append_elsewhere(1).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        world.drain().await;
        assert_eq!(ear.events("new_message").len() as u64, said);
    }
    // It comes back, and what was said meanwhile is read at once.
    world.append_elsewhere(1).await;
    world.inbox.link(true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.drain().await;
    assert_eq!(ear.events("new_message").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn people_elsewhere_are_in_the_room_and_are_one_with_themselves_here() {
    let store = Arc::new(Elsewhere::default());
    *store.people.lock() = vec![user(1), user(2)];
    let mut world = World::start_with(store.clone());
    world.inbox.link(true);
    world.drain().await;
    let ear = world.join(0, None).await;
    world.settle().await;
    let ids = |people: &Json| -> Vec<String> {
        let people = people.as_array().unwrap();
        people
            .iter()
            .map(|one| one["username"].to_string())
            .collect()
    };
    let everybody = ["\"user0\"", "\"user1\"", "\"user2\""];
    assert_eq!(ids(&world.acks.lock()[0]["members"]), everybody);
    assert_eq!(*store.here.lock(), [user(0)]);
    // One who is elsewhere comes here, too, and leaves again: no news to anybody, but the others must know.
    let before = ear.events("presence").len();
    world.join(1, None).await;
    world.settle().await;
    assert_eq!(*store.here.lock(), [user(0), user(1)]);
    world.leave(1).await;
    world.settle().await;
    assert_eq!(*store.here.lock(), [user(0)]);
    assert!(ear.events("user_joined").is_empty() && ear.events("user_left").is_empty());
    assert_eq!(ear.events("presence").len(), before);
    // Signs of the others pass; that one who is here came elsewhere is no news.
    for who in [0, 3] {
        world.inbox.sign(room(), Sign::UserJoined, user(who));
        world.inbox.sign(room(), Sign::Typing, user(who));
    }
    world.settle().await;
    assert_eq!(ear.events("user_joined")[0]["username"], "user3");
    assert_eq!(
        (ear.events("user_joined").len(), ear.events("typing").len()),
        (1, 2)
    );
    // Nobody can say any more; then they can.
    store.broken.store(true, Ordering::Relaxed);
    world.inbox.link(false);
    world.settle().await;
    assert_eq!(
        ids(&ear.events("presence").last().unwrap()["users"]),
        everybody[..1]
    );
    world.inbox.link(true);
    world.settle().await;
    store.broken.store(false, Ordering::Relaxed);
    *store.people.lock() = vec![user(2)];
    world.settle().await;
    let people = ids(&ear.events("presence").last().unwrap()["users"]);
    assert_eq!(people, ["\"user0\"", "\"user2\""]);
}
