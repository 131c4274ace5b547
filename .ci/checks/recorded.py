"""Alert rules against metrics that were recorded from a pair of instances: what fires in which state, and when.

Each recording of deploy/prometheus/recorded (made by tests/it/recorded.rs) is a list of series with the value and the growth a
minute. It is extended over six hours, after two in which the counters stood still: what they count is not new. The alerts that
fire are compared with expected.json beside it: {state: {time: ["<alert> of <instance>", ...]}}; an alert about no single instance
stands alone.

usage: recorded.py ALERTS SCRATCH [--update]
"""

import json
import pathlib
import re
import subprocess
import sys

# Minutes after the state began.
TIMES = {"20m": 20, "75m": 75, "5h": 300}
BEFORE, MINUTES = 120, 360
folder = pathlib.Path("deploy/prometheus/recorded")
alerts, scratch = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
known = pathlib.Path("deploy/metrics.md").read_text(encoding="utf-8")
problems = []


def series_of(recording):
    """The series of a recording as promtool wants them."""
    for line in recording.read_text(encoding="utf-8").splitlines():
        series, value, growth = line.rsplit(" ", 2)
        name = series.split("{")[0]
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        if name != "up" and f"| `{name}` |" not in known and f"| `{family}` |" not in known:
            problems.append(f"{recording}: there is no metric {name}; record anew")
        counts = re.search(r"_(total|bucket|sum|count)$", name)
        before = f"{value}+0x{BEFORE - 1}" if counts else f"_x{BEFORE}"
        yield {"series": series, "values": f"{before} {value}+{growth}x{MINUTES}"}


def firing(recording):
    """What fires at each of the times, by promtool's own account."""
    case = {
        "name": recording.stem,
        "interval": "1m",
        "input_series": list(series_of(recording)),
        # Nothing is expected: whatever there is, promtool lists as a difference.
        "promql_expr_test": [
            {"expr": f'ALERTS{{alertstate="firing"}} unless vector({minutes})', "eval_time": f"{BEFORE + minutes}m", "exp_samples": []}
            for minutes in TIMES.values()
        ],
    }
    file = scratch / f"recorded-{recording.stem}.json"
    # JSON is YAML.
    file.write_text(json.dumps({"rule_files": [str(alerts)], "evaluation_interval": "1m", "tests": [case]}))
    told = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    said = told.stdout + told.stderr
    found = {time: set() for time in TIMES}
    at = None
    for line in said.splitlines():
        # The expression names its time.
        if match := re.search(r"unless vector\((\d+)\)", line):
            at = next(time for time, minutes in TIMES.items() if minutes == int(match[1]))
        for sample in re.findall(r'\{__name__="ALERTS"[^}]*\}', line):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', sample))
            found[at].add(labels["alertname"] + (f" of {labels['instance']}" if "instance" in labels else ""))
    if told.returncode != 0 and not any(found.values()):
        sys.exit(f"promtool cannot try {recording}:\n{said}")
    return {time: sorted(names) for time, names in found.items()}


recordings = sorted(folder.glob("*.txt"))
if len(recordings) < 5:
    sys.exit(f"{folder} holds {len(recordings)} recordings; were they moved?")
seen = {recording.stem: firing(recording) for recording in recordings}
file = folder / "expected.json"
if "--update" in sys.argv[3:]:
    file.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")
expected = json.loads(file.read_text(encoding="utf-8"))
for state in sorted(seen | expected):
    for time in TIMES:
        wanted, found = expected.get(state, {}).get(time), seen.get(state, {}).get(time)
        if wanted != found:
            problems.append(f"{state} after {time}: {found} fire, expected are {wanted}")
for state in ("idle", "idle-transactions", "busy"):
    if any(seen[state].values()):
        problems.append(f"nothing may fire on a pair that is {state}: {seen[state]}")
if problems:
    sys.exit("\n".join(problems))
print(f"{len(recordings)} recorded states fire what they should")
