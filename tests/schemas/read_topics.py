"""Reads the values of every topic, as the tests left them in a folder, with fastavro: an implementation that shares
nothing with ours.

    cargo test --test it -- laid_out && venv/bin/python tests/schemas/read_topics.py target/tmp/topic-bytes

`<framing>/<topic>/<n>.bin` is a value byte for byte, `<n>.json` what the connector reads in it, `schema-<id>.avsc` what
the registry gave. Exits 1 when a topic is missing, a value cannot be read or says something else.
"""

import io
import json
import pathlib
import sys

import fastavro
import fastavro.schema

from read_golden import plain

HERE = pathlib.Path(__file__).resolve().parent
SCHEMAS = HERE.parent.parent / "schemas"
TOPICS = {
    "commands": "CreateReturnOutbound",
    "results": "CommandResult",
    "journal": "JournalEntry",
    "purchase_returns": "PurchaseReturnEnvelope",
    "return_outbounds": "ReturnOutboundEnvelope",
    "feeds_state": "FeedState",
}


def schema_of(framing, topic, path, content):
    if framing == "confluent":
        assert content[0] == 0, "no Confluent header"
        text = (path.parent / f"schema-{int.from_bytes(content[1:5], 'big')}.avsc").read_text("utf-8")
        return fastavro.parse_schema(json.loads(text)), content[5:]
    schema = fastavro.parse_schema(json.loads((SCHEMAS / f"{TOPICS[topic]}.avsc").read_text("utf-8")))
    fingerprint = fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO")
    assert content[:2] == b"\xc3\x01", "no single-object header"
    assert content[2:10] == bytes.fromhex(fingerprint), f"fingerprint {content[2:10].hex()}, fastavro says {fingerprint}"
    return schema, content[10:]


def check(framing, topic, path):
    schema, datum = schema_of(framing, topic, path, path.read_bytes())
    stream = io.BytesIO(datum)
    value = plain(fastavro.schemaless_reader(stream, schema))
    assert stream.read() == b"", "bytes after the value"
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert value == expected, f"fastavro reads {json.dumps(value, ensure_ascii=False)}"


def main(root):
    passed = failed = 0
    for framing in ("single", "confluent"):
        for topic in TOPICS:
            paths = sorted((root / framing / topic).glob("*.bin"))
            if not paths:
                failed += 1
                print(f"{framing}/{topic}: no values; the tests that lay them out did not run", file=sys.stderr)
            for path in paths:
                try:
                    check(framing, topic, path)
                    passed += 1
                except Exception as error:  # every value is judged, whatever is wrong with one
                    failed += 1
                    print(f"{framing}/{topic}/{path.name}: {error}", file=sys.stderr)
    print(f"{passed} values read, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
