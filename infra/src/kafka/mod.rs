//! Kafka adapters: the transactional publisher of the relay and the consumer of the projectors.
