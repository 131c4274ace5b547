"""Reads the kept files of `golden/` and `released/` with fastavro: an implementation that shares nothing with ours.

    python -m venv venv && venv/bin/pip install fastavro && venv/bin/python tests/schemas/read_golden.py

For every file: the framing, the fingerprint as fastavro computes it, the value against the expected JSON, and that
fastavro writes the same bytes. Exits 1 and names the file when one differs.
"""

import datetime
import decimal
import io
import json
import pathlib
import sys

import fastavro
import fastavro.schema

HERE = pathlib.Path(__file__).resolve().parent
SCHEMAS = HERE.parent.parent / "schemas"


def kept():
    """File and folder of its schema: `golden/` has today's values, `released/N/` those of release N."""
    golden = [(path, SCHEMAS) for path in (HERE / "golden").glob("*.bin")]
    # What has no expected JSON is the integration tests' own.
    released = [
        (path, SCHEMAS / "released" / path.parent.name)
        for path in (HERE / "released").glob("*/*.bin")
        if not path.name.startswith("upgrade.")
    ]
    return sorted(golden + released)


def plain(value):
    """The value in the form of the expected JSON."""
    if isinstance(value, decimal.Decimal):
        return f"{value:.4f}"
    if isinstance(value, datetime.datetime):
        utc = value.astimezone(datetime.timezone.utc)
        return utc.strftime("%Y-%m-%dT%H:%M:%S.") + f"{utc.microsecond // 1000:03d}Z"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value


def check(path, schemas):
    schema_name, value_name, framing, _ = path.name.split(".")
    schema = fastavro.parse_schema(json.loads((schemas / f"{schema_name}.avsc").read_text("utf-8")))
    content = path.read_bytes()
    if framing == "single":
        canonical = fastavro.schema.to_parsing_canonical_form(schema)
        fingerprint = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
        assert content[:2] == b"\xc3\x01", "no single-object header"
        assert content[2:10] == fingerprint, f"fingerprint {content[2:10].hex()}, fastavro says {fingerprint.hex()}"
        datum = content[10:]
    else:
        assert framing == "confluent" and content[0] == 0, "no Confluent header"
        assert 1 <= int.from_bytes(content[1:5], "big") <= 6, "the tests give the ids 1 to 6"
        datum = content[5:]
    stream = io.BytesIO(datum)
    value = fastavro.schemaless_reader(stream, schema)
    assert stream.read() == b"", "bytes after the value"
    expected = json.loads((path.parent / f"{schema_name}.{value_name}.json").read_text("utf-8"))
    assert plain(value) == expected, f"fastavro reads {json.dumps(plain(value), ensure_ascii=False)}"
    again = io.BytesIO()
    fastavro.schemaless_writer(again, schema, value)
    assert again.getvalue() == datum, "fastavro writes other bytes"


def main():
    files = kept()
    failed = 0
    for path, schemas in files:
        try:
            check(path, schemas)
        except Exception as error:  # every file is judged, whatever is wrong with one
            failed += 1
            print(f"{path.relative_to(HERE)}: {error}", file=sys.stderr)
    print(f"{len(files) - failed} passed, {failed} failed")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main())
