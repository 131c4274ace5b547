//! The HTTP side: connections that can be cut at any point, and answers that can go wrong in every
//! scripted way.

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_TYPE, DATE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::{Interval, sleep},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Account,
    door::{self, Visitor},
    mischief::{End, Plan},
    reply,
    sign::Parameters,
    time::http_date,
    world::{Open, Outage, World},
};

/// No documented request comes near this.
const LARGEST_REQUEST: usize = 4 << 20;

/// What each connection needs.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub world: Arc<World>,
    pub account: Arc<Account>,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
}

/// A connection that is reset rather than closed when `cut` is set.
struct Wire {
    stream: TcpStream,
    cut: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.cut.load(Ordering::Relaxed) {
            // Without lingering, closing sends a reset. Should it fail, the client sees an ordinary
            // end: also no answer.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// An answer's body.
enum Sent {
    Whole(Option<Bytes>),
    /// Declares one byte more than it sends.
    Truncated(Option<Bytes>),
    Flood(u64),
    /// Declares no length.
    Endless,
    Drip(Interval),
}

impl Body for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        const CHUNK: &[u8] = &[b' '; 16 * 1024];
        Poll::Ready(match &mut *self {
            Self::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Truncated(bytes) => Some(match bytes.take() {
                Some(bytes) => Ok(Frame::data(bytes)),
                None => Err(io::ErrorKind::ConnectionReset.into()),
            }),
            Self::Flood(0) => None,
            Self::Flood(left) => {
                let chunk =
                    CHUNK.get(..usize::try_from(*left).unwrap_or(usize::MAX)).unwrap_or(CHUNK);
                *left -= chunk.len() as u64;
                Some(Ok(Frame::data(Bytes::from_static(chunk))))
            }
            Self::Endless => Some(Ok(Frame::data(Bytes::from_static(CHUNK)))),
            Self::Drip(interval) => {
                ready!(interval.poll_tick(cx));
                Some(Ok(Frame::data(Bytes::from_static(b" "))))
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Truncated(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64 + 1)
            }
            Self::Flood(left) => SizeHint::with_exact(*left),
            Self::Endless | Self::Drip(_) => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None) | Self::Flood(0))
    }
}

/// The connection is to be reset without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the simulator cuts this connection")]
struct Cut;

