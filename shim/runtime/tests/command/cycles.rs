//! Many containers one after the other leave nothing and grow nothing.

use crate::bundle::Bundle;

/// Cycles: 200, or what `LONGSHORE_CYCLES` says (10,000 in the long mode).
fn cycles() -> u32 {
    std::env::var("LONGSHORE_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

fn mounts(bundle: &Bundle) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(bundle.dir.path().to_str().unwrap())).count()
}

#[test]
fn ten_thousand_containers_leave_nothing() {
    let bundle = Bundle::new("true");
    let mut cached = None;
    for cycle in 0..cycles() {
        bundle.ok(&["create", "c", "--bundle", "."]);
        bundle.ok(&["start", "c"]);
        bundle.wait_for("stopped");
        bundle.ok(&["delete", "c"]);
        let left: Vec<String> = std::fs::read_dir(bundle.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        let cached = cached.get_or_insert_with(|| left.clone());
        assert_eq!(&left, cached, "cycle {cycle}");
    }
    assert_eq!(mounts(&bundle), 0);
    let groups = longshore_runtime::cgroups::CgroupPaths::open(&format!("/{}/c", bundle.id)).unwrap();
    assert!(groups.hierarchies().is_empty());
}
