//! `strftime_now`: the local time, the one thing outside its context that a template may read.

/// The current local time in a C format; empty when the format makes no text.
pub fn strftime_now(format: &str) -> String {
    const MAX_BYTES: usize = 1024;
    let Ok(format) = std::ffi::CString::new(format) else {
        return String::new();
    };
    let mut buffer = vec![0u8; MAX_BYTES];
    // SAFETY: `now` and `parts` are plain data that the calls fill; strftime writes at most the
    // buffer's size and `format` ends with a zero.
    let size = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut parts).is_null() {
            return String::new();
        }
        libc::strftime(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            format.as_ptr(),
            &parts,
        )
    };
    buffer.truncate(size);
    String::from_utf8_lossy(&buffer).into_owned()
}
