//! The log against the file system: exactness over rotations, cuts and a full disk.

use super::*;

const T: SystemTime = UNIX_EPOCH;
const HEAD: &str = "1970-01-01T00:00:00.000000000Z";

fn log(dir: &Path, max_size: u64, max_files: u32) -> Log {
    let rotation = Rotation::Own { max_size, max_files, compress: false };
    Log::open(LogTarget { path: dir.join("log"), rotation, buffer: None, depth: 1 }).unwrap()
}

/// The text of all records of a stream, oldest file first, and the names of the files.
fn read(dir: &Path, stream: &str) -> (Vec<u8>, Vec<String>) {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_by_key(|name| name.strip_prefix("log.").map_or(0, |n| n.parse::<u32>().unwrap()));
    let mut text = Vec::new();
    for name in names.iter().rev() {
        let content = fs::read(dir.join(name)).unwrap();
        for line in content.split_inclusive(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\n").expect("every record ends");
            let rest = &line[HEAD.len() + 1..];
            let Some(rest) = rest.strip_prefix(format!("{stream} ").as_bytes()) else { continue };
            text.extend_from_slice(&rest[2..]);
            if rest[0] == b'F' {
                text.push(b'\n');
            }
        }
    }
    (text, names)
}

#[test]
fn what_is_in_the_logs_place_and_no_file_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let rotation = Rotation::Own { max_size: 1 << 20, max_files: 3, compress: false };
    assert!(Log::open(LogTarget { path, rotation, buffer: None, depth: 1 }).is_err());
}

#[test]
fn no_link_is_followed_below_the_folder_that_is_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let (pod, elsewhere) = (dir.path().join("pod"), dir.path().join("elsewhere"));
    fs::create_dir_all(pod.join("c")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    let open = |depth| {
        let path = pod.join("c/0.log");
        Log::open(LogTarget { path, rotation: Rotation::Caller, buffer: None, depth })
    };
    let mut log = open(3).unwrap();
    fs::rename(pod.join("c"), pod.join("d")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, pod.join("c")).unwrap();
    assert!(log.reopen().is_err() && open(2).is_err());
    log.append(Stream::Stdout, b"still there\n", T);
    assert!(fs::read_to_string(pod.join("d/0.log")).unwrap().contains("still there"));
    fs::rename(&pod, dir.path().join("led")).unwrap();
    std::os::unix::fs::symlink("led", &pod).unwrap();
    fs::remove_file(pod.join("c")).unwrap();
    fs::rename(pod.join("d"), pod.join("c")).unwrap();
    assert!(open(3).is_err() && open(2).is_ok());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
}

#[test]
fn lines_are_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(dir.path(), 1 << 20, 3);
    log.append(Stream::Stdout, b"one\ntw", T);
    log.append(Stream::Stderr, b"bad\n", T);
    log.append(Stream::Stdout, b"o\n\nrest", T);
    log.finish(Stream::Stdout, T);
    let text = fs::read_to_string(dir.path().join("log")).unwrap();
    let expected = format!(
        "{HEAD} stdout F one\n{HEAD} stderr F bad\n{HEAD} stdout F two\n{HEAD} stdout F \n{HEAD} stdout P rest\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn long_lines_are_cut_at_16_kib() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(dir.path(), 1 << 20, 3);
    let mut line = vec![b'x'; limits::LOG_LINE];
    line.push(b'\n');
    line.extend(vec![b'y'; limits::LOG_LINE + 1]);
    line.push(b'\n');
    log.append(Stream::Stdout, &line, T);
    let content = fs::read(dir.path().join("log")).unwrap();
    let tags: Vec<u8> =
        content.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| l[HEAD.len() + 8]).collect();
    assert_eq!(tags, b"FPF");
    assert_eq!(read(dir.path(), "stdout").0, line);
}

