//! Pages of the program's code that only the start or some rare work needed are unmapped.
//!
//! They stay in the kernel's page cache, which maps those that are needed again: what is left is what an idle daemon uses.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};

/// Unmaps the code of the program and its libraries.
pub fn unmap() {
    // SAFETY: the callback has the required type and needs no data; it is called before this call returns.
    unsafe {
        libc::dl_iterate_phdr(Some(unmap_object), std::ptr::null_mut());
    }
}

/// Of one loaded object: its segments that cannot be written to, and so are as they are in its file.
unsafe extern "C" fn unmap_object(object: *mut libc::dl_phdr_info, _: libc::size_t, _: *mut c_void) -> c_int {
    // SAFETY: the loader hands out a description that is valid during this call.
    let object = unsafe { &*object };
    // SAFETY: the name is a string that ends with a NUL, or null.
    let name = (!object.dlpi_name.is_null()).then(|| unsafe { CStr::from_ptr(object.dlpi_name) }.to_bytes());
    // The program itself has no name, libraries have a path; what the kernel puts there has another.
    if !name.unwrap_or_default().iter().take(1).all(|&first| first == b'/') || object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: so many headers are there.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let (start, length) = (object.dlpi_addr + header.p_vaddr, header.p_memsz);
            unmap_segment(start as usize, length as usize);
        }
    }
    0
}

fn unmap_segment(start: usize, length: usize) {
    // SAFETY: no memory is touched.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0);
    if !page.is_power_of_two() {
        return;
    }
    let (first, end) = (start.next_multiple_of(page), (start + length) & !(page - 1));
    if first < end {
        // SAFETY: whole pages of a segment that is mapped from a file and never written: the kernel reads the same bytes again
        // when somebody looks at them. What cannot be done leaves everything as it is.
        unsafe {
            libc::madvise(first as *mut c_void, end - first, libc::MADV_DONTNEED);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_goes_on_without_its_pages() {
        let before = std::fs::read_to_string("/proc/self/status").unwrap();
        for _ in 0..3 {
            super::unmap();
        }
        let after = std::fs::read_to_string("/proc/self/status").unwrap();
        let file = |text: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        assert!(file(&after) < file(&before), "{} → {} KiB", file(&before), file(&after));
    }
}
