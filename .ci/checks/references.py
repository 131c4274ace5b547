"""Every reference to a file of the repository leads somewhere.

Markdown documents: links, anchors, and what stands in backticks: paths, and names of tests.
Rust comments: documents with their anchors, and paths. Comments of other files: the same.
"""

import fnmatch
import functools
import pathlib
import re
import sys
import urllib.parse

FOLDERS = ("src", "tests", "benches", "deploy", "schemas", "docs", ".ci")
# Data, and what tools write.
SKIPPED = {"golden", "corpus", "testdata", "samples", "package-lock.json", "Cargo.lock"}

everything = [path for path in sorted(pathlib.Path().iterdir()) if path.is_file()]
for folder in FOLDERS:
    inside = sorted(pathlib.Path(folder).rglob("*"))
    everything += [path for path in inside if "node_modules" not in path.parts]
names = {path.as_posix() for path in everything} | set(FOLDERS)
problems, seen = [], 0


@functools.cache
def text_of(path):
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, IsADirectoryError):
        return ""


def without_fences(text):
    """The lines of a Markdown text; those of fenced blocks are empty."""
    fence = None
    for line in text.splitlines():
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if fence is None and not mark:
            yield line
            continue
        if fence is None:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and not line.strip(" `~"):
            fence = None
        yield ""


def slug(heading):
    """GitHub's anchor of a heading, before equal ones are numbered."""
    heading = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading)
    heading = re.sub(r"[*`]|(?<!\w)_|_(?!\w)", "", heading)
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@functools.cache
def anchors(name):
    text = text_of(pathlib.Path(name))
    found, count = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)), {}
    for line in without_fences(text):
        if heading := re.match(r" {0,3}#{1,6}\s+(.*?)\s*#*\s*$", line):
            anchor = slug(heading[1])
            number = count.get(anchor, 0)
            count[anchor] = number + 1
            found.add(f"{anchor}-{number}" if number else anchor)
    return found


def normal(path):
    """Without `.` and `..`; None when it leaves the repository."""
    parts = []
    for part in path.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def exists(path):
    """`{a,b}` stands for both, `*` for anything."""
    if braces := re.search(r"\{([^}]*)\}", path):
        return all(exists(path.replace(braces[0], one)) for one in braces[1].split(","))
    if "*" in path:
        return any(fnmatch.fnmatchcase(name, path) for name in names)
    return path in names


def check(where, reference, folder=""):
    """A path, perhaps with an anchor: from the root, or from the folder of the document."""
    global seen
    seen += 1
    path, _, anchor = reference.partition("#")
    tried = [normal(f"{folder}/{path}"), normal(path)]
    found = next((one for one in tried if one is not None and exists(one)), None)
    if found is None:
        problems.append(f"{where}: there is no {path}")
    elif anchor and found.endswith(".md") and anchor not in anchors(found):
        problems.append(f"{where}: {found} has no heading for #{anchor}")


DOCUMENT = re.compile(r"(?<![\w/.*<>{}-])[\w./-]*\w\.md(?:#[\w-]+)?(?!\w)")
PATH = re.compile(r"(?<![\w/.*<>{}:-])(?:%s)/[\w./*{},#-]*" % "|".join(map(re.escape, FOLDERS)))
PLACEHOLDER = re.compile(r"NNNN|/N/|<")


def check_paths(where, text, folder=""):
    for path in PATH.findall(text):
        if not path.endswith(".md") and ".md#" not in path:
            check(where, path.rstrip(".,#"), folder)


RUST = re.compile(
    r"(?P<comment>//[^\n]*|/\*.*?\*/)"
    r"|\b[bc]?r(?P<hashes>#*)\".*?\"(?P=hashes)"
    r"|\"(?:\\.|[^\"\\])*\""
    r"|'(?:\\.[^']*|[^\\'\n])'",
    re.DOTALL,
)
code = []
for path in everything:
    if path.suffix != ".rs":
        continue
    text = text_of(path)
    code.append(RUST.sub(lambda token: " " if token["comment"] else token[0], text))
    for token in RUST.finditer(text):
        first = text.count("\n", 0, token.start()) + 1
        for number, said in enumerate((token["comment"] or "").splitlines(), first):
            for document in DOCUMENT.findall(said):
                check(f"{path}:{number}", document)
            check_paths(f"{path}:{number}", said)

# A test is a word of the code, comments left out. Keys, fields and metrics have underscores as
# well; they may also be words of a reference.
for path in everything:
    if path.suffix in {".toml", ".avsc"} or path.name == "metrics.md":
        code.append(text_of(path))
known = set(re.findall(r"\w+", "\n".join(code)))

for path in everything:
    if path.suffix != ".md" or SKIPPED & set(path.parts):
        continue
    folder = path.parent.as_posix()
    for number, line in enumerate(without_fences(text_of(path)), 1):
        where = f"{path}:{number}"
        prose = re.sub(r"`[^`]+`", "``", line)
        links = re.findall(r"\]\(<?([^)>\s]+)>?[^)]*\)", prose)
        links += re.findall(r"^ {0,3}\[[^]]+\]:\s*(\S+)", prose)
        for link in map(urllib.parse.unquote, links):
            if link.startswith("#"):
                check(where, f"{path.name}{link}", folder)
            elif not re.match(r"[a-z][a-z0-9+.-]*:", link):
                check(where, link, folder)
        for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", line):
            if PLACEHOLDER.search(span):
                continue
            check_paths(where, span, folder)
            for document in DOCUMENT.findall(span):
                # A document's bare name is enough, wherever it is.
                if "/" in document or not any(name.endswith("/" + document) for name in names):
                    check(where, document, folder)
            if re.fullmatch(r"[\w./-]*\w\.rs", span) and not PATH.match(span):
                # `answer/table.rs` is the end of a path.
                seen += 1
                if not any(name.endswith("/" + span) for name in names):
                    problems.append(f"{where}: there is no {span}")
            if re.fullmatch(r"(?!rd_kafka_)[a-z][a-z0-9]*(?:_[a-z0-9]+){3,}", span):
                seen += 1
                if not {span, f"wdt_connector_{span}"} & known:
                    problems.append(f"{where}: nothing is called {span}")

for path in everything:
    if path.suffix in {".rs", ".md"} or SKIPPED & set(path.parts):
        continue
    for number, line in enumerate(text_of(path).splitlines(), 1):
        # `deploy/RUNBOOK.md#…` in any line, everything else in comments only.
        for document in DOCUMENT.findall(line):
            if document.startswith(("docs/", "deploy/")):
                check(f"{path}:{number}", document)
        if comment := re.match(r"\s*(?:#|//|\*)(.*)", line):
            check_paths(f"{path}:{number}", comment[1])

if problems:
    print("\n".join(problems))
    sys.exit(1)
print(f"{seen} references lead somewhere")
