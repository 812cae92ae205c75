//! Every route on each of its paths.

use std::sync::Arc;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{MethodRouter, get},
};
use http::StatusCode;
use utoipa::openapi::{
    OpenApi, RefOr,
    path::Paths,
    schema::{Components, Schema},
};

use crate::{
    edge::edge,
    error::ApiError,
    openapi,
    readiness::Readiness,
    routes,
    service::Service,
    state::{ApiState, App, Shared},
};

/// A handler (or several on one path) as `utoipa_axum::routes!` makes it.
pub(crate) type Documented = (Vec<(String, RefOr<Schema>)>, Paths, MethodRouter<App>);

/// Collects routes and, beside them, the OpenAPI document.
pub(crate) struct Mounts {
    router: Router<App>,
    document: OpenApi,
}

impl Mounts {
    fn new() -> Self {
        Self {
            router: Router::new(),
            document: OpenApi::default(),
        }
    }

    /// Serves a route on its gateway path, which is the one documented, and on every other it has.
    pub(crate) fn service(&mut self, documented: Documented) {
        self.mount(documented, service_paths);
    }

    /// Serves a route on one path only.
    pub(crate) fn single(&mut self, documented: Documented) {
        self.mount(documented, |path| vec![path.to_owned()]);
    }

    fn mount(
        &mut self,
        (schemas, paths, handler): Documented,
        aliases: impl Fn(&str) -> Vec<String>,
    ) {
        let patterns: Vec<String> = paths.paths.keys().flat_map(|path| aliases(path)).collect();
        for pattern in patterns {
            let router = std::mem::take(&mut self.router);
            self.router = router.route(&pattern, handler.clone());
        }
        let components = self
            .document
            .components
            .get_or_insert_with(Components::default);
        components.schemas.extend(schemas);
        for (path, item) in paths.paths {
            match self.document.paths.paths.entry(path) {
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.get_mut().merge_operations(item);
                }
                std::collections::btree_map::Entry::Vacant(new) => {
                    new.insert(item);
                }
            }
        }
    }
}

/// The paths of a service's route: as the gateway's, as the service's own, the feed's also below `/api`; those of one
/// segment also with a slash at the end.
fn service_paths(gateway: &str) -> Vec<String> {
    let plain = gateway.trim_end_matches('/');
    let mut paths = vec![plain.to_owned(), format!("/api/v1{plain}")];
    if plain.starts_with("/feed") {
        paths.push(format!("/api{plain}"));
    }
    if plain.matches('/').count() == 1 {
        let slashed: Vec<String> = paths.iter().map(|path| format!("{path}/")).collect();
        paths.extend(slashed);
    }
    paths
}

fn mounts(services: &[Service]) -> Mounts {
    let mut mounts = Mounts::new();
    for service in services {
        service.mount(&mut mounts);
    }
    routes::operations::mount(&mut mounts);
    mounts
}

/// The OpenAPI document of every route.
pub(crate) fn documented() -> OpenApi {
    openapi::complete(mounts(&Service::ALL).document)
}

async fn unknown_route() -> ApiError {
    ApiError::not_found("Not found").detail("there is no such route")
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        .detail("the route has no such method; `Allow` names those it has")
}

/// The API of some services. Serve it with the peer's address
/// (`into_make_service_with_connect_info::<SocketAddr>()`): without it there are no limits per address.
pub fn router(state: ApiState, services: &[Service]) -> Router {
    router_with(state, services, Router::new())
}

/// The same with routes of others beside it (the chat's history), under the same layer and with the same errors.
pub fn router_with(state: ApiState, services: &[Service], others: Router) -> Router {
    let app: App = Arc::new(Shared::new(state));
    mounts(services)
        .router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::clone(&app))
        .merge(others)
        .layer(from_fn_with_state(app, edge))
}

/// Liveness, readiness and metrics alone: for a listener of their own, and for processes that serve nothing else.
pub fn operations(
    readiness: Arc<dyn Readiness>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
) -> Router {
    let ready = move || async move { routes::operations::readiness(&*readiness, false).await };
    let metrics = move || async move { routes::operations::exposition(metrics()) };
    Router::new()
        .route("/livez", get(routes::operations::livez))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}
