//! What every snapshotter must pass. `conformance!(path::to::open)` makes a test of each case, where
//! `open(root)` opens the driver in a folder.

pub mod crash;
pub mod mounts;
pub mod verbs;

use longshore_snapshotter::{Result, Snapshotter};

/// Opens the driver under test in a folder.
pub type Open = fn(&std::path::Path) -> Result<Box<dyn Snapshotter>>;

macro_rules! conformance {
    ($open:path) => {
        conformance!($open; verbs:
            prepared_on_nothing_is_an_empty_writable_directory
            a_child_shows_its_parents_and_changes_none
            a_view_cannot_be_written
            deletions_in_a_child_hide_the_parent
            only_active_snapshots_are_committed
            parents_must_be_committed
            keys_are_unique_whatever_the_kind
            stat_tells_kind_parent_and_times
            labels_are_replaced_merged_and_taken_away
            labels_without_bound_are_refused
            a_parent_cannot_be_removed
            removed_is_gone_and_its_key_free
            walk_shows_all_in_order_and_stops
            usage_counts_own_files_once
            a_long_chain_of_parents_mounts
            keys_never_become_paths
            concurrent_prepare_of_one_key_succeeds_once
            concurrent_use_keeps_every_snapshot
            a_parent_is_held_while_children_are_made
            what_is_being_removed_gets_no_children
            a_name_is_taken_once_by_commits_and_prepares
            the_root_of_a_child_looks_like_its_parents
            directories_are_closed_to_others
            flush_and_close_succeed
        );
        conformance!($open; crash:
            state_survives_reopening
            a_second_opener_is_refused
            unowned_directories_are_removed_at_open
            any_prefix_of_the_journal_opens
            a_damaged_journal_loses_no_directory
            the_journal_stays_small
            a_full_disk_lets_snapshots_be_removed
            lost_files_are_told_apart
            killed_at_random_moments_nothing_acknowledged_is_lost
        );

        /// Not a test: the process that `killed_at_random_moments…` kills.
        #[test]
        fn crash_child() {
            crate::suite::crash::child($open);
        }
    };
    ($open:path; $module:ident: $($case:ident)*) => {
        mod $module {
            $(#[test]
            fn $case() {
                crate::suite::$module::$case($open);
            })*
        }
    };
}

/// A folder in memory where there is one: hundreds of commits, each with its sync, take long on a busy disk.
/// `TMPDIR` in the environment wins, to run the suite on another file system.
pub fn folder() -> std::io::Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    if std::env::var_os("TMPDIR").is_none() && memory.is_dir() {
        return tempfile::tempdir_in(memory);
    }
    tempfile::tempdir()
}
