"""Queries of the dashboard and the alerts: every metric, label and label value exists; every alert has its line in the runbook.

The names are those of deploy/metrics.md, which a test of the program compares with its code. The dashboard's queries are
written as rules to the file named by the argument, so that promtool parses them.
"""

import json
import re
import sys

import yaml

reference = open("deploy/metrics.md", encoding="utf-8").read()
metrics, words = {}, {}
for row in reference.splitlines():
    cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
    if len(cells) == 4 and re.match(r"`(wdt_connector|process)_", cells[0]):
        name, kind, labels = cells[0].strip("`"), cells[1], set(re.findall(r"`(\w+)`", cells[2]))
        names = [name + suffix for suffix in ("_bucket", "_sum", "_count")] if kind == "histogram" else [name]
        for one in names:
            metrics[one] = labels | ({"le"} if one.endswith("_bucket") else set())
    elif len(cells) == 2 and re.fullmatch(r"`\w+`", cells[0]):
        words[cells[0].strip("`")] = set(re.findall(r"`([^`]+)`", cells[1]))
    elif len(cells) == 2 and re.fullmatch(r"[a-z]+", cells[0]):
        # What a stage may come to.
        words.setdefault("result", set()).update(re.findall(r"`([^`]+)`", cells[1]))
if len(metrics) < 20:
    sys.exit("deploy/metrics.md names hardly any metric; has its form changed?")

NAME = r"\b(?:wdt_connector|process)_\w+"
# Given by Prometheus when it scrapes.
SCRAPE = {"instance", "job"}
problems = []


def check(where, query):
    for name in re.findall(NAME, query):
        if name not in metrics:
            problems.append(f"{where}: there is no metric {name}")
    for name, matchers in re.findall(rf"({NAME})\{{([^}}]*)\}}", query):
        for label, operator, value in re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"", matchers):
            if label in SCRAPE:
                continue
            if label not in metrics.get(name, {label}):
                problems.append(f"{where}: {name} has no label {label}")
            elif label not in {"le", "field", "version", "group"}:
                values = value.split("|") if operator in ("=~", "!~") else [value]
                # Of two words the reference explains the one that needs it.
                known = words.get(label, set()) | ({"false"} if "true" in words.get(label, set()) else set())
                for one in values:
                    if one not in known:
                        problems.append(f"{where}: {label} never is {one!r}")
    # One query speaks of several metrics, so a label need only be known to one of them.
    known = set().union(*(metrics.get(name, set()) for name in re.findall(NAME, query))) | SCRAPE
    for group in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query):
        for label in filter(None, (label.strip() for label in group.split(","))):
            if label not in known:
                problems.append(f"{where}: no metric of the query has the label {label}")


runbook = open("deploy/RUNBOOK.md", encoding="utf-8").read()
headings = {line.lstrip("# ").strip() for line in runbook.splitlines() if line.startswith("#")}
tests = yaml.safe_load(open("deploy/prometheus/alerts_test.yml", encoding="utf-8"))
fired = {case["alertname"] for test in tests["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]}
alerts = [rule for group in yaml.safe_load(open("deploy/prometheus/alerts.yml", encoding="utf-8"))["groups"] for rule in group["rules"]]
for rule in alerts:
    name = rule["alert"]
    check(name, rule["expr"])
    if name not in headings or rule["annotations"]["runbook"] != f"deploy/RUNBOOK.md#{name.lower()}":
        problems.append(f"{name} has no heading of its own in deploy/RUNBOOK.md, or its annotation leads elsewhere")
    if name not in fired:
        problems.append(f"no test of alerts_test.yml makes {name} fire")
for name in headings:
    if name.startswith("Wdt") and name not in {rule["alert"] for rule in alerts}:
        problems.append(f"deploy/RUNBOOK.md explains {name}, which is no alert")

dashboard = json.load(open("deploy/grafana/wdt-connector.json", encoding="utf-8"))
rules, ids = [], set()
for panel in dashboard["panels"]:
    if panel["id"] in ids:
        problems.append(f"panel id {panel['id']} is there twice")
    ids.add(panel["id"])
    for target in panel.get("targets", []):
        check(f"panel {panel['title']!r}", target["expr"])
        query = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
        if "$" in query:
            problems.append(f"panel {panel['title']!r}: an unknown variable in {query}")
        rules.append({"record": f"panel:{panel['id']}:{target['refId']}", "expr": query})
with open(sys.argv[1], "w", encoding="utf-8") as out:
    yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, out)
if problems:
    sys.exit("\n".join(problems))
print(f"{len(alerts)} alerts and {len(rules)} queries of the dashboard speak of {len(metrics)} metrics that exist")
