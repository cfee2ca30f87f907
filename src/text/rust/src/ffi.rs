//! The C functions of moesaic_text.h: pointers in, owned buffers out, and no panic leaves.

mod grammar;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::cancel::Cancel;
use crate::decode::Chain;
use crate::encode::{self, TextOnly};
use crate::error::{Error, Result};
use crate::files::{File, Folder};
use crate::guard;
use crate::memory;
use crate::template::{self, Template};
use crate::tokenizer::Tokenizer;

#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

#[repr(C)]
pub struct Ids {
    data: *mut i32,
    size: usize,
    capacity: usize,
}

#[repr(C)]
pub struct TextError {
    kind: i32,
    file: Bytes,
    message: Bytes,
}

/// An incremental decoder of one sequence.
pub struct Stream {
    chain: Chain,
    skip_special: bool,
}

/// template::Shapes.
#[repr(C)]
pub struct Shapes {
    text: bool,
    part: bool,
    parts: bool,
    thinking: bool,
}

const SPECIALS_AS_TEXT: i32 = 1;
const SPECIALS_GUARDED: i32 = 2;

impl Bytes {
    fn of(bytes: Vec<u8>) -> Bytes {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        Bytes {
            data: bytes.as_mut_ptr(),
            size: bytes.len(),
            capacity: bytes.capacity(),
        }
    }
}

impl Ids {
    fn of(ids: Vec<i32>) -> Ids {
        let mut ids = std::mem::ManuallyDrop::new(ids);
        Ids {
            data: ids.as_mut_ptr(),
            size: ids.len(),
            capacity: ids.capacity(),
        }
    }
}

/// The bytes at `data`, or none for a null pointer.
///
/// # Safety
/// `data` must be null or point to `size` readable elements that outlive the call.
unsafe fn slice_of<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if data.is_null() {
        &[]
    } else {
        std::slice::from_raw_parts(data, size)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes)
        .map_err(|e| Error::request(format!("the text is not UTF-8 at byte {}", e.valid_up_to())))
}

#[repr(C)]
pub struct FileView {
    name: *const u8,
    name_size: usize,
    data: *const u8,
    size: usize,
}

#[repr(C)]
pub struct FolderView {
    path: *const u8,
    path_size: usize,
    files: *const FileView,
    count: usize,
}

impl FileView {
    /// # Safety
    /// The pointers are valid for their sizes and outlive the result.
    unsafe fn file<'a>(&self) -> Result<File<'a>> {
        Ok(File {
            name: utf8(slice_of(self.name, self.name_size))?,
            bytes: slice_of(self.data, self.size),
        })
    }
}

impl FolderView {
    /// # Safety
    /// The pointers are valid for their sizes and outlive the result.
    unsafe fn folder<'a>(&self) -> Result<Folder<'a>> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::OsStr::from_bytes(slice_of(self.path, self.path_size));
        let files = slice_of(self.files, self.count).iter();
        let files: Result<Vec<File>> = files.map(|view| view.file()).collect();
        Ok(Folder::new(Path::new(path), files?))
    }
}

/// Runs `work`; a failure or a panic fills `error`.
fn guarded<T>(error: *mut TextError, work: impl FnOnce() -> Result<T>) -> Option<T> {
    memory::begin();
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(failure)) => failure,
        Err(panic) => Error::internal(panic_text(panic.as_ref())),
    };
    if !error.is_null() {
        let filled = TextError {
            kind: failure.kind as i32,
            file: Bytes::of(failure.file.into_bytes()),
            message: Bytes::of(failure.message.into_bytes()),
        };
        // SAFETY: the caller gave a writable error, checked not to be null.
        unsafe { error.write(filled) };
    }
    None
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("the text library failed: {}", text.unwrap_or("panic"))
}

/// Writes a result through `out`.
fn give<T>(out: *mut T, value: Option<T>) -> bool {
    match value {
        Some(value) => {
            // SAFETY: every caller passes a writable out pointer.
            unsafe { out.write(value) };
            true
        }
        None => false,
    }
}

fn boxed<T>(value: Option<T>) -> *mut T {
    value.map_or(std::ptr::null_mut(), |value| Box::into_raw(Box::new(value)))
}

/// # Safety
/// `bytes` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_bytes_free(bytes: Bytes) {
    if bytes.capacity > 0 {
        drop(Vec::from_raw_parts(bytes.data, bytes.size, bytes.capacity));
    }
}