#[test]
fn rotation_loses_nothing_while_all_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(dir.path(), 1000, 1000);
    let mut sent = Vec::new();
    for n in 0..400usize {
        let piece = format!("{n}:{}\n", "z".repeat(n % 90)).into_bytes();
        sent.extend_from_slice(&piece);
        let (a, b) = piece.split_at(piece.len() / 2);
        log.append(Stream::Stdout, a, T);
        log.append(Stream::Stderr, b"e\n", T);
        log.append(Stream::Stdout, b, T);
    }
    let (text, names) = read(dir.path(), "stdout");
    assert_eq!(text, sent);
    assert_eq!(read(dir.path(), "stderr").0, b"e\n".repeat(400));
    assert!(names.len() > 20);
    for name in names {
        assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
    }
}

#[test]
fn one_chunk_may_rotate_many_times() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(dir.path(), 200, 1000);
    let sent = b"0123456789\n".repeat(1000);
    log.append(Stream::Stdout, &sent, T);
    let (text, names) = read(dir.path(), "stdout");
    assert_eq!(text, sent);
    assert!(names.len() > 200);
}

#[test]
fn only_so_many_files_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (files, expected) in [(1, vec!["log"]), (3, vec!["log", "log.1", "log.2"])] {
        let mut log = log(dir.path(), 100, files);
        for n in 0..50 {
            log.append(Stream::Stdout, format!("{n}\n").as_bytes(), T);
        }
        let (text, names) = read(dir.path(), "stdout");
        assert_eq!(names, expected);
        assert!(text.ends_with(b"49\n"));
    }
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path(), 100, 3).append(Stream::Stdout, b"first\n", T);
    log(dir.path(), 100, 3).append(Stream::Stdout, b"second\n", T);
    log(dir.path(), 100, 3).append(Stream::Stdout, b"third\n", T);
    let (text, names) = read(dir.path(), "stdout");
    assert_eq!(text, b"first\nsecond\nthird\n");
    assert_eq!(names, ["log", "log.1"]);
}

#[test]
fn days_are_dates() {
    for (seconds, text) in [
        (951_782_400, "2000-02-29T00:00:00.000000000Z"),
        (1_709_251_199, "2024-02-29T23:59:59.000000000Z"),
        (4_102_444_800, "2100-01-01T00:00:00.000000000Z"),
    ] {
        assert_eq!(Stamp::new(UNIX_EPOCH + Duration::from_secs(seconds)).0, text.as_bytes());
    }
}

#[test]
fn a_log_that_was_renamed_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let target = LogTarget { path: path.clone(), rotation: Rotation::Caller, buffer: None, depth: 1 };
    let mut cri = Log::open(target).unwrap();
    cri.append(Stream::Stdout, b"one\nhal", T);
    fs::rename(&path, dir.path().join("log.1")).unwrap();
    cri.append(Stream::Stdout, b"f\n", T);
    cri.reopen().unwrap();
    cri.append(Stream::Stdout, b"two\n", T);
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("log.1"), format!("{HEAD} stdout F one\n{HEAD} stdout F half\n"));
    assert_eq!(read("log"), format!("{HEAD} stdout F two\n"));
    // What cannot be opened leaves the old one.
    fs::rename(&path, dir.path().join("log.2")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    assert!(cri.reopen().unwrap_err().to_string().contains("open log"));
    cri.append(Stream::Stdout, b"three\n", T);
    assert!(read("log.2").ends_with("F three\n") && !dir.path().join("elsewhere").exists());
    // One that rotates by itself has no need of it.
    let other = tempfile::tempdir().unwrap();
    assert!(log(other.path(), 1000, 3).reopen().is_err());
}

#[test]
fn a_record_that_a_full_disk_has_cut_is_not_split_over_two_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut cri =
        Log::open(LogTarget { path: path.clone(), rotation: Rotation::Caller, buffer: None, depth: 1 })
            .unwrap();
    // /dev/full refuses everything.
    cri.file = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    cri.append(Stream::Stdout, b"before\n", T);
    assert!(cri.is_waiting());
    cri.reopen().unwrap();
    cri.reopen().unwrap();
    cri.append(Stream::Stdout, b"after\n", T);
    let old = dir.path().join("old");
    cri.file = File::create(&old).unwrap();
    cri.flush();
    assert!(!cri.is_waiting());
    assert_eq!(fs::read_to_string(&old).unwrap(), format!("{HEAD} stdout F before\n"));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{HEAD} stdout F after\n"));
}
