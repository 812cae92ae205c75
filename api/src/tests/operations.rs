//! Probes, metrics, and the OpenAPI document.

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;

use super::fakes::{World, body, header, refused, settings, signed};
use crate::{NotReady, Settings};

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let world = World::new();
    assert_eq!(world.get("/readyz").await.status(), StatusCode::OK);
    world.probe.0.lock().push(NotReady {
        name: "projection feed".to_owned(),
        reason: "rebuilding".to_owned(),
    });
    let response = world.get("/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        body(response).await["notReady"][0]["name"],
        "projection feed"
    );
    assert_eq!(world.get("/livez").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn metrics_want_the_operators_token_only_when_one_is_set() {
    let world = World::new();
    let request = || Request::get("/metrics").body(Body::empty()).unwrap();
    assert_eq!(world.send(request()).await.status(), StatusCode::OK);
    let guarded = World::with(Settings {
        operator_token: Some("op".to_owned()),
        ..settings()
    });
    refused(guarded.send(request()).await, 401, "Unauthorized").await;
    refused(guarded.get("/metrics").await, 401, "Unauthorized").await;
    let request = Request::get("/metrics").header("authorization", "Bearer op");
    let response = guarded.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK);
}

fn operations(document: &Value) -> Vec<(String, String)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            let verbs = item.as_object().unwrap().keys();
            verbs.map(move |verb| (verb.to_uppercase(), path.clone()))
        })
        .collect()
}

#[tokio::test]
async fn the_document_lists_every_route() {
    let world = World::new();
    let document = body(world.get("/openapi.json").await).await;
    let mut routes: Vec<_> = operations(&document)
        .into_iter()
        .map(|(verb, path)| format!("{path} {verb}"))
        .collect();
    routes.sort();
    insta::assert_snapshot!(routes.join("\n"));
}

/// What the seed and the contract print, on both of its addresses: none of it may be unknown.
#[tokio::test]
async fn every_documented_route_answers_on_each_of_its_paths() {
    let world = World::new();
    world.model.position.send_replace(1_000);
    let document = body(world.get("/openapi.json").await).await;
    for (verb, pattern) in operations(&document) {
        let id = "00000000-0000-0000-0000-0000000000ff";
        let path: Vec<_> = pattern
            .split('/')
            .map(|part| if part.starts_with('{') { id } else { part })
            .collect();
        let path = path.join("/");
        let single = ["operations", "media"];
        let tag = document["paths"][&pattern][verb.to_lowercase()]["tags"][0].clone();
        let mut paths = vec![path.clone()];
        if !single.contains(&tag.as_str().unwrap()) {
            paths.push(format!("/api/v1{path}"));
        }
        if tag == "feed" {
            paths.push(format!("/api{path}"));
        }
        for path in paths {
            let method: Method = verb.parse().unwrap();
            let request = signed(method, &path).body(Body::empty()).unwrap();
            let response = world.send(request).await;
            let status = response.status();
            let unknown = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&status)
                && ["Not found", "Method not allowed"]
                    .contains(&body(response).await["error"].as_str().unwrap());
            assert!(!unknown, "{verb} {path}: {status}");
        }
    }
    for path in [
        "/posts/",
        "/api/v1/posts/",
        "/api/feed/",
        "/feed/",
        "/api/v1/feed/",
    ] {
        let response = world.get(path).await;
        assert_ne!(response.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

/// Every `$ref` of the document leads somewhere, every operation has an id of its own, answers, and problems.
#[tokio::test]
async fn the_document_is_whole() {
    let world = World::new();
    let response = world.get("/openapi.json").await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let document: Value = serde_json::from_slice(&text).unwrap();
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let mut ids = std::collections::HashSet::new();
    for (verb, path) in operations(&document) {
        let operation = &document["paths"][&path][verb.to_lowercase()];
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id.to_owned()), "{id} twice");
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{path}"
        );
        assert!(responses.contains_key("503"), "{path}");
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "$ref" => found.push(text.clone()),
                    _ => collect_references(value, found),
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let world = World::new();
    let response = world.get("/docs").await;
    assert!(header(&response, "content-type").starts_with("text/html"));
    let page = response.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert!(!page.contains("http://") && !page.contains("https://"));
}
