//! How long requests take, by method, route and status.

use std::{collections::HashMap, time::Duration};

use http::{Method, StatusCode};
use metrics::Histogram;
use parking_lot::RwLock;

/// The histogram's name.
const NAME: &str = "http_request_duration_seconds";

/// The histograms of one route, by method and status.
type ByOutcome = HashMap<(&'static str, u16), Histogram>;

/// Keeps the histogram of each route at hand, so that a request costs one look-up and no allocation.
#[derive(Default)]
pub(crate) struct RequestMetrics {
    /// By route, then by method and status. Both are few: unknown methods and paths share one label.
    routes: RwLock<HashMap<String, ByOutcome>>,
}

/// Only the methods the API has are labels of their own.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

impl RequestMetrics {
    /// Records one request. `route` is the pattern, never the path a client sent.
    pub(crate) fn record(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let key = (method_label(method), status.as_u16());
        if let Some(known) = self
            .routes
            .read()
            .get(route)
            .and_then(|route| route.get(&key))
        {
            known.record(took.as_secs_f64());
            return;
        }
        let histogram = metrics::histogram!(
            NAME,
            "method" => key.0,
            "route" => route.to_owned(),
            "status" => key.1.to_string(),
        );
        histogram.record(took.as_secs_f64());
        self.routes
            .write()
            .entry(route.to_owned())
            .or_default()
            .insert(key, histogram);
    }
}
