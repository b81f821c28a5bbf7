"""What a certificate says of itself, against openssl's own reading."""

import ssl
import subprocess
from datetime import UTC, datetime

import pytest

from edgegen.config.x509 import BEGIN, END, moment, read_certificate, read_certificates
from tests.certificates import needs_openssl


def told_by_openssl(path, what):
    command = ["openssl", "x509", "-in", str(path), "-noout", f"-{what}"]
    return (
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.partition("=")[2].strip()
    )


@needs_openssl
def test_name_and_dates_are_what_openssl_reads(authority):
    issued = authority.issue("lobby", days=90)
    (found,) = read_certificates(issued.cert.read_text())
    assert found.name == "lobby"
    for seconds, what in ((found.begins, "startdate"), (found.ends, "enddate")):
        told = datetime.strptime(told_by_openssl(issued.cert, what), "%b %d %H:%M:%S %Y GMT")
        assert seconds == told.replace(tzinfo=UTC).timestamp()
    assert found.days_left(found.ends - 2 * 86_400) == 2
    assert found.days_left(found.ends + 1) < 0


@needs_openssl
def test_a_chain_holds_several_and_text_between_them_is_skipped(authority):
    issued = authority.issue("lobby")
    text = f"Subject: lobby\n{issued.cert.read_text()}# and its CA\n{authority.cert.read_text()}"
    assert [c.name for c in read_certificates(text)] == ["lobby", "ca"]
    assert read_certificates("nothing of the kind") == []


@needs_openssl
def test_what_is_cut_off_or_damaged_is_a_value_error(authority):
    text = authority.cert.read_text()
    whole = ssl.PEM_cert_to_DER_cert(text)
    for length in range(0, len(whole), 7):
        with pytest.raises(ValueError, match="damaged"):
            read_certificate(whole[:length])
    with pytest.raises(ValueError, match="damaged"):
        read_certificates(f"{BEGIN}\n!!!!\n{END}\n")


@pytest.mark.parametrize(
    ("tag", "text", "day"),
    [
        (0x17, b"491231235959Z", "2049-12-31"),
        (0x17, b"500101000000Z", "1950-01-01"),
        (0x18, b"20500101000000Z", "2050-01-01"),
    ],
)
def test_two_digit_years_are_those_of_1950_to_2049(tag, text, day):
    assert datetime.fromtimestamp(moment(tag, text), UTC).date().isoformat() == day
