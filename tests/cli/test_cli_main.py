"""The command line: verbs, exit codes, and one sentence for people."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from terminal import EUXEN

import euxen.__main__
from euxen import __version__
from euxen.cli.main import main


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "import sys; from euxen.cli.main import main; sys.exit(main())", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["no-such-verb"], ["inspect"], ["inspect", "a", "b"], ["fetch", "plan9"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert err.startswith("euxen")
        assert err.endswith(" --help'\n")
        assert err.count("\n") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"euxen {__version__}\n"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert "fetch" in out
    assert "inspect" in out


def test_trouble_is_one_sentence_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "missing")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"euxen: {tmp_path}/missing cannot be read (No such file or directory); give the path of a kernel image\n"
    )


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", sys.executable]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"File:     {sys.executable}\nFormat:   ELF64")
    assert "PV guest: no\n" in out


def test_a_name_that_is_no_text() -> None:
    for arguments in (
        ["inspect", os.fsdecode(b"/nowhere/\xff\x1b\n")],
        ["fetch", "debian", os.fsdecode(b"\xff\x1b\n")],
    ):
        told = run(*arguments).stderr
        assert "\\xff\\x1b\\n" in told
        assert told.count("\n") == 1


def test_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([EUXEN, "inspect", sys.executable], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"euxen: standard output cannot be written (No space left on device)\n"
    assert done.returncode == 1


def test_standard_error_is_closed() -> None:
    shell = f"exec {EUXEN} inspect /nowhere 2>&-"
    done = subprocess.run(["/bin/sh", "-c", shell], stdout=subprocess.PIPE, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_ctrl_c_before_the_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "euxen.cli.main", Interrupted("main"))
    assert euxen.__main__.main() == 130


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "euxen", "--version"], stdout=subprocess.PIPE, check=True)
    assert done.stdout == f"euxen {__version__}\n".encode()


def test_a_reader_that_has_enough() -> None:
    script = "import sys; from euxen.cli.main import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", script, "inspect", sys.executable], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_fetch_without_apt(tmp_path: Path) -> None:
    done = run("fetch", "debian", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("euxen: apt-cache is not on this host")
    assert done.stderr.count("\n") == 1
