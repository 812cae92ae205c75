//! Which rows there are, what they are called, what they are compared with, and what a row comes to.

use std::collections::BTreeMap;

use clap::ValueEnum;

use super::Found;
use crate::{
    limits::Limits,
    load::{Sample, Summary},
    report::{Ratio, RowReport},
};

/// A row that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Logins, nothing else going on.
    Login,
    /// 200 verifications a second while logins saturate their pool.
    VerifyDuringLogin,
    /// Verifying a token.
    Verify,
    /// Writing a post of text.
    Post,
    /// Writing a post with a file of 50 KB.
    Media,
    /// Liking (and unliking) many posts.
    Like,
    /// Everybody liking (and unliking) one post at the same time, then the next.
    HotLike,
    /// One person's 500 concurrent toggles of one like.
    Toggles,
    /// Following (and unfollowing).
    Follow,
    /// First page of a feed: 200 followed, 20,000 posts.
    Feed,
    /// First page of a feed: 5,000 followed, 500,000 posts. Takes minutes to prepare.
    FeedBig,
    /// First page of the notifications of somebody with 2,000.
    Notifications,
    /// 64 clients in 8 rooms, each sending again as soon as its own message is back.
    Chat,
    /// The same clients, 200 messages a second in all.
    ChatPaced,
    /// Follows, until the last of the followed is notified.
    FollowNotified,
    /// Commands while all read models are rebuilt; needs `--rebuild-with`.
    BesideRebuild,
    /// From a post to its place in a follower's feed, beside commands.
    VisibleFeed,
    /// From a like to the author's notification of it, beside commands.
    VisibleNotification,
    /// From a like to the post's count of it, beside commands.
    VisibleCount,
}

impl Row {
    /// The rows that are measured when none are named: all but those that take minutes or need more than a server. The rows
    /// that give everybody followers come last, because each post then costs that many rows more.
    pub const USUAL: [Self; 17] = [
        Self::Login,
        Self::VerifyDuringLogin,
        Self::Verify,
        Self::Post,
        Self::Media,
        Self::Like,
        Self::HotLike,
        Self::Toggles,
        Self::Feed,
        Self::Notifications,
        Self::Chat,
        Self::ChatPaced,
        Self::VisibleFeed,
        Self::VisibleNotification,
        Self::VisibleCount,
        Self::Follow,
        Self::FollowNotified,
    ];

    /// How it is called in the table.
    fn title(self) -> &'static str {
        match self {
            Self::Login => "login, alone",
            Self::VerifyDuringLogin => "200 verifies/s while logins saturate",
            Self::Verify => "verify",
            Self::Post => "post (text)",
            Self::Media => "post with a 50 KB file",
            Self::Like => "like, spread",
            Self::HotLike => "like, one hot post",
            Self::Toggles => "one person's 500 concurrent toggles",
            Self::Feed => "feed page, 200 followed, 20,000 posts",
            Self::FeedBig => "feed page, 5,000 followed, 500,000 posts",
            Self::Notifications => "notifications page",
            Self::Follow => "follow",
            Self::FollowNotified => "follow to notification, end to end",
            Self::BesideRebuild => "commands beside a rebuild",
            Self::Chat => "chat, delivered, 64 clients in 8 rooms",
            Self::ChatPaced => "chat, delivered, 200 sent/s",
            Self::VisibleFeed => "post to a follower's feed",
            Self::VisibleNotification => "like to its notification",
            Self::VisibleCount => "like to its count",
        }
    }

    /// What the embedded profile aims at on two cores with this generator beside it.
    fn aim(self) -> Option<&'static str> {
        match self {
            Self::Login => Some("0.9 of bcrypt"),
            Self::VerifyDuringLogin => Some("p99 < 5 ms"),
            Self::Verify => Some("30,000/s"),
            Self::Post | Self::Like | Self::Follow => Some("6,000/s, p99 < 50 ms"),
            Self::HotLike => Some("as spread likes"),
            Self::Toggles => Some("no error, right answer"),
            Self::Media => Some("1,500/s"),
            Self::Feed => Some("5,000/s"),
            Self::FeedBig => Some("half of the small one"),
            Self::Notifications => Some("0.6 of an indexed find"),
            Self::FollowNotified => Some("460/s"),
            Self::BesideRebuild => Some("p99 less than doubled"),
            Self::Chat => Some("60,000/s"),
            Self::ChatPaced => Some("p99 < 10 ms"),
            Self::VisibleFeed | Self::VisibleNotification | Self::VisibleCount => {
                Some("p99 < 500 ms")
            }
        }
    }

    /// Which limits it is compared with.
    fn limits(self) -> &'static [LimitKind] {
        match self {
            Self::Login => &[LimitKind::Bcrypt],
            Self::Verify => &[LimitKind::BareRoute],
            Self::Feed | Self::FeedBig => &[LimitKind::BarePage],
            Self::Notifications => &[LimitKind::BarePage, LimitKind::IndexedFind],
            Self::Post | Self::Media | Self::Like | Self::HotLike | Self::Follow => {
                &[LimitKind::SingleCommits, LimitKind::BatchedRows]
            }
            Self::VerifyDuringLogin
            | Self::Toggles
            | Self::Chat
            | Self::ChatPaced
            | Self::FollowNotified
            | Self::BesideRebuild
            | Self::VisibleFeed
            | Self::VisibleNotification
            | Self::VisibleCount => &[],
        }
    }
}

