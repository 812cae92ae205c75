//! The event log for other programs of the operator.

mod stream;

use utoipa::IntoParams;
use utoipa_axum::routes;

use crate::router::Mounts;

pub(crate) fn mount(mounts: &mut Mounts) {
    mounts.service(routes!(stream::stream));
}

/// What is asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the query for the OpenAPI document")]
pub(crate) struct FirehoseParams {
    /// The position to begin after; 0, the beginning, when left out. `Last-Event-ID` counts before it.
    #[param(minimum = 0)]
    after: Option<u64>,
    /// Only these types of events, separated by commas; all when left out.
    #[param(example = "post.created,post.deleted")]
    types: Option<String>,
}
