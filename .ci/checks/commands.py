"""Every command line of the program in the runbook and the README exists, options included."""

import functools
import re
import subprocess
import sys

program = sys.argv[1]


@functools.cache
def help_of(path):
    run = subprocess.run([program, *path, "--help"], capture_output=True, text=True)
    return run.stdout if run.returncode == 0 else None


problems, seen = [], 0
for file in ("deploy/RUNBOOK.md", "README.md"):
    text = open(file, encoding="utf-8").read()
    spans = re.findall(r"`(wdt-connector [^`]+)`", text)
    for block in re.findall(r"```(?:sh|text)?\n(.*?)```", text, re.DOTALL):
        spans += [line for line in block.splitlines() if line.startswith("wdt-connector ")]
    for span in spans:
        words = span.split("#")[0].split("|")[0].split()[1:]
        path = []
        while words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            path.append(words.pop(0))
        shown = help_of(tuple(path))
        seen += 1
        if shown is None:
            problems.append(f"{file}: there is no command {span!r}")
            continue
        for option in (word.split("=")[0] for word in words if word.startswith("--")):
            if not re.search(rf"{option}\b", shown):
                problems.append(f"{file}: {option} is no option in {span!r}")
if problems:
    sys.exit("\n".join(problems))
print(f"{seen} command lines exist")