impl Server {
    /// Accepts connections until the simulator stops. During an outage of the refusing kind nothing
    /// listens.
    pub(super) async fn accept(self, mut listener: TcpListener, address: SocketAddr) {
        let mut outage = self.world.outage.subscribe();
        loop {
            let now = *outage.borrow_and_update();
            if now == Outage::Refuse {
                drop(listener);
                tokio::select! {
                    ended = outage.wait_for(|outage| *outage != Outage::Refuse) => if ended.is_err() { return },
                    () = self.stop.cancelled() => return,
                }
                listener = match TcpListener::bind(address).await {
                    Ok(listener) => listener,
                    Err(fault) => {
                        tracing::error!(
                            http.listen = %address,
                            error = %fault,
                            "simulator failed to listen after the outage; restart it"
                        );
                        return;
                    }
                };
                continue;
            }
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    self.clone().connected(stream, now == Outage::Close);
                },
                changed = outage.changed() => if changed.is_err() { return },
                () = self.stop.cancelled() => return,
            }
        }
    }

    fn connected(self, stream: TcpStream, refuse: bool) {
        let cut = Arc::new(AtomicBool::new(refuse));
        // Small answers must not wait for the client's acknowledgement.
        let _ = stream.set_nodelay(true);
        let wire = Wire { stream, cut: Arc::clone(&cut) };
        if refuse {
            return;
        }
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let mut outage = self.world.outage.subscribe();
            let service = service_fn(|request| self.serve(request, &cut));
            let connection = http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(wire), service);
            tokio::select! {
                // How a connection ends is the client's affair, or the script's.
                _ = connection => {}
                _ = outage.wait_for(|outage| *outage != Outage::None) => cut.store(true, Ordering::Relaxed),
                () = self.stop.cancelled() => {}
            }
        });
    }

    async fn serve(
        &self,
        request: Request<Incoming>,
        cut: &AtomicBool,
    ) -> Result<Response<Sent>, Cut> {
        let (head, body) = request.into_parts();
        // An incomplete request is executed by nobody.
        let body = Limited::new(body, LARGEST_REQUEST).collect().await.map_err(|_| Cut)?.to_bytes();
        let query = head.uri.query().unwrap_or_default();
        let visitor = door::judge(
            &self.account,
            head.method.as_str(),
            head.uri.path(),
            query,
            &body,
            self.world.clock.now(),
        );
        let (call, parameters) = match visitor {
            Visitor::Known(call, parameters) => (call, parameters),
            Visitor::Refused(call, refused) => {
                self.world.refuse_account(call);
                return Ok(self.answer(200, refused.body(call.edition())));
            }
            Visitor::Stranger(status, text) => return Ok(self.answer(status, text.to_owned())),
        };
        let (open, plan) = match self.world.admit(call) {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(self.answer(200, refused.body(call.edition()))),
        };
        let (open, text) = if plan.applied {
            self.execute(open, plan.clone(), parameters, body).await?
        } else {
            (open, Vec::new())
        };
        if !plan.slow.is_zero() {
            sleep(plan.slow).await;
        }
        self.end(open, plan, call, text, cut).await
    }

    /// Executes now, or later and whether or not the connection still stands then.
    async fn execute(
        &self,
        mut open: Open,
        plan: Plan,
        parameters: Parameters,
        body: Bytes,
    ) -> Result<(Open, Vec<u8>), Cut> {
        let Some(delay) = plan.apply_after else {
            let text = self.world.execute(&mut open, &plan, &parameters, &body);
            return Ok((open, text));
        };
        let (done, later) = oneshot::channel();
        let (world, stop) = (Arc::clone(&self.world), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = sleep(delay) => {
                    let text = world.execute(&mut open, &plan, &parameters, &body);
                    // Nobody waits any more: the request counts as executed and unanswered when
                    // `open` goes.
                    let _ = done.send((open, text));
                }
                () = stop.cancelled() => {}
            }
        });
        later.await.map_err(|_| Cut)
    }

    async fn end(
        &self,
        mut open: Open,
        plan: Plan,
        call: super::Call,
        mut text: Vec<u8>,
        cut: &AtomicBool,
    ) -> Result<Response<Sent>, Cut> {
        let mark: &[u8] = if plan.bom { &[0xef, 0xbb, 0xbf] } else { &[] };
        let response = match plan.end {
            End::Answer => {
                open.answered("answer", true);
                self.answer(200, [mark, &text].concat())
            }
            End::Hold => {
                open.unanswered("held");
                // Dropped with the connection, when the client gives up.
                match pending::<Infallible>().await {}
            }
            End::Reset => {
                open.unanswered("reset");
                cut.store(true, Ordering::Relaxed);
                return Err(Cut);
            }
            End::Http(status) => {
                open.answered("http", false);
                self.answer(status, "<html><body><h1>Bad Gateway</h1></body></html>".to_owned())
            }
            End::Garbage => {
                open.answered("garbage", false);
                self.answer(200, "<?php Fatal error: 内存不足 {\"status\":".to_owned())
            }
            End::Truncated => {
                open.answered("truncated", false);
                text.truncate(text.len() / 2);
                self.respond(200, Sent::Truncated(Some(text.into())))
            }
            End::Flood(bytes) => {
                open.answered("flood", false);
                self.respond(200, Sent::Flood(bytes))
            }
            End::Endless => {
                open.answered("endless", false);
                self.respond(200, Sent::Endless)
            }
            End::Drip => {
                open.answered("drip", false);
                self.respond(200, Sent::Drip(tokio::time::interval(Duration::from_secs(1))))
            }
            End::Refusal(refusal) => {
                open.answered("refusal", false);
                self.answer(200, [mark, reply::scripted(refusal, call).as_bytes()].concat())
            }
        };
        Ok(response)
    }

    fn answer(&self, status: u16, text: impl Into<Bytes>) -> Response<Sent> {
        self.respond(status, Sent::Whole(Some(text.into())))
    }

    fn respond(&self, status: u16, body: Sent) -> Response<Sent> {
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=UTF-8"));
        if let Ok(date) = HeaderValue::from_str(&http_date(self.world.clock.now())) {
            headers.insert(DATE, date);
        }
        response
    }
}
