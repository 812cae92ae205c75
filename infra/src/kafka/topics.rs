//! The topics that the relay publishes to: made when they are missing, and kept for as long as they are told.
//!
//! They hold clear text, so how long they do is part of the promise to those who are erased: also topics that somebody else
//! made, or that were made when something else was asked for.

use std::collections::HashMap;

use rdkafka::{
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource, NewTopic,
        OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use socialhub_domain::topic::Topic;

use crate::kafka::{KafkaSettings, millis};

type Admin = AdminClient<DefaultClientContext>;

/// Why there are not the topics that there should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicsError {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error("{0} cannot be made: {1}")]
    NotMade(String, RDKafkaErrorCode),
}

/// How long records are kept, as settings of a topic.
struct Keeping([(&'static str, String); 2]);

impl Keeping {
    fn of(settings: &KafkaSettings) -> Self {
        Self([
            ("retention.ms", millis(settings.retention)),
            ("segment.ms", millis(settings.segment())),
        ])
    }

    fn holds_in(&self, topic: &ConfigResource) -> bool {
        self.0.iter().all(|(name, wanted)| {
            let found = topic.get(name).and_then(|entry| entry.value.as_ref());
            found == Some(wanted)
        })
    }
}

/// Makes the topics that are missing, and lets those that are there keep records for as long as they should.
pub(super) async fn prepare(admin: &Admin, settings: &KafkaSettings) -> Result<(), TopicsError> {
    let names = Topic::ALL.map(|topic| settings.topic(topic.name()));
    let keeping = Keeping::of(settings);
    let missing = names.iter().map(|name| {
        let replication = TopicReplication::Fixed(settings.replication);
        let topic = NewTopic::new(name, settings.partitions, replication);
        let topic = topic.set("cleanup.policy", "delete");
        let settings = keeping.0.iter();
        settings.fold(topic, |topic, (name, value)| topic.set(name, value))
    });
    let missing: Vec<NewTopic<'_>> = missing.collect();
    let options = AdminOptions::new().request_timeout(Some(settings.request_timeout));
    let mut there = Vec::new();
    for outcome in admin.create_topics(&missing, &options).await? {
        match outcome {
            Ok(topic) => tracing::info!(topic, partitions = settings.partitions, "made a topic"),
            Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => there.push(topic),
            Err((topic, error)) => return Err(TopicsError::NotMade(topic, error)),
        }
    }
    // A relay that may not look at this, or change it, is still to publish.
    if let Err(error) = keep(admin, &there, &keeping, &options).await {
        let [(_, retention), (_, segment)] = &keeping.0;
        tracing::warn!(
            %error, topics = ?there,
            "cannot see to it that topics keep records no longer than they should, which the erasure of people rests on: see \
             that their retention.ms is {retention} and their segment.ms {segment}"
        );
    }
    Ok(())
}

async fn keep(
    admin: &Admin,
    topics: &[String],
    keeping: &Keeping,
    options: &AdminOptions,
) -> Result<(), KafkaError> {
    let asked: Vec<_> = topics
        .iter()
        .map(|name| ResourceSpecifier::Topic(name))
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    for found in admin.describe_configs(&asked, options).await? {
        let found = found.map_err(KafkaError::AdminOp)?;
        let OwnedResourceSpecifier::Topic(name) = &found.specifier else {
            continue;
        };
        if keeping.holds_in(&found) {
            continue;
        }
        // What is not said is set back: whatever else somebody set stays.
        let set_by_hand = found
            .entries
            .iter()
            .filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let mut all: HashMap<&str, &str> = set_by_hand
            .filter_map(|entry| Some((&*entry.name, entry.value.as_deref()?)))
            .collect();
        all.extend(keeping.0.iter().map(|(name, value)| (*name, &**value)));
        let change = all.into_iter().fold(
            AlterConfig::new(ResourceSpecifier::Topic(name)),
            |change, (name, value)| change.set(name, value),
        );
        for outcome in admin.alter_configs(&[change], options).await? {
            outcome.map_err(|(_, code)| KafkaError::AdminOp(code))?;
        }
        tracing::info!(
            topic = name,
            "a topic keeps records for as long as is asked now"
        );
    }
    Ok(())
}
