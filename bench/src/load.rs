//! Driving a server and timing it: closed loops (each connection sends again when it has its answer) and paced ones
//! (so many a second, timed from when a request was due, so that a stalled server cannot hide its stalls).

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde::Serialize;

use crate::client::{BenchError, Connection, Target};

/// How long, and with how many connections.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Connections that are open at the same time.
    pub connections: usize,
    /// Time that is not counted, at the beginning.
    pub warm_up: Duration,
    /// Time that is counted.
    pub measured: Duration,
}

/// What a connection sends; one of these each.
pub trait Script {
    /// Writes the next request into `request` (which is empty).
    fn next(&mut self, request: &mut Vec<u8>);

    /// Looks at an answer that was not an error, e.g. to remember an id.
    fn answered(&mut self, status: u16, body: &[u8]) {
        let _ = (status, body);
    }
}

/// The same few requests over and over.
#[derive(Debug, Clone)]
pub struct Rotation {
    requests: std::rc::Rc<Vec<Vec<u8>>>,
    next: usize,
}

impl Rotation {
    /// Every connection rotates through requests of its own.
    pub fn own(lists: impl Iterator<Item = Vec<Vec<u8>>>) -> Vec<Self> {
        lists
            .map(|requests| Self {
                requests: requests.into(),
                next: 0,
            })
            .collect()
    }

    /// All of `connections` rotate through the same requests, each beginning somewhere else.
    pub fn spread(requests: Vec<Vec<u8>>, connections: usize) -> Vec<Self> {
        let requests = std::rc::Rc::new(requests);
        let step = requests.len().div_ceil(connections.max(1)).max(1);
        (0..connections)
            .map(|index| Self {
                requests: requests.clone(),
                next: index * step,
            })
            .collect()
    }
}

impl Script for Rotation {
    fn next(&mut self, request: &mut Vec<u8>) {
        let index = self.next % self.requests.len();
        request.extend_from_slice(&self.requests[index]);
        self.next = index + 1;
    }
}

/// Latencies and failures of a run.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    micros: Vec<u32>,
    errors: BTreeMap<String, u64>,
    /// How long was counted.
    pub elapsed: Duration,
}

/// What a run comes to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Successes a second.
    pub rate: f64,
    /// Half of the successes were faster, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 were faster, in milliseconds.
    pub p99_ms: f64,
    /// Successes counted.
    pub count: u64,
    /// Failures, by what they were.
    pub errors: BTreeMap<String, u64>,
}

impl Sample {
    /// Counts a success.
    pub fn success(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.micros.push(micros);
    }

    /// Counts a failure.
    pub fn error(&mut self, what: impl Into<String>) {
        *self.errors.entry(what.into()).or_default() += 1;
    }

    /// Adds what another connection saw in the same time.
    pub fn merge(&mut self, other: Self) {
        self.micros.extend(other.micros);
        for (what, count) in other.errors {
            *self.errors.entry(what).or_default() += count;
        }
        self.elapsed = self.elapsed.max(other.elapsed);
    }

    /// The figures.
    pub fn summary(mut self) -> Summary {
        self.micros.sort_unstable();
        let at = |part: f64| {
            let index = (self.micros.len() as f64 * part) as usize;
            let index = index.min(self.micros.len().saturating_sub(1));
            self.micros
                .get(index)
                .map_or(0.0, |&us| f64::from(us) / 1e3)
        };
        let seconds = self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        Summary {
            rate: self.micros.len() as f64 / seconds,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            count: self.micros.len() as u64,
            errors: self.errors,
        }
    }
}

/// Runs one script a connection in a closed loop.
///
/// # Errors
/// When a connection cannot be made at the start. Later failures are counted.
pub async fn closed_loop<S: Script>(
    target: &Target,
    shape: Shape,
    scripts: &mut [S],
) -> Result<Sample, BenchError> {
    let connecting = (0..scripts.len()).map(|_| target.connect());
    let connections = join_all(connecting).await;
    let begin = Instant::now() + shape.warm_up;
    let end = begin + shape.measured;
    let mut running = Vec::with_capacity(scripts.len());
    for (script, connection) in scripts.iter_mut().zip(connections) {
        running.push(one_loop(target, connection?, script, begin, end));
    }
    let mut sample = Sample::default();
    for part in join_all(running).await {
        sample.merge(part);
    }
    sample.elapsed = shape.measured;
    Ok(sample)
}

