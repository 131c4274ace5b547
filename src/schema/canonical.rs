//! A schema's fingerprint: CRC-64-AVRO of its Parsing Canonical Form (Avro specification).
//!
//! `apache-avro` 0.22 keeps a logical type's precision and scale in the canonical form and writes
//! `{"type":"long"}` for `"long"`, so its fingerprints of our schemas are not those of Java or
//! Python.

use serde_json::Value;

/// The fingerprint of a schema's JSON.
pub(crate) fn fingerprint(schema: &Value) -> u64 {
    let mut form = String::new();
    put(schema, "", &mut form);
    crc(form.as_bytes())
}

/// Appends the canonical form; `namespace` is the enclosing one.
fn put(schema: &Value, namespace: &str, out: &mut String) {
    match schema {
        Value::String(name) => put_text(&full_name(name, namespace), out),
        Value::Array(branches) => {
            put_list(branches, out, |branch, out| put(branch, namespace, out))
        }
        Value::Object(object) => {
            let text = |key: &str| object.get(key).and_then(Value::as_str);
            let list = |key: &str| {
                object.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
            };
            let (kind, name) = (text("type").unwrap_or_default(), text("name").unwrap_or_default());
            let own = text("namespace")
                .or_else(|| name.rsplit_once('.').map(|(namespace, _)| namespace))
                .unwrap_or(namespace);
            let put_head = |out: &mut String| {
                out.push_str("{\"name\":");
                put_text(&full_name(name, own), out);
                out.push_str(",\"type\":");
                put_text(kind, out);
            };
            match kind {
                "record" | "error" => {
                    put_head(out);
                    out.push_str(",\"fields\":");
                    put_list(list("fields"), out, |field, out| {
                        out.push_str("{\"name\":");
                        put_text(
                            field.get("name").and_then(Value::as_str).unwrap_or_default(),
                            out,
                        );
                        out.push_str(",\"type\":");
                        put(field.get("type").unwrap_or(&Value::Null), own, out);
                        out.push('}');
                    });
                    out.push('}');
                }
                "enum" => {
                    put_head(out);
                    out.push_str(",\"symbols\":");
                    put_list(list("symbols"), out, |symbol, out| {
                        put_text(symbol.as_str().unwrap_or_default(), out)
                    });
                    out.push('}');
                }
                "fixed" => {
                    put_head(out);
                    out.push_str(&format!(
                        ",\"size\":{}}}",
                        object.get("size").and_then(Value::as_u64).unwrap_or(0)
                    ));
                }
                "array" | "map" => {
                    let inner = if kind == "array" { "items" } else { "values" };
                    out.push_str(&format!("{{\"type\":\"{kind}\",\"{inner}\":"));
                    put(object.get(inner).unwrap_or(&Value::Null), namespace, out);
                    out.push('}');
                }
                // A primitive with attributes, or a type in brackets of its own: only the type
                // counts.
                _ => put(object.get("type").unwrap_or(&Value::Null), namespace, out),
            }
        }
        // No schema; the parser has refused it before.
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Names in canonical form carry their namespace; those of primitives have none.
fn full_name(name: &str, namespace: &str) -> String {
    let primitive = matches!(
        name,
        "null" | "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string"
    );
    if primitive || name.contains('.') || namespace.is_empty() {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

/// Names and symbols are letters, digits and underscores: nothing to escape.
fn put_text(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

fn put_list(items: &[Value], out: &mut String, item: impl Fn(&Value, &mut String)) {
    out.push('[');
    for (at, value) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        item(value, out);
    }
    out.push(']');
}

/// CRC-64-AVRO (Rabin's fingerprint), bit by bit: it runs once per schema.
fn crc(bytes: &[u8]) -> u64 {
    const EMPTY: u64 = 0xc15d_213a_a4d7_a795;
    bytes.iter().fold(EMPTY, |crc, byte| {
        let folded = crc ^ u64::from(*byte);
        (0..8).fold(folded, |crc, _| if crc & 1 == 1 { (crc >> 1) ^ EMPTY } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> String {
        let mut out = String::new();
        put(&serde_json::from_str(text).unwrap(), "", &mut out);
        out
    }

    /// Vectors of the Avro project (`share/test/data/schema-tests.txt`).
    #[test]
    fn fingerprints_are_those_of_the_avro_project() {
        for (text, wanted) in [
            (r#""null""#, 7_195_948_357_588_979_594_i64),
            (r#"{"type":"null"}"#, 7_195_948_357_588_979_594),
            (r#""int""#, 8_247_732_601_305_521_295),
            (r#"{"type":"fixed","name":"foo","size":15}"#, 1_756_455_273_707_447_556),
            (
                r#"{"type":"record","name":"foo","fields":[{"name":"f1","type":"boolean"}]}"#,
                7_843_277_075_252_814_651,
            ),
        ] {
            assert_eq!(
                fingerprint(&serde_json::from_str(text).unwrap()).cast_signed(),
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn only_what_decides_about_bytes_stays() {
        assert_eq!(
            form(
                r#"{"doc":"x","fields":[
                    {"type":{"type":"long","logicalType":"timestamp-millis"},"default":1,"name":"a"},
                    {"name":"b","type":["null",{"logicalType":"decimal","type":"bytes","scale":4,"precision":19}]},
                    {"name":"c","type":{"type":"map","values":{"type":"enum","symbols":["X"],"name":"E"}}},
                    {"name":"d","type":{"items":"E","type":"array"},"aliases":["e"]}
                ],"name":"R","namespace":"n.s","type":"record"}"#
            ),
            concat!(
                r#"{"name":"n.s.R","type":"record","fields":[{"name":"a","type":"long"},{"name":"b","type":["null","bytes"]},"#,
                r#"{"name":"c","type":{"type":"map","values":{"name":"n.s.E","type":"enum","symbols":["X"]}}},"#,
                r#"{"name":"d","type":{"type":"array","items":"n.s.E"}}]}"#
            )
        );
    }
}
