//! The OpenAPI document is a contract: it is checked in, and changes only on purpose.

use serde_json::Value;
use std::{collections::HashSet, fs, path::Path};

#[test]
fn the_document_is_the_one_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/v1.json");
    let generated = isopod_api::openapi().to_pretty_json().expect("it serialises") + "\n";
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        fs::write(&path, &generated).expect("the file can be written");
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        generated == checked_in,
        "the API differs from openapi/v1.json; if that is meant, run \
         `UPDATE_OPENAPI=1 cargo test -p isopod-api --test openapi` and commit the file"
    );
}

#[test]
fn every_operation_is_described() {
    let document: Value = serde_json::to_value(isopod_api::openapi()).expect("it serialises");
    let mut ids = HashSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        assert!(!path.contains('*'), "{path}");
        for (verb, operation) in item.as_object().expect("an item") {
            let name = format!("{verb} {path}");
            let id = operation["operationId"].as_str().expect("an operationId");
            assert!(ids.insert(id.to_owned()), "{name}: {id} is there twice");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
            assert_eq!(
                operation["responses"]["default"]["content"]["application/problem+json"]["schema"]["$ref"],
                "#/components/schemas/Problem",
                "{name}"
            );
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            for placeholder in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
                let found = parameters
                    .iter()
                    .filter(|parameter| parameter["name"] == placeholder && parameter["in"] == "path")
                    .count();
                assert_eq!(found, 1, "{name}: {placeholder}");
            }
        }
    }
    assert!(ids.len() > 30, "{}", ids.len());
}

#[test]
fn every_reference_leads_somewhere() {
    fn visit(value: &Value, document: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let pointer = reference.strip_prefix('#').expect("a local reference");
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                }
                members.values().for_each(|value| visit(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| visit(value, document)),
            _ => {}
        }
    }
    let document = serde_json::to_value(isopod_api::openapi()).expect("it serialises");
    visit(&document, &document);
}