/// A limit of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// bcrypt hashes on all cores.
    Bcrypt,
    /// Durable commits of one row.
    SingleCommits,
    /// Rows in durable commits of 100.
    BatchedRows,
    /// A route that does nothing.
    BareRoute,
    /// A route that answers a page.
    BarePage,
    /// A page that MongoDB finds by an index.
    IndexedFind,
}

impl LimitKind {
    fn of(self, limits: &Limits) -> (&'static str, Option<f64>) {
        match self {
            Self::Bcrypt => ("bcrypt", limits.bcrypt_hashes),
            Self::SingleCommits => ("single commits", limits.single_commits),
            Self::BatchedRows => ("rows in batches of 100", limits.batched_rows),
            Self::BareRoute => ("a bare route", limits.bare_route),
            Self::BarePage => ("a bare page", limits.bare_page),
            Self::IndexedFind => ("an indexed find", limits.indexed_finds),
        }
    }
}

/// Whether any of the rows is compared with a limit.
pub fn needs(rows: &[Row], kind: LimitKind) -> bool {
    rows.iter().any(|row| row.limits().contains(&kind))
}

/// The run in the middle, with what it is compared with.
pub(super) fn report(row: Row, found: Found, limits: &Limits) -> RowReport {
    let rates = found.runs.iter().map(|run| run.rate).collect();
    // Failures of any run count, whichever is shown.
    let mut errors = BTreeMap::new();
    for (what, count) in found.runs.iter().flat_map(|run| &run.errors) {
        *errors.entry(what.clone()).or_insert(0) += count;
    }
    let mut runs = found.runs;
    runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let middle = runs.len() / 2;
    let mut summary = runs.into_iter().nth(middle).unwrap_or_default();
    summary.errors = errors;
    let ratios = row.limits().iter().filter_map(|kind| {
        let (limit, limit_rate) = kind.of(limits);
        let limit_rate = limit_rate?;
        let ratio = summary.rate / limit_rate;
        Some(Ratio {
            limit,
            limit_rate,
            ratio,
        })
    });
    RowReport {
        row: row.title().to_owned(),
        ratios: ratios.collect(),
        rates,
        aim: row.aim(),
        note: found.note,
        summary,
    }
}

/// The figures of a sample whose rate is counted elsewhere.
pub(super) fn counted(sample: Sample, count: u64) -> Summary {
    let seconds = sample.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    Summary {
        rate: count as f64 / seconds,
        count,
        ..sample.summary()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_in_the_middle_is_shown_with_the_errors_of_all() {
        let run = |rate: f64, errors: u64| Summary {
            rate,
            errors: [("status 500".to_owned(), errors)].into(),
            ..Summary::default()
        };
        let found = Found {
            runs: vec![run(30.0, 1), run(10.0, 2), run(20.0, 0)],
            note: String::new(),
        };
        let limits = Limits {
            bcrypt_hashes: Some(40.0),
            ..Limits::default()
        };
        let row = report(Row::Login, found, &limits);
        assert!((row.summary.rate - 20.0).abs() < 1e-9);
        assert!((row.ratios[0].ratio - 0.5).abs() < 1e-9);
        assert_eq!(row.summary.errors["status 500"], 3);
        assert_eq!(row.rates, [30.0, 10.0, 20.0]);
    }

    #[test]
    fn every_row_but_two_is_usual() {
        let all = Row::value_variants();
        assert_eq!(Row::USUAL.len() + 2, all.len());
        let others = [Row::FeedBig, Row::BesideRebuild];
        let usual = |row: &Row| others.contains(row) || Row::USUAL.contains(row);
        assert!(all.iter().all(usual));
    }
}
