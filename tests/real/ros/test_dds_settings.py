"""The DDS settings that ship: loopback unless an interface is named, and a person's own settings before both."""

from __future__ import annotations

import socket
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from cyclonedds.domain import Domain, DomainParticipant

import real.ros.settings as ros_settings
from policies.spec import InputError
from real.ros import api as ros
from real.ros.dds.endpoints import close
from real.ros.settings import receive_buffer_advice, settings
from tests.real.ros.domains import free_domain

SPACE = "{https://cdds.io/config}"


def text_of(root: xml.Element, *path: str) -> str:
    found = root.find("/".join(SPACE + part for part in ("Domain", *path)))
    assert found is not None
    return found.text or ""


def test_loopback_is_the_default_and_reaches_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    chosen = settings()
    assert chosen == settings("lo") == settings("127.0.0.1") and chosen.profile == "loopback"
    root = xml.fromstring(chosen.xml or "")
    (interface,) = root.iter(f"{SPACE}NetworkInterface")
    assert interface.attrib == {"name": "lo", "multicast": "false"}
    assert text_of(root, "General", "AllowMulticast") == "false"
    assert [peer.attrib for peer in root.iter(f"{SPACE}Peer")] == [{"Address": "127.0.0.1"}]
    assert int(text_of(root, "Discovery", "MaxAutoParticipantIndex")) >= 60


@pytest.mark.parametrize("profile", ["loopback", "network"])
def test_what_keeps_images_whole_is_in_both(profile: str) -> None:
    root = xml.parse(Path(ros_settings.__file__).with_name("profiles") / f"{profile}.xml").getroot()
    assert text_of(root, "General", "MaxMessageSize") == "65500B" and text_of(root, "General", "FragmentSize") == "65000B"
    (buffer,) = root.iter(f"{SPACE}SocketReceiveBufferSize")
    assert set(buffer.attrib) == {"max"}  # a minimum that the kernel does not grant would stop DDS


def test_an_interface_is_named_or_given_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    name = next((n for _, n in socket.if_nameindex() if n != "lo"), None)
    if name is not None:
        chosen = settings(name)
        assert chosen.profile == "network" and f'<NetworkInterface name="{name}"/>' in (chosen.xml or "") and name in chosen.said
    assert '<NetworkInterface address="127.0.0.2"/>' in (settings("127.0.0.2").xml or "")
    for wrong, said in (
        ("eth99x", "no such interface"),
        ("203.0.113.7", "no interface of this machine has that address"),
        ('lo"/><x y="', "no such interface"),
    ):
        with pytest.raises(InputError, match=said):
            settings(wrong)


def test_a_persons_own_settings_are_respected_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    own = (Path(ros_settings.__file__).with_name("profiles") / "loopback.xml").as_uri()
    monkeypatch.setenv("CYCLONEDDS_URI", own)
    chosen = settings("eth0")
    assert chosen.xml is None and "CYCLONEDDS_URI" in chosen.said and "'eth0' is left to it" in chosen.said
    with free_domain() as domain, ros.Context() as context:
        context.init(args=[], domain_id=domain)
        assert "CYCLONEDDS_URI" in ros.said(context)
        assert ros.Node("own", context=context).get_name() == "own"


def test_the_network_profile_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    text = (Path(ros_settings.__file__).with_name("profiles") / "network.xml").read_text(encoding="utf-8").replace("INTERFACE", "lo")
    with free_domain() as domain:
        there = Domain(domain, text)
        assert DomainParticipant(domain).guid
        close(there)
    with free_domain() as domain, pytest.raises(InputError, match=rf"DDS does not start in domain {domain}.*127\.0\.0\.2"):
        ros.Context().init(args=[], domain_id=domain, interface="127.0.0.2")  # an address that binds, of no interface


def test_settings_that_dds_refuses_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", "<CycloneDDS><Domain><General><Nonsense>1</Nonsense></General></Domain></CycloneDDS>")
    with free_domain() as domain, pytest.raises(InputError, match=rf"DDS does not start in domain {domain}.*CYCLONEDDS_URI"):
        ros.Context().init(args=[], domain_id=domain)


@pytest.mark.parametrize(("granted", "advised"), [("212992", True), (str(ros_settings.RECEIVE_BUFFER), False), ("", False)])
def test_the_kernels_buffer_is_advised_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, granted: str, advised: bool) -> None:
    there = tmp_path / "rmem_max"
    there.write_text(granted)
    monkeypatch.setattr(ros_settings, "_RMEM_MAX", there)
    assert receive_buffer_advice() == (f"sudo sysctl -w net.core.rmem_max={ros_settings.RECEIVE_BUFFER}" if advised else "")
