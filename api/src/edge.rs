//! The one layer around every route: request id, CORS, limits, time-out, panics, error bodies, metrics and the log.
//!
//! It is one layer, not eight, because each would cost an allocation and a copy of the service per request.

use std::{
    any::Any,
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use crate::{
    address::client_address,
    cors,
    error::{ApiError, Problem},
    extract::auth::is_gateway_check,
    respond::Wrote,
    state::{App, Shared},
};

/// The header that names a request.
const REQUEST_ID: &str = "x-request-id";
/// The longest request id taken from a client.
const REQUEST_ID_MAX: usize = 128;
/// Requests slower than this are logged.
const SLOW: Duration = Duration::from_secs(1);

/// The request's id, for handlers.
#[derive(Clone)]
pub(crate) struct RequestId(pub HeaderValue);

impl RequestId {
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// The client's address, for handlers with limits of their own.
#[derive(Clone, Copy)]
pub(crate) struct ClientAddress(pub Option<IpAddr>);

/// What the layer keeps of a request until it is answered.
struct Exchange {
    started: Instant,
    id: RequestId,
    method: Method,
    route: Option<MatchedPath>,
    origin: Option<HeaderValue>,
    address: Option<IpAddr>,
}

/// Counts a request as being at work until dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The layer.
pub(crate) async fn edge(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let exchange = Exchange::begin(&app, &mut request);
    let preflight = cors::preflight(
        &exchange.method,
        request.headers(),
        exchange.origin.as_ref(),
    );
    let response = match preflight {
        Some(response) => response,
        None => exchange
            .answer(&app, request, next)
            .await
            .unwrap_or_else(IntoResponse::into_response),
    };
    exchange.finish(&app, response)
}

impl Exchange {
    fn begin(app: &Shared, request: &mut Request) -> Self {
        let headers = request.headers();
        let settings = &app.api.settings;
        let exchange = Self {
            started: Instant::now(),
            id: request_id(app, headers),
            method: request.method().clone(),
            route: request.extensions().get::<MatchedPath>().cloned(),
            origin: cors::allowed_origin(&settings.cors_origins, headers),
            address: client_address(&settings.trusted_proxies, request.extensions(), headers),
        };
        // Routes of other crates beside ours know the header, not the type.
        request
            .headers_mut()
            .insert(REQUEST_ID, exchange.id.0.clone());
        let extensions = request.extensions_mut();
        extensions.insert(exchange.id.clone());
        extensions.insert(ClientAddress(exchange.address));
        exchange
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or("unknown", MatchedPath::as_str)
    }

    async fn answer(
        &self,
        app: &Shared,
        request: Request,
        next: Next,
    ) -> Result<Response, ApiError> {
        let _in_flight = self.admit(app, request.headers())?;
        let limit = time_limit(app, request.headers());
        let guarded = AssertUnwindSafe(next.run(request)).catch_unwind();
        match tokio::time::timeout(limit, guarded).await {
            Ok(Ok(response)) => {
                if let Some(wrote) = response.extensions().get::<Wrote>().copied() {
                    app.api.last_writes.record(wrote.user, wrote.position).await;
                }
                Ok(response)
            }
            Ok(Err(panic)) => Err(ApiError::internal(panic_text(panic.as_ref()))),
            Err(_) if self.method.is_safe() => Err(ApiError::unavailable("timed out")),
            Err(_) => Err(ApiError::outcome_unknown()),
        }
    }

    /// Whether the request may be worked on now. Probes always may.
    fn admit<'a>(
        &self,
        app: &'a Shared,
        headers: &HeaderMap,
    ) -> Result<Option<InFlight<'a>>, ApiError> {
        if matches!(self.route(), "/livez" | "/readyz" | "/metrics") {
            return Ok(None);
        }
        // What the gateway asks for itself belongs to a request that is counted where it goes on to.
        let counted = self.address.filter(|_| !is_gateway_check(app, headers));
        if let Some(address) = counted {
            app.limiter.request(address)?;
        }
        let before = app.in_flight.fetch_add(1, Ordering::Relaxed);
        let in_flight = InFlight(&app.in_flight);
        if before >= app.api.settings.concurrency {
            return Err(ApiError::unavailable("too many requests at work"));
        }
        Ok(Some(in_flight))
    }

    fn finish(self, app: &Shared, mut response: Response) -> Response {
        if let Some(problem) = response.extensions_mut().remove::<Box<Problem>>() {
            self.write_problem(&problem, &mut response);
        }
        let status = response.status();
        let took = self.started.elapsed();
        app.request_metrics
            .record(&self.method, self.route(), status, took);
        if took >= SLOW {
            let (id, route) = (self.id.as_str(), self.route());
            tracing::info!(request_id = id, method = %self.method, route, status = status.as_u16(), ?took, "slow request");
        }
        let headers = response.headers_mut();
        cors::mark(headers, self.origin);
        headers.insert(REQUEST_ID, self.id.0);
        response
    }

    fn write_problem(&self, problem: &Problem, response: &mut Response) {
        self.log_fault(problem);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = problem.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some((name, value)) = &problem.header {
            headers.insert(name, value.clone());
        }
        if problem.status == http::StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        *response.body_mut() = Body::from(problem.render(self.id.as_str()));
    }

    fn log_fault(&self, problem: &Problem) {
        if !problem.status.is_server_error() {
            return;
        }
        let cause = problem.cause.as_deref().unwrap_or(&problem.error);
        let (id, route, status) = (self.id.as_str(), self.route(), problem.status.as_u16());
        if problem.status == http::StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(request_id = id, method = %self.method, route, status, cause, "request failed");
        } else {
            tracing::warn!(request_id = id, method = %self.method, route, status, cause, "request not served");
        }
    }
}

/// The client's id when it is short and plain, else a new one.
fn request_id(app: &Shared, headers: &HeaderMap) -> RequestId {
    let plain = |value: &&HeaderValue| {
        (1..=REQUEST_ID_MAX).contains(&value.len())
            && value
                .as_bytes()
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b))
    };
    RequestId(headers.get(REQUEST_ID).filter(plain).map_or_else(
        || {
            let mut buffer = uuid::Uuid::encode_buffer();
            let id = app.api.ids.next_id();
            let text = id.as_hyphenated().encode_lower(&mut buffer);
            HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
        },
        Clone::clone,
    ))
}

/// Uploads take as long as the client's line needs; everything else is short.
fn time_limit(app: &Shared, headers: &HeaderMap) -> Duration {
    let settings = &app.api.settings;
    if crate::extract::body::is_multipart(headers) {
        settings.upload_timeout
    } else {
        settings.request_timeout
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_default())
}
