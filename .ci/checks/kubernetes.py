"""Rendered objects against the schemas of Kubernetes; objects of other controllers by shape only."""

import sys

import kubernetes_validate
import yaml

# Their schemas are their controllers'; what the chart puts into them is checked by promtool.
FOREIGN = {"monitoring.coreos.com/v1"}
version, *files = sys.argv[1:]
version = ".".join(version.split(".")[:2])
for file in files:
    with open(file, encoding="utf-8") as text:
        objects = [one for one in yaml.safe_load_all(text) if one]
    if not objects:
        sys.exit(f"{file}: nothing was rendered")
    names = set()
    for one in objects:
        name = (one["kind"], one["metadata"]["name"])
        if name in names:
            sys.exit(f"{file}: {name} is there twice")
        names.add(name)
        if one["apiVersion"] in FOREIGN:
            continue
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            sys.exit(f"{file}: {name}: {error.message} at {list(error.path)}")
    print(f"{file}: {len(objects)} objects hold for Kubernetes {version}")
