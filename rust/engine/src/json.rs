//! Rows as JSON text, an object a line.
//!
//! Turning a row into Python objects, and those into text, costs ten times what reducing a small
//! tensor does; so the text of 200,000 rows is made here, a slice at a time. It is what Python's
//! `json` writes: ASCII, `", "` and `": "` between the parts, floats as `repr` has them. What JSON
//! has no word for is a string (`NaN`, `Infinity`, `-Infinity`), and what is undefined is `null`.

use std::fmt::{Arguments, Write as _};
use std::ops::Range;

use ckptdiff_kernels::Histogram;

use crate::table::{Cell, Table, python_float};

/// Enough for a row of a diff with a name of usual length, so that the text grows once at most.
const ROW_BYTES: usize = 900;

/// Rows as JSON objects, with `",\n"` between them. A row has its histogram where there is one.
pub fn json_rows(table: &impl Table, rows: Range<usize>) -> String {
    let keys: Vec<String> = table
        .column_names()
        .enumerate()
        .map(|(position, name)| {
            let mut key = String::from(if position == 0 { "{" } else { ", " });
            push_text(&mut key, name);
            key.push_str(": ");
            key
        })
        .collect();
    let mut out = String::with_capacity(rows.len() * ROW_BYTES);
    for row in rows.clone() {
        if row > rows.start {
            out.push_str(",\n");
        }
        for (key, cell) in keys.iter().zip(table.row(row)) {
            out.push_str(key);
            push_cell(&mut out, &cell);
        }
        if let Some(histogram) = table.histogram(row) {
            out.push_str(", \"histogram\": ");
            push_histogram(&mut out, histogram);
        }
        out.push('}');
    }
    out
}

fn push(out: &mut String, arguments: Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(arguments);
}

fn push_cell(out: &mut String, cell: &Cell<'_>) {
    match cell {
        Cell::Null => out.push_str("null"),
        Cell::Count(count) => push(out, format_args!("{count}")),
        Cell::Integer(integer) => push(out, format_args!("{integer}")),
        Cell::Float(float) => push_float(out, *float),
        Cell::Word(word) => push_text(out, word),
        Cell::Text(text) => push_text(out, text),
        Cell::Tuple(tuple) => push_array(out, tuple.iter(), |out, number| {
            push(out, format_args!("{number}"));
        }),
    }
}

fn push_float(out: &mut String, float: f64) {
    if float.is_nan() {
        out.push_str("\"NaN\"");
    } else if float.is_infinite() {
        out.push_str(if float > 0.0 {
            "\"Infinity\""
        } else {
            "\"-Infinity\""
        });
    } else {
        python_float(out, float);
    }
}

fn push_histogram(out: &mut String, histogram: &Histogram) {
    push(
        out,
        format_args!("{{\"zeros\": {}, \"log2\": ", histogram.zeros()),
    );
    push_array(out, histogram.bins(), |out, (exponent, count)| {
        push(out, format_args!("[{exponent}, {count}]"));
    });
    out.push('}');
}

fn push_array<T>(
    out: &mut String,
    items: impl Iterator<Item = T>,
    mut push_item: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (position, item) in items.enumerate() {
        if position > 0 {
            out.push_str(", ");
        }
        push_item(out, item);
    }
    out.push(']');
}

/// A JSON string in ASCII: what is beyond is escaped as UTF-16, as JSON has it.
fn push_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    push(out, format_args!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn text_of(cell: &Cell<'_>) -> String {
        let mut out = String::new();
        push_cell(&mut out, cell);
        out
    }

    #[test]
    fn every_kind_of_cell_is_strict_json() {
        for (cell, text) in [
            (Cell::Null, "null"),
            (Cell::Count(u64::MAX), "18446744073709551615"),
            (Cell::Integer(-(1 << 65)), "-36893488147419103232"),
            (Cell::Float(-0.0), "-0.0"),
            (Cell::Float(1e-7), "1e-07"),
            (Cell::Float(f64::NAN), "\"NaN\""),
            (Cell::Float(f64::INFINITY), "\"Infinity\""),
            (Cell::Float(f64::NEG_INFINITY), "\"-Infinity\""),
            (Cell::Word("equal"), "\"equal\""),
            (Cell::Tuple(Cow::Borrowed(&[])), "[]"),
            (Cell::Tuple(Cow::Borrowed(&[3, 0])), "[3, 0]"),
        ] {
            assert_eq!(text_of(&cell), text);
        }
    }

    #[test]
    fn text_reads_back_as_it_was() {
        let all: String = ('\0'..='\u{2ff}')
            .chain(['\u{2028}', '\u{ffff}', '😀', '\u{10ffff}'])
            .collect();
        let written = text_of(&Cell::Text(Cow::Borrowed(&all)));
        assert!(written.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), all);
    }
}
