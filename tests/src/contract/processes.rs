//! The contract of whoever keeps what processes say of themselves: [`ProcessReports`].

use socialhub_domain::Timestamp;
use socialhub_event_log::{LeftOut, PartReport, ProcessReport, ProcessReports};

use crate::contract::event_log::TestResult;

/// Stamps the suite: `process_reports_contract!(name => expression)`. The expression makes a fresh, empty store and answers a
/// pair: an `Arc` of it, and whatever must live as long as the test.
#[macro_export]
macro_rules! process_reports_contract {
    ($($adapter:ident => $factory:expr);+ $(;)?) => {
        $(
            mod $adapter {
                use super::*;
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn the_last_word_of_a_process_counts_until_it_is_taken_back()
                -> $crate::contract::event_log::TestResult {
                    let (store, _keep) = $factory;
                    $crate::contract::processes::the_last_word_of_a_process_counts_until_it_is_taken_back(&*store)
                        .await
                }
            }
        )+
    };
}

fn report(process: &str, at: i64, now: bool) -> ProcessReport {
    ProcessReport {
        process: process.to_owned(),
        roles: "relay, project feed".to_owned(),
        version: "1.2.3".to_owned(),
        started_at: Timestamp(5),
        parts: vec![PartReport {
            name: "relay".to_owned(),
            error: "it's \"away\"".to_owned(),
            at: Timestamp(at),
            now,
        }],
        left_out: vec![LeftOut {
            consumer: "projection feed".to_owned(),
            topic: "POST_TOPIC".to_owned(),
            records: 3,
            partition: 1,
            offset: 17,
            reason: "no headers".to_owned(),
            at: Timestamp(at),
        }],
    }
}

/// A report takes the place of the one before, and goes with its process alone.
pub async fn the_last_word_of_a_process_counts_until_it_is_taken_back(
    store: &dyn ProcessReports,
) -> TestResult {
    assert_eq!(store.all().await?, []);
    store.report(&report("host:1", 7, true)).await?;
    store.report(&report("host:1", 7, false)).await?;
    let heard_of = store.all().await?;
    assert_eq!(heard_of.len(), 1);
    assert_eq!(heard_of[0].report, report("host:1", 7, false));
    assert!(
        (0.0..60.0).contains(&heard_of[0].seconds_ago),
        "{heard_of:?}"
    );
    store.withdraw("host:2").await?;
    assert_eq!(store.all().await?.len(), 1);
    store.withdraw("host:1").await?;
    store.withdraw("host:1").await?;
    assert_eq!(store.all().await?, []);
    Ok(())
}
