//! A configuration as TOML in which a comment says of every key what it is.

use std::fmt::Write as _;

use super::keys::{Key, is_table};

/// Letters of a line of comment.
const WIDTH: usize = 96;

/// `table` with a comment above every key, those without a value among them: for people; the same
/// configuration is read from it.
pub(crate) fn commented(table: &toml::Table, keys: &[Key]) -> String {
    let mut text = String::new();
    add(table, "", keys, &mut text);
    text
}

fn add(table: &toml::Table, before: &str, keys: &[Key], text: &mut String) {
    let own = keys.iter().filter_map(|key| {
        let name = key.name.strip_prefix(before)?;
        (!name.contains('.')).then_some((name, key))
    });
    // A table's own keys come before the tables in it.
    let (tables, leaves): (Vec<_>, Vec<_>) = own.partition(|(_, key)| is_table(&key.name, keys));
    for (name, key) in leaves {
        comment(key.about, text);
        // Writing to a String cannot fail.
        let _ = match table.get(name) {
            Some(value) => writeln!(text, "{name} = {value}"),
            None => writeln!(text, "# ({name} is not set)"),
        };
    }
    for (name, key) in tables {
        text.push('\n');
        comment(key.about, text);
        let _ = match table.get(name) {
            Some(toml::Value::Table(inner)) => {
                let _ = writeln!(text, "[{}]", key.name);
                add(inner, &format!("{}.", key.name), keys, text);
                Ok(())
            }
            _ => writeln!(text, "# ([{}] is not set)", key.name),
        };
    }
}

fn comment(about: &str, text: &mut String) {
    let about = about.replace("[`", "`").replace("`]", "`");
    let mut line = String::new();
    for word in about.split_whitespace() {
        if !line.is_empty() && line.chars().count() + word.chars().count() >= WIDTH {
            let _ = writeln!(text, "#{line}");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(text, "#{line}");
    }
}
