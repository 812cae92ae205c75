//! Logging in and verifying tokens.

use serde_json::json;

use super::{Bench, Found};
use crate::{
    client::BenchError,
    load::{Rotation, closed_loop, paced},
    people::PASSWORD,
};

/// Connections that log in: enough to keep every core busy, few enough that the queue stays short.
const LOGINS: usize = 16;

/// Connections and rate of the verifications beside saturated logins.
const VERIFIERS: usize = 8;
const VERIFIES_PER_SECOND: u32 = 200;

impl Bench {
    fn login_scripts(&self) -> Vec<Rotation> {
        let requests = self.people.iter().map(|person| {
            let body = json!({"identifier": person.username, "password": PASSWORD});
            self.target.json("POST", "/auth/login", None, &body)
        });
        Rotation::spread(requests.collect(), LOGINS)
    }

    fn verify_scripts(&self, connections: usize) -> Vec<Rotation> {
        let requests = self
            .people
            .iter()
            .map(|person| self.target.get("/auth/verify-user", &person.token));
        Rotation::spread(requests.collect(), connections)
    }

    pub(super) async fn login(&self) -> Result<Found, BenchError> {
        self.repeat(&mut self.login_scripts()).await
    }

    pub(super) async fn verify(&self) -> Result<Found, BenchError> {
        let mut scripts = self.verify_scripts(self.shape.connections);
        self.repeat(&mut scripts).await
    }

    pub(super) async fn verify_during_login(&self) -> Result<Found, BenchError> {
        let mut found = Found::default();
        let mut logins = Vec::new();
        for _ in 0..self.runs {
            let mut verifies = self.verify_scripts(VERIFIERS);
            let shape = self.with_connections(VERIFIERS);
            let verifying = paced(&self.target, shape, VERIFIES_PER_SECOND, &mut verifies);
            let mut logging_in = self.login_scripts();
            let shape = self.with_connections(LOGINS);
            let logging_in = closed_loop(&self.target, shape, &mut logging_in);
            let (verified, logged_in) = tokio::join!(verifying, logging_in);
            found.runs.push(verified?.summary());
            logins.push(format!("{:.1}", logged_in?.summary().rate));
        }
        found.note = format!("meanwhile {} logins/s", logins.join(", "));
        Ok(found)
    }
}
