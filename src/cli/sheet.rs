//! CSV → commands as JSON objects: one row per detail line, rows of one command side by side.

use std::io::Read;

use csv::{Position, ReaderBuilder, StringRecord, Terminator};
use serde_json::{Map, Value};

use super::send::{Item, Refusal};

/// Columns of the command itself; the same in every row of it.
const COMMAND: [&str; 8] = [
    "command_id",
    "return_no",
    "warehouse_no",
    "logistics_code",
    "create_mode",
    "remark",
    "issued_at",
    "expires_at",
];
/// Columns of a detail line, with the field's name.
const LINE: [(&str, &str); 8] = [
    ("spec_no", "spec_no"),
    ("num", "num"),
    ("unit_name", "unit_name"),
    ("position_no", "position_no"),
    ("batch_no", "batch_no"),
    ("expire_date", "expire_date"),
    ("defect", "defect"),
    ("line_remark", "remark"),
];
const NEEDED: [&str; 5] = ["command_id", "return_no", "warehouse_no", "spec_no", "num"];

/// Why a file is no sheet of commands: one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct SheetFault(String);

/// Where each column's value goes.
#[derive(Debug)]
struct Columns(Vec<Column>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Command(&'static str),
    Line(&'static str),
}

impl Columns {
    fn read(header: &StringRecord) -> Result<Self, SheetFault> {
        let names: Vec<String> = header
            .iter()
            .map(|name| name.trim().trim_start_matches('\u{feff}').to_ascii_lowercase())
            .collect();
        let mut unknown = Vec::new();
        let mut columns = Vec::new();
        for name in &names {
            let command =
                COMMAND.iter().find(|known| *known == name).map(|known| Column::Command(known));
            let line =
                LINE.iter().find(|(known, _)| known == name).map(|(_, field)| Column::Line(field));
            match command.or(line) {
                Some(column) if columns.contains(&column) => {
                    return Err(SheetFault(format!("the column {name} is there twice")));
                }
                Some(column) => columns.push(column),
                None => unknown.push(format!("{name:?}")),
            }
        }
        let missing: Vec<&str> =
            NEEDED.into_iter().filter(|needed| !names.iter().any(|name| name == needed)).collect();
        let known: Vec<&str> =
            COMMAND.into_iter().chain(LINE.iter().map(|(known, _)| *known)).collect();
        if !unknown.is_empty() {
            return Err(SheetFault(format!(
                "the first row names unknown columns: {}; known are {}",
                unknown.join(", "),
                known.join(", ")
            )));
        }
        if !missing.is_empty() {
            return Err(SheetFault(format!(
                "the first row lacks the columns {}; it has to name the columns, with commas between (or set --delimiter)",
                missing.join(", ")
            )));
        }
        Ok(Self(columns))
    }
}

/// One command while its rows are gathered.
#[derive(Debug, Default)]
struct Sheaf {
    fields: Map<String, Value>,
    details: Vec<Value>,
    /// The line of the file where each detail stands.
    rows: Vec<u64>,
    refusals: Vec<Refusal>,
}

impl Sheaf {
    fn belongs(&self, fields: &Map<String, Value>) -> bool {
        !self.rows.is_empty()
            && ["return_no", "command_id"]
                .into_iter()
                .all(|key| self.fields.get(key) == fields.get(key))
    }

    fn add(&mut self, line: u64, fields: Map<String, Value>, detail: Map<String, Value>) {
        if self.rows.is_empty() {
            self.fields = fields;
        } else {
            // A blank cell repeats the first row; another value would silently lose.
            let other = fields.iter().find(|(key, value)| self.fields.get(*key) != Some(value));
            if let Some((key, value)) = other {
                let first = self.rows.first().copied().unwrap_or_default();
                self.refusals.push(Refusal {
                    line,
                    reason: format!(
                        "{key} = {value} differs from line {first} of the same command"
                    ),
                });
            }
        }
        self.details.push(Value::Object(detail));
        self.rows.push(line);
    }

    fn finish(self) -> Option<Item> {
        let line = self.rows.first().copied()?;
        let mut command = self.fields;
        command.insert("details".to_owned(), Value::Array(self.details));
        let content = if self.refusals.is_empty() {
            Ok(Value::Object(command).to_string().into_bytes())
        } else {
            Err(self.refusals)
        };
        Some(Item { line, rows: self.rows, content })
    }
}

/// Reads a whole sheet, handing out one item per command; ends when `take` says that nobody
/// listens.
///
/// # Errors
/// [`SheetFault`] for a first row that names other columns than those known; nothing was handed out
/// then.
pub(super) fn read(
    input: impl Read,
    delimiter: u8,
    mut take: impl FnMut(Item) -> bool,
) -> Result<(), SheetFault> {
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .terminator(Terminator::Any(b'\n'))
        .flexible(true)
        .has_headers(true)
        .from_reader(input);
    let header = reader.headers().map_err(|error| {
        SheetFault(format!("the first row cannot be read: {}", explain(&error)))
    })?;
    let columns = Columns::read(header)?;
    let mut sheaf = Sheaf::default();
    let mut record = StringRecord::new();
    loop {
        let line = reader.position().line();
        let refusal = match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let line = record.position().map_or(line, Position::line);
                match cells(&columns, &record) {
                    None => continue,
                    Some(Ok((fields, detail))) => {
                        if !sheaf.belongs(&fields)
                            && let Some(item) = std::mem::take(&mut sheaf).finish()
                            && !take(item)
                        {
                            return Ok(());
                        }
                        sheaf.add(line, fields, detail);
                        continue;
                    }
                    Some(Err(reason)) => Refusal { line, reason },
                }
            }
            Err(error) => Refusal {
                line: error.position().map_or(line, Position::line),
                reason: explain(&error),
            },
        };
        // Nobody knows to which command such a row belongs; those around it are not to blame.
        let open = std::mem::take(&mut sheaf).finish().is_none_or(&mut take);
        if !open
            || !take(Item { line: refusal.line, rows: Vec::new(), content: Err(vec![refusal]) })
        {
            return Ok(());
        }
    }
    if let Some(item) = sheaf.finish() {
        take(item);
    }
    Ok(())
}

