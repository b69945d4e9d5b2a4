//! Text and tables as HTML, in the classes of the daemon's page.

use chrono::{DateTime, Utc};

use crate::replay::report::format::{minute, words};

/// Text made safe for HTML's content and attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A moment in UTC, to the minute.
pub(super) fn time(at: DateTime<Utc>) -> String {
    format!("<time datetime=\"{}\">{}</time>", at.to_rfc3339(), minute(at))
}

/// How a cycle ended, as a coloured label.
pub(super) fn outcome(outcome: &str) -> String {
    let tone = match outcome {
        "deployed" => "ok",
        "kept_live" => "plain",
        "rolled_back" | "cancelled" => "warn",
        _ => "bad",
    };
    format!("<span class=\"badge {tone}\">{}</span>", escaped(&words(outcome)))
}

/// Where the script puts a chart.
pub(super) fn chart(name: &str) -> String {
    format!("<div data-chart=\"{name}\"></div>")
}

/// Says that there is nothing.
pub(super) fn nothing(text: &str) -> String {
    format!("<p class=\"none\">{}</p>", escaped(text))
}

/// A table whose rows are cards on a phone; the first column names the row. A heading
/// that begins with `#` makes its column one of numbers. `rows` are cells of HTML.
pub(super) fn table(caption: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let column = |title: &str| match title.strip_prefix('#') {
        Some(title) => (escaped(title), " class=\"number\""),
        None => (escaped(title), ""),
    };
    let columns: Vec<_> = header.iter().map(|title| column(title)).collect();
    let header: String =
        columns.iter().map(|(title, class)| format!("<th scope=\"col\"{class}>{title}</th>")).collect();
    let cell = |(index, cell): (usize, &String)| match &columns[index] {
        _ if index == 0 => format!("<th scope=\"row\">{cell}</th>"),
        (title, class) => format!("<td{class} data-name=\"{title}\"><div>{cell}</div></td>"),
    };
    let rows: String = rows
        .iter()
        .map(|cells| format!("<tr>{}</tr>", cells.iter().enumerate().map(cell).collect::<String>()))
        .collect();
    format!(
        "<div class=\"scroll\"><table class=\"cards\"><caption class=\"unseen\">{}</caption><thead><tr>{header}</tr></thead>\
         <tbody>{rows}</tbody></table></div>",
        escaped(caption)
    )
}
