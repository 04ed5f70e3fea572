//! Changes to header fields, compiled to the lines that are written.

use super::{HeaderOps, settings};
use crate::base::limits;
use crate::settings::diagnostics::{Diagnostics, FieldLine};
use crate::settings::forms::OneOrMany;
use crate::settings::report::{At, ProblemKind};

pub(crate) fn compile(found: &mut Diagnostics, at: &At<'_>, ops: &settings::HeaderOps) -> HeaderOps {
    let count = ops.set.len()
        + ops.remove.len()
        + ops.add.values().map(|values| values.as_slice().len()).sum::<usize>();
    found.count(at, "header operations", count, limits::HEADER_OPS_MAX);
    let list = at.field("remove");
    let mut remove = Vec::with_capacity(ops.remove.len());
    for (index, name) in ops.remove.iter().enumerate() {
        if found.field_name(&list.index(index), name) {
            remove.push(name.as_str().into());
        }
    }
    let set = found.field_lines(&at.field("set"), &ops.set);
    let adds = at.field("add");
    found.refuse_same_names(&adds, ops.add.keys());
    let mut add = Vec::new();
    for (name, values) in &ops.add {
        let entry = adds.field(name);
        let named = found.field_name(&entry, name);
        for (index, value) in values.as_slice().iter().enumerate() {
            let place = match values {
                OneOrMany::One(_) => entry,
                OneOrMany::Many(_) => entry.index(index),
            };
            if found.field_value(&place, value) && named {
                add.push((name.as_str().into(), value.as_bytes().into()));
            }
        }
    }
    compile_ops(found, at, &remove, &set, &add)
}

/// What the checks above let through compiles; a rule that only the encoder knows becomes a finding as well.
fn compile_ops(
    found: &mut Diagnostics,
    at: &At<'_>,
    remove: &[Box<str>],
    set: &[FieldLine],
    add: &[FieldLine],
) -> HeaderOps {
    let text = |fields: &[FieldLine]| -> Vec<(String, String)> {
        fields.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v).into_owned())).collect()
    };
    let remove: Vec<String> = remove.iter().map(ToString::to_string).collect();
    HeaderOps::compile(&remove, &text(set), &text(add)).unwrap_or_else(|error| {
        found.errors.add(ProblemKind::BadValue, at, error);
        HeaderOps::default()
    })
}
