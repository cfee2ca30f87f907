//! The C functions of `moesaic_text.h`.

use crate::template::ChatTemplate;
use crate::tokenizer::TextTokenizer;
use crate::Problem;
use std::mem::ManuallyDrop;
use std::panic::{catch_unwind, AssertUnwindSafe};

#[repr(C)]
pub struct Buffer {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

const OK: i32 = 0;
const BAD_FILE: i32 = 1;
const BAD_REQUEST: i32 = 2;

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        let mut bytes = ManuallyDrop::new(bytes);
        Self {
            data: bytes.as_mut_ptr(),
            size: bytes.len(),
            capacity: bytes.capacity(),
        }
    }
}

/// # Safety
/// `data` is valid for `size` bytes, or null with size 0.
unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

fn text(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| Problem::Request("the text is not UTF-8".to_owned()))
}

/// Runs `work`, keeps panics in, and turns what went wrong into a status and a sentence.
///
/// # Safety
/// `error` is valid.
unsafe fn run(error: *mut Buffer, work: impl FnOnce() -> Result<(), Problem>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Problem::File(
            "the tokenizer library failed on this".to_owned(),
        ))
    });
    let (status, message) = match result {
        Ok(()) => return OK,
        Err(Problem::File(message)) => (BAD_FILE, message),
        Err(Problem::Request(message)) => (BAD_REQUEST, message),
    };
    *error = message.into_bytes().into();
    status
}

/// # Safety
/// `buffer` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_text_free(buffer: Buffer) {
    if !buffer.data.is_null() {
        drop(Vec::from_raw_parts(
            buffer.data,
            buffer.size,
            buffer.capacity,
        ));
    }
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_new(
    json: *const u8,
    json_size: usize,
    config: *const u8,
    config_size: usize,
    out: *mut *mut TextTokenizer,
    error: *mut Buffer,
) -> i32 {
    run(error, || {
        let tokenizer = TextTokenizer::new(slice(json, json_size), slice(config, config_size))?;
        *out = Box::into_raw(Box::new(tokenizer));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` came from `moesaic_tokenizer_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_delete(tokenizer: *mut TextTokenizer) {
    drop(Box::from_raw(tokenizer));
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_encode(
    tokenizer: *const TextTokenizer,
    data: *const u8,
    size: usize,
    add_special: i32,
    plain: i32,
    ids: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    run(error, || {
        let input = text(slice(data, size))?;
        let encoded = (*tokenizer).encode(input, add_special != 0, plain != 0)?;
        let bytes: Vec<u8> = encoded.iter().flat_map(|id| id.to_ne_bytes()).collect();
        *ids = bytes.into();
        Ok(())
    })
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_decode(
    tokenizer: *const TextTokenizer,
    ids: *const u32,
    count: usize,
    skip_special: i32,
    out: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    run(error, || {
        let decoded = (*tokenizer).decode(slice(ids, count), skip_special != 0)?;
        *out = decoded.into_bytes().into();
        Ok(())
    })
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_token_bytes(
    tokenizer: *const TextTokenizer,
    id: i32,
    bytes: *mut Buffer,
) {
    let found = u32::try_from(id).map(|id| (*tokenizer).token_bytes(id));
    *bytes = found.unwrap_or_default().into();
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_is_special(
    tokenizer: *const TextTokenizer,
    id: i32,
) -> i32 {
    u32::try_from(id).map_or(0, |id| i32::from((*tokenizer).is_special(id)))
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_vocab_size(tokenizer: *const TextTokenizer) -> i64 {
    (*tokenizer).vocab_size()
}

fn id_or_none(id: Option<u32>) -> i32 {
    id.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1)
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_token_to_id(
    tokenizer: *const TextTokenizer,
    data: *const u8,
    size: usize,
) -> i32 {
    id_or_none(
        text(slice(data, size))
            .ok()
            .and_then(|token| (*tokenizer).token_to_id(token)),
    )
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_bos(tokenizer: *const TextTokenizer) -> i32 {
    id_or_none((*tokenizer).bos)
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_eos(tokenizer: *const TextTokenizer) -> i32 {
    id_or_none((*tokenizer).eos)
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_new(
    source: *const u8,
    source_size: usize,
    config: *const u8,
    config_size: usize,
    json: *const u8,
    json_size: usize,
    out: *mut *mut ChatTemplate,
    error: *mut Buffer,
) -> i32 {
    run(error, || {
        let source = text(slice(source, source_size))
            .map_err(|_| Problem::File("the chat template is not UTF-8".to_owned()))?;
        let found = ChatTemplate::new(source, slice(config, config_size), slice(json, json_size))?;
        *out = found.map_or(std::ptr::null_mut(), |one| Box::into_raw(Box::new(one)));
        Ok(())
    })
}

/// # Safety
/// `template` came from `moesaic_template_new` and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_delete(template: *mut ChatTemplate) {
    drop(Box::from_raw(template));
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_render(
    template: *const ChatTemplate,
    context: *const u8,
    size: usize,
    out: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    run(error, || {
        let rendered = (*template).render(slice(context, size))?;
        *out = rendered.into_bytes().into();
        Ok(())
    })
}
