//! Lines for a terminal of any width.

/// Narrower terminals are those that do not know their width.
const NARROWEST: usize = 20;

/// The width of the terminal that the standard output goes to; `None` if it goes elsewhere.
pub fn terminal_width() -> Option<usize> {
    let width = comfy_table::Table::new().width().map(usize::from);
    width.filter(|&width| width >= NARROWEST)
}

/// A line broken between words so that no part is wider than `width`, unless a single word is. What
/// follows the first part of an item of a list stands below its text.
pub fn wrapped(line: &str, width: usize) -> String {
    let indent = if line.starts_with("- ") { "  " } else { "" };
    let (mut text, mut taken) = (String::new(), 0);
    for word in line.split(' ') {
        let length = word.chars().count();
        if taken > 0 && taken + 1 + length > width {
            text.push('\n');
            text.push_str(indent);
            taken = indent.len();
        } else if taken > 0 {
            text.push(' ');
            taken += 1;
        }
        text.push_str(word);
        taken += length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_whole_and_lines_within_the_width() {
        let line = "- note: seven words stand in this line";
        assert_eq!(wrapped(line, 80), line);
        assert_eq!(
            wrapped(line, 16),
            "- note: seven\n  words stand in\n  this line"
        );
        assert_eq!(wrapped("a unbreakable b", 5), "a\nunbreakable\nb");
        for width in 1..60 {
            let parts = wrapped(line, width);
            let words: Vec<&str> = parts.split_whitespace().collect();
            assert_eq!(words.join(" "), line);
            for part in parts.lines().filter(|part| part.trim().contains(' ')) {
                assert!(part.chars().count() <= width, "{width}: {part:?}");
            }
        }
    }
}
