"""Every configuration in deploy/: the program takes it, and so does the JSON Schema that editors use."""

import json
import os
import pathlib
import subprocess
import sys
import tomllib

import jsonschema
import yaml

program, scratch = sys.argv[1], pathlib.Path(sys.argv[2])
schema = json.load(open("deploy/connector.schema.json", encoding="utf-8"))
jsonschema.Draft202012Validator.check_schema(schema)
judge = jsonschema.Draft202012Validator(schema)

chart = next(one for one in yaml.safe_load_all(open("deploy/kubernetes/wdt-connector.yaml", encoding="utf-8")) if one and one["kind"] == "ConfigMap")
texts = {
    "deploy/connector.default.toml": pathlib.Path("deploy/connector.default.toml").read_text(encoding="utf-8"),
    "deploy/compose/connector.toml": pathlib.Path("deploy/compose/connector.toml").read_text(encoding="utf-8"),
    "deploy/kubernetes/wdt-connector.yaml": chart["data"]["connector.toml"],
}
environment = {
    "PATH": os.environ["PATH"],
    "WDT__ERP__FLAGSHIP__SECRET": "x:y",
    "WDT__HTTP__TOKEN": "x",
}
for name, text in texts.items():
    values = tomllib.loads(text)
    for error in judge.iter_errors(values):
        sys.exit(f"{name} does not hold for the JSON Schema: {list(error.path)}: {error.message}")
    file = scratch / "connector.toml"
    # The paths of secrets exist in the cluster only.
    file.write_text("".join(line for line in text.splitlines(keepends=True) if "_file = \"/run/" not in line), encoding="utf-8")
    run = subprocess.run([program, "config", "check", "--json", "--config", file], env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{name}: {run.stdout}{run.stderr}")
    print(f"{name} holds")
# A schema that lets everything pass would check nothing.
for wrong in ({"comands": {}}, {"commands": {"enabled": "yes"}}, {"commands": {"intent_ttl": "15"}}, {"erp": {"flagship": {"secret": "x"}}}):
    if judge.is_valid(wrong):
        sys.exit(f"the JSON Schema lets {wrong} pass")
