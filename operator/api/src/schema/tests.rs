use serde_json::{Value, json};

use super::*;

/// Every schema in `schema`, with its path.
fn walk<'a>(path: &str, schema: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    found.push((path.to_owned(), schema));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, found);
    }
    for (mark, below) in [("[]", "items"), ("{}", "additionalProperties")] {
        if schema[below].is_object() {
            walk(&format!("{path}{mark}"), &schema[below], found);
        }
    }
}

fn roots() -> Vec<(String, Value)> {
    let root = |crd: CustomResourceDefinition| {
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        (crd.spec.names.kind, schema["openAPIV3Schema"].clone())
    };
    crds().unwrap().into_iter().map(root).collect()
}

#[test]
fn every_text_list_and_map_has_a_bound() {
    let roots = roots();
    let mut unbounded = Vec::new();
    let mut seen = 0;
    for (kind, root) in &roots {
        let mut schemas = Vec::new();
        walk(kind, root, &mut schemas);
        seen += schemas.len();
        for (path, schema) in schemas {
            let bounded = match schema["type"].as_str() {
                Some("string") => {
                    ["maxLength", "enum", "format"].iter().any(|bound| !schema[*bound].is_null())
                }
                Some("array") => !schema["maxItems"].is_null(),
                Some("object") if schema["additionalProperties"].is_object() => {
                    !schema["maxProperties"].is_null()
                }
                Some("integer" | "boolean" | "object") => true,
                None => schema["x-kubernetes-int-or-string"] == json!(true) && !schema["maxLength"].is_null(),
                Some(_) => false,
            };
            if !bounded {
                unbounded.push(path);
            }
        }
    }
    assert!(seen > 100, "only {seen} schemas were looked at");
    assert!(unbounded.is_empty(), "without a bound: {unbounded:#?}");
}

#[test]
fn desired_and_config_are_atomic() {
    let (_, device) = roots().swap_remove(0);
    let desired = &device["properties"]["spec"]["properties"]["desired"];
    assert_eq!(desired["x-kubernetes-map-type"], "atomic");
    assert_eq!(desired["properties"]["config"]["x-kubernetes-map-type"], "atomic");
}

#[test]
fn short_names_categories_and_columns_are_there() {
    let crds = crds().unwrap();
    let names: Vec<_> = crds.iter().map(|crd| &crd.spec.names).collect();
    let short: Vec<_> = names.iter().flat_map(|names| names.short_names.iter().flatten()).collect();
    assert_eq!(short, ["dev", "fleet", "fnode", "fault"]);
    assert!(names.iter().all(|names| names.categories.as_deref() == Some(&["edge".to_owned()])));
    for crd in &crds {
        let version = &crd.spec.versions[0];
        let columns: Vec<_> = version.additional_printer_columns.iter().flatten().collect();
        assert!(
            columns.len() >= 4
                && columns.iter().all(|column| column.name != "Expires" || column.type_ == "string")
        );
        assert!(version.subresources.as_ref().is_some_and(|resources| resources.status.is_some()));
    }
}

#[test]
fn every_rule_has_a_sentence_that_fits_a_terminal() {
    for (kind, root) in roots() {
        let mut schemas = Vec::new();
        walk(&kind, &root, &mut schemas);
        for (path, schema) in schemas {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let message = rule["message"].as_str().unwrap_or_default();
                assert!(
                    message.contains("write ")
                        || message.contains("delete")
                        || message.contains("read the object"),
                    "{path}: {message}"
                );
                assert!(message.len() <= 200, "{path}: {message}");
            }
        }
    }
}
