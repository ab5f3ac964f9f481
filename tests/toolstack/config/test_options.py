"""The table of options: it is complete, and it does what it says."""

from __future__ import annotations

import gzip
import re

import pytest
from packages import need, package_files

from euxen.toolstack.config.errors import ConfigError
from euxen.toolstack.config.model import DomainConfig
from euxen.toolstack.config.options import OPTIONS, Form, Option, Treatment

BASE = {"name": '"g"', "kernel": '"/k"'}


def test_every_option_of_the_manual_is_known() -> None:
    (page,) = need(lambda: package_files("xen-utils-common", "*/man5/xl.cfg.5.gz"))
    manual = gzip.decompress(page.read_bytes()).decode()
    options = set(re.findall(r'^\.IX Item "([a-z][a-z0-9_]*)=', manual, re.MULTILINE))
    # Keys that are only known within the strings of an option.
    within = {
        *("backend", "connection", "connectors", "controller", "height", "hostaddr", "hostbus", "path", "pnode"),
        *("policy", "port", "ports", "security_model", "size", "strategy", "tag", "vdistances", "version", "width"),
    }
    assert len(options) > 150
    assert options - within <= OPTIONS.keys()


def some_value(option: Option) -> str:
    """One that has the form, and asks for something."""
    return {
        Form.STRING: "'/x'",
        Form.NUMBER: "7",
        Form.BOOLEAN: "1",
        Form.STRINGS: "['x']",
        Form.STRING_OR_STRINGS: "['x']",
        Form.LISTS: "[['x']]",
        Form.ANY: "1",
    }[option.form]


VALUES = {
    "uuid": "'f7c68677-8fb2-4197-b4dc-ed4ea416a7e9'",
    "type": "'pv'",
    "builder": "'generic'",
    "timer_mode": "'x'\ntype='pvh'",
    "cpus": "'1'",
    "cpus_soft": "['1']",
    "cpuid": "['1:eax=" + "1" * 32 + "']",
    "disk": "['/x,,xvda']",
    "vif": "['']",
    "p9": "['tag=t,path=/,security_model=none']",
    "vfb": "['vnc=1']",
    "channel": "['name=x,connection=pty']",
    "memory": "64",
    "maxmem": "64",
    "max_grant_version": "1",
    "extratime": "1",
    **dict.fromkeys(("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset"), "'preserve'"),
    # 1 is as good as the default of these.
    **dict.fromkeys(("hap", "oos", "acpi", "vncunused"), None),
}


def text(name: str, value: str) -> str:
    return "\n".join(f"{key}={said}" for key, said in (BASE | {name: value}).items())


@pytest.mark.parametrize("name", OPTIONS)
def test_treatment(name: str) -> None:
    option = OPTIONS[name]
    value = VALUES.get(name, some_value(option))
    if value is None:
        assert DomainConfig.from_text(text(name, "1"), "f").warnings == ()
        return
    line = list(BASE | {name: value}).index(name) + 1
    if option.treatment is Treatment.REFUSED:
        with pytest.raises(ConfigError) as caught:
            DomainConfig.from_text(text(name, value), "f")
        assert str(caught.value) == f"f:{line}: `{name}' is refused: {option.why}"
        return
    warnings = DomainConfig.from_text(text(name, value), "f").warnings
    if option.treatment is Treatment.HONOURED:
        assert warnings == ()
    else:
        assert warnings == (f"f:{line}: `{name}' is ignored: {option.why}",)


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.form is not Form.ANY])
def test_wrong_form(name: str) -> None:
    option = OPTIONS[name]
    wrong = {
        Form.STRING: "[1]",
        Form.NUMBER: "'x'",
        Form.BOOLEAN: "'yes'",
        Form.STRINGS: "'x'",
        Form.STRING_OR_STRINGS: "[[]]",
        Form.LISTS: "1",
    }[option.form]
    complaint = {
        Form.STRING: f"parameter `{name}' is a list but should be a single value",
        Form.NUMBER: f"parameter `{name}' is not a valid number",
        Form.BOOLEAN: f"parameter `{name}' is not a valid number",
        Form.STRINGS: f"parameter `{name}' is a single value but should be a list",
        Form.STRING_OR_STRINGS: f"value is not a string, in the list `{name}'",
        Form.LISTS: f"parameter `{name}' is a single value but should be a list",
    }[option.form]
    with pytest.raises(ConfigError) as caught:
        DomainConfig.from_text(text(name, wrong), "f")
    assert str(caught.value) == f"f:{list(BASE | {name: wrong}).index(name) + 1}: {complaint}"


@pytest.mark.parametrize("name", OPTIONS)
def test_neutral_values(name: str) -> None:
    """Who asks for nothing, or for what is so anyway, is told nothing."""
    option = OPTIONS[name]
    for value in option.neutral:
        assert DomainConfig.from_text(text(name, f"'{value}'"), "f").warnings == ()
    if option.form in (Form.STRINGS, Form.LISTS):
        assert DomainConfig.from_text(text(name, "[]"), "f").warnings == ()


def test_unknown_options() -> None:
    config = DomainConfig.from_text(text("memroy", "64") + "\nfoo=[1]\n", "f")
    assert config.warnings == (
        "f:3: unknown option `memroy' is ignored (did you mean `memory'?)",
        "f:4: unknown option `foo' is ignored",
    )
    assert config.memory == 32
