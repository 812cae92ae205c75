//! Trending posts without the counters: what is shown while their store is away.

use std::cmp::Ordering;

use socialhub_domain::score::{COMMENT_WEIGHT, LIKE_WEIGHT, log2_contribution};

use crate::{
    counters::TrendingPost,
    feed::RecentPost,
    page::{Page, PageRequest},
};

/// How many of the newest public posts are looked at.
pub const STAND_IN_POSTS: usize = 1_000;

/// Recent posts by a score that takes every like and comment for as old as its post, since the `feed` model knows no
/// better. So the order is nearly that of the counters, and older posts that are liked again are missing.
pub fn stand_in(recent: &[RecentPost], page: &PageRequest) -> Page<TrendingPost> {
    let mut ranked: Vec<TrendingPost> = recent.iter().filter_map(ranked).collect();
    ranked.sort_unstable_by(by_score);
    if let Some(start) = TrendingPost::start(page) {
        ranked.retain(|post| by_score(&start, post) == Ordering::Less);
    }
    let offset = usize::try_from(page.offset()).unwrap_or(usize::MAX);
    let wanted = page.limit.saturating_add(1);
    let items = ranked.into_iter().skip(offset).take(wanted).collect();
    TrendingPost::page(items, page.limit)
}

/// None for a post that nobody has liked or commented on: it has no score.
fn ranked(post: &RecentPost) -> Option<TrendingPost> {
    let (likes, comments) = (
        i64::try_from(post.like_count).ok()?,
        i64::try_from(post.comment_count).ok()?,
    );
    let weight = likes
        .saturating_mul(LIKE_WEIGHT)
        .saturating_add(comments.saturating_mul(COMMENT_WEIGHT));
    (weight > 0).then(|| TrendingPost {
        post_id: post.post_id,
        log2_score: log2_contribution(post.created_at, weight),
    })
}

/// Highest first, ties by post, newest first: the order of the counters.
fn by_score(a: &TrendingPost, b: &TrendingPost) -> Ordering {
    b.log2_score
        .total_cmp(&a.log2_score)
        .then_with(|| b.post_id.cmp(&a.post_id))
}

#[cfg(test)]
mod tests {
    use socialhub_domain::{PostId, Timestamp, score::HALF_LIFE_MS};
    use uuid::Uuid;

    use super::*;
    use crate::page::PageStart;

    const NOW: i64 = 1_790_000_000_000;

    fn post(number: u128, likes: u64, comments: u64, half_lives_ago: i64) -> RecentPost {
        RecentPost {
            post_id: PostId(Uuid::from_u128(number)),
            like_count: likes,
            comment_count: comments,
            created_at: Timestamp(NOW - half_lives_ago * HALF_LIFE_MS),
        }
    }

    fn numbers(page: &Page<TrendingPost>) -> Vec<u128> {
        page.items
            .iter()
            .map(|post| post.post_id.0.as_u128())
            .collect()
    }

    #[test]
    fn a_comment_weighs_two_likes_age_halves_and_nothing_is_no_score() {
        let recent = [
            post(1, 0, 0, 0),
            post(2, 3, 0, 0),
            post(3, 0, 2, 0),
            post(4, 5, 0, 1),
            // As much as the second: the newer id comes first.
            post(5, 3, 0, 0),
        ];
        let page = stand_in(&recent, &PageRequest::first(10));
        assert_eq!(numbers(&page), [3, 5, 2, 4]);
        assert_eq!(page.next, None);
    }

    #[test]
    fn pages_by_key_and_by_number_are_the_list_cut() {
        let recent: Vec<_> = (1..=7).map(|n| post(n, (n % 3) as u64 + 1, 0, 0)).collect();
        let whole = numbers(&stand_in(&recent, &PageRequest::first(100)));
        let (mut by_key, mut by_number) = (Vec::new(), Vec::new());
        let mut request = PageRequest::first(2);
        for number in 1.. {
            let page = stand_in(&recent, &request);
            by_key.extend(numbers(&page));
            let numbered = PageRequest {
                limit: 2,
                start: PageStart::Page(number),
            };
            by_number.extend(numbers(&stand_in(&recent, &numbered)));
            let Some(next) = page.next else { break };
            request.start = PageStart::After(next);
        }
        assert_eq!(by_key, whole);
        assert_eq!(by_number, whole);
    }
}
