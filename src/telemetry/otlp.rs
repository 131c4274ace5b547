//! Traces to an OTLP collector: protobuf over HTTP, in batches, through our own client, so that
//! there is one TLS stack.

use std::{
    fmt,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use tokio::runtime::Handle;

use crate::{
    config::TraceSettings,
    fault::with_causes,
    http_client::{cause, is_https, trusting},
};

/// For one batch, from connecting to the answer's last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of an answer, at most so much is read: it holds a reason at best.
const LARGEST_ANSWER: usize = 64 * 1024;

/// The export of traces; spans wait in a bounded queue and are dropped, not waited for, when the
/// collector is away.
pub(crate) struct Collector(SdkTracerProvider);

impl fmt::Debug for Collector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Collector")
    }
}

impl Collector {
    /// Exports to the endpoint, to whose path `/v1/traces` is added unless it is there. `instance`
    /// is this process's name.
    ///
    /// # Errors
    /// One sentence for an address or a `ca_file` that cannot be used.
    pub(crate) fn at(
        settings: &TraceSettings,
        instance: &str,
        runtime: Handle,
    ) -> Result<Self, String> {
        let endpoint = &settings.endpoint;
        let base = endpoint.trim_end_matches('/');
        let address = if base.ends_with("/v1/traces") {
            base.to_owned()
        } else {
            format!("{base}/v1/traces")
        };
        let fault = |error: &dyn fmt::Display| {
            format!("telemetry.otlp_endpoint = {endpoint:?} cannot be used: {error}")
        };
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .user_agent(concat!("wdt-connector/", env!("CARGO_PKG_VERSION")));
        let client =
            trusting(client, "telemetry.ca_file", settings.ca_file.as_deref(), is_https(&address))?;
        let client = Client {
            client: client.build().map_err(|error| fault(&cause(error)))?,
            runtime,
            failing: AtomicBool::new(false),
            address: address.clone(),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(address)
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| fault(&error))?;
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", "wdt-connector"),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", instance.to_owned()),
            ])
            .build();
        Ok(Self(
            SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource)
                .build(),
        ))
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.0.tracer("wdt-connector")
    }

    pub(super) fn end(self, limit: Duration) {
        if let Err(error) = self.0.shutdown_with_timeout(limit) {
            tracing::debug!(%error, "failed to export the last traces");
        }
    }
}

/// The exporter runs on a thread without a reactor: each request is carried out on the process's
/// own.
struct Client {
    client: reqwest::Client,
    runtime: Handle,
    failing: AtomicBool,
    /// Without credentials: the configuration allows none in it.
    address: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Client")
    }
}

impl Client {
    /// Said once when it begins and once when it ends: a collector that is away is no reason to
    /// fill the log.
    fn note(&self, result: &Result<Response<Bytes>, HttpError>) {
        let failure = match result {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(with_causes(error.as_ref())),
        };
        let failed_before = self.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !failed_before => {
                tracing::warn!(
                    %error,
                    otlp.endpoint = self.address,
                    "trace export failed, traces are dropped; \
                     check telemetry.otlp_endpoint, telemetry.ca_file and the collector"
                );
            }
            None if failed_before => tracing::info!("trace export recovered"),
            Some(_) | None => {}
        }
    }
}

async fn send(request: reqwest::RequestBuilder) -> Result<Response<Bytes>, HttpError> {
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    let mut answer = Response::builder().status(response.status());
    if let Some(headers) = answer.headers_mut() {
        headers.clone_from(response.headers());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > LARGEST_ANSWER {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(answer.body(body.into())?)
}

impl HttpClient for Client {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let (head, body) = request.into_parts();
        let request =
            self.client.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
        let sending = self.runtime.spawn(send(request));
        Box::pin(async move {
            let result = sending.await.unwrap_or_else(|error| Err(error.into()));
            self.note(&result);
            result
        })
    }
}
