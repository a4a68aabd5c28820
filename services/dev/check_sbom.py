"""Checks that the bills of materials list what the lock files have. Usage: check_sbom.py FOLDER TARGET

Of a program: every package that cargo puts into it, in the version of Cargo.lock, QuickJS-NG included, and none that Cargo.lock
has not. Of the sandbox: the packages of package-lock.json.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

folder, target = Path(sys.argv[1]), sys.argv[2]


def listed(name):
    bill = json.loads((folder / f"{name}.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX", name

    def full(component):
        group = component.get("group")
        return f"{group}/{component['name']}" if group else component["name"]

    return {(full(component), component["version"]) for component in bill["components"]}


def complain(name, what, packages):
    if packages:
        shown = ", ".join(" ".join(package) for package in sorted(packages))
        sys.exit(f"sbom: {name}.cdx.json {what}: {shown}")


locked = {(it["name"], it["version"]) for it in tomllib.loads(Path("Cargo.lock").read_text())["package"]}
for service in ("registry", "invoker", "event-ingest"):
    name = f"chatfn-{service}"
    tree = subprocess.run(
        ["cargo", "tree", "--locked", "--quiet", "-p", name, "--target", target]
        + ["--edges", "normal,build", "--prefix", "none", "--format", "{p}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    built = {(line.split()[0], line.split()[1].removeprefix("v")) for line in tree.splitlines() if line}
    built = {package for package in built if package[0] != name}
    if service == "invoker":
        built |= {package for package in locked if package[0] == "rquickjs-sys"}
    assert len(built) > 100, f"{name} is made of {len(built)} packages: cargo tree has said something else"
    complain(name, "lacks what the program is made of", built - listed(name))
    complain(name, "has what Cargo.lock has not", listed(name) - locked)

lock = json.loads(Path("services/invoker/guest/package-lock.json").read_text())["packages"]
packages = {(path.rpartition("node_modules/")[2], it["version"]) for path, it in lock.items() if path}
complain("guest", "lacks what is in package-lock.json", packages - listed("guest"))
complain("guest", "has what package-lock.json has not", listed("guest") - packages)

for file in sorted(folder.glob("*.cdx.json")):
    print(f"sbom: {file} lists {len(json.loads(file.read_text())['components'])} packages")
