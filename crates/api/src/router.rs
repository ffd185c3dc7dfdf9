//! The whole API on one page.

use crate::{
    ApiState, docs, events, exec, exec_ws, execs, files, guard, health,
    openapi::{complete, preamble},
    problem::Problem,
    sandboxes, telemetry, tree, unbuilt,
};
use axum::{
    Router,
    extract::Request,
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::{get, post},
};
use isopod_model::Error;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The API as a service.
pub fn router(state: ApiState) -> Router {
    let (routes, _) = documented().split_for_parts();
    routes
        .merge(unbuilt::routes())
        .route("/v1/sandboxes/{id}/files/{*path}", post(unbuilt::post_file))
        .route("/v1/sandboxes/{id}/ls/", get(tree::list_root))
        .route("/openapi.json", get(docs::document))
        .route("/docs", get(docs::page))
        .route("/redoc", get(docs::page))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(state.clone(), guard::guard))
        .layer(CatchPanicLayer::custom(telemetry::panicked))
        .layer(from_fn(telemetry::observe))
        .with_state(state)
}

/// Every route that the OpenAPI document describes.
pub(crate) fn documented() -> OpenApiRouter<ApiState> {
    let mut router = OpenApiRouter::with_openapi(preamble())
        .routes(routes!(sandboxes::create_sandbox, sandboxes::list_sandboxes))
        .routes(routes!(sandboxes::get_or_create_sandbox))
        .routes(routes!(sandboxes::get_sandbox, sandboxes::update_sandbox, sandboxes::delete_sandbox))
        .routes(routes!(sandboxes::start_sandbox))
        .routes(routes!(sandboxes::stop_sandbox))
        .routes(routes!(sandboxes::pause_sandbox))
        .routes(routes!(sandboxes::resume_sandbox))
        .routes(routes!(sandboxes::keep_sandbox_alive))
        .routes(routes!(sandboxes::promote_sandbox))
        .routes(routes!(sandboxes::demote_sandbox))
        .routes(routes!(exec::run_exec))
        .routes(routes!(exec_ws::exec_socket))
        .routes(routes!(execs::list_execs))
        .routes(routes!(execs::get_exec))
        .routes(routes!(execs::read_exec_output))
        .routes(routes!(execs::write_exec_stdin))
        .routes(routes!(execs::signal_exec))
        .routes(routes!(execs::wait_for_exec))
        .routes(routes!(files::read_file, files::head_file, files::write_file, files::delete_file))
        .routes(routes!(tree::list_root))
        .routes(routes!(tree::list_directory))
        .routes(routes!(tree::stat_file))
        .routes(routes!(tree::make_directory))
        .routes(routes!(tree::move_file))
        .routes(routes!(events::read_events))
        .routes(routes!(events::read_stats))
        .routes(routes!(health::doctor))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics));
    complete(router.get_openapi_mut());
    router
}

async fn no_route(request: Request) -> impl IntoResponse {
    let id = request.uri().path().chars().take(256).collect();
    Problem::from(Error::NotFound { what: "route", id })
}

async fn no_method(request: Request) -> impl IntoResponse {
    Problem::MethodNotAllowed { method: request.method().as_str().chars().take(32).collect() }
}
