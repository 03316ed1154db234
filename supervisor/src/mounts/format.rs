//! `{{ mount 0 }}` and the like in mounts: what stands for earlier mounts of the list.
//!
//! There are `source N`, `target N`, `mount N` (where it is mounted), and `overlay N M`: where the mounts N to M are, upwards or downwards,
//! with colons between them.

use super::ActiveMount;
use crate::error::{Error, Result};
use crate::snapshots::Mount;

/// Fills in source, target and options.
pub fn apply(mount: &mut Mount, earlier: &[ActiveMount]) -> Result<()> {
    let texts = [&mut mount.source, &mut mount.target].into_iter().chain(&mut mount.options);
    for text in texts {
        if text.contains("{{") {
            *text = fill(text, earlier)?;
        }
    }
    Ok(())
}

fn fill(text: &str, earlier: &[ActiveMount]) -> Result<String> {
    let refuse = |why: String| Error::invalid(format!("mount: {text:?}"), why);
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (call, after) = after.split_once("}}").ok_or_else(|| refuse("has {{ without }}".to_owned()))?;
        filled.push_str(before);
        filled.push_str(&evaluate(call, earlier).map_err(refuse)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn evaluate(call: &str, earlier: &[ActiveMount]) -> Result<String, String> {
    let words: Vec<&str> = call.split_whitespace().collect();
    let mount = |word: &str| {
        let index: usize = word.parse().map_err(|_| format!("{word:?} is not the number of a mount"))?;
        let found = earlier.get(index);
        found.ok_or_else(|| format!("names mount {index}, but {} come before it", earlier.len()))
    };
    match words[..] {
        ["source", index] => Ok(mount(index)?.mount.source.clone()),
        ["target", index] => Ok(mount(index)?.mount.target.clone()),
        ["mount", index] => Ok(mount(index)?.mount_point.clone()),
        ["overlay", first, last] => {
            mount(first)?;
            mount(last)?;
            let number = |word: &str| word.parse::<usize>().unwrap_or(0);
            let (first, last) = (number(first), number(last));
            let mut range: Vec<_> = (first.min(last)..=first.max(last)).collect();
            if first > last {
                range.reverse();
            }
            let points = range.into_iter().filter_map(|index| earlier.get(index));
            Ok(points.map(|active| active.mount_point.as_str()).collect::<Vec<_>>().join(":"))
        }
        _ => Err(format!("{:?} is not source N, target N, mount N or overlay N M", call.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::StoredMount;

    fn active(point: &str) -> ActiveMount {
        let mount = StoredMount { source: format!("source of {point}"), ..StoredMount::default() };
        ActiveMount { mount, mounted_at: jiff::Timestamp::UNIX_EPOCH, mount_point: point.to_owned() }
    }

    #[test]
    fn earlier_mounts_are_filled_in() {
        let earlier = ["/0", "/1", "/2"].map(active);
        let fill = |text| fill(text, &earlier);
        assert_eq!(fill("lowerdir={{ mount 1 }}/root1:{{mount 0}}").unwrap(), "lowerdir=/1/root1:/0");
        assert_eq!(fill("{{ overlay 0 2 }}").unwrap(), "/0:/1:/2");
        assert_eq!(fill("{{ overlay 2 0 }}").unwrap(), "/2:/1:/0");
        assert_eq!(fill("{{ source 2 }}").unwrap(), "source of /2");
        for wrong in ["{{ mount 3 }}", "{{ mount -1 }}", "{{ mount 0", "{{ exec 0 }}", "{{ overlay 0 9 }}"] {
            assert_eq!(fill(wrong).unwrap_err().code(), tonic::Code::InvalidArgument, "{wrong}");
        }
    }
}
