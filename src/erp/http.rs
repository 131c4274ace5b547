//! One HTTP exchange: no redirect, no retry, no proxy unless configured; what left and what did not
//! is known exactly.
//!
//! "Not executed" may only be said of a request whose body never left. The body therefore passes a
//! [`Gate`]: it leaves at its first poll or never. Whoever gives up closes the gate first, so that
//! a request still queued in the client's connection task cannot leave after the caller was told
//! that it had not.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, DATE},
};

use crate::{
    clock::Timestamp,
    config::ErpConnection,
    http_client::{cause, is_https, trusting},
};

use super::{SharedGuard, client::BuildFault};

/// An idle connection older than this is not used again: on one the ERP has closed meanwhile a
/// request would be lost on the way, and nobody would know with what effect.
const IDLE: Duration = Duration::from_secs(20);

/// The client of one account.
pub(super) struct Http {
    client: Client,
}

/// One request, ready to leave.
pub(super) struct Outgoing {
    /// Holds the signature in the flagship edition: never printed.
    pub url: Url,
    pub content_type: &'static str,
    /// Never empty: an empty body would not be polled, and the gate could not tell whether it left.
    pub body: Bytes,
    pub guard: Option<SharedGuard>,
    /// For everything, from looking the address up to the answer's last byte.
    pub timeout: Duration,
    /// Bytes of answer that are read at most.
    pub cap: usize,
}

/// An answer, whatever its status.
pub(super) struct Reply {
    pub status: u16,
    /// The `Date` header.
    pub date: Option<Timestamp>,
    pub body: Bytes,
}

/// Why there is no answer. The texts hold no address, signature or key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The guard said no; the request did not leave whole.
    Withheld,
    /// The body never left.
    Unreachable(String),
    /// The body left (in part, perhaps), the answer did not come.
    Lost(String),
    /// The body left, and the answer is longer than is read.
    TooLong(String),
}

