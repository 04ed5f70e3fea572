//! Is every value of the shape that the schema says? Walks the tree along the JSON Schema that schemars
//! makes of the types of the settings, and notes every difference, where serde would stop at the first. Knows no more of JSON
//! Schema than schemars writes for those types; a test sees to it that all of it is understood.

use super::report::{At, Findings, ProblemKind};
use super::units::{Duration, Size, SizeLimit, Timeout, UnitError};
use super::yaml::{Node, Value, did_you_mean};
use serde_json::{Map, Value as Json};
use std::borrow::Cow;
use std::collections::HashSet;

/// The tree as JSON; complete only if there were no findings.
pub(crate) fn check(root: &Node, schema: &'static Json, findings: &mut Findings) -> Json {
    let definitions = schema.get("$defs").and_then(Json::as_object);
    let mut checker = Checker { definitions, findings };
    checker.value(root, schema, &At::Root)
}

struct Checker<'c> {
    definitions: Option<&'static Map<String, Json>>,
    findings: &'c mut Findings,
}

type Shape = &'static Map<String, Json>;

impl Checker<'_> {
    fn value(&mut self, node: &Node, schema: &'static Json, at: &At<'_>) -> Json {
        let mut shapes = Vec::new();
        self.shapes(schema, &mut shapes);
        let json_type = match &node.value {
            Value::Null => {
                let what = expected(&shapes);
                self.findings
                    .add(ProblemKind::WrongType, at, format_args!("a value is missing: expected {what}"))
                    .hint("write one, or remove the line for the default")
                    .on_key();
                return Json::Null;
            }
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::Text(_) => "string",
            Value::List(_) => "array",
            Value::Map(_) => "object",
        };
        let fitting: Vec<Shape> = shapes.iter().copied().filter(|shape| admits(shape, json_type)).collect();
        if fitting.is_empty() {
            self.wrong_type(node, &shapes, at);
            return Json::Null;
        }
        match &node.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) => {
                self.number(number, fitting[0], at);
                Json::Number(number.clone())
            }
            Value::Text(text) => {
                self.text(text, &fitting, at);
                Json::String(text.clone())
            }
            Value::List(items) => self.list(items, fitting[0], at),
            Value::Map(_) => self.map(node, fitting[0], at),
        }
    }

    /// The alternatives that a schema stands for, references followed. `null` is not among them: that a field
    /// may be absent does not mean that it may be empty.
    fn shapes(&self, schema: &'static Json, shapes: &mut Vec<Shape>) {
        let Some(object) = schema.as_object() else { return };
        if let Some(reference) = object.get("$ref").and_then(Json::as_str) {
            let name = reference.strip_prefix("#/$defs/").unwrap_or(reference);
            if let Some(definition) = self.definitions.and_then(|definitions| definitions.get(name)) {
                self.shapes(definition, shapes);
            }
            return;
        }
        for word in ["anyOf", "oneOf"] {
            if let Some(alternatives) = object.get(word).and_then(Json::as_array) {
                for alternative in alternatives {
                    self.shapes(alternative, shapes);
                }
                return;
            }
        }
        if object.get("type").and_then(Json::as_str) != Some("null") {
            shapes.push(object);
        }
    }

    fn wrong_type(&mut self, node: &Node, shapes: &[Shape], at: &At<'_>) {
        let what = expected(shapes);
        let found = found(&node.value);
        let unit_error = match &node.value {
            Value::Number(number) => shapes
                .iter()
                .find_map(|shape| unit_fault(shape, &number.to_string()))
                .map(|fault| fault.to_string()),
            _ => None,
        };
        if let Some(message) = unit_error {
            self.findings.add(ProblemKind::WrongType, at, message);
            return;
        }
        let finding =
            self.findings.add(ProblemKind::WrongType, at, format_args!("expected {what}, found {found}"));
        let is_scalar = matches!(node.value, Value::Bool(_) | Value::Number(_));
        if is_scalar && shapes.iter().any(|shape| admits(shape, "string") && constants(shape).is_empty()) {
            finding.hint("put it in quotes if it is meant as text");
        }
        if matches!(node.value, Value::Text(_)) && shapes.iter().any(|shape| admits(shape, "array")) {
            finding.hint("a list is written [a, b], or with a line `- a` for each entry");
        }
    }

    fn number(&mut self, number: &serde_json::Number, shape: Shape, at: &At<'_>) {
        let is_whole = number.is_u64() || number.is_i64();
        if shape_type(shape, "integer") && !is_whole {
            self.findings.add(
                ProblemKind::WrongType,
                at,
                format_args!("expected a whole number, found `{number}`"),
            );
            return;
        }
        let (min, max) = (bound(shape, "minimum"), bound(shape, "maximum"));
        let value = number.as_f64().unwrap_or(f64::NAN);
        if min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) {
            let range = match (min, max) {
                (Some(min), Some(max)) if (max - min).abs() < f64::EPSILON => format!("{min} is expected"),
                (Some(min), Some(max)) => format!("{min} to {max}"),
                (Some(min), None) => format!("at least {min}"),
                (None, Some(max)) => format!("at most {max}"),
                (None, None) => String::new(),
            };
            self.findings.add(ProblemKind::BadValue, at, format_args!("{number} is out of range: {range}"));
        }
    }

    fn text(&mut self, text: &str, shapes: &[Shape], at: &At<'_>) {
        let words: Vec<&str> = shapes.iter().flat_map(|shape| constants(shape)).collect();
        let is_free = shapes.iter().any(|shape| constants(shape).is_empty());
        if !words.is_empty() && !is_free && !words.contains(&text) {
            let near = did_you_mean(text, words.iter().copied());
            let list = quoted(&words);
            self.findings
                .add(ProblemKind::BadValue, at, format_args!("`{text}` is not accepted here{near}"))
                .hint(format!("expected {list}"));
        }
        if let Some(fault) = shapes.iter().find_map(|shape| unit_fault(shape, text)) {
            self.findings.add(ProblemKind::BadValue, at, fault);
        }
    }

    fn list(&mut self, items: &[Node], shape: Shape, at: &At<'_>) -> Json {
        let min = bound(shape, "minItems").unwrap_or(0.0);
        if (items.len() as f64) < min {
            self.findings.add(ProblemKind::BadValue, at, "the list needs at least one entry");
        }
        let Some(schema) = shape.get("items") else { return Json::Null };
        Json::Array(
            items
                .iter()
                .enumerate()
                .map(|(index, item)| self.value(item, schema, &at.index(index)))
                .collect(),
        )
    }

    fn map(&mut self, node: &Node, shape: Shape, at: &At<'_>) -> Json {
        let Value::Map(fields) = &node.value else { return Json::Null };
        let mut object = Map::with_capacity(fields.len());
        let Some(known) = shape.get("properties").and_then(Json::as_object) else {
            // Names of the user's own: header fields.
            let schema = shape.get("additionalProperties").expect("schemars writes one of the two");
            for (key, value) in fields {
                object.insert(key.name.clone(), self.value(value, schema, &at.field(&key.name)));
            }
            return Json::Object(object);
        };
        let mut unknown = false;
        let given: HashSet<&str> = fields.iter().map(|(key, _)| key.name.as_str()).collect();
        for (key, value) in fields {
            let place = at.field(&key.name);
            if let Some(schema) = known.get(&key.name) {
                object.insert(key.name.clone(), self.value(value, schema, &place));
            } else {
                unknown = true;
                if self.findings.is_full() {
                    self.findings.omit();
                    continue;
                }
                let free = known.keys().map(String::as_str).filter(|name| !given.contains(name));
                let near = did_you_mean(&key.name, free);
                let names: Vec<&str> = known.keys().map(String::as_str).collect();
                self.findings
                    .add(
                        ProblemKind::UnknownField,
                        &place,
                        format_args!("unknown field `{}`{near}", key.name),
                    )
                    .hint(format!("known here: {}", names.join(", ")))
                    .on_key();
            }
        }
        let required = shape.get("required").and_then(Json::as_array).into_iter().flatten();
        for name in required.filter_map(Json::as_str) {
            if object.contains_key(name) {
                continue;
            }
            let finding = self.findings.add(
                ProblemKind::MissingField,
                at,
                format_args!("the field `{name}` is missing"),
            );
            if unknown {
                finding.hint("perhaps one of the unknown fields is meant to be it");
            }
        }
        Json::Object(object)
    }
}

