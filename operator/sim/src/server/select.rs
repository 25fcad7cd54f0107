//! Label and field selectors of lists and watches.

use serde_json::Value;

use super::refusal::Refusal;

/// Both selectors of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Refusal> {
        let parse =
            |text: Option<&str>| split(text.unwrap_or_default()).into_iter().map(requirement).collect();
        let (labels, fields): (Option<Vec<_>>, Option<Vec<_>>) = (parse(labels), parse(fields));
        match (labels, fields) {
            (Some(labels), Some(fields)) => Ok(Self { labels, fields }),
            _ => Err(Refusal::bad("unable to parse a selector")),
        }
    }

    /// Is every object meant?
    pub fn takes_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Is this object meant?
    pub fn holds(&self, object: &Value) -> bool {
        let label = |name: &str| object.pointer("/metadata/labels")?.get(name)?.as_str();
        let field = |path: &str| {
            let value = path.split('.').try_fold(object, |at, name| at.get(name));
            value.and_then(Value::as_str).or(Some(""))
        };
        self.labels.iter().all(|requirement| requirement.holds(label))
            && self.fields.iter().all(|requirement| requirement.holds(field))
    }
}

impl Requirement {
    fn holds<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::In(name, values) => value(name).is_some_and(|value| values.iter().any(|one| one == value)),
            Self::NotIn(name, values) => {
                value(name).is_none_or(|value| values.iter().all(|one| one != value))
            }
            Self::Exists(name) => value(name).is_some(),
            Self::Missing(name) => value(name).is_none(),
        }
    }
}

/// At the commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let at_commas = text.split(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        c == ',' && depth == 0
    });
    at_commas.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn requirement(text: &str) -> Option<Requirement> {
    let owned = |text: &str| text.trim().to_owned();
    if let Some((name, value)) = text.split_once("!=") {
        return Some(Requirement::NotIn(owned(name), vec![owned(value)]));
    }
    if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Some(Requirement::In(owned(name), vec![owned(value)]));
    }
    if let Some((head, values)) = text.split_once('(') {
        let values = values.strip_suffix(')')?.split(',').map(owned).collect();
        let (name, operator) = head.trim().rsplit_once(' ')?;
        return match operator {
            "in" => Some(Requirement::In(owned(name), values)),
            "notin" => Some(Requirement::NotIn(owned(name), values)),
            _ => None,
        };
    }
    Some(match text.strip_prefix('!') {
        Some(name) => Requirement::Missing(owned(name)),
        None => Requirement::Exists(owned(text)),
    })
}
