//! Chat.

use super::{Bench, Found, counted};
use crate::{chat, client::BenchError};

const CLIENTS: usize = 64;
const ROOMS: usize = 8;
const SENT_PER_SECOND: u32 = 200;

impl Bench {
    pub(super) async fn chat(&self) -> Result<Found, BenchError> {
        let mut found = Found::default();
        for run in 0..self.runs {
            let name = format!("{}-flood{run}", self.prefix);
            let people = &self.people[..CLIENTS];
            let flood = chat::flood(&self.target, people, ROOMS, &name, self.shape);
            let (sample, delivered) = flood.await?;
            found.runs.push(counted(sample, delivered));
        }
        found.note = "times are from sending to having one's own message back".to_owned();
        Ok(found)
    }

    pub(super) async fn chat_paced(&self) -> Result<Found, BenchError> {
        let mut found = Found::default();
        for run in 0..self.runs {
            let name = format!("{}-paced{run}", self.prefix);
            let people = &self.people[..CLIENTS];
            let rate = SENT_PER_SECOND;
            let paced = chat::paced(&self.target, people, ROOMS, &name, self.shape, rate);
            found.runs.push(paced.await?.summary());
        }
        found.note = "times are from when a message was due to its arrival at each member".into();
        Ok(found)
    }
}
