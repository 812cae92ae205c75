//! Pages of lists.

use socialhub_event_log::Position;

/// A request for one page: how many, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// How many at most, 1 to 100.
    pub limit: usize,
    /// Where to start.
    pub start: PageStart,
}

/// Where a page starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageStart {
    /// The n-th page of `limit` items, from 1.
    Page(u64),
    /// After the item whose key this is: the reader's own encoding of its sort key, opaque to clients.
    After(String),
}

impl PageRequest {
    /// The first page of `limit` items.
    pub fn first(limit: usize) -> Self {
        Self {
            limit,
            start: PageStart::Page(1),
        }
    }

    /// How many items stand before this page when it is asked for by number.
    pub fn offset(&self) -> u64 {
        match &self.start {
            PageStart::Page(page) => page.saturating_sub(1).saturating_mul(self.limit as u64),
            PageStart::After(_) => 0,
        }
    }

    /// The position that the page starts beyond, in a list whose keys are positions; `first` for the first page, and for a
    /// key that cannot be read.
    pub fn beyond(&self, first: Position) -> Position {
        match &self.start {
            PageStart::Page(_) => first,
            PageStart::After(key) => key.parse().unwrap_or(first),
        }
    }

    /// How many items to ask for: one more than the page holds, to know whether there is a next.
    pub fn one_more(&self) -> usize {
        self.limit.saturating_add(1)
    }
}

/// One page and the key to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The key of the next page; none when this is the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// No items, and none after them.
    pub fn empty() -> Self {
        Self {
            items: Vec::new(),
            next: None,
        }
    }

    /// Cuts a list that was asked for [one item too many](PageRequest::one_more) into a page.
    pub fn cut(mut items: Vec<T>, limit: usize, key: impl FnOnce(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(key);
        Self { items, next }
    }

    /// As [`Page::cut`], of items beside the positions that they are sorted by.
    pub fn cut_by_position(items: Vec<(Position, T)>, limit: usize) -> Self {
        Page::cut(items, limit, |(position, _)| position.to_string()).map(|(_, item)| item)
    }

    /// The same page of something else.
    pub fn map<U>(self, of: impl FnMut(T) -> U) -> Page<U> {
        Page {
            items: self.items.into_iter().map(of).collect(),
            next: self.next,
        }
    }
}