async fn one_loop<S: Script>(
    target: &Target,
    mut connection: Connection,
    script: &mut S,
    begin: Instant,
    end: Instant,
) -> Sample {
    let mut sample = Sample::default();
    let mut request = Vec::new();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return sample;
        }
        request.clear();
        script.next(&mut request);
        let failure = exchange(&mut connection, &request, script).await.err();
        let now = Instant::now();
        let counted = now >= begin && now < end;
        match failure {
            None if counted => sample.success(now - sent),
            None => {}
            Some(what) => {
                if counted {
                    sample.error(what.text);
                }
                if what.broken {
                    match target.connect().await {
                        Ok(fresh) => connection = fresh,
                        // Nobody is there any more: there is nothing to measure.
                        Err(_) => return sample,
                    }
                }
            }
        }
    }
}

struct Failure {
    text: String,
    broken: bool,
}

async fn exchange<S: Script>(
    connection: &mut Connection,
    request: &[u8],
    script: &mut S,
) -> Result<(), Failure> {
    match connection.send(request).await {
        Ok(answer) if (200..300).contains(&answer.status) => {
            script.answered(answer.status, answer.body);
            Ok(())
        }
        Ok(answer) => Err(Failure {
            text: format!("status {}", answer.status),
            broken: false,
        }),
        Err(error) => Err(Failure {
            text: error.to_string(),
            broken: true,
        }),
    }
}

/// Sends `per_second` requests a second, taking turns between the scripts, timed from when each was due.
///
/// # Errors
/// When a connection cannot be made at the start. Later failures are counted.
pub async fn paced<S: Script>(
    target: &Target,
    shape: Shape,
    per_second: u32,
    scripts: &mut [S],
) -> Result<Sample, BenchError> {
    let connections = join_all((0..scripts.len()).map(|_| target.connect())).await;
    let begin = Instant::now();
    let turns = scripts.len();
    let pace = Pace {
        begin,
        warm: begin + shape.warm_up,
        end: begin + shape.warm_up + shape.measured,
        step: Duration::from_secs(1) / per_second,
        turns,
    };
    let mut running = Vec::with_capacity(turns);
    for (turn, (script, connection)) in scripts.iter_mut().zip(connections).enumerate() {
        running.push(pace.run(turn, connection?, script));
    }
    let mut sample = Sample::default();
    for part in join_all(running).await {
        sample.merge(part);
    }
    sample.elapsed = shape.measured;
    Ok(sample)
}

/// When each request of a paced run is due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    begin: Instant,
    warm: Instant,
    end: Instant,
    step: Duration,
    turns: usize,
}

impl Pace {
    async fn run<S: Script>(
        &self,
        turn: usize,
        mut connection: Connection,
        script: &mut S,
    ) -> Sample {
        let mut sample = Sample::default();
        let mut request = Vec::new();
        let mut number = turn;
        loop {
            let due = self.begin + self.step * u32::try_from(number).unwrap_or(u32::MAX);
            if due >= self.end {
                return sample;
            }
            tokio::time::sleep_until(due.into()).await;
            request.clear();
            script.next(&mut request);
            let failure = exchange(&mut connection, &request, script).await.err();
            if due >= self.warm {
                match failure {
                    None => sample.success(due.elapsed()),
                    Some(ref what) => sample.error(what.text.clone()),
                }
            }
            if failure.is_some_and(|what| what.broken) {
                return sample;
            }
            number += self.turns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_sample() {
        let mut sample = Sample {
            elapsed: Duration::from_secs(2),
            ..Sample::default()
        };
        for ms in 1..=100 {
            sample.success(Duration::from_millis(ms));
        }
        sample.error("status 429");
        let summary = sample.summary();
        assert!((summary.rate - 50.0).abs() < 1e-9);
        assert!((summary.p50_ms - 51.0).abs() < 1e-9);
        assert!((summary.p99_ms - 100.0).abs() < 1e-9);
        assert_eq!(summary.errors["status 429"], 1);
    }

    #[test]
    fn an_empty_sample_has_figures_too() {
        let summary = Sample::default().summary();
        assert!(summary.rate.abs() < f64::EPSILON && summary.p99_ms.abs() < f64::EPSILON);
    }

    #[test]
    fn connections_begin_at_different_requests() {
        let requests = (0..10_u8).map(|n| vec![n]).collect();
        let mut scripts = Rotation::spread(requests, 5);
        let mut request = Vec::new();
        scripts[4].next(&mut request);
        scripts[4].next(&mut request);
        scripts[4].next(&mut request);
        assert_eq!(request, [8, 9, 0]);
    }
}
