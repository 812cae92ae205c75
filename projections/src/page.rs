//! Pages of lists.

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
}

/// One page and the key to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// The key of the next page; none when this is the last.
    pub next: Option<String>,
}
