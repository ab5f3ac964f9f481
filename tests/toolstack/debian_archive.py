"""A Debian archive of a few tiny packages in a directory, and an apt that knows no other."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path


class Archive:
    """Packages are added with ``add``; ``config`` is the file for APT_CONFIG."""

    def __init__(self, directory: Path) -> None:
        self.pool = directory / "pool"
        for place in ("pool", "lists/partial", "cache/archives/partial", "state"):
            (directory / place).mkdir(parents=True)
        (directory / "status").touch()
        (directory / "sources.list").write_text(f"deb [trusted=yes] file:{self.pool} ./\n")
        self.config = directory / "apt.conf"
        self.config.write_text(
            f'Dir::State "{directory}/state";\n'
            f'Dir::State::lists "{directory}/lists";\n'
            f'Dir::State::status "{directory}/status";\n'
            f'Dir::Cache "{directory}/cache";\n'
            f'Dir::Etc::SourceList "{directory}/sources.list";\n'
            'Dir::Etc::SourceParts "-";\n'
            'APT::Architecture "amd64";\n'
            'APT::Sandbox::User "";\n'
            'Acquire::GzipIndexes "true";\n'  # else apt reads the archive's own index, whatever it did last
        )
        self._build = directory / "build"
        self._packages: dict[str, str] = {}
        self._write_index()

    def add(self, package: str, version: str, files: Mapping[str, bytes] | None = None, depends: str = "") -> Path:
        """Put a version of a package into the archive, in place of any other; the path of its .deb file."""
        tree = self._build
        shutil.rmtree(tree, ignore_errors=True)
        control = f"Package: {package}\nVersion: {version}\nArchitecture: amd64\nMaintainer: test\n"
        control += (f"Depends: {depends}\n" if depends else "") + "Description: test\n"
        for name, content in {"DEBIAN/control": control.encode(), **(files or {})}.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        deb = self.pool / f"{package}_{version}_amd64.deb"
        subprocess.run(
            ["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, deb], check=True, stdout=subprocess.DEVNULL
        )
        content = deb.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self._packages[package] = f"{control}Filename: ./{deb.name}\nSize: {len(content)}\nSHA256: {digest}\n"
        self._write_index()
        return deb

    def remove(self, package: str) -> None:
        """Take a package out of the archive."""
        del self._packages[package]
        self._write_index()

    def _write_index(self) -> None:
        (self.pool / "Packages").write_text("\n".join(self._packages.values()))