impl Http {
    /// A client for the account whose settings stand in `[erp.<section>]`.
    pub(super) fn new(section: &str, connection: &ErpConnection) -> Result<Self, BuildFault> {
        let fault = |key: &str, error: reqwest::Error| {
            BuildFault(format!("erp.{section}.{key} cannot be used: {}", cause(error)))
        };
        let mut builder = Client::builder()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .connect_timeout(connection.connect_timeout)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .user_agent(concat!("wdt-connector/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &connection.proxy {
            builder =
                builder.proxy(reqwest::Proxy::all(proxy).map_err(|error| fault("proxy", error))?);
        }
        let encrypted =
            is_https(&connection.url) || connection.proxy.as_deref().is_some_and(is_https);
        let builder = trusting(
            builder,
            &format!("erp.{section}.ca_file"),
            connection.ca_file.as_deref(),
            encrypted,
        )
        .map_err(BuildFault)?;
        Ok(Self {
            client: builder
                .build()
                .map_err(|error| fault("ca_file (or the system's certificate store)", error))?,
        })
    }

    /// Sends `outgoing` once.
    pub(super) async fn exchange(&self, outgoing: Outgoing) -> Result<Reply, Failure> {
        let gate = Arc::new(Gate { state: AtomicU8::new(WAITING), guard: outgoing.guard });
        // Also when this future is dropped half-way.
        let _closing = CloseOnDrop(Arc::clone(&gate));
        let body = GatedBody { bytes: Some(outgoing.body), gate: Arc::clone(&gate) };
        let request = self
            .client
            .post(outgoing.url)
            .header(CONTENT_TYPE, outgoing.content_type)
            .body(reqwest::Body::wrap(body));
        let exchange = async {
            let lost = |error| Failure::Lost(cause(error));
            let mut response = request.send().await.map_err(lost)?;
            let status = response.status().as_u16();
            let date =
                response.headers().get(DATE).and_then(|value| http_date(value.to_str().ok()?));
            let too_long = || {
                let cap = outgoing.cap;
                Failure::TooLong(format!("its answer (HTTP {status}) is longer than {cap} bytes"))
            };
            let announced = usize::try_from(response.content_length().unwrap_or_default())
                .unwrap_or(usize::MAX);
            if announced > outgoing.cap {
                return Err(too_long());
            }
            let mut body = Vec::with_capacity(announced);
            while let Some(chunk) = response.chunk().await.map_err(lost)? {
                if body.len() + chunk.len() > outgoing.cap {
                    return Err(too_long());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Reply { status, date, body: without_mark(body.into()) })
        };
        let ended = match tokio::time::timeout(outgoing.timeout, exchange).await {
            Ok(ended) => ended,
            Err(_) => Err(Failure::Lost(format!("no answer within {:?}", outgoing.timeout))),
        };
        match (gate.close(), ended) {
            (Passage::Withheld, _) => Err(Failure::Withheld),
            (Passage::Left, ended) => ended,
            (Passage::Never, Ok(reply)) => Err(Failure::Unreachable(format!(
                "it answered HTTP {} before the request had left",
                reply.status
            ))),
            (Passage::Never, Err(Failure::Lost(reason) | Failure::TooLong(reason))) => {
                Err(Failure::Unreachable(reason))
            }
            (Passage::Never, Err(failure)) => Err(failure),
        }
    }
}

/// The answer without the byte order mark that some PHP installations put in front (RFC 8259,
/// section 8.1, lets a reader pass over it).
fn without_mark(body: Bytes) -> Bytes {
    if body.starts_with(b"\xef\xbb\xbf") { body.slice(3..) } else { body }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new()
        .parse_timestamp(text)
        .ok()
        .map(|date| Timestamp(date.as_millisecond()))
}

const WAITING: u8 = 0;
const LEFT: u8 = 1;
const WITHHELD: u8 = 2;
const CLOSED: u8 = 3;

/// The one way out for a body; see the module's text.
struct Gate {
    state: AtomicU8,
    guard: Option<SharedGuard>,
}

/// What a closed gate knows.
enum Passage {
    Left,
    Withheld,
    Never,
}

impl Gate {
    /// Asked by the body when it is first polled.
    fn pass(&self) -> bool {
        let allowed = self.guard.as_ref().is_none_or(|guard| guard.may_send());
        let next = if allowed { LEFT } else { WITHHELD };
        self.state.compare_exchange(WAITING, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
            && allowed
    }

    /// Nothing leaves from here on; says what did.
    fn close(&self) -> Passage {
        match self.state.compare_exchange(WAITING, CLOSED, Ordering::AcqRel, Ordering::Acquire) {
            Err(LEFT) => Passage::Left,
            Err(WITHHELD) => Passage::Withheld,
            Ok(_) | Err(_) => Passage::Never,
        }
    }
}

struct CloseOnDrop(Arc<Gate>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A body of declared exact length that leaves in one piece: an error instead of it ends the
/// request incomplete.
struct GatedBody {
    bytes: Option<Bytes>,
    gate: Arc<Gate>,
}

#[derive(Debug, thiserror::Error)]
#[error("the request was called back before it left")]
struct CalledBack;

impl Body for GatedBody {
    type Data = Bytes;
    type Error = CalledBack;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CalledBack>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        Poll::Ready(Some(if self.gate.pass() { Ok(Frame::data(bytes)) } else { Err(CalledBack) }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(
            self.bytes.as_ref().map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Timestamp(784_111_777_000)));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn a_closed_gate_lets_nothing_leave() {
        let gate = Gate { state: AtomicU8::new(WAITING), guard: None };
        assert!(matches!(gate.close(), Passage::Never));
        assert!(!gate.pass());
        assert!(matches!(gate.close(), Passage::Never));
    }

    #[test]
    fn what_left_stays_left() {
        let gate = Gate { state: AtomicU8::new(WAITING), guard: None };
        assert!(gate.pass());
        assert!(matches!(gate.close(), Passage::Left));
    }
}