fn shape_type(shape: Shape, name: &str) -> bool {
    match shape.get("type") {
        Some(Json::String(one)) => one == name,
        Some(Json::Array(several)) => several.iter().any(|one| one.as_str() == Some(name)),
        _ => false,
    }
}

fn admits(shape: Shape, json_type: &str) -> bool {
    shape_type(shape, json_type) || (json_type == "number" && shape_type(shape, "integer"))
}

fn bound(shape: Shape, name: &str) -> Option<f64> {
    shape.get(name).and_then(Json::as_f64)
}

fn constants(shape: Shape) -> Vec<&'static str> {
    let listed = shape.get("enum").and_then(Json::as_array).into_iter().flatten();
    listed.chain(shape.get("const")).filter_map(Json::as_str).collect()
}

fn unit_fault(shape: Shape, text: &str) -> Option<UnitError> {
    match shape.get("format").and_then(Json::as_str)? {
        "ringway-duration" => Duration::parse(text).err(),
        "ringway-timeout" => Timeout::parse(text).err(),
        "ringway-size" => Size::parse(text).err(),
        "ringway-size-limit" => SizeLimit::parse(text).err(),
        _ => None,
    }
}

/// What the shapes accept, in words.
fn expected(shapes: &[Shape]) -> String {
    let mut words: Vec<Cow<'static, str>> = Vec::new();
    for shape in shapes {
        let constants = constants(shape);
        let format = shape.get("format").and_then(Json::as_str).unwrap_or_default();
        let word: Cow<'static, str> = if !constants.is_empty() {
            quoted(&constants).into()
        } else if shape_type(shape, "string") {
            match format {
                "ringway-duration" => "a duration such as 5s".into(),
                "ringway-timeout" => "a duration such as 5s, or `off`".into(),
                "ringway-size" => "a size such as 16KiB".into(),
                "ringway-size-limit" => "a size such as 16KiB, or `unlimited`".into(),
                _ => "text".into(),
            }
        } else if shape_type(shape, "integer") {
            "a whole number".into()
        } else if shape_type(shape, "number") {
            "a number".into()
        } else if shape_type(shape, "boolean") {
            "`true` or `false`".into()
        } else if shape_type(shape, "array") {
            "a list".into()
        } else {
            "a mapping (`field: value`)".into()
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" or ")
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::Text(text) if text.chars().count() <= 40 => format!("the text `{text}`"),
        Value::Text(_) => "text".to_owned(),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "a mapping".to_owned(),
    }
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}
