//! Copies of the base's tensors in an adapter's file, held against the base: they tell whether it is the
//! base that the adapter was trained on.

use std::collections::BTreeMap;

use crate::adapter::{Adapter, Base};
use crate::container::numbers::encode;
use crate::{Epsilon, Error};

/// The tables that the adapter's file has in place of the base's, by the base's names, and what there
/// is to say. PEFT keeps a table of embeddings with its update and loads both.
///
/// # Errors
/// [`Error::File`] naming a copy that is not what the base has, where it is no such table.
pub(super) fn compared(
    adapter: &Adapter,
    base: &Base,
) -> Result<(BTreeMap<String, String>, Vec<String>), Error> {
    let (copies, own) = (&adapter.contents.copies, adapter.weights());
    let mut tables = BTreeMap::new();
    let mut unknown = 0_usize;
    for name in copies.names() {
        let path = copies.path(name);
        let module = path.strip_suffix(".weight").unwrap_or(&path);
        let weight = base.weight(module).filter(|_| module != path);
        let found = weight.map(|weight| weight.name);
        let Some(found) = found.or_else(|| Some(base.tensor(&path)?.0)) else {
            unknown += 1;
            continue;
        };
        let is_read = |dtype| Epsilon::of(dtype).is_some();
        let Some(theirs) = base.weights().tensors().get(&found) else {
            unknown += 1;
            continue;
        };
        let ours = &own.tensors()[name];
        if !is_read(ours.dtype)
            || !is_read(theirs.dtype)
            || base.weights().quantised(&found).is_some()
        {
            unknown += 1;
            continue;
        }
        let wrong =
            |expected: String, found: String| Err(Error::format(own.path(), name, expected, found));
        if ours.shape != theirs.shape {
            let expected = format!("a copy of the base's {found} of shape {:?}", theirs.shape);
            return wrong(expected, format!("{:?}", ours.shape));
        }
        let (values, before) = (own.read(name)?, base.weights().read(&found)?);
        // Saved in another type, a copy is the base's numbers rounded.
        let is_same = values == before || {
            let rounded = encode(before.into_iter(), ours.dtype);
            rounded.is_some() && rounded == encode(values.into_iter(), ours.dtype)
        };
        if is_same {
            continue;
        }
        if copies.is_whole || !name.ends_with(".base_layer.weight") {
            let expected = format!("a copy of the base's {found}");
            let found =
                "other numbers: the adapter was trained on another base, or this tensor too";
            return wrong(expected, found.to_owned());
        }
        tables.insert(found, name.to_owned());
    }
    let mut notes = Vec::from_iter(copies.described());
    if unknown > 0 {
        notes.push(format!(
            "{unknown} of them could not be held against the base"
        ));
    }
    for (table, name) in &tables {
        notes.push(format!(
            "{name} differs from the base's {table} and takes its place, as when PEFT loads the adapter"
        ));
    }
    Ok((tables, notes))
}
