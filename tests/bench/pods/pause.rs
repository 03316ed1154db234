//! The smallest program that waits for ever, for peers that keep a process for each pod: what it takes is the kernel's alone.

/// Where the program is in memory.
const ADDRESS: u64 = 0x40_0000;
/// Bytes of the file's headers.
const HEADERS: usize = 64 + 56;

/// `pause()` again and again; `None` on an architecture that nobody has written it for.
fn code() -> Option<&'static [u8]> {
    match std::env::consts::ARCH {
        // mov eax, 34 (pause); syscall; jmp back
        "x86_64" => Some(&[0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]),
        // mov x0 to x3, 0; mov x8, 73 (ppoll); svc 0; b back
        "aarch64" => Some(&[
            0x00, 0x00, 0x80, 0xd2, 0x01, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, 0x03, 0x00, 0x80, 0xd2,
            0x28, 0x09, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, 0xfa, 0xff, 0xff, 0x17,
        ]),
        _ => None,
    }
}

/// An ELF file of one segment.
pub fn program() -> Option<Vec<u8>> {
    let code = code()?;
    let machine: u16 = if std::env::consts::ARCH == "x86_64" { 62 } else { 183 };
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let halves = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let (kind, header) = (halves(&[2, machine]), halves(&[64, 56, 1, 64, 0, 0]));
    let words = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let longs = |values: &[u64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    file.extend(kind);
    file.extend(words(&[1]));
    // Entry, program headers, section headers.
    file.extend(longs(&[ADDRESS + HEADERS as u64, 64, 0]));
    file.extend(words(&[0]));
    file.extend(header);
    let length = (HEADERS + code.len()) as u64;
    // Loaded, readable and executable: from 0, to ADDRESS.
    file.extend(words(&[1, 5]));
    file.extend(longs(&[0, ADDRESS, ADDRESS, length, length, 0x1000]));
    file.extend(code);
    Some(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    #[test]
    fn it_waits_until_it_is_killed() {
        let Some(program) = super::program() else { return };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pause");
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
