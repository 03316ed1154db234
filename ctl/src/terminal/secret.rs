//! A line from the terminal that is not shown.

use std::io::Read;

use super::raw::RawMode;
use crate::failure::Failure;

/// Of a secret, in bytes.
const MAX: usize = 64 * 1024;
const INTERRUPT: u8 = 3;
const END: u8 = 4;
const KILL_LINE: u8 = 21;

/// Reads until the line ends. Ctrl-C gives up, as it does without us.
pub fn read() -> Result<String, Failure> {
    let terminal = RawMode::enter()?;
    let mut line = Vec::new();
    let mut stdin = std::io::stdin().lock();
    loop {
        let mut byte = [0];
        if stdin.read(&mut byte)? == 0 {
            break;
        }
        match byte[0] {
            b'\r' | b'\n' | END => break,
            INTERRUPT => {
                drop(terminal);
                return Err(Failure::Silent { code: 130 });
            }
            KILL_LINE => line.clear(),
            0x7f | 0x08 => rub_out(&mut line),
            byte if line.len() < MAX => line.push(byte),
            _ => {}
        }
    }
    drop(terminal);
    String::from_utf8(line).map_err(|_| Failure::message("the password is not UTF-8"))
}

// The last character, of however many bytes.
fn rub_out(line: &mut Vec<u8>) {
    while let Some(byte) = line.pop() {
        if byte & 0xc0 != 0x80 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_rubbed_out_whole() {
        let mut line = "aé".as_bytes().to_vec();
        rub_out(&mut line);
        assert_eq!(line, b"a");
        rub_out(&mut line);
        rub_out(&mut line);
        assert!(line.is_empty());
    }
}
