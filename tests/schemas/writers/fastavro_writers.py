"""The command of `java/`, as programs in Python write it with fastavro.

    python fastavro_writers.py SCHEMA FOLDER
"""

import datetime
import decimal
import io
import json
import pathlib
import sys

import fastavro

ISSUED = datetime.datetime(2026, 1, 2, 3, 4, 5, 123000, tzinfo=datetime.timezone.utc)


def order(**other):
    lines = [("SKU-1", "2.50", "件", True), ("SKU-2", "1000.25", None, False)]
    keys = ("spec_no", "num", "unit_name", "defect")
    details = [dict(zip(keys, (a, decimal.Decimal(b), c, d))) for a, b, c, d in lines]
    fixed = {"command_id": "w-1", "return_no": "CT2026-001", "warehouse_no": "WH-01", "create_mode": "SUBMITTED"}
    return {**fixed, "remark": "破损退货", "issued_at": ISSUED, "details": details, **other}


def schema(quantity, issued="timestamp-millis", more=()):
    line = [
        {"name": "defect", "type": "boolean"},
        {"name": "num", "type": quantity},
        {"name": "spec_no", "type": "string"},
        {"name": "unit_name", "type": ["string", "null"]},
    ]
    lines = {"type": "array", "items": {"type": "record", "name": "Line", "fields": line}}
    texts = [{"name": name, "type": "string"} for name in ("command_id", "return_no", "warehouse_no", "create_mode")]
    last = [
        {"name": "remark", "type": ["null", "string"], "default": None},
        {"name": "issued_at", "type": {"type": "long", "logicalType": issued}},
    ]
    fields = [*more, {"name": "details", "type": lines}, *texts, *last]
    return {"type": "record", "name": "Order", "namespace": "erp.订单", "fields": fields}


def decimals(kind, precision, scale, **other):
    return {"type": kind, "logicalType": "decimal", "precision": precision, "scale": scale, **other}


CAUSE = {
    "name": "cause",
    "type": [
        "null",
        {
            "type": "record",
            "name": "Cause",
            "fields": [
                {"name": "causes", "type": {"type": "array", "items": "Cause"}},
                {"name": "by", "type": {"type": "map", "values": "Cause"}},
                {"name": "none", "type": "null"},
            ],
        },
    ],
}
LEAF = {"causes": [], "by": {}, "none": None}


def main():
    own, folder = json.loads(pathlib.Path(sys.argv[1]).read_text("utf-8")), pathlib.Path(sys.argv[2])
    for name, text, value in [
        ("own", own, order()),
        ("micros", schema(decimals("bytes", 12, 2), "timestamp-micros"), order()),
        ("fixed", schema(decimals("fixed", 18, 3, name="Q", size=8)), order()),
        # `timestamp` on the wall clock of nobody knows where.
        ("local", schema(decimals("bytes", 12, 2), "local-timestamp-millis"), order(issued_at=ISSUED.replace(tzinfo=None))),
        ("cause", schema(decimals("bytes", 12, 2), more=[CAUSE]), order(cause={**LEAF, "causes": [LEAF, LEAF], "by": {"键": LEAF}})),
        ("double", schema("double"), order(details=[{"spec_no": "SKU-1", "num": 2.5, "unit_name": None, "defect": True}])),
    ]:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(text), value)
        kept = {"datum": out.getvalue().hex(), "schema": json.dumps(text, ensure_ascii=False, separators=(",", ":"))}
        path = folder / f"fastavro-{name}.json"
        path.write_text(json.dumps(kept, ensure_ascii=False, indent=2) + "\n", "utf-8")


main()
