//! What is wrong with the form of a configuration, by key: what was found, what
//! was expected, and which key was probably meant.

use figment::error::Kind;

/// Every fault of the form, a sentence each.
pub(super) fn faults_of(error: figment::Error) -> Vec<String> {
    error.into_iter().map(|one| sentence(&one)).collect()
}

fn sentence(error: &figment::Error) -> String {
    let mut path: Vec<&str> = error.path.iter().map(String::as_str).collect();
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains("environment"));
    let place = if from_environment { " (from the environment)" } else { "" };
    match &error.kind {
        Kind::UnknownField(name, known) => {
            if path.last() == Some(&name.as_str()) {
                path.pop();
            }
            let key = |name: &str| path.iter().copied().chain([name]).collect::<Vec<_>>().join(".");
            let hint = match nearest(name, known) {
                Some(meant) => format!("did you mean {}?", key(meant)),
                None => format!("the keys there are {}", known.join(", ")),
            };
            format!("{}{place} is not a key; {hint}", key(name))
        }
        Kind::UnknownVariant(name, known) => {
            format!("{}{place} is {name:?}; expected {}", path.join("."), quoted(known))
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("{}{place} is {found}; expected {}", path.join("."), plain(expected))
        }
        other if path.is_empty() => format!("{other}{place}"),
        other => format!("{}{place}: {other}", path.join(".")),
    }
}

/// `"a", "b" or "c"`.
fn quoted(known: &[&str]) -> String {
    let names: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "nothing".to_owned(),
    }
}

/// Types as people call them.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        other => other,
    }
}

/// The known name that differs in the fewest letters, where those are few.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let close = |other: &&&str| distance(name, other) <= (name.chars().count() / 3).max(1);
    known.iter().filter(close).min_by_key(|other| distance(name, other)).copied()
}

/// Letters to insert, leave out or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = row[j] + usize::from(from != *to);
            next.push(replaced.min(row[j + 1] + 1).min(next[j] + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_nearly_right_leads_to_the_right_one() {
        let known = ["hidden", "blocks", "history_half_life_days"];
        for (name, meant) in [
            ("hiden", Some("hidden")),
            ("block", Some("blocks")),
            ("history_halflife_days", Some("history_half_life_days")),
            ("optimiser", None),
        ] {
            assert_eq!(nearest(name, &known), meant, "{name}");
        }
        assert_eq!((distance("kitten", "sitting"), distance("", "ab"), distance("ab", "")), (3, 2, 2));
    }
}
