//! Switches to which there is no answer, and rebuilds that others have overtaken.

use super::*;
use crate::store::LostSwitch;

/// As if an event had been parked behind another one that is there no more.
fn leave_behind_nothing(world: &World, position: Position, key: &str) {
    world.model.take_back(key, position);
    world.model.park(ParkedLetter {
        position,
        event_id: Uuid::from_u128(u128::from(position)),
        topic: Topic::User.name().to_owned(),
        key: key.to_owned(),
        raw: String::new(),
        reason: "its sequence is parked".to_owned(),
        attempts: 0,
        parked_at: Timestamp(1),
    });
}

#[tokio::test(start_paused = true)]
async fn what_became_of_a_switch_without_an_answer_is_looked_for() {
    let outcome = async |lost| {
        let world = World::new(1);
        world.append(20).await;
        world.settle().await;
        let filler = world.begin_rebuild().await;
        *world.model.lost_switch.lock() = Some(lost);
        world.try_to_finish(filler).await
    };
    let made = outcome(LostSwitch::Made).await;
    assert_eq!(made.unwrap().generation, GenerationId(2));
    let not_made = outcome(LostSwitch::NotMade).await.unwrap_err();
    assert!(
        matches!(not_made, RebuildError::Store(StoreError::Unavailable(_))),
        "{not_made}"
    );
    let nobody_knows = outcome(LostSwitch::NobodyKnows).await.unwrap_err();
    assert!(
        matches!(
            nobody_knows,
            RebuildError::MayBeCurrent {
                generation: GenerationId(2),
                ..
            }
        ),
        "{nobody_knows}"
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_was_overtaken_writes_nothing_more() {
    for reads_on in [false, true] {
        let world = World::new(0);
        world.append(20).await;
        let mut filler = world.begin_rebuild().await;
        let events = world.log.read_all(0, 20).await.unwrap();
        let records: Vec<_> = events.iter().map(PublicRecord::from_log).collect();
        let stop = CancellationToken::new();
        if !reads_on {
            // It has everything, and goes straight for the fence.
            filler.write(&records, &stop).await.unwrap();
        }
        world.model.make_current(filler.generation());
        let filled = world.model.rows();
        let overtaken = match reads_on {
            true => filler.write(&records, &stop).await.unwrap_err(),
            false => world.try_to_finish(filler).await.unwrap_err(),
        };
        assert!(
            matches!(overtaken, RebuildError::Overtaken { .. }),
            "{overtaken}"
        );
        assert_eq!(world.model.rows(), filled);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_nothing_is_applied_when_its_model_is_opened() {
    let mut world = World::new(1);
    world.append(40).await;
    world.settle().await;
    // Somebody has applied the first of a sequence and was killed before the rest: these are the last two of one person.
    let key = Uuid::from_u128(4).to_string();
    for position in [31, 35] {
        leave_behind_nothing(&world, position, &key);
    }
    world.kill(0);
    world.deliver_to_one().await;
    let released = async {
        while !world.model.letters().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, released).await.unwrap();
    world.assert_whole();
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_takes_the_process_down_stays_parked_in_the_end() {
    let mut world = World::new(1);
    world.append(40).await;
    world.settle().await;
    let (position, key) = (35, Uuid::from_u128(4).to_string());
    leave_behind_nothing(&world, position, &key);
    *world.model.deadly.lock() = Some(position);
    let mut deaths = 0;
    world.kill(0);
    world.append(11).await;
    world.topics.publish(11).await;
    let handled = world.log.head().await.unwrap();
    while world.position() < handled {
        if world.processes[0].dead.load(Ordering::SeqCst) {
            deaths += 1;
            world.kill(0);
        } else if world.processes[0].member.is_idle() {
            world.rebalance(0).await;
        }
        world.processes[0].member.deliver(10);
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(deaths, 3);
    // What came later of the same person waits behind it.
    assert_eq!(world.model.letters().first(), Some(&position));
}
