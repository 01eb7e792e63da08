"""A Sigstore of the tests' own: what the real client asks of the public one, on this machine.

It has an identity provider, a certificate authority with its log of certificates, and a log of
signatures, whose answers are those that the public services document; only that each signature has
a log of its own, of one entry. It checks what it is sent: tokens, requests and signatures.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

SECRET = "a secret of the provider that is long enough"
_PROVIDER = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_OLD_PROVIDER = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_STAMPS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SHA256_ECDSA = b"\x04\x03"
_MINUTE = timedelta(minutes=1)


class PrivateSigstore:
    """All of it, at ``url``; ``asked`` are the paths that were asked for."""

    def __init__(self) -> None:
        self.root_key, self.stamp_key, self.log_key = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(3)
        )
        self.root = self._root()
        self.url = ""
        self.asked: list[str] = []
        self.refuses = False

    def token(self, email: str, *, audience: str = "sigstore") -> str:
        """What a login at the provider gives."""
        now = datetime.now(UTC)
        claims = {
            "iss": self.url,
            "aud": audience,
            "sub": "7",
            "email": email,
            "email_verified": True,
            "iat": now,
            "nbf": now - _MINUTE,
            "exp": now + 5 * _MINUTE,
        }
        return jwt.encode(claims, SECRET, algorithm="HS256")

    def trust(self) -> str:
        """A ClientTrustConfig, which names the keys and the addresses of all parts."""
        start = {"start": "2020-01-01T00:00:00Z"}
        service = {"url": self.url, "majorApiVersion": 1, "validFor": start, "operator": "tests"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            return {
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _b64(_public(key)),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": start,
                },
                "logId": {"keyId": _b64(_sha256(_public(key)))},
            }

        authority = {
            "subject": {"organization": "tests", "commonName": "tests"},
            "uri": self.url,
            "certChain": {
                "certificates": [{"rawBytes": _b64(self.root.public_bytes(Encoding.DER))}]
            },
            "validFor": start,
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": {
                    "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                    "tlogs": [log(self.log_key)],
                    "certificateAuthorities": [authority],
                    "ctlogs": [log(self.stamp_key)],
                    "timestampAuthorities": [],
                },
                "signingConfig": {
                    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                    "caUrls": [service],
                    "oidcUrls": [service],
                    "rekorTlogUrls": [service],
                    "rekorTlogConfig": {"selector": "ANY"},
                    "tsaUrls": [],
                    "tsaConfig": {"selector": "ANY"},
                },
            }
        )

    def answer(self, path: str, authorization: str, body: Any) -> Any:
        """The JSON that a request gets; raises for one that the service would refuse."""
        self.asked.append(path)
        if self.refuses:
            raise ValueError("the service refuses")
        if path == "/.well-known/openid-configuration":
            return {
                "authorization_endpoint": f"{self.url}/auth",
                "token_endpoint": f"{self.url}/token",
            }
        if path == "/api/v2/signingCert":
            return self._certify(authorization.removeprefix("Bearer "), body)
        if path == "/api/v1/log/entries":
            return self._enter(body)
        raise KeyError(path)

    def _certify(self, token: str, body: Any) -> Any:
        claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="sigstore")
        request = x509.load_pem_x509_csr(base64.b64decode(body["certificateSigningRequest"]))
        assert request.is_signature_valid
        leaf = self.certificate(claims["email"], claims["iss"], request.public_key())
        chain = [leaf, self.root]
        texts = [item.public_bytes(Encoding.PEM).decode() for item in chain]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": texts}}}

    def certificate(self, email: str, provider: str, key: Any) -> x509.Certificate:
        """Ten minutes' worth, with the stamp of the log of certificates in it."""
        now = datetime.now(UTC).replace(microsecond=0)
        text = provider.encode()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _MINUTE)
            .not_valid_after(now + 9 * _MINUTE)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root_key.public_key()),
                False,
            )
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(email)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_OLD_PROVIDER, text), False)
            .add_extension(
                x509.UnrecognizedExtension(_PROVIDER, b"\x0c" + bytes([len(text)]) + text), False
            )
        )
        bare = builder.sign(self.root_key, hashes.SHA256())
        stamps = x509.UnrecognizedExtension(_STAMPS, self._stamps(bare, now))
        return builder.add_extension(stamps, False).sign(self.root_key, hashes.SHA256())

    def _stamps(self, bare: x509.Certificate, now: datetime) -> bytes:
        """RFC 6962: a list of one stamp, over the certificate without it."""
        moment = int(now.timestamp() * 1000)
        body = bare.tbs_certificate_bytes
        signed = struct.pack("!BBQH", 0, 0, moment, 1) + _sha256(_public(self.root_key))
        signed += len(body).to_bytes(3, "big") + body + b"\0\0"
        mark = self.stamp_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        stamp = b"\0" + _sha256(_public(self.stamp_key)) + struct.pack("!QH", moment, 0)
        stamp += _SHA256_ECDSA + struct.pack("!H", len(mark)) + mark
        listed = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        assert len(listed) < 0x80 or len(listed) < 0x100
        length = bytes([len(listed)]) if len(listed) < 0x80 else b"\x81" + bytes([len(listed)])
        return b"\x04" + length + listed

    def _enter(self, body: Any) -> Any:
        content = body["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        (verifier,) = content["verifiers"]
        payload = base64.b64decode(envelope["payload"])
        (mark,) = envelope["signatures"]
        leaf = x509.load_pem_x509_certificate(base64.b64decode(verifier))
        leaf.verify_directly_issued_by(self.root)
        kind = envelope["payloadType"].encode()
        key = leaf.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(
            base64.b64decode(mark["sig"]),
            b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload),
            ec.ECDSA(hashes.SHA256()),
        )
        entry = _canonical(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": _hash(content["envelope"].encode()),
                    "payloadHash": _hash(payload),
                    "signatures": [{"signature": mark["sig"], "verifier": verifier}],
                },
            }
        )
        name = _sha256(_public(self.log_key))
        promised = {
            "body": _b64(entry),
            "integratedTime": int(datetime.now(UTC).timestamp()),
            "logID": name.hex(),
            "logIndex": 0,
        }
        top = _sha256(b"\0" + entry)
        note = f"tests\n1\n{_b64(top)}\n"
        line = f"\u2014 tests {_b64(name[:4] + self._logged(note.encode()))}\n"
        proof = {
            "checkpoint": f"{note}\n{line}",
            "hashes": [],
            "logIndex": 0,
            "rootHash": top.hex(),
            "treeSize": 1,
        }
        promise = _b64(self._logged(_canonical(promised)))
        verification = {"inclusionProof": proof, "signedEntryTimestamp": promise}
        return {top.hex(): promised | {"verification": verification}}

    def _logged(self, content: bytes) -> bytes:
        return self.log_key.sign(content, ec.ECDSA(hashes.SHA256()))

    def _root(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        now = datetime.now(UTC)
        key = self.root_key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .sign(self.root_key, hashes.SHA256())
        )


@contextmanager
def running() -> Iterator[PrivateSigstore]:
    """A new one, on a free port of this machine, for as long as the block lasts."""
    sigstore = PrivateSigstore()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            try:
                found = sigstore.answer(self.path, self.headers.get("Authorization") or "", body)
                status = 201 if self.command == "POST" else 200
            except Exception as error:
                found, status = {"code": 3, "message": f"refused: {type(error).__name__}"}, 400
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815, the names that the base class calls

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sigstore.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield sigstore
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _usage(**wanted: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
        "key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**dict.fromkeys(names.split(), False) | wanted)


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _hash(content: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": _sha256(content).hex()}


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _canonical(value: Any) -> bytes:
    """RFC 8785, for values as plain as these."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
