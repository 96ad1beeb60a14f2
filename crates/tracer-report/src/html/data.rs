//! The data that the page's script draws, as JSON that cannot close the element around it.

use std::io;

use serde_json::{Value, json};

use super::super::chart::Charts;
use super::shown;

/// The timeline and the stacks.
pub(super) fn json(charts: &Charts) -> io::Result<String> {
    let value = json!({ "timeline": charts.timeline, "stacks": charts.stacks });
    Ok(inert(&serde_json::to_string(&safe(value))?))
}

/// The script inserts strings into the page as text; they are made safe here, like all others.
fn safe(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(shown(&text).into_owned()),
        Value::Array(all) => all.into_iter().map(safe).collect(),
        Value::Object(all) => all.into_iter().map(|(name, value)| (name, safe(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

/// JSON contains these characters in strings only, where an escape has the same meaning.
fn inert(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_value_without_markup() {
        let text = "</script><!--\u{2028}&\u{2029}\"x\\";
        let json = inert(&serde_json::to_string(text).expect("JSON"));
        assert!(!json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
    }

    #[test]
    fn strings_at_any_depth_are_made_safe() {
        let value = safe(json!({ "a": [{ "b": "x\u{1b}[2J" }], "n": 1 }));
        assert_eq!(value, json!({ "a": [{ "b": "x\\x1b[2J" }], "n": 1 }));
    }
}
