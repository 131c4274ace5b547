"""The program may be linked only with what the image's base holds (distroless/cc: libc, libm, libgcc)."""

import re
import subprocess
import sys

ALLOWED = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
text = subprocess.run(["readelf", "-d", sys.argv[1]], check=True, capture_output=True, text=True).stdout
needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", text))
if not needed:
    sys.exit(f"{sys.argv[1]}: no dynamic section was found")
if surplus := needed - ALLOWED:
    sys.exit(f"{sys.argv[1]} is linked with {', '.join(sorted(surplus))}, which the image does not hold")
print(f"linked with {', '.join(sorted(needed))}")
