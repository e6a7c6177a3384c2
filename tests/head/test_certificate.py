from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest

from clusterray.core.errors import LocalFault
from clusterray.head.certificate import PEM_NAME, head_certificate


def test_made_once_and_kept(tmp_path: Path) -> None:
    made = head_certificate(tmp_path)
    assert made.pem == tmp_path / PEM_NAME
    assert made.pem.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [PEM_NAME]
    text = made.pem.read_text()
    certificate = text[text.index("-----BEGIN CERTIFICATE") :]
    shown = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()
    assert made.fingerprint == shown
    assert head_certificate(tmp_path).fingerprint == made.fingerprint


def test_two_heads_have_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert head_certificate(tmp_path / "a").fingerprint != (
        head_certificate(tmp_path / "b").fingerprint
    )


@pytest.mark.parametrize("damage", ["empty", "cut", "words", "foreign key"])
def test_a_damaged_one_is_named(tmp_path: Path, damage: str) -> None:
    pem = head_certificate(tmp_path).pem
    text = pem.read_text()
    other = tmp_path / "other"
    other.mkdir()
    foreign = head_certificate(other).pem.read_text()
    begin = "-----BEGIN CERTIFICATE"
    pem.write_text(
        {
            "empty": "",
            "cut": text[: len(text) // 2],
            "words": "not a certificate",
            "foreign key": foreign[: foreign.index(begin)] + text[text.index(begin) :],
        }[damage]
    )
    with pytest.raises(LocalFault, match=r"head\.pem: damaged: .* hand out new tokens"):
        head_certificate(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LocalFault, match="cannot be used"):
        head_certificate(tmp_path / "absent")
