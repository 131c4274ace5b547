"""schemas/asyncapi.yaml against what the program uses: topics of the defaults, a schema for each, the version, the README's table."""

import json
import pathlib
import re
import sys
import tomllib

import yaml

document = yaml.safe_load(open("schemas/asyncapi.yaml", encoding="utf-8"))
defaults = tomllib.load(open("deploy/connector.default.toml", "rb"))["topics"]
version = tomllib.load(open("Cargo.toml", "rb"))["package"]["version"]
problems = []

if document["info"]["version"] != version:
    problems.append(f"asyncapi.yaml is of version {document['info']['version']}, Cargo.toml of {version}")
chart = yaml.safe_load(open("deploy/helm/wdt-connector/Chart.yaml", encoding="utf-8"))
if {chart["version"], chart["appVersion"]} != {version}:
    problems.append(f"the chart is of another version than Cargo.toml, {version}")

addresses = {channel["address"] for channel in document["channels"].values()}
for name in set(defaults.values()) ^ addresses:
    problems.append(f"the topic {name} stands in only one of asyncapi.yaml and deploy/connector.default.toml")
readme = pathlib.Path("README.md").read_text(encoding="utf-8")
for name in addresses:
    if f"| `{name}`" not in readme:
        problems.append(f"README.md's table of topics lacks {name}")

files = {path.name for path in pathlib.Path("schemas").glob("*.avsc")}
text = pathlib.Path("schemas/asyncapi.yaml").read_text(encoding="utf-8")
used = set(re.findall(r"\./(\w+\.avsc)", text))
# The records inside the envelopes stand alone in no topic.
for name in (files - used) - {"PurchaseReturn.avsc", "ReturnOutbound.avsc"}:
    problems.append(f"no message of asyncapi.yaml carries {name}")
for name in used:
    json.load(open(f"schemas/{name}", encoding="utf-8"))

code = "".join(path.read_text(encoding="utf-8") for folder in ("src/sink", "src/source") for path in pathlib.Path(folder).rglob("*.rs"))
for name in document["components"]["schemas"]["DeadLetterHeaders"]["properties"]:
    if f'"{name.removeprefix("__connect.errors.")}"' not in code and f'"{name}"' not in code:
        problems.append(f"no code writes the header {name}")
if problems:
    sys.exit("\n".join(problems))
print(f"{len(addresses)} topics, {len(used)} schemas")