/// # Safety
/// `ids` came from this library and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_ids_free(ids: Ids) {
    if ids.capacity > 0 {
        drop(Vec::from_raw_parts(ids.data, ids.size, ids.capacity));
    }
}

/// # Safety
/// Pointers are valid for their sizes; `error` is writable.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_load(
    folder: FolderView,
    error: *mut TextError,
) -> *mut Tokenizer {
    boxed(guarded(error, || {
        memory::prepare()?;
        Tokenizer::load(&folder.folder()?)
    }))
}

/// # Safety
/// `tokenizer` came from moesaic_tokenizer_load and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_encode_memory(
    tokenizer: *const Tokenizer,
    text: *const u8,
    size: usize,
) -> u64 {
    let text = slice_of(text, size);
    (*tokenizer).estimate.encoding(text) as u64
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_decode_memory(
    tokenizer: *const Tokenizer,
    ids: *const i32,
    count: usize,
) -> u64 {
    (*tokenizer).decoding_memory(slice_of(ids, count)) as u64
}

/// # Safety
/// Pointers are valid for their sizes; `cancel` is null or points to an atomic byte.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: *const u8,
    size: usize,
    add_special: bool,
    specials: i32,
    cancel: *const AtomicBool,
    ids: *mut Ids,
    error: *mut TextError,
) -> bool {
    let tokenizer = &*tokenizer;
    let text = slice_of(text, size);
    let cancel = Cancel(cancel.as_ref());
    let encoded = guarded(error, || {
        let text = utf8(text)?;
        let ids = match specials {
            SPECIALS_AS_TEXT => {
                encode::encode(tokenizer, text, add_special, &TextOnly::All, cancel)?
            }
            SPECIALS_GUARDED if guard::may_hold_marks(text) => {
                let (plain, places) = guard::unmark(text);
                let text_only = TextOnly::Places(&places);
                encode::encode(tokenizer, &plain, add_special, &text_only, cancel)?
            }
            _ => encode::encode(tokenizer, text, add_special, &TextOnly::None, cancel)?,
        };
        Ok(Ids::of(ids.into_iter().map(|id| id as i32).collect()))
    });
    give(ids, encoded)
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_decode(
    tokenizer: *const Tokenizer,
    ids: *const i32,
    count: usize,
    skip_special: bool,
    text: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let (tokenizer, ids) = (&*tokenizer, slice_of(ids, count));
    let decoded = guarded(error, || tokenizer.decode(ids, skip_special));
    give(text, decoded.map(|text| Bytes::of(text.into_bytes())))
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_token_text(
    tokenizer: *const Tokenizer,
    id: i32,
    text: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let tokenizer = &*tokenizer;
    let found = guarded(error, || {
        let bytes = tokenizer.token_bytes(id);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Bytes::of(text.into_bytes()))
    });
    give(text, found)
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_token_bytes(
    tokenizer: *const Tokenizer,
    id: i32,
    bytes: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let tokenizer = &*tokenizer;
    let found = guarded(error, || Ok(Bytes::of(tokenizer.token_bytes(id))));
    give(bytes, found)
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_vocab_size(tokenizer: *const Tokenizer) -> i64 {
    (*tokenizer).vocab_size.into()
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_longest_token(tokenizer: *const Tokenizer) -> u64 {
    (*tokenizer).longest_token as u64
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_is_special(
    tokenizer: *const Tokenizer,
    id: i32,
) -> bool {
    (*tokenizer).is_special(id)
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_token_to_id(
    tokenizer: *const Tokenizer,
    token: *const u8,
    size: usize,
) -> i32 {
    let id = std::str::from_utf8(slice_of(token, size))
        .ok()
        .and_then(|token| (*tokenizer).inner.token_to_id(token));
    id.map_or(-1, |id| id as i32)
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_bos(tokenizer: *const Tokenizer) -> i32 {
    (*tokenizer).bos.map_or(-1, |id| id as i32)
}

/// # Safety
/// `tokenizer` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_tokenizer_eos(tokenizer: *const Tokenizer) -> i32 {
    (*tokenizer).eos.map_or(-1, |id| id as i32)
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_stream_new(
    tokenizer: *const Tokenizer,
    prompt_tail: *const i32,
    count: usize,
    skip_special: bool,
    error: *mut TextError,
) -> *mut Stream {
    let (tokenizer, prompt_tail) = (&*tokenizer, slice_of(prompt_tail, count));
    boxed(guarded(error, || {
        let mut chain = tokenizer.chain.clone();
        let mut prompt = String::new();
        for id in prompt_tail {
            tokenizer.push_token(&mut chain, *id, skip_special, &mut prompt);
        }
        // A character that the prompt leaves unfinished is the prompt's.
        chain.finish(&mut prompt);
        Ok(Stream {
            chain,
            skip_special,
        })
    }))
}

/// # Safety
/// Pointers are valid; `stream` is used by one caller at a time.
#[no_mangle]
pub unsafe extern "C" fn moesaic_stream_push(
    stream: *mut Stream,
    tokenizer: *const Tokenizer,
    id: i32,
    text: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let (stream, tokenizer) = (&mut *stream, &*tokenizer);
    let certain = guarded(error, || {
        let mut text = String::new();
        tokenizer.push_token(&mut stream.chain, id, stream.skip_special, &mut text);
        Ok(Bytes::of(text.into_bytes()))
    });
    give(text, certain)
}

/// # Safety
/// Pointers are valid; `stream` is used by one caller at a time.
#[no_mangle]
pub unsafe extern "C" fn moesaic_stream_finish(
    stream: *mut Stream,
    text: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let stream = &mut *stream;
    let rest = guarded(error, || {
        let mut text = String::new();
        stream.chain.finish(&mut text);
        Ok(Bytes::of(text.into_bytes()))
    });
    give(text, rest)
}

/// # Safety
/// `stream` came from moesaic_stream_new and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_stream_free(stream: *mut Stream) {
    if !stream.is_null() {
        drop(Box::from_raw(stream));
    }
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_load(
    folder: FolderView,
    replacement: *const FileView,
    error: *mut TextError,
) -> *mut Template {
    let loaded = guarded(error, || {
        memory::prepare()?;
        let replacement = replacement.as_ref().map(|view| view.file()).transpose()?;
        Template::load(&folder.folder()?, replacement)
    });
    boxed(loaded.flatten())
}

/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_problem(
    chat_template: *const Template,
    text: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let chat_template = &*chat_template;
    let problem = guarded(error, || {
        Ok(chat_template.problem().unwrap_or("").to_owned())
    });
    give(text, problem.map(|text| Bytes::of(text.into_bytes())))
}

/// # Safety
/// `chat_template` is valid.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_shapes(
    chat_template: *const Template,
    role: u32,
) -> Shapes {
    let shapes = (*chat_template).shapes(role as usize);
    Shapes {
        text: shapes.text,
        part: shapes.part,
        parts: shapes.parts,
        thinking: shapes.thinking,
    }
}

/// # Safety
/// `least` and `most` are writable.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_memory(
    context_size: usize,
    least: *mut u64,
    most: *mut u64,
) {
    (*least, *most) = template::memory_of(context_size);
}

#[no_mangle]
pub extern "C" fn moesaic_template_stack() -> u64 {
    template::ADDRESSES as u64
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_render(
    chat_template: *const Template,
    context: *const u8,
    context_size: usize,
    memory: u64,
    text: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let chat_template = &*chat_template;
    let context = slice_of(context, context_size);
    let rendered = guarded(error, || chat_template.render(utf8(context)?, memory));
    give(text, rendered.map(|text| Bytes::of(text.into_bytes())))
}

/// # Safety
/// `chat_template` came from moesaic_template_load; `size` is writable.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_text(
    chat_template: *const Template,
    size: *mut usize,
) -> *const u8 {
    let text = (*chat_template).text();
    *size = text.len();
    text.as_ptr()
}

/// # Safety
/// `chat_template` came from moesaic_template_load and is not used again.
#[no_mangle]
pub unsafe extern "C" fn moesaic_template_free(chat_template: *mut Template) {
    if !chat_template.is_null() {
        drop(Box::from_raw(chat_template));
    }
}

/// # Safety
/// Pointers are valid for their sizes.
#[no_mangle]
pub unsafe extern "C" fn moesaic_without_guards(
    text: *const u8,
    size: usize,
    plain: *mut Bytes,
    error: *mut TextError,
) -> bool {
    let text = slice_of(text, size);
    let unmarked = guarded(error, || {
        let text = utf8(text)?;
        if !guard::may_hold_marks(text) {
            return Ok(text.to_owned());
        }
        Ok(guard::unmark(text).0)
    });
    give(plain, unmarked.map(|text| Bytes::of(text.into_bytes())))
}
