"""Optional signatures of specifications: who made these two files, and not whether they are true.

A signature is a Sigstore bundle in ``gmi/spec.sig``, made by the library of model signing with a
key or with an identity that Sigstore vouches for. It needs the extra ``sign``.
"""

from gmi_registry.signature.identity import Identity, SigstoreAccount
from gmi_registry.signature.key import PrivateKey, PublicKey
from gmi_registry.signature.proof import SIGNATURE_LIMIT, SIGNATURE_NAME, verify_signature
from gmi_registry.signature.signing import sign_spec

__all__ = [
    "SIGNATURE_LIMIT",
    "SIGNATURE_NAME",
    "Identity",
    "PrivateKey",
    "PublicKey",
    "SigstoreAccount",
    "sign_spec",
    "verify_signature",
]
