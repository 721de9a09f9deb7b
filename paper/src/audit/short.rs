//! Names short enough to read.

use rankwise_analysis::ModuleAudit;

/// How many leading segments all of these names share, short of their last one.
fn shared<'a>(mut names: impl Iterator<Item = &'a str>, separator: char) -> usize {
    let Some(first) = names.next() else {
        return 0;
    };
    let first: Vec<&str> = first.split(separator).collect();
    let mut count = first.len() - 1;
    for name in names {
        let parts: Vec<&str> = name.split(separator).collect();
        let same = first.iter().zip(&parts).take_while(|(x, y)| x == y).count();
        count = count.min(same).min(parts.len() - 1);
    }
    count
}

fn without(name: &str, segments: usize, separator: char) -> &str {
    name.splitn(segments + 1, separator).last().unwrap_or(name)
}

/// The roles of an adapter's modules, without what those of all numbered modules begin with.
pub(super) fn short_roles(modules: &[ModuleAudit]) -> Vec<String> {
    let roles: Vec<String> = modules.iter().map(ModuleAudit::role).collect();
    let is_numbered = |module: &ModuleAudit| module.layer.is_some();
    let numbered = roles.iter().zip(modules).filter(|(_, m)| is_numbered(m));
    let count = shared(numbered.map(|(role, _)| &role[..]), '.');
    roles
        .iter()
        .zip(modules)
        .map(|(role, module)| {
            let count = if is_numbered(module) { count } else { 0 };
            without(role, count, '.').to_owned()
        })
        .collect()
}

/// Module names without what those of all numbered modules begin with.
pub(super) fn short_modules(modules: &[ModuleAudit]) -> Vec<&str> {
    let numbered = modules.iter().filter(|module| module.layer.is_some());
    let count = shared(numbered.map(|module| &module.name[..]), '.');
    let short = modules.iter().map(|module| match module.layer {
        Some(_) => without(&module.name, count, '.'),
        None => &module.name,
    });
    short.collect()
}

/// Paths without the folders that all of them begin with.
pub(super) fn short_paths<'a>(paths: &[&'a str]) -> Vec<&'a str> {
    let count = shared(paths.iter().copied(), '/');
    paths.iter().map(|path| without(path, count, '/')).collect()
}

/// Without control characters, which would move a terminal's cursor or hide what follows.
pub(super) fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(visible).collect()
}

/// At most `width` characters, the middle left out.
pub(super) fn cut(text: &str, width: usize) -> String {
    let characters: Vec<char> = clean(text).chars().collect();
    if characters.len() <= width {
        return characters.into_iter().collect();
    }
    let head = (width - 1) / 3;
    let tail = &characters[characters.len() - (width - 1 - head)..];
    let head = &characters[..head];
    head.iter().chain(&['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_they_share_and_no_more() {
        assert_eq!(
            short_paths(&["/a/b/x", "/a/b/y/z", "/a/b/w"]),
            ["x", "y/z", "w"]
        );
        assert_eq!(short_paths(&["/a/b"]), ["b"]);
        assert_eq!(short_paths(&["a", "b"]), ["a", "b"]);
        assert_eq!(shared(["m.q", "m.q"].into_iter(), '.'), 1);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(cut("abcdefghij", 7), "ab…ghij");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("a\u{1b}[2Jb", 9), "a\u{fffd}[2Jb");
    }
}
