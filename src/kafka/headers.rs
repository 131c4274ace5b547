//! Record headers, read so that no name can stop the reader.
//!
//! A header name is a string of bytes in the protocol (KIP-82), and brokers store any. rdkafka 0.39
//! unwraps it as UTF-8 and panics; the crate forbids the `unsafe` that reading it otherwise takes.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
};

use rdkafka::{
    Message as _,
    message::{BorrowedMessage, Headers as _},
};

/// Names and values, in the order of the record.
pub(crate) type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Unreadable names after which the rest of a record's headers is counted and not read: each costs
/// a panic that is caught, and a record may have tens of thousands.
const MAX_UNREADABLE: usize = 100;

thread_local! {
    /// A panic of this thread is expected, and caught.
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the panics that [`read`] catches out of standard error: one record could fill the log.
pub(crate) fn install_panic_hook() {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !EXPECTED.try_with(Cell::get).unwrap_or(false) {
            hook(info);
        }
    }));
}

/// The headers whose names are UTF-8, and the number of the others.
pub(super) fn read(message: &BorrowedMessage<'_>) -> (Headers, usize) {
    let Some(headers) = message.headers() else { return (Headers::new(), 0) };
    let count = headers.count();
    let mut readable = Headers::with_capacity(count);
    let mut unreadable = 0;
    for at in 0..count {
        if unreadable == MAX_UNREADABLE {
            return (readable, unreadable + count - at);
        }
        EXPECTED.set(true);
        let header = panic::catch_unwind(AssertUnwindSafe(|| {
            let header = headers.try_get(at)?;
            Some((header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
        }));
        EXPECTED.set(false);
        match header {
            Ok(header) => readable.extend(header),
            Err(_) => unreadable += 1,
        }
    }
    (readable, unreadable)
}
