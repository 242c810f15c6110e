//! Words for messages: lists of what is known, and the nearest of it to what was written.

/// `` `a`, `b` and `c` ``.
pub fn list<S: AsRef<str>>(names: &[S]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// ` (did you mean X?)` where one of the names is near, else nothing.
pub fn did_you_mean<S: AsRef<str>>(found: &str, names: &[S]) -> String {
    let nearest = names.iter().map(|name| (distance(found, name.as_ref()), name.as_ref())).min();
    match nearest {
        Some((steps, name)) if steps < found.len() && steps <= 1.max(found.len() / 2) => {
            format!(" (did you mean `{name}`?)")
        }
        _ => String::new(),
    }
}

/// Levenshtein's: the fewest letters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_only_if_it_is_near() {
        let names = ["in", "out", "inout", "structure"];
        assert_eq!(did_you_mean("inn", &names), " (did you mean `in`?)");
        assert_eq!(did_you_mean("strukture", &names), " (did you mean `structure`?)");
        assert_eq!(did_you_mean("mutable", &names), "");
        assert_eq!(did_you_mean("Q", &["T", "S"]), "");
    }

    #[test]
    fn lists_read_as_english() {
        assert_eq!(list::<&str>(&[]), "");
        assert_eq!(list(&["a"]), "`a`");
        assert_eq!(list(&["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
