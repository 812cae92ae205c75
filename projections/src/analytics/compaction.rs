//! Which files are merged.

use std::collections::BTreeMap;

use super::{
    Limits,
    commit::{FileEntry, PartitionState},
    writer::WriteError,
};

/// Files of one date and type that become one, by position.
pub type Merge = Vec<FileEntry>;

/// The folders whose files could not be merged, and why.
pub type Unmerged = BTreeMap<String, WriteError>;

/// The next merge worth doing. While the day goes on files gather first; when it is over two are enough. Large files are
/// left alone, so no row is written more than a few times; so is what could not be merged, which is not worth trying again
/// at once.
pub fn plan(
    state: &PartitionState,
    today: &str,
    limits: &Limits,
    unmerged: &Unmerged,
) -> Option<Merge> {
    let mut groups: BTreeMap<(&str, &str), Vec<&FileEntry>> = BTreeMap::new();
    for file in state.files.values() {
        if file.rows * 2 < limits.merged_rows {
            let group = (file.date.as_str(), file.event_type.as_str());
            groups.entry(group).or_default().push(file);
        }
    }
    let mut groups = groups.into_iter();
    groups.find_map(|((date, event_type), mut files)| {
        let enough = if date < today { 2 } else { limits.merge_from };
        let folder = FileEntry::folder(date, event_type);
        if files.len() < enough || unmerged.contains_key(&folder) {
            return None;
        }
        files.sort_by_key(|file| file.first);
        let mut rows = 0;
        let merge: Merge = files
            .into_iter()
            .take_while(|file| {
                rows += file.rows;
                rows <= limits.merged_rows
            })
            .cloned()
            .collect();
        (merge.len() > 1).then_some(merge)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(files: &[(&str, &str, u64)]) -> PartitionState {
        let mut state = PartitionState::default();
        for (nth, (date, event_type, rows)) in files.iter().enumerate() {
            let name = format!("{nth:03}");
            let file = FileEntry {
                name: name.clone(),
                date: (*date).to_owned(),
                event_type: (*event_type).to_owned(),
                rows: *rows,
                bytes: 1,
                first: nth as u64 * 10,
                last: nth as u64 * 10 + 5,
            };
            state.files.insert(name, file);
        }
        state
    }

    fn planned(files: &[(&str, &str, u64)]) -> Vec<String> {
        let limits = Limits {
            merge_from: 3,
            merged_rows: 100,
            ..Limits::default()
        };
        let merge = plan(&state(files), "2026-01-02", &limits, &Unmerged::new());
        let names = merge.unwrap_or_default();
        names.into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn two_of_a_day_that_is_over_are_merged_and_more_of_today() {
        let (old, today) = ("2026-01-01", "2026-01-02");
        assert_eq!(planned(&[(old, "a", 1), (old, "a", 1)]), ["000", "001"]);
        assert!(planned(&[(today, "a", 1), (today, "a", 1)]).is_empty());
        let three = [(today, "a", 1), (today, "a", 1), (today, "a", 1)];
        assert_eq!(planned(&three).len(), 3);
    }

    #[test]
    fn other_types_and_days_and_large_files_are_left_alone() {
        let (old, older) = ("2026-01-01", "2025-12-31");
        assert!(planned(&[(old, "a", 1), (old, "b", 1), (older, "a", 1)]).is_empty());
        assert!(planned(&[(old, "a", 50), (old, "a", 1)]).is_empty());
        let merged = planned(&[(old, "a", 40), (old, "a", 40), (old, "a", 40)]);
        assert_eq!(merged, ["000", "001"]);
    }
}
