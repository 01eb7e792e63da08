"""Optional signatures of specifications: who made these two files, and not whether they are true.

A signature is a Sigstore bundle in ``gmi/spec.sig``, made by the library of model signing with a
key or with an identity that Sigstore vouches for. It needs the extra ``sign``.
"""

from gmi_registry.signature.library import Identity, PrivateKey, PublicKey, SigstoreAccount
from gmi_registry.signature.signing import sign_spec, verify_signature
from gmi_registry.spec.files import SIGNATURE_LIMIT, SIGNATURE_NAME

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