type Cells = (Map<String, Value>, Map<String, Value>);

/// The cells of one row; `None` for an empty row.
fn cells(columns: &Columns, record: &StringRecord) -> Option<Result<Cells, String>> {
    if record.iter().all(|cell| cell.trim().is_empty()) {
        return None;
    }
    if record.len() != columns.0.len() {
        return Some(Err(format!(
            "the row has {} cells and the first row {}; put cells that hold a comma in quotes",
            record.len(),
            columns.0.len()
        )));
    }
    let (mut fields, mut detail) = (Map::new(), Map::new());
    for (column, cell) in columns
        .0
        .iter()
        .zip(record.iter())
        .map(|(column, cell)| (column, cell.trim()))
        .filter(|(_, cell)| !cell.is_empty())
    {
        match column {
            Column::Command(name) => fields.insert((*name).to_owned(), Value::from(cell)),
            Column::Line(name @ "defect") => detail.insert((*name).to_owned(), flag(cell)),
            Column::Line(name) => detail.insert((*name).to_owned(), Value::from(cell)),
        };
    }
    Some(Ok((fields, detail)))
}

/// What a spreadsheet makes of true and false; anything else stays a text, and is refused by name.
fn flag(cell: &str) -> Value {
    match cell.to_ascii_lowercase().as_str() {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => Value::from(cell),
    }
}

fn explain(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => {
            "the row is not UTF-8; save the sheet as \"CSV UTF-8\"".to_owned()
        }
        csv::ErrorKind::Io(error) => format!("cannot be read: {error}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &[u8]) -> Vec<Item> {
        let mut found = Vec::new();
        read(text, b',', |item| {
            found.push(item);
            true
        })
        .unwrap();
        found
    }

    fn json(item: &Item) -> Value {
        serde_json::from_slice(item.content.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn rows_side_by_side_are_one_command() {
        let text = "\u{feff}Command_ID,return_no,warehouse_no,spec_no,num,defect,line_remark,remark\r\n\
            c1,R1,W1,S1,2,TRUE,\"a, b\",\r\n\
            c1,R1,W1,S2,1.5000,,,\r\n\
            \r\n\
            c2,R1,,S1,1,,,请\r\n";
        let all = items(text.as_bytes());
        assert_eq!(all.len(), 2);
        let first = json(&all[0]);
        assert_eq!(
            first["details"][0],
            serde_json::json!({ "spec_no": "S1", "num": "2", "defect": true, "remark": "a, b" })
        );
        assert_eq!(first["details"][1]["num"], "1.5000");
        assert_eq!((all[0].line, all[0].rows.as_slice()), (2, &[2, 3][..]));
        let second = json(&all[1]);
        assert_eq!(
            (all[1].line, second["remark"].as_str(), second.get("warehouse_no")),
            (5, Some("请"), None)
        );
    }

    #[test]
    fn a_row_that_contradicts_its_command_is_named() {
        let all = items(b"command_id,return_no,warehouse_no,spec_no,num\nc1,R1,W1,S1,1\nc1,R1,W2,S1,1\nc2,R2,W2,S1,1\n");
        let refusals = all[0].content.as_ref().unwrap_err();
        assert_eq!(refusals[0].line, 3);
        assert!(
            refusals[0].reason.contains("warehouse_no") && refusals[0].reason.contains("line 2"),
            "{refusals:?}"
        );
        assert!(all[1].content.is_ok());
    }

    #[test]
    fn a_broken_row_spoils_only_itself() {
        let all = items(b"command_id,return_no,warehouse_no,spec_no,num\nc1,R1,W1,S1,1\nc2,R2\nc3,\xff,W1,S1,1\nc4,R4,W1,S1,1\n");
        let lines: Vec<(u64, bool)> =
            all.iter().map(|item| (item.line, item.content.is_ok())).collect();
        assert_eq!(lines, [(2, true), (3, false), (4, false), (5, true)]);
        assert!(all[2].content.as_ref().unwrap_err()[0].reason.contains("UTF-8"));
    }

    #[test]
    fn the_first_row_has_to_name_known_columns() {
        let refused = |text: &[u8]| read(text, b',', |_| true).unwrap_err().0;
        assert!(
            refused(b"command_id,return_no,warehouse_no,spec_no,num,colour\n")
                .contains("\"colour\"")
        );
        assert!(refused(b"c1,R1,W1,S1,1\n").contains("unknown columns"));
        assert!(
            refused(b"command_id,return_no,warehouse_no,spec_no\n")
                .contains("lacks the columns num")
        );
        assert!(refused(b"num,num,command_id\n").contains("twice"));
        assert!(refused(b"").contains("lacks the columns"));
    }
}
