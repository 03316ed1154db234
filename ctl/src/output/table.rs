//! Columns as docker lays them out: left-aligned, three blanks apart, at least `min_width` wide, nothing
//! around them and nothing after the last one.

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width, presets};

const GAP: u16 = 3;
/// docker's lists.
pub const LIST_WIDTH: u16 = 10;
/// docker's `top`.
pub const TOP_WIDTH: u16 = 20;

/// Lays out `rows`; each one becomes a line, ended by a newline. Control characters in a cell become spaces: names, labels and
/// commands may be a stranger's, and a terminal acts on them.
pub fn lay_out(rows: Vec<Vec<String>>, min_width: u16) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row.into_iter().map(|cell| cell.replace(char::is_control, " ")));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, GAP));
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(min_width)));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| cell.to_string()).collect()
    }

    #[test]
    fn columns_stand_as_in_docker() {
        let text = lay_out(
            vec![
                row(&["CONTAINER ID", "IMAGE", "PORTS", "NAMES"]),
                row(&["0123456789ab", "busybox", "", "bold_ritchie"]),
                row(&["0123456789ac", "registry:5000/long/name", "", "x"]),
            ],
            LIST_WIDTH,
        );
        assert_eq!(
            text,
            "CONTAINER ID   IMAGE                     PORTS     NAMES\n\
             0123456789ab   busybox                             bold_ritchie\n\
             0123456789ac   registry:5000/long/name             x\n"
        );
    }
}
